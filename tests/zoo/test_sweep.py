"""Sweeps: what is drawn, what is refused, and one that is run, killed and gone on with.

A sweep starts Ray once, and a process for each run.
"""

import contextlib
import csv
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image

import zoo
from zoo import cli, terminal
from zoo.recipes import Recipe, load_recipe
from zoo.search_space import Range, draw_trials, parse_values, with_values
from zoo.sweep import Run, _run, to_toml

RECIPE = Recipe(
    "shallow_mlp",
    "digits-sample",
    epochs=6,
    batch_size=200,
    arguments={"hidden_units": 0},
)
# Two of four trials raise an error at their first step.
SPACE = {"optimizer.learning_rate": "1e-6,0.01", "optimizer.beta_1": "0.9,high"}

BEST = {"optimizer.learning_rate": 0.01, "optimizer.beta_1": 0.9}


def sweep(folder, space=SPACE, recipe=RECIPE, **options):
    model, dataset = recipe.model, recipe.dataset
    options = {"output_dir": folder, "verbose": 0, **options}
    return zoo.sweep(model, dataset, space, recipe, **options)


def read_results(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep that was left alone: its report, and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch, (folder / "printed").open("w+") as file:
        patch.setattr(sys, "stdout", file)
        report = sweep(folder, verbose=1)
    return report, (folder / "printed").read_text()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("64,128", [64, 128]),
        ("1e-4,1e-2", [1e-4, 1e-2]),
        ("relu,tanh", ["relu", "tanh"]),
        ("true, false", [True, False]),
        ("[64,64],[128]", [[64, 64], [128]]),
        ('"a:b"', ["a:b"]),
        ([0.1, 0.3], [0.1, 0.3]),
        ("1e-4:1e-2:log", Range(1e-4, 1e-2, log=True)),
        ("16:64", Range(16, 64)),
    ],
)
def test_values_are_choices_or_a_range(values, expected):
    assert parse_values("field", values) == expected


@pytest.mark.parametrize(
    "values",
    ["", "1,,2", [], "null", "2:1", "1:1", "0:1:log", "1:2:lin", "1:b", "1:2:"],
)
def test_values_that_are_neither_are_refused(values):
    with pytest.raises(ValueError, match="`field`"):
        parse_values("field", values)


def test_ranges_are_evenly_covered_and_choices_balanced():
    domains = {"a": Range(1e-4, 1e-2, log=True), "b": ["x", "y"], "c": Range(1, 5)}
    points = draw_trials(domains, 20, seed=3)
    decades = sorted(math.log10(point["a"]) for point in points)
    for i, decade in enumerate(decades):  # one in each twentieth, up to the rounding
        assert -4 + i / 10 - 1e-3 <= decade <= -4 + (i + 1) / 10 + 1e-3
    assert [point["b"] for point in points].count("x") == 10
    assert [sum(p["c"] == n for p in points) for n in range(1, 6)] == [4] * 5
    assert [point["a"] for point in points] != sorted(point["a"] for point in points)


def test_trials_are_a_function_of_the_seed():
    domains = {"a": Range(0.0, 1.0), "b": [1, 2, 3]}
    # The stream of Python's generator, which is promised not to change.
    assert draw_trials(domains, 2, seed=0) == [
        {"a": 0.7103, "b": 3},
        {"a": 0.1295, "b": 1},
    ]
    assert draw_trials(domains, 2, seed=0) != draw_trials(domains, 2, seed=1)


def test_choices_alone_are_a_grid_or_some_of_it():
    domains = {"a": [1, 2], "b": [3, 4, 5]}
    grid = [{"a": a, "b": b} for a in (1, 2) for b in (3, 4, 5)]
    assert draw_trials(domains, None, seed=0) == grid
    some = draw_trials(domains, 4, seed=0)
    assert [point for point in grid if point in some] == some
    assert len(some) == 4


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1 - 1e-12])
def test_values_stay_within_their_range(fraction):
    assert 1 / 3 <= Range(1 / 3, 2 / 3).at(fraction) <= 2 / 3
    assert Range(7, 9, log=True).at(fraction) in (7, 8, 9)


def test_fields_take_the_place_of_the_recipes():
    values = {"optimizer.learning_rate": 0.1, "arguments.dropout": 0.3, "batch_size": 8}
    recipe = with_values(RECIPE, values)
    assert recipe.optimizer == {"name": "Adam", "learning_rate": 0.1}
    assert recipe.arguments == {"hidden_units": 0, "dropout": 0.3}
    assert recipe.batch_size == 8
    assert RECIPE.arguments == {"hidden_units": 0}


def test_recipes_are_written_as_they_are_read(tmp_path):
    recipe = Recipe(
        "convnet",
        "mnist",
        warmup_epochs=0.5,
        arguments={"filters": [8, 16], "activation": 'a "é\n😀', "dropout": 0.1},
        optimizer={"name": "AdamW", "learning_rate": 1e-05, "use_ema": True},
        augmentation={"flip": True},
    )
    (tmp_path / "recipe.toml").write_text(to_toml(recipe, "Two\nlines."), "utf-8")
    assert load_recipe(tmp_path / "recipe.toml") == recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {"batchsize": "1,2"}}, "Did you mean 'batch_size'"),
        ({"space": {"optimiser.learning_rate": "1,2"}}, "Did you mean 'optimizer'"),
        ({"space": {"batch_size": "100,0"}}, "batch_size=0"),
        ({"space": {"batch_size.x": "1"}}, "no entries"),
        ({"space": {"seed": "1,2"}}, "`seeds`"),
        ({"space": {"optimizer.learning_rate": "1e-4:1e-2"}}, "`trials`"),
        ({"space": {"arguments.hidden_unit": "8,9"}}, "hidden_unit"),
        ({"space": {"arguments.hidden_units": "8,-1"}}, "Trial 1.*-1"),
        ({"space": {"optimizer.lerning_rate": "1,2"}}, "lerning_rate"),
        ({"space": {"optimizer.name": "Adam,Adm"}}, "Did you mean 'adam'"),
        ({"space": {"augmentation.rotation": "1,a"}}, "Trial 1"),
        ({"space": {}}, "at least one field"),
        ({"trials": 5}, "has 4 points. Received: trials=5"),
        ({"trials": 0}, "trials=0"),
        ({"concurrent": 0}, "concurrent=0"),
        ({"metric": "accuracy"}, "val_accuracy"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": []}, "seeds"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("package", "extra"), [("ray", "distributed"), ("matplotlib", "plot")]
)
def test_missing_packages_are_told_at_once(tmp_path, monkeypatch, package, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(ImportError, match=rf'pip install "gradzoo\[{extra}\]"'):
        sweep(tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.endurance
def test_results_have_a_row_for_each_run(swept):
    report, _ = swept
    rows = read_results(report.output_dir)
    points = [(r["optimizer.learning_rate"], r["optimizer.beta_1"]) for r in rows]
    assert points == [
        ("1e-06", "0.9"),
        ("1e-06", "high"),
        ("0.01", "0.9"),
        ("0.01", "high"),
    ]
    for row in rows[::2]:
        with (report.output_dir / row["folder"] / "log.csv").open() as file:
            log = list(csv.DictReader(file))
        accuracies = [float(epoch["val_accuracy"]) for epoch in log]
        assert float(row["val_accuracy"]) == accuracies[-1]
        assert float(row["val_loss"]) == float(log[-1]["val_loss"])
        assert float(row["best_val_accuracy"]) == max(accuracies)
        assert accuracies[int(row["best_epoch"]) - 1] == max(accuracies)
        assert (row["seed"], row["epochs"], row["error"]) == ("0", "6", "")
    for row in rows[1::2]:
        assert "Error: " in row["error"]
        assert row["val_accuracy"] == ""


@pytest.mark.endurance
def test_runs_are_those_of_zoo_train(swept):
    report, _ = swept
    recipe = with_values(RECIPE, BEST)
    history = zoo.train(recipe.model, recipe.dataset, recipe, verbose=0).history
    row = read_results(report.output_dir)[2]
    assert float(row["val_loss"]) == pytest.approx(history["val_loss"][-1], rel=1e-4)


@pytest.mark.endurance
def test_the_best_trial_is_a_recipe_and_a_picture(swept):
    report, _ = swept
    assert [trial["trial"] for trial in report.trials[:2]] == [2, 0]
    assert math.isnan(report.trials[2]["val_accuracy"])
    assert report.best == with_values(RECIPE, BEST)
    assert load_recipe(report.output_dir / "best.toml") == report.best
    with Image.open(report.output_dir / "sweep.png") as picture:
        assert picture.width > picture.height > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


@pytest.mark.endurance
def test_a_line_is_printed_for_each_run_and_nothing_else(swept):
    _, printed = swept
    lines = printed.splitlines()
    assert [line[:5] for line in lines] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    best = "002-learning_rate=0.01-beta_1=0.9/seed0: val_accuracy 0."
    assert sum(best in line for line in lines) == 1


@pytest.mark.endurance
def test_a_folder_with_a_sweep_is_not_taken_for_another(swept):
    folder = swept[0].output_dir
    with pytest.raises(FileExistsError, match="resume=True"):
        sweep(folder)
    for options, name in [
        ({"space": {"batch_size": "200"}}, "space: .*high.* there"),
        ({"epochs": 7}, "recipe: "),
        ({"seeds": [0, 1]}, "seeds: "),
        ({"trials": 3}, "trials: "),
    ]:
        with pytest.raises(ValueError, match=f"holds another sweep.*{name}"):
            sweep(folder, resume=True, **options)


@pytest.mark.endurance
def test_only_what_failed_is_run_again(swept, tmp_path, monkeypatch):
    folder = shutil.copytree(swept[0].output_dir, tmp_path / "sweep")
    begun = []

    def run_all(runs, folder, concurrent, data_dir, end):
        begun.extend(run.trial for run in runs)
        for run in runs:
            _run({"run": 0}, [run], 1, None)
            end(run)

    monkeypatch.setattr(sys.modules["zoo.sweep"], "_run_all", run_all)
    report = sweep(folder, resume=True, metric="val_loss")
    assert begun == [1, 3]
    assert report.trials[0]["trial"] == 2
    assert read_results(folder) == read_results(swept[0].output_dir)


def test_a_run_that_diverges_stops_and_is_a_row(tmp_path):
    recipe = with_values(RECIPE, {"optimizer.learning_rate": 1e38})
    run = Run(0, {}, recipe, tmp_path)
    _run({"run": 0}, [run], 1, None)
    assert run.result["error"].startswith("The loss is ")
    assert len((tmp_path / "log.csv").read_text().splitlines()) < 1 + RECIPE.epochs


def test_a_sweep_that_fails_altogether_says_so(tmp_path, monkeypatch):
    def run_all(runs, folder, concurrent, data_dir, end):
        for run in runs:
            run.result = {"error": f"no luck in {run.trial}"}

    monkeypatch.setattr(sys.modules["zoo.sweep"], "_run_all", run_all)
    with pytest.raises(ValueError, match=r"All trials failed.*no luck in 0"):
        sweep(tmp_path / "sweep")
    assert not (tmp_path / "sweep" / "best.toml").exists()


def test_trials_are_ranked_by_the_mean_over_their_seeds(tmp_path, monkeypatch, capsys):
    accuracies = {0: [0.9, 0.5], 1: [0.8, 0.7]}

    def run_all(runs, folder, concurrent, data_dir, end):
        for run in runs:
            accuracy = accuracies[run.trial][run.recipe.seed]
            scores = {"val_accuracy": accuracy, "val_loss": accuracy, "seconds": 1.0}
            run.result = scores
            end(run)

    monkeypatch.setattr(sys.modules["zoo.sweep"], "_run_all", run_all)
    space = {"optimizer.learning_rate": "0.001,0.002"}
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(RECIPE, "Logistic regression."))
    words = [
        "sweep",
        "shallow_mlp",
        "--recipe",
        str(path),
        "--seed",
        "0",
        "--seed",
        "1",
    ]
    words += ["--set", "optimizer.learning_rate=0.001,0.002"]
    assert terminal.run(cli.app, [*words, "--output", str(tmp_path / "sweep")]) == 0
    printed = capsys.readouterr().out
    assert "[4/4]" in printed
    assert str(tmp_path / "sweep" / "best.toml") in printed
    report = sweep(tmp_path / "sweep", space, seeds=[0, 1], resume=True)
    assert [trial["trial"] for trial in report.trials] == [1, 0]
    assert report.trials[0]["val_accuracy"] == pytest.approx(0.75)
    loss = {"metric": "val_loss", "seeds": [0, 1], "resume": True}
    assert sweep(tmp_path / "sweep", space, **loss).trials[0]["trial"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "batch_size"], "FIELD=VALUES"),
        (["--set", "batch_size=1", "--set", "batch_size=2"], "given twice"),
        ([], "--set"),
    ],
)
def test_the_command_tells_what_is_wrong(words, message, capsys):
    assert terminal.run(cli.app, ["sweep", "shallow_mlp", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.endurance
def test_a_sweep_that_is_killed_and_interrupted_ends_like_one_that_is_not(
    swept, tmp_path
):
    folder = tmp_path / "sweep"
    (tmp_path / "recipe.toml").write_text(to_toml(RECIPE, "Logistic regression."))
    words = ["sweep", "shallow_mlp", "--recipe", "recipe.toml", "--output", "sweep"]
    for field, values in SPACE.items():
        words += ["--set", f"{field}={values}"]
    words += ["--resume"]

    def start(name):
        command = [sys.executable, "-c", "from zoo.cli import main; main()", *words]
        environment = {**os.environ, "SWEEP": str(folder)}
        del environment["TF_CPP_MIN_LOG_LEVEL"]  # as for a user who has set nothing
        with (
            (tmp_path / f"{name}.out").open("w") as output,
            (tmp_path / f"{name}.err").open("w") as errors,
        ):
            return subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=errors,
                # A shell that starts the tests in the background has them ignore it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def wait(condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)

    def stop(process, number):
        """Sends a signal; returns the runs and all else that the sweep had started."""
        started = psutil.Process(process.pid).children(recursive=True)
        runs = [p for p in started if p.name().startswith("ray::Implicit")]
        assert runs
        if number == signal.SIGKILL:  # As when a machine fails: all at once.
            for run in runs:
                run.kill()
        process.send_signal(number)
        return runs, started

    def have_ended(processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            return all(
                not p.is_running() or p.status() == psutil.STATUS_ZOMBIE
                for p in processes
            )

    paths = sorted(swept[0].output_dir.glob("trials/*"))
    first, _, third, _ = (folder / "trials" / path.name / "seed0" for path in paths)

    killed = start("killed")
    wait(lambda: list(first.glob("checkpoint/00001-*")))
    runs, helpers = stop(killed, signal.SIGKILL)
    killed.wait()
    wait(lambda: have_ended(runs), 30)
    assert not (first / "result.json").exists()

    interrupted = start("interrupted")
    wait(lambda: (first / "result.json").exists())
    wait(lambda: list(third.glob("checkpoint/00001-*")))
    _, started = stop(interrupted, signal.SIGINT)
    assert interrupted.wait(60) == 130
    wait(lambda: have_ended(started), 30)
    assert "--resume" in (tmp_path / "interrupted.err").read_text()
    ended = (first / "result.json").stat().st_mtime_ns

    resumed = start("resumed")
    assert resumed.wait(300) == 0
    assert (tmp_path / "resumed.err").read_text() == ""
    assert (first / "result.json").stat().st_mtime_ns == ended
    undisturbed = read_results(swept[0].output_dir)
    for row in (rows := read_results(folder)) + undisturbed:
        row["seconds"] = None
    assert rows == undisturbed
    plans = [
        json.loads((f / "sweep.json").read_text())
        for f in (folder, paths[0].parents[1])
    ]
    assert plans[0] == plans[1]
    wait(lambda: have_ended(helpers), 90)  # They look for Ray for a minute.
