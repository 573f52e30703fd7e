"""The tour at a reduced size."""

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.cli import terminal
from zoo.cli.tour import run


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The folder that a small tour wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(words))
        tables = []
        patch.setattr(terminal, "show", tables.append)
        run(folder, epochs=1, images=640)
    return folder, "\n".join(" ".join(map(str, words)) for words in printed), tables


def test_every_published_weight_answers_as_published(tour):
    _, _, (weights, _) = tour
    for row, card in zip(weights, zoo.list_weights(), strict=True):
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


def test_each_model_has_a_figure(tour):
    folder, printed, _ = tour
    for name in ("ShallowMLP", "DeepMLP-sigmoid", "DeepMLP", "LeNet5"):
        figure = folder / f"{name}.png"
        assert str(figure) in printed
        with Image.open(figure) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert (pixels != pixels[:, :1]).any(axis=1).mean() > 0.3


def test_the_export_answers_as_the_model(tour):
    folder, printed, _ = tour
    assert (folder / "serving/lenet5/1/saved_model.pb").is_file()
    assert "the same label for 100.00%" in printed


def test_without_matplotlib_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"gradzoo\[demo\]\""):
        run(tmp_path / "new")
    assert not (tmp_path / "new").exists()
