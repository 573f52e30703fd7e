"""Mistakes in the command line."""

import re

import pytest
from paths import run_python

SAMPLE = ["train", "lenet5", "--dataset", "digits-sample"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["lst"], 2, "Did you mean 'list'"),
        (["--nonsense"], 2, "--nonsense"),
        (["info"], 2, "Missing argument"),
        (["list", "nothing"], 2, "'lenet5'"),
        (["list", "--weights", "minst"], 2, "Did you mean 'mnist'"),
        (["list", "mlp"], 2, "'shallow_mlp'"),
        (["list", "lenet", "--weights", "mnist"], 2, "Did you mean 'lenet5'"),
        (["info", "lenet"], 2, "Did you mean 'lenet5'"),
        (["info", "lenet5.minst"], 2, "Did you mean 'mnist'"),
        (["train", "lenet"], 2, "Did you mean 'lenet5'"),
        (["train", "lenet5", "--epochs", "0"], 2, "--epochs"),
        (["train", "lenet5", "--recipe", "none.toml"], 1, "none.toml"),
        (["train", "lenet5", "--dataset", "mnst"], 1, "'mnist'"),
        ([*SAMPLE, "--split", "tain"], 1, "'train'"),
        (["train", "shallow_mlp", "--recipe", "bad.toml"], 1, "Did you mean 'epochs'"),
        (["evaluate", "lenet5"], 2, "'lenet5.mnist'. Received: model='lenet5'."),
        (["predict", "x.png", "--weights", "lenet5"], 2, "'lenet5.fashion_mnist', "),
        (["export", "lenet5", "serving"], 2, "'lenet5.fashion_mnist', "),
        (["evaluate", "lenet5.mnist", "--dataset", "digits-sample"], 1, "'test'"),
        (["evaluate", "none.keras"], 2, "none.keras"),
        (["recipe", "lenet5.minst"], 1, "Did you mean 'mnist'"),
        (["predict", "x.png", "--weights", "lenet5.minst"], 2, "Did you mean 'mnist'"),
        (["predict", "nowhere"], 1, "nowhere"),
        (["demo", "--output", "recipe.toml"], 2, "'recipe.toml' is a file"),
        (["predict", "."], 1, "an image file, or a folder"),
        (["datasets", "prepare", "mnist", "--from", "nowhere"], 2, "nowhere"),
    ],
)
def test_mistakes_are_one_line(run, recipe, words, code, message):
    wrong = recipe.read_text("utf-8").replace("epochs", "epoch")
    recipe.with_name("bad.toml").write_text(wrong, "utf-8")
    received, output, errors = run(*words)
    assert (received, output) == (code, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


ANSWERED = ["--help", "train --help", "list", "info lenet5.mnist", "datasets list"]
ANSWERED += ["recipe lenet5.mnist"]
REFUSED = ["lst", "list nothing", "train lenet", "predict x.png --weights lenet5.minst"]
FAILED = ["recipe lenet5.minst"]


PROGRAM = """
import sys
from zoo.cli import terminal
from zoo.cli.commands import app

for line in sys.argv[1:]:
    code = terminal.run(app, line.split())
    print("LOADED", code, *{"keras", "tensorflow", "jax", "torch"} & {*sys.modules})
"""


def test_answers_that_need_no_keras_do_not_import_it():
    output = run_python("-c", PROGRAM, *ANSWERED, *FAILED, *REFUSED)
    found = re.findall(r"^LOADED (.*)$", output, re.MULTILINE)
    assert found == [*("0" * len(ANSWERED)), "1", *("2" * len(REFUSED))]
