"""Training with recipes: results, resumption and the checks of arguments."""

import csv
import dataclasses
import json
import pathlib
import re
import shutil

import keras
import numpy as np
import pytest
from exports import tree

import zoo
from zoo.models.labels import find_data
from zoo.training.recipes import Recipe

RECIPE = Recipe(
    "deep_mlp",
    "digits-sample",
    epochs=2,
    batch_size=100,
    arguments={"hidden_units": [32], "activation": "relu", "dropout": 0.1},
    optimizer={"name": "AdamW", "learning_rate": 2e-3, "weight_decay": 1e-2},
    warmup_epochs=0.5,
    augmentation={"rotation": 10, "shift": 1, "elastic": 20},
)


def weights_of(report):
    return [w.tobytes() for w in report.model.get_weights()]


def train(recipe=RECIPE, **options):
    return zoo.train("deep_mlp", "digits-sample", recipe, verbose=0, **options)


def test_training_learns_and_reports():
    report = train(epochs=4)
    accuracy = report.history["val_accuracy"][-1]
    assert accuracy > 0.7
    assert report.history["loss"][-1] < report.history["loss"][0]
    assert "deep_mlp: 4 epochs" in str(report)
    assert f"val_accuracy {accuracy:.4f}" in str(report)
    info = zoo.dataset_info("digits-sample")
    assert report.model.categories == info.classes
    assert report.model.normalization == info.normalization


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = dataclasses.replace(RECIPE, dataset="mnist")
    return train(recipe, output_dir=folder, save_freq=7, gradient_norms=True)


def test_output_dir_holds_everything(undisturbed):
    report, folder = undisturbed, undisturbed.output_dir
    model = zoo.load_model(folder)
    assert model.categories == zoo.dataset_info("mnist").classes
    x, _ = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    np.testing.assert_array_equal(
        model.predict(x[:9], verbose=0), report.model.predict(x[:9], verbose=0)
    )
    rows = read_log(folder)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["val_accuracy"]) == report.history["val_accuracy"][1]
    run = json.loads((folder / "run.json").read_text("utf-8"))
    assert run["recipe"] == dataclasses.asdict(report.recipe)
    # The run is for the dataset given, whatever the recipe was written for.
    assert run["recipe"] == dataclasses.asdict(RECIPE)
    assert run["split"] == "train"
    assert run["versions"]["keras"] == keras.__version__
    assert len(report.gradient_norms.global_norm) == 80
    assert (folder / "gradient_norms.csv").read_text("utf-8").count("\n") > 1


def read_log(folder, name="log.csv"):
    return list(csv.DictReader((folder / name).read_text("utf-8").splitlines()))


class Crash(keras.callbacks.Callback):
    """Interrupts training in the middle of the second epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 20 and self.model.optimizer.iterations > 30:
            raise KeyboardInterrupt


def recorded(folder, column):
    """Returns a column of `gradient_norms.csv`."""
    return [float(row[column]) for row in read_log(folder, "gradient_norms.csv")]


def test_a_resumed_run_equals_an_undisturbed_one(undisturbed, tmp_path):
    settings = {"save_freq": 7, "gradient_norms": True}
    expected, folder = undisturbed, tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):  # `fit` takes a single callback, too.
        train(output_dir=folder, callbacks=Crash(), **settings)
    assert not (folder / "trained.keras").exists()
    with pytest.raises(ValueError, match=r"Received: gradient_norms=False\."):
        train(output_dir=folder, resume=True)
    assert recorded(folder, "step") == list(range(60))
    with (folder / "log.csv").open("a", newline="") as file:
        # An epoch after the checkpoint, and a line cut off when the process was killed.
        file.write("1,0.5,0.5,0.5,0.5\r\n2,0.")
    report = train(output_dir=folder, resume=True, **settings)
    assert int(report.model.optimizer.iterations) == 80
    # Once more, when no step is left to train.
    finished = train(output_dir=folder, resume=True, **settings)
    assert weights_of(train(seed=1)) != weights_of(expected)
    for run in (report, finished):
        assert weights_of(run) == weights_of(expected)
        assert run.history == expected.history
    assert recorded(folder, "global_norm") == list(report.gradient_norms.global_norm)
    for name in ("log.csv", "gradient_norms.csv"):
        assert (folder / name).read_bytes() == (expected.output_dir / name).read_bytes()


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
    train(output_dir=tmp_path, epochs=1, gradient_norms=True)
    shutil.rmtree(tmp_path / "checkpoint")
    for resume in (False, True):  # It would replace the model of the finished run.
        with pytest.raises(FileExistsError, match=r"finished run.*output_dir="):
            train(output_dir=tmp_path, epochs=1, resume=resume)
    (tmp_path / "trained.keras").unlink()
    train(output_dir=tmp_path, epochs=1, gradient_norms=True)
    assert recorded(tmp_path, "step") == list(range(40))
    assert len(read_log(tmp_path)) == 1


@pytest.mark.parametrize("name", ["run.json", "log.csv", "gradient_norms.csv"])
def test_files_of_others_are_not_replaced(name, tmp_path):
    (tmp_path / name).write_text("{}", "utf-8")
    with pytest.raises(FileExistsError, match=f"would replace.*{name}"):
        train(output_dir=tmp_path)
    assert (tmp_path / name).read_text("utf-8") == "{}"


def test_an_error_before_the_first_step_is_shown(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no distortion")

    monkeypatch.setattr("zoo.training.batches.distort", fail)
    with pytest.raises(RuntimeError, match="no distortion"):
        train(output_dir=tmp_path, gradient_norms=True)


def test_a_finished_run_is_not_changed_by_another(tmp_path, monkeypatch):
    train(output_dir=tmp_path, epochs=1)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="resume=True"):
        train(output_dir=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="belongs to another run"):
        train(output_dir=tmp_path, epochs=1, seed=5, resume=True)
    arrays = zoo.load_dataset("digits-sample", as_="numpy")
    other = dict(output_dir=tmp_path, epochs=1, resume=True, validation_data=arrays)
    with pytest.raises(ValueError, match=r"another run\..*It differs in data"):
        train(**other)
    with pytest.raises(ValueError, match="belongs to another run"):
        zoo.train("deep_mlp", arrays, RECIPE, output_dir=tmp_path, resume=True)

    def save_a_part(model, path):
        path.write_bytes(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", save_a_part)
    with pytest.raises(KeyboardInterrupt):
        train(output_dir=tmp_path, epochs=1, resume=True)
    assert tree(tmp_path) == before


def test_own_model_and_arrays(tmp_path):
    images, labels = zoo.load_dataset("digits-sample", "train", as_="numpy")
    layers = keras.layers
    scaled = [layers.Rescaling(1 / 255), layers.Flatten()]
    model = keras.Sequential([*scaled, layers.Dense(10)])
    report = zoo.train(
        model,
        (images[:3000], labels[:3000]),
        dataclasses.replace(RECIPE, epochs=3),
        validation_data=(images[3000:], labels[3000:, None]),
        output_dir=tmp_path,
        verbose=0,
    )
    assert report.model is model
    assert report.history["val_accuracy"][-1] > 0.75
    recipe = json.loads((tmp_path / "run.json").read_text("utf-8"))["recipe"]
    assert recipe["epochs"] == 3
    assert recipe["model"] is recipe["arguments"] is recipe["dataset"] is None


def test_a_recipe_is_for_one_model_and_distortions_are_for_images():
    vectors = np.zeros((8, 784), "uint8"), np.arange(8)
    report = zoo.train("shallow_mlp", vectors, epochs=1, verbose=0)
    assert report.recipe.augmentation == {}
    for shape in ((8, 784), (8, 1, 28, 28)):
        data = vectors[0].reshape(shape), vectors[1]
        with pytest.raises(ValueError, match=re.escape(f"images of shape {shape}")):
            zoo.train("deep_mlp", data, RECIPE)
    with pytest.raises(ValueError, match=r"'deep_mlp'. Received: model='lenet5'"):
        zoo.train("lenet5", "digits-sample", RECIPE)


def test_labels_of_a_published_model_keep_their_places(tmp_path):
    images, labels = zoo.load_dataset("digits-sample", "train", as_="numpy")
    some = np.flatnonzero((labels == 3) | (labels == 7))[:40]
    names = np.array([*"0123456789"])[3::4]
    np.savez(tmp_path / "x.npz", x=images[some], y=labels[some] // 7, categories=names)
    slowly = {"name": "SGD", "learning_rate": 1e-5}
    recipe = zoo.Recipe("lenet5", "mnist", epochs=1, optimizer=slowly)
    model = zoo.LeNet5(weights="mnist")
    zoo.train(model, tmp_path / "x.npz", recipe, verbose=0)
    assert zoo.evaluate(model, tmp_path / "x.npz")["accuracy"] > 0.95
    assert find_data(model) == (tuple("0123456789"), "mnist")
    five = zoo.LeNet5(classes=5)
    five.categories = [*"abcde"]
    with pytest.warns(UserWarning, match="5 classes, but the data have 2 labels"):
        zoo.train(five, tmp_path / "x.npz", recipe, verbose=0)
    assert find_data(five)[0] is None


class Odd(keras.layers.Layer):
    """A layer that Keras cannot save."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, x):
        return x + self.table[0]


def test_a_model_that_cannot_be_saved_is_not_trained(tmp_path):
    layers = [keras.layers.Flatten(), Odd(np.zeros(1)), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
    with pytest.raises(NotImplementedError, match="non-serializable"):
        zoo.train(model, "digits-sample", RECIPE, output_dir=tmp_path, verbose=0)
    assert not any(tmp_path.iterdir())


def test_validation_data_replace_the_split(tmp_path):
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    report = train(epochs=1, validation_data=(images[:7], labels[:7]))
    accuracy = zoo.evaluate(report.model, (images[:7], labels[:7]))["accuracy"]
    assert report.history["val_accuracy"][0] == pytest.approx(accuracy)
    with pytest.raises(ValueError, match=r"has 10 classes\. .* label 10"):
        train(epochs=1, validation_data=(images[:7], labels[:7] * 0 + 10))
    with pytest.raises(ValueError, match=r"\(28, 28, 1\).*Received: .*\(14, 28, 1\)"):
        train(epochs=1, validation_data=(images[:7, :14], labels[:7]))
    named = {"x": images, "y": labels % 2, "categories": ["7", "8"]}
    np.savez(tmp_path / "two.npz", **named)
    with pytest.raises(ValueError, match=r"labels up to 9.*data with \('7', '8'\)"):
        zoo.train("lenet5", (images, labels), validation_data=tmp_path / "two.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {
                "recipe": dataclasses.replace(RECIPE, ema_momentum=0.9),
                "callbacks": [
                    keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
                ],
            },
            "`EarlyStopping` would replace the averaged weights",
        ),
        ({"split": "test"}, r"not used for training\. Received: split='test'"),
        ({"resume": True}, "needs a folder. Received: output_dir=None"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train(**options)


def test_models_that_are_no_classifiers_are_refused():
    image = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(image)
    heads = [keras.layers.Dense(10)(x), keras.layers.Dense(2)(x)]
    images = np.zeros((8, 28, 28, 1), "uint8")
    recipe = zoo.Recipe("shallow_mlp", "mnist")
    for model, labels, error, message in (
        (keras.Model(image, heads), np.arange(8), ValueError, "shape .*None, 2"),
        (keras.Model(image, image), np.arange(8), ValueError, "one array"),
        ("shallow_mlp", np.zeros(8, int), ValueError, "two classes.*labels up to 0"),
        ("/run/trained.keras", np.arange(8), ValueError, "Unknown model"),
        (pathlib.Path("run"), np.arange(8), TypeError, "zoo.load_model"),
    ):
        with pytest.raises(error, match=message):
            zoo.train(model, (images, labels), recipe, from_logits=True)
        if isinstance(model, keras.Model):
            with pytest.raises(error, match="one array"):
                zoo.evaluate(model, (images, labels), from_logits=True)
