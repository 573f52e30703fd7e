"""The tour at a reduced size."""

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo import demo


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The folder that a small tour wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(words))
        tables = []
        patch.setattr(demo.terminal, "show", tables.append)
        demo.run(folder, epochs=1, images=640)
    return folder, "\n".join(" ".join(map(str, words)) for words in printed), tables


def test_every_published_weight_answers_as_published(tour):
    _, _, (weights, _, _) = tour
    assert [row["weights"] for row in weights] == [w.id for w in zoo.list_weights()]
    for row in weights:
        assert row["golden outputs"] == "same"
        accuracy = row["accuracy on 5,000 training digits"]
        if ".mnist." in row["weights"]:
            assert 95 < float(accuracy.rstrip("%")) <= 100
        else:
            assert accuracy == "(clothes)"


def test_the_table_shows_the_vanishing_gradient(tour):
    _, printed, (_, models, _) = tour
    rows = {row["model"]: row for row in models}
    assert len(rows) == 4
    assert rows["LeNet5"]["parameters"] == 61_706
    sigmoid, tricks = rows["DeepMLP, sigmoid"], rows["DeepMLP + tricks"]
    first, last = "gradient, first layer", "gradient, last layer"
    assert sigmoid["diagnosis"] == "vanishing"
    assert float(sigmoid[last]) > 1e4 * float(sigmoid[first])
    assert tricks["diagnosis"] == "healthy"
    assert float(tricks[last]) < 10 * float(tricks[first])
    assert "DeepMLP, sigmoid: vanishing gradient at dense1" in printed


def test_the_picture_shows_all_four(tour):
    folder, _, _ = tour
    with Image.open(folder / "gradients.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width, _ = pixels.shape
    for rows in (slice(height // 2), slice(height // 2, None)):
        for columns in (slice(width // 2), slice(width // 2, width * 9 // 10)):
            panel = pixels[rows, columns].reshape(-1, 3)
            grey = (panel == panel[:, :1]).all(axis=1)
            assert (~grey).mean() > 0.4


def test_the_export_answers_as_the_model_and_versions_count_on(tour, capsys):
    folder, printed, (_, _, digits) = tour
    assert (folder / "serving/lenet5/1/saved_model.pb").is_file()
    assert "the same label for 100.00%" in printed
    assert all(row["model says"] == row["export says"] for row in digits)
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    demo.export_and_reload(folder / "serving/lenet5", images[:10], labels[:10])
    assert (folder / "serving/lenet5/2/saved_model.pb").is_file()
    assert "serving/lenet5/2" in capsys.readouterr().out


def test_the_tour_ends_with_what_to_try_next(tour):
    _, printed, _ = tour
    assert "zoo predict" in printed.partition("What to try next")[2]


def test_without_matplotlib_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install gradzoo\[demo\]"):
        demo.run(tmp_path / "new")
    assert not (tmp_path / "new").exists()
