"""The command line: in this process for what it does, in another for how it behaves."""

import json
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import sys
import time
import warnings

import keras
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import zoo
from zoo import cli, terminal

PROGRAM = "import sys; from zoo.cli import main; main()"
RECIPE = """
model = "shallow_mlp"
dataset = "digits-sample"
epochs = 2
batch_size = 200
schedule = "constant"
[arguments]
hidden_units = 0
"""


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def run(*words):
        code = terminal.run(cli.app, [str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def digits():
    """Images and labels of ten digits, `[10, 28, 28, 1]` and `[10]`."""
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    return images[first], labels[first]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of `zoo train`: logistic regression on digits."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.toml").write_text(RECIPE)
    words = ["train", "shallow_mlp", "--recipe", folder / "recipe.toml"]
    words += ["--output", folder / "run", "--gradient-norms", "--seed", 3]
    assert terminal.run(cli.app, [str(word) for word in words]) == 0
    return folder / "run"


def save(path, image):
    """Writes a uint8 image `[height, width, 1]` as a file."""
    Image.fromarray(image[:, :, 0]).save(path)
    return path


def environment():
    """The environment of a terminal whose user has set nothing."""
    return {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}


def start(*words, **options):
    """Starts the command in a process of its own."""
    command = [sys.executable, "-P", "-c", PROGRAM, *map(str, words)]
    return subprocess.Popen(command, env=environment(), text=True, **options)


# Finding models and weights


def test_list_prints_every_weight(run):
    code, output, errors = run("list", "--json")
    assert (code, errors) == (0, "")
    rows = json.loads(output)
    assert [row["weights"] for row in rows] == [w.id for w in zoo.list_weights()]
    card = zoo.get_weights("lenet5.mnist")
    [row] = [row for row in rows if row["weights"] == card.id]
    assert row["parameters"] == 61_706
    assert row["test_accuracy"] == card.metrics["accuracy"]
    code, output, errors = run("list")
    assert (code, errors) == (0, "")
    assert all(row["weights"] in output for row in rows)
    assert "61,706" in output


def test_list_filters(run):
    _, output, _ = run("list", "*mlp", "--weights", "mnist", "--json")
    models = [row["weights"] for row in json.loads(output)]
    assert models == ["shallow_mlp.mnist.v1", "deep_mlp.mnist.v1"]


def test_info_prints_the_card(run):
    card = zoo.get_weights("lenet5.mnist")
    code, output, errors = run("info", "lenet5.mnist", "--json")
    assert (code, errors) == (0, "")
    description = json.loads(output)
    assert description.pop("id") == "lenet5.mnist.v1"
    assert description == json.loads(card.to_json())
    code, output, errors = run("info", "lenet5.mnist")
    assert (code, errors) == (0, "")
    assert card.sha256 in output
    assert card.data["license"] in output
    assert "probabilities" not in output


def test_info_describes_a_model(run):
    code, output, errors = run("info", "lenet5")
    assert (code, errors) == (0, "")
    assert "LeNet-5" in output
    assert "61,706" in output
    assert "lenet5.mnist.v1" in output


@pytest.mark.parametrize("words", [["datasets"], ["datasets", "list"]])
def test_datasets_lists_what_is_ready(run, words):
    code, output, errors = run(*words)
    assert (code, errors) == (0, "")
    lines = [line.split()[:2] for line in output.splitlines()]
    assert ["digits-sample", "yes"] in lines
    assert {"mnist", "fashion_mnist"} <= {line[0] for line in lines if line}


def test_datasets_list_is_json(run, tmp_path):
    _, output, _ = run("datasets", "list", "--data-dir", tmp_path, "--json")
    rows = {row["name"]: row for row in json.loads(output)}
    assert rows["mnist"]["ready"] is False
    assert rows["mnist"]["splits"]["test"] == 10_000


def test_datasets_prepare(run, monkeypatch, tmp_path):
    asked = {}

    def prepare(name, **options):
        asked.update(options, name=name)
        return tmp_path / "mnist.npz"

    monkeypatch.setattr(zoo, "prepare_dataset", prepare)
    code, output, _ = run(
        "datasets", "prepare", "mnist", "--from", tmp_path, "--data-dir", "there"
    )
    assert code == 0
    assert output == f"mnist is ready: {tmp_path / 'mnist.npz'}\n"
    assert asked == {
        "name": "mnist",
        "source_dir": tmp_path,
        "data_dir": pathlib.Path("there"),
    }


# Training and using what was trained


def test_train_leaves_weights_and_logs(trained):
    assert (trained / "trained.weights.h5").is_file()
    assert (trained / "log.csv").read_text("utf-8").count("\n") == 1 + 2
    assert (trained / "gradient_norms.csv").is_file()
    recipe = json.loads((trained / "run.json").read_text("utf-8"))["recipe"]
    assert recipe["seed"] == 3


def test_train_refuses_a_folder_that_holds_a_run(run, trained):
    words = ["train", "shallow_mlp", "--recipe", trained.parent / "recipe.toml"]
    words += ["--seed", 3, "--output", trained]
    code, _, errors = run(*words)
    assert code == 1
    assert errors.startswith("error: ")
    assert str(trained) in errors
    assert errors.count("\n") == 1
    code, output, errors = run(*words, "--resume")
    assert code == 0
    assert "trained.weights.h5" in output


def test_evaluate_takes_trained_weights_in_three_forms(run, trained):
    weights = trained / "trained.weights.h5"
    scores = []
    for words in (
        [weights],
        ["shallow_mlp", "--weights", weights],
        ["shallow_mlp", "--weights", weights, "--dataset", "digits-sample"],
    ):
        code, output, errors = run(
            "evaluate", *words, "--split", "validation", "--json"
        )
        assert (code, errors) == (0, "")
        scores.append(json.loads(output))
    assert scores[0]["accuracy"] == scores[1]["accuracy"] == scores[2]["accuracy"]
    assert scores[0]["accuracy"] > 0.7
    assert scores[0]["images"] == 1_000


def test_evaluate_prints_the_accuracy_of_the_model(run):
    data = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    expected = zoo.evaluate(zoo.LeNet5(weights="mnist"), data)
    words = ["evaluate", "lenet5.mnist", "--dataset", "digits-sample"]
    code, output, errors = run(*words, "--split", "validation")
    assert (code, errors) == (0, "")
    assert f"{expected['accuracy']:.4g}" in output


def test_info_describes_a_run(run, trained):
    code, output, errors = run("info", trained / "trained.weights.h5", "--json")
    assert (code, errors) == (0, "")
    assert json.loads(output)["recipe"]["model"] == "shallow_mlp"


def test_two_weights_files_and_broken_descriptions_are_refused(run, trained, tmp_path):
    file = trained / "trained.weights.h5"
    code, _, errors = run("evaluate", file, "--weights", file)
    assert (code, errors.count("\n")) == (2, 1)
    assert "Two weights files" in errors
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "run.json").write_text("{")
    code, _, errors = run("export", copy / "trained.weights.h5", "serving")
    assert (code, errors.count("\n")) == (1, 1)
    assert str(copy / "run.json") in errors


def test_weights_of_unknown_origin_need_a_dataset(run, tmp_path):
    zoo.ShallowMLP(0).save_weights(tmp_path / "mine.weights.h5")
    code, _, errors = run("evaluate", "shallow_mlp", "--weights", "mine.weights.h5")
    assert code == 1
    assert "--dataset" in errors


# Predicting


def test_predict_labels_files_of_any_size(run, digits, tmp_path):
    images, labels = digits
    files = []
    for image, label in zip(images, labels, strict=True):
        large = np.asarray(Image.fromarray(image[:, :, 0]).resize((140, 112)))
        files.append(save(tmp_path / f"{label}.png", large[..., None]))
    code, output, errors = run("predict", *files, "--weights", "lenet5.mnist", "--json")
    assert (code, errors) == (0, "")
    answers = json.loads(output)
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    right = [a["label"] == str(n) for a, n in zip(answers, labels, strict=True)]
    assert sum(right) >= 9
    for answer in answers:
        [runner_up] = answer["runner_up"].values()
        assert 1 >= answer["probability"] >= runner_up >= 0


def test_predict_equals_the_model(run, digits, tmp_path):
    file = save(tmp_path / "digit.png", digits[0][4])
    _, output, _ = run(
        "predict", file, "--weights", "lenet5.mnist", "--top", 10, "--json"
    )
    [answer] = json.loads(output)
    found = {answer["label"]: answer["probability"], **answer["runner_up"]}
    expected = zoo.LeNet5(weights="mnist").predict(digits[0][4:5], verbose=0)[0]
    np.testing.assert_allclose([found[str(i)] for i in range(10)], expected, atol=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_predict_takes_weights_from_a_run(run, trained, digits, tmp_path):
    file = save(tmp_path / "digit.png", digits[0][1])
    weights = trained / "trained.weights.h5"
    code, output, errors = run("predict", file, "--weights", weights, "--top", 1)
    assert (code, errors) == (0, "")
    assert str(file) in output


def test_predict_goes_on_after_unreadable_files(run, digits, tmp_path):
    good = save(tmp_path / "good.png", digits[0][0])
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:100])
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(digits[0][0][:, :, 0]).save(tmp_path / "picture.gif")
    bad = ["cut.png", "text.png", "picture.gif", "missing.png"]
    words = ["predict", *bad, good, "--weights", "lenet5.mnist", "--json"]
    code, output, errors = run(*words)
    assert code == 1
    assert [answer["file"] for answer in json.loads(output)] == [str(good)]
    lines = errors.splitlines()
    assert len(lines) == len(bad)
    for name, line in zip(bad, lines, strict=True):
        assert line.startswith(f"error: {name}: ")


def test_predict_expands_folders_patterns_and_arrays(run, digits, tmp_path):
    images, _ = digits
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    save(tmp_path / "scans" / "deep" / "3.png", images[3])
    save(tmp_path / "scans" / "2.png", images[2])
    np.save(tmp_path / "two.npy", images[4:6])
    words = ["scans", "**/3.png", "two.npy", "--weights", "lenet5.mnist", "--json"]
    code, output, errors = run("predict", *words)
    assert (code, errors) == (0, "")
    answers = json.loads(output)
    files = ["scans/2.png", "scans/deep/3.png", "two.npy[0]", "two.npy[1]"]
    assert [answer["file"] for answer in answers] == files
    assert [answer["label"] for answer in answers] == list("2345")


def test_predict_writes_a_table_of_any_length(run, digits, tmp_path):
    images, labels = digits
    np.save(tmp_path / "digits.npy", images)
    (tmp_path / "scans").mkdir()
    for i in range(22):
        (tmp_path / "scans" / f"{i:02}.png").write_text("no image")
    words = ["predict", "digits.npy", "scans", "--weights", "lenet5.mnist"]
    code, output, errors = run(*words, "--out", "out.parquet", "--json")
    assert code == 1
    report = json.loads(output)
    assert report.pop("seconds") > 0
    assert report == {"path": "out.parquet", "images": 32, "skipped": 22}
    lines = errors.splitlines()
    assert len(lines) == 21
    assert lines[0].startswith("error: scans/00.png: ")
    assert lines[-1].endswith("see the column `error` of out.parquet.")
    table = parquet.read_table("out.parquet")
    assert table["label"].to_pylist() == [*map(str, labels), *[None] * 22]
    code, _, errors = run(*words, "--out", "out.parquet")
    assert (code, errors.count("\n")) == (1, 1)
    assert "out.parquet" in errors
    words = ["digits.npy", "--out", "second.parquet", "--shard", "2/2", "--invert"]
    code, output, errors = run("predict", *words)
    assert (code, errors) == (0, "")
    assert parquet.read_table("second.parquet")["index"].to_pylist() == [5, 6, 7, 8, 9]


# Exporting and publishing


def test_export_writes_numbered_versions(run, tmp_path):
    for version in ("1", "2"):
        code, output, errors = run("export", "lenet5.mnist", "serving/lenet5")
        assert code == 0, errors
        assert (tmp_path / "serving/lenet5" / version / "saved_model.pb").is_file()
        assert output.strip().endswith(f"serving/lenet5/{version}")
    code, _, errors = run("export", "lenet5.mnist", "serving/lenet5", "--version", 2)
    assert code == 1
    assert errors.startswith("error: This version exists")
    assert errors.count("\n") == 1


def test_export_of_a_run_has_its_labels(run, trained, tmp_path):
    code, _, errors = run("export", trained / "trained.weights.h5", "serving")
    assert code == 0, errors
    labels = (tmp_path / "serving/1/labels.txt").read_text("utf-8")
    assert labels.split() == list("0123456789")


def test_export_of_a_keras_file_takes_labels(run, tmp_path):
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential(layers).save(tmp_path / "mine.keras")
    (tmp_path / "labels.txt").write_text("cat\nHund und Katze\n")
    code, _, errors = run("export", "mine.keras", "serving", "--labels", "labels.txt")
    assert code == 0, errors
    exported = zoo.load_exported(tmp_path / "serving")
    assert exported.labels == ("cat", "Hund und Katze")
    code, _, errors = run("export", "lenet5.mnist", "mnist", "--labels", "labels.txt")
    assert code == 1
    assert "`labels` must be a list of 10 str" in errors


def test_publish_passes_its_words_on(run, monkeypatch, tmp_path):
    asked = {}

    def publish(recipe, **options):
        asked.update(options, recipe=recipe)
        return zoo.get_weights("lenet5.mnist")

    monkeypatch.setattr(zoo, "publish", publish)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    code, output, _ = run("publish", "recipe.toml", "--seed", 4, "--seed", 5)
    assert code == 0
    assert output.startswith("lenet5.mnist.v1 is published")
    assert asked["recipe"] == pathlib.Path("recipe.toml")
    assert asked["seeds"] == [4, 5]


# Mistakes


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["lst"], 2, "Did you mean 'list'"),
        (["--nonsense"], 2, "--nonsense"),
        (["info"], 2, "Missing argument"),
        (["list", "nothing"], 2, "'lenet5'"),
        (["list", "--weights", "minst"], 2, "Did you mean 'mnist'"),
        (["list", "lenet", "--weights", "mnist"], 2, "Did you mean 'lenet5'"),
        (["list", "lenet5", "--weights", "minst"], 2, "Did you mean 'mnist'"),
        (["info", "lenet"], 2, "Did you mean 'lenet5'"),
        (["info", "lenet5.minst"], 2, "Did you mean 'mnist'"),
        (["train", "lenet"], 2, "Did you mean 'lenet5'"),
        (["train", "lenet5", "--epochs", "0"], 2, "--epochs"),
        (["train", "lenet5", "--epochs", "many"], 2, "--epochs"),
        (["train", "lenet5", "--recipe", "none.toml"], 2, "none.toml"),
        (["train", "lenet5", "--dataset", "mnst"], 2, "'mnist'"),
        (
            ["train", "lenet5", "--dataset", "digits-sample", "--split", "tain"],
            1,
            "'train'",
        ),
        (["evaluate", "lenet5"], 2, "'mnist'"),
        (["evaluate", "lenet5.mnist", "--dataset", "digits-sample"], 1, "no test"),
        (["evaluate", "none.weights.h5"], 2, "none.weights.h5"),
        (["evaluate", "lenet5", "--weights", "none.h5"], 2, "none.h5"),
        (["predict", "x.png", "--weights", "lenet5.minst"], 2, "Did you mean 'mnist'"),
        (["predict"], 2, "Missing argument"),
        (["predict", "nowhere"], 1, "nowhere"),
        (["predict", "x.png", "--shard", "1/2"], 2, "--out"),
        (["predict", "x.png", "--out", "x.csv"], 1, ".parquet"),
        (["predict", "x.png", "--out", "x.parquet", "--shard", "0/2"], 1, "'0/2'"),
        (["datasets", "prepare", "mnist", "--from", "nowhere"], 2, "nowhere"),
        (["publish", "none.toml"], 2, "none.toml"),
    ],
)
def test_mistakes_are_one_line(run, words, code, message):
    received, output, errors = run(*words)
    assert (received, output) == (code, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_a_dataset_that_is_nowhere_says_what_to_do(run, tmp_path):
    (tmp_path / "files").mkdir()
    words = ["datasets", "prepare", "mnist", "--from", "files", "--data-dir", "data"]
    code, output, errors = run(*words)
    assert (code, output) == (1, "")
    assert errors.startswith("error: ")
    assert "train-images-idx3-ubyte.gz" in errors
    assert "Traceback" not in errors


def test_a_broken_recipe_is_named(run, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("epochs", "epoch"))
    code, _, errors = run("train", "shallow_mlp", "--recipe", "recipe.toml")
    assert code == 1
    assert "Did you mean 'epochs'" in errors
    assert errors.count("\n") == 1


def test_unforeseen_errors_are_one_line_with_their_kind(run, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("no digits")

    monkeypatch.setattr(zoo, "list_models", fail)
    code, _, errors = run("list")
    assert code == 1
    assert errors == "error: ZeroDivisionError: no digits (`zoo --debug COMMAND` " + (
        "shows where)\n"
    )
    with pytest.raises(ZeroDivisionError):
        run("--debug", "list")


def test_without_words_it_helps(run):
    code, output, errors = run()
    assert (code, errors) == (0, "")
    for command in ("list", "train", "predict", "export", "demo"):
        assert command in output
    assert run("--version")[1] == f"gradzoo {zoo.__version__}\n"


# Behaviour of the process


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["predict", "--help"], 0),
        (["lst"], 2),
        (["train", "lenet"], 2),
        (["list"], 0),
        (["info", "lenet5.mnist"], 0),
        (["datasets", "list"], 0),
    ],
)
def test_no_keras_stands_before_an_answer(words, code):
    program = (
        "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules));"
        + PROGRAM
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words], capture_output=True, text=True
    )
    assert done.returncode == code
    modules = done.stdout.partition("LOADED ")[2].split()
    assert "zoo.cli" in modules
    assert not {"keras", "tensorflow", "jax", "torch"} & {*modules}


def test_piped_output_is_plain_and_quiet():
    words = ["evaluate", "lenet5.mnist", "--dataset", "digits-sample"]
    words += ["--split", "validation"]
    process = start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert errors == ""
    assert "\x1b" not in output
    assert "\r" not in output
    assert "accuracy" in output
    assert "step" not in output


def test_a_terminal_gets_progress_bars():
    words = ["evaluate", "lenet5.mnist", "--dataset", "digits-sample"]
    words += ["--split", "validation"]
    master, slave = pty.openpty()
    process = start(*words, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    output = b""
    try:
        while block := os.read(master, 4096):
            output += block
    except OSError:  # How Linux says that the other end is closed.
        pass
    os.close(master)
    assert process.communicate(timeout=300)[1] == ""
    assert process.returncode == 0
    assert b"/step" in output
    assert b"\x1b[" in output


def test_interrupted_training_says_how_to_go_on(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("= 2\n", "= 100000\n"))
    words = ["train", "shallow_mlp", "--recipe", tmp_path / "recipe.toml"]
    words += ["--output", tmp_path / "run"]
    process = start(
        *words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Shells start what runs in the background with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    checkpoint = tmp_path / "run" / "checkpoint"
    first_epoch = checkpoint / "00001-00000000.checkpoint.npz"
    deadline = time.monotonic() + 300
    try:
        while not first_epoch.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == (
        "error: Interrupted. The same command with --resume goes on from here.\n"
    )
    assert len(list(checkpoint.iterdir())) == 2
