"""Publishing at small size: the same command, a small recipe, a folder of its own."""

import h5py
import keras
import numpy as np
import pytest

import zoo
from zoo import publishing, weights

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


def publish(folder, data_dir, recipe="published/shallow_mlp.mnist.v9.toml", **options):
    return publishing.publish(
        folder / recipe,
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
    assert card.command == "zoo publish zoo/published/shallow_mlp.mnist.v9.toml"

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
    before = files_of(folder)
    monkeypatch.setattr(keras.optimizers.Optimizer, "apply", None)  # No step is taken.
    publish(folder, prepared_data_dir)
    assert files_of(folder) == before

    # Another recipe or first seed: nothing is trained, and nothing is replaced.
    (folder / "other.toml").write_text(RECIPE.replace("epochs = 1", "epochs = 2"))
    with pytest.raises(FileExistsError, match="raise `version` in a new recipe file"):
        publish(folder, prepared_data_dir, "other.toml")
    with pytest.raises(FileExistsError, match="first seed"):
        publish(folder, prepared_data_dir, seeds=[1, 0])
    assert files_of(folder) == before


def files_of(folder):
    return {p.name: p.read_bytes() for p in (folder / "published").iterdir()}


@pytest.fixture
def no_training(monkeypatch):
    """Fails a test in which anything is trained."""

    def train(*args, **options):
        raise AssertionError("trained")

    monkeypatch.setattr(publishing, "train", train)


def test_a_recipe_from_elsewhere_is_copied_beside_its_card(folder, prepared_data_dir):
    (folder / "published" / "shallow_mlp.mnist.v9.toml").unlink()
    (folder / "new.toml").write_text(RECIPE)
    card = publish(folder, prepared_data_dir, "new.toml", seeds=[4, 5])
    assert (folder / "published" / f"{card.id}.toml").read_text("utf-8") == RECIPE
    assert card.command == f"zoo publish zoo/published/{card.id}.toml --seed 4 --seed 5"
    assert sorted(files_of(folder)) == [
        f"{card.id}.{suffix}" for suffix in ("json", "toml", "weights.h5")
    ]


@pytest.mark.parametrize("seeds", [[], [0], [0, 1, 1], [0, -1]])
def test_seeds_must_be_different(folder, no_training, seeds):
    with pytest.raises(ValueError, match="seed"):
        publish(folder, folder, seeds=seeds)


def test_data_without_test_images_are_not_trained_on(folder, no_training):
    (folder / "new.toml").write_text(RECIPE.replace("mnist", "digits-sample"))
    with pytest.raises(ValueError, match="no test split"):
        publish(folder, folder, "new.toml")


def test_weights_and_card_appear_together_or_not_at_all(
    folder, prepared_data_dir, monkeypatch
):
    before = files_of(folder)

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "golden_outputs", fail)
    with pytest.raises(KeyboardInterrupt):
        publish(folder, prepared_data_dir, seeds=[0, 1])
    assert files_of(folder) == before


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
