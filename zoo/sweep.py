"""Sweeps: a recipe trained with many values of some of its fields."""

import contextlib
import csv
import dataclasses
import importlib.util
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from zoo.augment import distort
from zoo.datasets import dataset_info, load_dataset
from zoo.ray_cluster import prepare_ray, ray_cluster
from zoo.recipes import Recipe
from zoo.registry import create, list_weights
from zoo.search_space import Range, Values, draw_trials, parse_values, with_values
from zoo.training import compile_model, complete_recipe, train, written_whole

METRICS: dict[str, Callable[..., Any]] = {"val_accuracy": max, "val_loss": min}


@dataclasses.dataclass
class Run:
    """One training of a sweep: a trial with one of the seeds."""

    trial: int
    values: Values
    recipe: Recipe
    folder: pathlib.Path

    @property
    def result(self) -> dict[str, Any]:
        """Its scores, or its error; empty as long as it has not ended."""
        with contextlib.suppress(FileNotFoundError):
            return dict(json.loads((self.folder / "result.json").read_text()))
        return {}

    @result.setter
    def result(self, result: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(self.folder / "result.json") as file:
            file.write_text(json.dumps(result, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class SweepReport:
    """What a sweep gave.

    Attributes:
        trials: a dict for each trial, the best first: its number, its fields, and means
            over its seeds of the scores after the last epoch.
        best: the recipe of the best trial.
        output_dir: folder of `results.csv`, `sweep.png`, `best.toml` and the runs.
    """

    trials: list[dict[str, Any]]
    best: Recipe
    output_dir: pathlib.Path


def sweep(
    model: str,
    dataset: str,
    space: Mapping[str, str | Sequence[Any]],
    recipe: Recipe | str | os.PathLike[str] | None = None,
    *,
    output_dir: str | os.PathLike[str],
    trials: int | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] = (0,),
    metric: str = "val_accuracy",
    sampling_seed: int = 0,
    concurrent: int | None = None,
    resume: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    verbose: int = 1,
) -> SweepReport:
    """Trains a recipe with many values of some of its fields, and finds the best.

    Every run is a `zoo.train` on the split "train", scored on "validation", in a
    process of its own that Ray Tune starts: on this machine, or on the cluster that
    `RAY_ADDRESS` names, whose machines must then share `output_dir`. The test images
    are not read.

    Reference:
    - [McKay, Beckman and Conover, 1979](https://doi.org/10.2307/1268522): Latin
      hypercube sampling, by which trials are drawn: of twenty trials, one falls into
      each twentieth of every range.

    Args:
        model: name of a model.
        dataset: name of a dataset.
        space: values by field. A field is one of `Recipe`, or an entry of one, such as
            `"optimizer.learning_rate"` or `"arguments.dropout"`. Values are a list of
            choices; or text as on the command line, `"0.1,0.3"` or `"relu,tanh"` for
            choices, `"LOW:HIGH"` or `"LOW:HIGH:log"` for a range.
        recipe: what the other fields are, as in `zoo.train`.
        output_dir: folder for `results.csv`, with a row for each run, `best.toml`, a
            recipe, `sweep.png`, a picture, and the folders of the runs, in `trials`.
        trials: how many to draw. Defaults to the full grid, if there are no ranges.
        epochs: takes the place of the recipe's.
        seeds: seeds to train every trial with.
        metric: what the best trial is best in after the last epoch, in the mean over
            its seeds: `"val_accuracy"` or `"val_loss"`.
        sampling_seed: seed by which trials are drawn.
        concurrent: runs at a time, which share out the cores. Defaults to one per GPU,
            or else one per core.
        resume: whether to go on with the sweep in `output_dir`, if there is one. Runs
            that have ended well are kept, the others go on from their checkpoints.
            Without it, a folder that holds a sweep is refused.
        data_dir: folder of the prepared datasets. Defaults to TFDS' own.
        verbose: 1 to print a line for each run that ends, or 0.

    Returns:
        A `SweepReport`. A run that diverges or raises an error is in it, too.

    Raises:
        ValueError: an argument is wrong, a trial cannot be built, the folder holds
            another sweep, or all runs have failed.
        FileExistsError: there is a sweep in `output_dir` and `resume` is false.
        ImportError: Ray Tune or matplotlib is not installed.

    Example:

    ```python
    space = {"optimizer.learning_rate": "1e-4:1e-2:log", "batch_size": [64, 128]}
    report = zoo.sweep("lenet5", "mnist", space, output_dir="sweep", trials=20)
    zoo.train("lenet5", "mnist", report.best)
    ```
    """
    prepare_ray()
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'Sweeps are plotted by matplotlib: `pip install "gradzoo[plot]"`.'
        )
    for name, value in (("trials", trials), ("concurrent", concurrent)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}.")
    if metric not in METRICS:
        raise ValueError(f"`metric` must be one of {[*METRICS]}. Received: {metric!r}.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"`seeds` must be one or more different integers. Received: {seeds!r}."
        )
    base = complete_recipe(recipe, model, dataset, {"epochs": epochs})
    domains = {field: parse_values(field, values) for field, values in space.items()}
    folder = pathlib.Path(output_dir).absolute()
    points = draw_trials(domains, trials, sampling_seed)
    runs = []
    for number, point in enumerate(points):
        trial, path = with_values(base, point), folder / _trial_path(number, point)
        for seed in seeds:
            seeded = dataclasses.replace(trial, seed=seed)
            runs.append(Run(number, point, seeded, path / f"seed{seed}"))
    _check_buildable(runs, data_dir)
    plan = {
        "recipe": dataclasses.asdict(base),
        "space": {k: v if isinstance(v, str) else [*v] for k, v in space.items()},
        "trials": points,
        "seeds": [*seeds],
    }
    _begin(folder, plan, resume)

    left = [run for run in runs if "val_accuracy" not in run.result]
    for run in left:  # What failed is tried again.
        (run.folder / "result.json").unlink(missing_ok=True)
    _write_csv(folder, runs)
    numbers = itertools.count(len(runs) - len(left) + 1)
    console = sys.stdout

    def end(run: Run) -> None:
        _write_csv(folder, runs)
        if verbose:
            place = f"[{next(numbers)}/{len(runs)}]"
            name, row = run.folder.relative_to(folder / "trials"), run.result
            outcome = row.get("error") or f"{metric} {row[metric]:.4f}"
            print(place, f"{name}: {outcome}", file=console, flush=True)

    if left:
        _run_all(left, folder, concurrent, data_dir, end)

    ranking = _rank(runs, metric)
    best, score = ranking[0], ranking[0][metric]
    if math.isnan(score):
        errors = [run.result["error"] for run in runs if "error" in run.result]
        raise ValueError(f"All trials failed, the first with: {errors[0]}")
    versions = [card.version for card in list_weights(model, dataset)]
    winner = dataclasses.replace(
        with_values(base, points[best["trial"]]),
        version=max(versions, default=0) + 1,  # to publish it as
    )
    comment = (
        f"Trial {best['trial']} of {len(points)} of a sweep over {', '.join(domains)}\n"
        f"with seeds {', '.join(map(str, seeds))}, trained on the split train: "
        f"{metric} {score:.4f}"
    )
    with written_whole(folder / "best.toml") as file:
        file.write_text(to_toml(winner, comment))
    with written_whole(folder / "sweep.png") as file:
        _plot(runs, domains, metric).savefig(file)
    return SweepReport(ranking, winner, folder)


def to_toml(recipe: Recipe, comment: str) -> str:
    """A recipe file that `load_recipe` reads."""
    lines = [f"# {line}" for line in comment.splitlines()]
    fields = dataclasses.asdict(recipe)
    tables = {name: value for name, value in fields.items() if isinstance(value, dict)}
    lines += [
        f"{k} = {json.dumps(v, ensure_ascii=False)}"
        for k, v in fields.items()
        if k not in tables
    ]
    for name, table in tables.items():
        lines += [
            "",
            f"[{name}]",
            *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in table.items()),
        ]
    return "\n".join(lines) + "\n"


def _trial_path(number: int, values: Values) -> str:
    """Where a trial lives, e.g. `trials/003-learning_rate=0.001-batch_size=64`."""
    words = [f"{field.split('.')[-1]}={value}" for field, value in values.items()]
    name = re.sub(r"[^\w.=+-]+", "_", "-".join([f"{number:03d}", *words]))
    return f"trials/{name[:100]}"


def _check_buildable(
    runs: Sequence[Run], data_dir: str | os.PathLike[str] | None
) -> None:
    """Builds and compiles what the runs will train, and distorts an image.

    Raises:
        ValueError: a builder, Keras or the distortions refuse a value.
    """
    dataset = runs[0].recipe.dataset
    # Data that cannot be had, or must be prepared, are met once and before all runs.
    images, _ = load_dataset(dataset, "validation", as_="numpy", data_dir=data_dir)
    classes = len(dataset_info(dataset, data_dir=data_dir).classes)
    models: dict[str, keras.Model] = {}
    for run in runs:
        recipe = run.recipe
        try:
            key = json.dumps(recipe.arguments)
            if key not in models:
                models[key] = create(
                    recipe.model,
                    input_shape=images.shape[1:],
                    classes=classes,
                    **recipe.arguments,
                )
            compile_model(models[key], recipe, steps_per_epoch=1)
            distort(images[:1], np.random.default_rng(0), **recipe.augmentation)
        except Exception as error:  # Keras raises many kinds.
            raise ValueError(
                f"Trial {run.trial}, with {run.values}, cannot be built: {error}"
            ) from error


def _begin(folder: pathlib.Path, plan: dict[str, Any], resume: bool) -> None:
    """Writes what the sweep is into its folder, or compares it with what is there."""
    file = folder / "sweep.json"
    plan = json.loads(json.dumps(plan))
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as unfinished:
            unfinished.write_text(json.dumps(plan, indent=2) + "\n")
        return
    if not resume:
        raise FileExistsError(
            f"{folder} holds a sweep: go on with it (`resume=True`, on the command "
            "line --resume), or choose another `output_dir` (--output)."
        )
    earlier = json.loads(file.read_text())
    differences = [
        f"{name}: {earlier.get(name)} there, {plan[name]} here"
        for name in plan
        if plan[name] != earlier.get(name)
    ]
    if differences:
        raise ValueError(
            f"{folder} holds another sweep: give another folder, or that sweep. It "
            f"differs in {'; '.join(differences)}"
        )


class StopIfDiverged(keras.callbacks.Callback):
    """Ends training after an epoch whose loss is not a finite number."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True


def _run(
    config: dict[str, int], runs: Sequence[Run], threads: int, data_dir: Any
) -> None:
    """Trains one run, in a process of its own; an error is a result, too."""
    run = runs[config["run"]]
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)  # read at the first computation
    try:
        report = train(
            run.recipe.model,
            run.recipe.dataset,
            run.recipe,
            output_dir=run.folder,
            resume=True,
            callbacks=[StopIfDiverged()],
            data_dir=data_dir,
            verbose=0,
        )
        run.result = _scores(report.history) | {"seconds": round(report.seconds, 1)}
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        run.result = {"error": message, "traceback": traceback.format_exc()}


def _scores(history: dict[str, list[float]]) -> dict[str, Any]:
    for epoch, loss in enumerate(history["loss"], 1):
        if not math.isfinite(loss):
            return {"epochs": epoch, "error": f"The loss is {loss} in epoch {epoch}."}
    accuracies = history["val_accuracy"]
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    return {
        "val_accuracy": accuracies[-1],
        "val_loss": history["val_loss"][-1],
        "best_val_accuracy": accuracies[best],
        "best_epoch": best + 1,
        "epochs": len(accuracies),
    }


def _run_all(
    runs: Sequence[Run],
    folder: pathlib.Path,
    concurrent: int | None,
    data_dir: str | os.PathLike[str] | None,
    end: Callable[[Run], None],
) -> None:
    """Has Ray Tune start the runs; calls `end` with each that has ended."""
    import ray
    from ray import tune

    class Ended(tune.Callback):
        def __reduce__(self) -> Any:  # Tune saves what is never restored.
            return tune.Callback, ()

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            end(runs[trial.config["run"]])

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            run = runs[trial.config["run"]]
            reason = str(trial.get_pickled_error()).strip().splitlines()[-1]
            run.result = {"error": f"Its process failed three times: {reason}"}
            end(run)

    state = folder / ".tune"  # that Tune keeps, and nobody reads
    shutil.rmtree(state, ignore_errors=True)
    with ray_cluster():
        available = ray.cluster_resources()
        cores, devices = int(available["CPU"]), int(available.get("GPU", 0))
        at_once = concurrent or devices or cores
        # No more than a machine has, if there are several.
        threads = max(1, min(cores // at_once, os.cpu_count() or 1))
        resources = {"cpu": threads, "gpu": min(1, devices / at_once)}
        if data_dir is not None:  # Runs do not work in this folder.
            data_dir = pathlib.Path(data_dir).absolute()
        trainable = tune.with_parameters(
            _run, runs=runs, threads=threads, data_dir=data_dir
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"run": tune.grid_search(list(range(len(runs))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=tune.RunConfig(
                name=state.name,
                storage_path=str(folder),
                # A process that is killed is started again, from its checkpoint.
                failure_config=tune.FailureConfig(max_failures=2),
                callbacks=[Ended()],
                verbose=0,
            ),
        )
        try:
            # Tune prints a table even so.
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                tuner.fit()
        finally:
            shutil.rmtree(state, ignore_errors=True)


def _write_csv(folder: pathlib.Path, runs: Sequence[Run]) -> None:
    """Writes `results.csv`: a row for each run that has ended."""
    scores = ("val_accuracy", "val_loss", "best_val_accuracy", "best_epoch", "epochs")
    header = ["trial", "seed", *runs[0].values, *scores, "seconds", "error", "folder"]
    with (
        written_whole(folder / "results.csv") as unfinished,
        unfinished.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, header, extrasaction="ignore")
        writer.writeheader()
        for run in runs:
            if result := run.result:
                place = run.folder.relative_to(folder).as_posix()
                known = {"trial": run.trial, "seed": run.recipe.seed, "folder": place}
                writer.writerow(known | run.values | result)


def _rank(runs: Sequence[Run], metric: str) -> list[dict[str, Any]]:
    """A dict for each trial, the best first, those with a failed run last."""
    trials = []
    for number, group in itertools.groupby(runs, key=lambda run: run.trial):
        members = list(group)
        results = [run.result for run in members]
        means = {
            name: statistics.mean(result.get(name, math.nan) for result in results)
            for name in ("val_accuracy", "val_loss", "seconds")
        }
        trials.append({"trial": number, **members[0].values, **means})
    sign = -1 if METRICS[metric] is max else 1
    return sorted(trials, key=lambda t: (math.isnan(t[metric]), sign * t[metric]))


def _plot(
    runs: Sequence[Run], domains: Mapping[str, list[Any] | Range], metric: str
) -> Any:
    """A matplotlib `Figure`: the metric of each run against each field."""
    from matplotlib.figure import Figure

    results = [(run.values, run.result) for run in runs]
    ended = [(point, row[metric]) for point, row in results if metric in row]
    figure = Figure(
        figsize=(3.2 * len(domains) + 0.6, 3), dpi=150, layout="constrained"
    )
    panels = figure.subplots(1, len(domains), sharey=True, squeeze=False)[0]
    for panel, (field, values) in zip(panels, domains.items(), strict=True):
        places = [point[field] for point, _ in ended]
        if isinstance(values, Range):
            panel.set_xscale("log" if values.log else "linear")
        else:  # side by side, in their order
            places = [values.index(place) for place in places]
            panel.set_xticks(range(len(values)), map(str, values))
            panel.set_xlim(-0.5, len(values) - 0.5)
        panel.scatter(places, [score for _, score in ended], s=16, alpha=0.7)
        panel.set_xlabel(field)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(metric)
    return figure
