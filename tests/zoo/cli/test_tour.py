"""The tour at a reduced size."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zoo
from zoo.cli import terminal
from zoo.cli.commands import app
from zoo.cli.tour import run

# The other weights have tests of their own.
CARDS = zoo.list_weights("lenet5")


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The folder that a small tour wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(words))
        tables = []
        patch.setattr(terminal, "show", tables.append)
        patch.setattr(zoo, "list_weights", lambda: CARDS)
        run(folder, epochs=1, images=640)
    return folder, "\n".join(" ".join(map(str, words)) for words in printed), tables


def test_published_weights_answer_as_published(tour):
    _, _, (weights, _) = tour
    for row, card in zip(weights, CARDS, strict=True):
        assert row["weights"] == card.id
        assert row["outputs"] == "as published"
        assert row["test accuracy"] == f"{card.metrics['accuracy']:.2%}"


def test_the_table_shows_the_vanishing_gradient(tour):
    _, printed, (_, models) = tour
    rows = {row["model"]: row for row in models}
    assert len(rows) == 4
    assert rows["LeNet5"]["parameters"] == 61_706
    sigmoid, deep = rows["DeepMLP, sigmoid"], rows["DeepMLP"]
    first, last = "gradient, first layer", "gradient, last layer"
    assert sigmoid["diagnosis"] == "vanishing"
    assert float(sigmoid[last]) > 1e4 * float(sigmoid[first])
    assert deep["diagnosis"] == "healthy"
    assert float(deep[last]) < 10 * float(deep[first])
    assert "DeepMLP, sigmoid: vanishing gradient at dense1" in printed


def test_one_figure_shows_the_models(tour):
    folder, printed, _ = tour
    (figure,) = folder.glob("*.png")
    assert str(figure) in printed
    with Image.open(figure) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels != pixels[:, :1]).any(axis=1).mean() > 0.3


def test_the_commands_to_try_next_exist(tour):
    hints = [line.split("  ")[0] for line in tour[1].splitlines() if line[:4] == "zoo "]
    assert len(hints) == 4
    for hint in hints:
        result = CliRunner().invoke(app, [*hint.split()[1:], "--help"])
        assert result.exit_code == 0, result.output


def test_the_export_answers_as_the_model(tour):
    folder, printed, _ = tour
    assert (folder / "serving/lenet5/1/saved_model.pb").is_file()
    assert "the same label for 100.00%" in printed


def test_without_matplotlib_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"gradzoo\[demo\]\""):
        run(tmp_path / "new")
    assert not (tmp_path / "new").exists()
