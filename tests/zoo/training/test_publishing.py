"""Publication of weights, into a temporary folder."""

import keras
import numpy as np
import pytest
from paths import ROOT, load_script

import zoo
from zoo.models import weights
from zoo.training import publishing

RECIPE = """
model = "shallow_mlp"
dataset = "mnist"
version = 9
epochs = 1
batch_size = 128
[arguments]
hidden_units = 800
dropout = 0.1
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
    monkeypatch.setenv("HOME", str(tmp_path))
    weights.published.cache_clear()
    (published / "shallow_mlp.mnist.v9.toml").write_text(RECIPE)
    yield tmp_path
    weights.published.cache_clear()


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory):
    """A data_dir whose MNIST is the sample, with half of its validation as test."""
    data_dir = tmp_path_factory.mktemp("data")
    splits = {}
    for split in ("train", "validation"):
        images, labels = zoo.load_dataset("digits-sample", split, as_="numpy")
        splits |= {f"{split}_images": images, f"{split}_labels": labels}
    for name in ("images", "labels"):
        halves = np.split(splits[f"validation_{name}"], 2)
        splits[f"validation_{name}"], splits[f"test_{name}"] = halves
    (data_dir / "mnist").mkdir()
    np.savez(data_dir / "mnist" / "3.0.1.npz", **splits)
    return data_dir


def publish(folder, data_dir, recipe="published/shallow_mlp.mnist.v9.toml", **options):
    options |= {"runs_dir": "~/runs", "data_dir": data_dir, "verbose": 0}
    return publishing.publish(folder / recipe, **options)


def test_publish_writes_weights_and_card(folder, small_mnist, monkeypatch):
    card = publish(folder, small_mnist)
    assert card == zoo.get_weights("shallow_mlp", "mnist.v9")
    assert card.parameters == 784 * 800 + 800 + 800 * 10 + 10
    assert card.arguments == {"hidden_units": 800, "activation": "relu"}
    assert card.metrics["images"] == 500
    assert card.command == "zoo publish shallow_mlp.mnist.v9"

    accuracies = []
    test = zoo.load_dataset("mnist", "test", as_="numpy", data_dir=small_mnist)
    for seed in (0, 1, 2):
        model = zoo.load_model(folder / f"runs/{card.id}/seed{seed}")
        model.set_weights([w.astype("float16") for w in model.get_weights()])
        accuracies.append(zoo.evaluate(model, test)["accuracy"])
    assert card.metrics["accuracy"] == accuracies[0]
    assert card.metrics["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert card.metrics["sd_accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    confusion = np.array(card.metrics["confusion"])
    assert confusion.sum() == 500
    assert confusion.trace() == card.metrics["accuracy"] * 500
    assert card.training["cores"] >= 1
    assert card.training["seconds"] >= 1
    assert len(card.training["curve"]["loss"]) == 1
    figure = load_script(ROOT / "docs" / "cards.py").draw(card)
    assert len(figure.axes) == 8
    assert all(norm > 0 for [norm] in card.training["gradient_norms"].values())
    assert {"dense1", "logits"} <= card.training["gradient_norms"].keys()
    assert "golden" not in card.summary()
    assert "confusion" not in card.summary()["metrics"]
    loaded = zoo.ShallowMLP(weights="mnist.v9")
    assert zoo.evaluate(loaded, test)["accuracy"] == accuracies[0]

    # Again: nothing is trained, and the files are the same to the byte.
    before = files_of(folder)
    monkeypatch.setattr(keras.optimizers.Optimizer, "apply", None)  # No step is taken.
    publish(folder, small_mnist)
    assert files_of(folder) == before

    # Another recipe or first seed: an error, and nothing is replaced.
    (folder / "other.toml").write_text(RECIPE.replace("epochs = 1", "epochs = 2"))
    with pytest.raises(FileExistsError, match="raise `version` in a new recipe file"):
        publish(folder, small_mnist, "other.toml")
    with pytest.raises(FileExistsError, match="first seed"):
        publish(folder, small_mnist, seeds=[1, 0])
    assert files_of(folder) == before


def files_of(folder):
    return {p.name: p.read_bytes() for p in (folder / "published").iterdir()}


@pytest.fixture
def no_training(monkeypatch):
    """Fails a test that trains."""
    monkeypatch.delattr(publishing, "train")


def test_recipe_weights_and_card_are_written_together(folder, small_mnist, monkeypatch):
    (folder / "published" / "shallow_mlp.mnist.v9.toml").unlink()
    (folder / "new.toml").write_text(RECIPE)
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "count_flops", None)  # It is called for the card.
        with pytest.raises(TypeError):
            publish(folder, small_mnist, "new.toml", seeds=[4, 5])
    assert files_of(folder) == {}
    card = publish(folder, small_mnist, "new.toml", seeds=np.array([4, 5]))
    assert (folder / "published" / f"{card.id}.toml").read_text("utf-8") == RECIPE
    assert card.command == f"zoo publish {card.id} --seed 4 --seed 5"
    assert publish(folder, small_mnist, "new.toml") == card  # with the same seeds
    assert sorted(files_of(folder)) == [
        f"{card.id}.{suffix}" for suffix in ("json", "toml", "weights.h5")
    ]


@pytest.mark.parametrize(
    "arguments",
    ["hidden_units = 8", 'activation = "tanh"', "include_preprocessing = false"],
)
def test_recipes_do_not_change_the_architecture(folder, no_training, arguments):
    (folder / "new.toml").write_text(RECIPE.replace("hidden_units = 800", arguments))
    name = arguments.partition(" = ")[0]
    message = rf"'activation': 'relu'.*Received: arguments=.*{name}.*\.$"
    with pytest.raises(ValueError, match=message):
        publish(folder, folder, "new.toml")


@pytest.mark.parametrize("seeds", [[], [0], [0, 1, 1], [0, -1]])
def test_seeds_must_be_different(folder, no_training, seeds):
    with pytest.raises(ValueError, match="seed"):
        publish(folder, folder, seeds=seeds)


def test_a_dataset_needs_test_images(folder, no_training):
    (folder / "new.toml").write_text(RECIPE.replace("mnist", "digits-sample"))
    with pytest.raises(ValueError, match="Received: split='test'"):
        publish(folder, folder, "new.toml")


@pytest.mark.endurance
def test_a_weight_trained_again_is_as_good(prepared_data_dir):
    card = zoo.get_weights("lenet5.mnist")
    options = {"split": "train+validation", "data_dir": prepared_data_dir}
    report = zoo.train(card.model, card.dataset, card.id, **options, verbose=0)
    scores = zoo.evaluate(report.model, "mnist", data_dir=prepared_data_dir)
    difference = scores["accuracy"] - card.metrics["mean_accuracy"]
    assert abs(difference) < 2 * card.metrics["sd_accuracy"]
