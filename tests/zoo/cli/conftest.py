"""Fixtures of the command line's tests."""

import warnings

import numpy as np
import pytest

import zoo
from zoo.cli import terminal
from zoo.cli.commands import app

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
        code = terminal.run(app, [str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def recipe(tmp_path):
    """The file of a recipe for logistic regression on digits."""
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    return tmp_path / "recipe.toml"


@pytest.fixture(scope="session")
def digits():
    """Images and labels of ten digits, `(10, 28, 28, 1)` and `(10,)`."""
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    return images[first], labels[first]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of `zoo train`, beside the recipe."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.toml").write_text(RECIPE, "utf-8")
    words = ["train", "shallow_mlp", "--recipe", folder / "recipe.toml"]
    words += ["--output", folder / "run", "--gradient-norms", "--seed", 3]
    assert terminal.run(app, [str(word) for word in words]) == 0
    return folder / "run"
