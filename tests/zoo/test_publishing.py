"""Publishing at small size: the same command, a small recipe, a folder of its own."""

import h5py
import numpy as np
import pytest

import zoo
from zoo import publishing, weights
from zoo.training import train

RECIPE = """
model = "shallow_mlp"
dataset = "mnist"
version = 9
epochs = 1
batch_size = 2000
[arguments]
hidden_units = 8
[optimizer]
name = "Adam"
learning_rate = 0.01
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    published = tmp_path / "published"
    published.mkdir()
    monkeypatch.setattr(weights, "PUBLISHED", published)
    monkeypatch.setattr(publishing, "PUBLISHED", published)
    weights.published.cache_clear()
    (published / "shallow_mlp.mnist.v9.toml").write_text(RECIPE)
    yield tmp_path
    weights.published.cache_clear()


def publish(folder, data_dir, **options):
    return publishing.publish(
        folder / "published" / "shallow_mlp.mnist.v9.toml",
        runs_dir=folder / "runs",
        data_dir=data_dir,
        verbose=0,
        **options,
    )


def test_publish_writes_weights_and_card(folder, prepared_data_dir, monkeypatch):
    card = publish(folder, prepared_data_dir)
    assert card == zoo.get_weights("shallow_mlp", "mnist.v9")
    assert card.parameters == 784 * 8 + 8 + 8 * 10 + 10
    assert card.metrics["images"] == 10_000

    accuracies = []
    test = zoo.load_dataset("mnist", "test", as_="numpy", data_dir=prepared_data_dir)
    for seed in (0, 1, 2):
        path = folder / "runs" / card.id / f"seed{seed}" / "trained.weights.h5"
        model = zoo.ShallowMLP(8, weights=path)
        model.set_weights([w.astype("float16") for w in model.get_weights()])
        accuracies.append(zoo.evaluate(model, test)["accuracy"])
    assert card.metrics["accuracy"] == accuracies[0]
    assert card.metrics["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert card.metrics["sd_accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    loaded = zoo.ShallowMLP(weights="mnist.v9")
    assert zoo.evaluate(loaded, test)["accuracy"] == accuracies[0]

    # Again: nothing is trained, and the files are the same to the byte.
    before = {p.name: p.read_bytes() for p in (folder / "published").iterdir()}
    fitted = []
    monkeypatch.setattr(
        publishing, "train", lambda *args, **kw: fitted.append(train(*args, **kw))
    )
    publish(folder, prepared_data_dir)
    assert [report.history for report in fitted] == [{}] * 3
    assert {p.name: p.read_bytes() for p in (folder / "published").iterdir()} == before


def test_float16_files_are_half_the_size_and_load_as_usual(tmp_path):
    model = zoo.ShallowMLP()
    model.compile("adam", "sparse_categorical_crossentropy")
    publishing.save_float16(model, tmp_path / "half.weights.h5")
    with h5py.File(tmp_path / "half.weights.h5") as file:
        assert file["layers/dense/vars/0"].dtype == "float16"
    model.save_weights(tmp_path / "full.weights.h5")
    sizes = [(tmp_path / f"{n}.weights.h5").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.55 * sizes[1]
    loaded = zoo.ShallowMLP(weights=tmp_path / "half.weights.h5")
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b.astype("float16"))
