import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

import zoo
from zoo import training
from zoo.recipes import Recipe

RECIPE = Recipe(
    "deep_mlp",
    "digits-sample",
    epochs=2,
    batch_size=100,
    arguments={"hidden_units": [32, 32], "activation": "relu", "dropout": 0.1},
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
    assert report.history["val_accuracy"][-1] > 0.7
    assert report.history["loss"][-1] < report.history["loss"][0]
    assert report.model.name == "deep_mlp"
    assert "4 epochs" in str(report)
    assert f"val_accuracy {report.history['val_accuracy'][-1]:.4f}" in str(report)


def test_same_recipe_and_seed_give_the_same_weights():
    first = train(epochs=1)
    np.random.default_rng().random(7)  # whatever else happens in the process
    assert weights_of(train(epochs=1)) == weights_of(first)
    assert weights_of(train(epochs=1, seed=1)) != weights_of(first)


def test_recipe_sets_optimizer_and_schedule():
    model = train(epochs=1).model
    optimizer = model.optimizer
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert optimizer.weight_decay == pytest.approx(1e-2)
    schedule = optimizer._learning_rate
    assert float(schedule(0)) == 0
    assert float(schedule(20)) == pytest.approx(2e-3, rel=1e-3)
    assert float(schedule(40)) == pytest.approx(0, abs=1e-8)
    short = dataclasses.replace(RECIPE, warmup_epochs=5)
    schedule = train(short, epochs=1).model.optimizer._learning_rate
    assert float(schedule(20)) == pytest.approx(2e-3, rel=1e-3)
    assert float(schedule(40)) == pytest.approx(0, abs=1e-8)
    constant = dataclasses.replace(RECIPE, schedule="constant", warmup_epochs=0)
    model = train(constant, epochs=1).model
    assert float(model.optimizer.learning_rate) == pytest.approx(2e-3)
    warmed_up = dataclasses.replace(RECIPE, schedule="constant")
    schedule = train(warmed_up, epochs=1).model.optimizer._learning_rate
    rates = [float(schedule(step)) for step in (0, 10, 20, 30, 40)]
    assert rates == pytest.approx([0, 1e-3, 2e-3, 2e-3, 2e-3])


def test_unknown_optimizer():
    recipe = dataclasses.replace(RECIPE, optimizer={**RECIPE.optimizer, "name": "AdmW"})
    with pytest.raises(ValueError, match=r"'AdmW'\. Did you mean 'adamw'"):
        train(recipe)


def test_the_run_is_for_the_model_and_dataset_given(tmp_path):
    recipe = dataclasses.replace(RECIPE, dataset="mnist", epochs=1)
    report = train(recipe, output_dir=tmp_path)
    assert report.recipe.dataset == "digits-sample"
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert run["recipe"] == dataclasses.asdict(report.recipe)
    with pytest.raises(ValueError, match=r"'deep_mlp'. Received: model='lenet5'"):
        zoo.train("lenet5", "digits-sample", recipe)


def test_output_dir_holds_everything(tmp_path):
    report = train(output_dir=tmp_path, tensorboard=True, gradient_norms=True)
    trained = tmp_path / "trained.weights.h5"
    model = zoo.DeepMLP([32, 32], activation="relu", weights=trained)
    x, _ = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    np.testing.assert_array_equal(
        model.predict(x[:9], verbose=0), report.model.predict(x[:9], verbose=0)
    )
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text("utf-8").splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["val_accuracy"]) == report.history["val_accuracy"][1]
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert run["recipe"]["arguments"]["hidden_units"] == [32, 32]
    assert run["split"] == "train"
    assert run["versions"]["keras"] == keras.__version__
    assert list(tmp_path.glob("tensorboard/*/events*"))
    assert len(report.gradient_norms.global_norm) == 80
    assert (tmp_path / "gradient_norms.csv").read_text("utf-8").count("\n") > 1


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


class Crash(keras.callbacks.Callback):
    """Ends the process's training in the middle of the second epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 20 and self.model.optimizer.iterations > 30:
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_as_if_it_were_not(tmp_path):
    settings = {"save_freq": 7, "gradient_norms": True}
    expected = train(output_dir=tmp_path / "expected", **settings)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(output_dir=folder, callbacks=[Crash()], **settings)
    assert not (folder / "trained.weights.h5").exists()
    report = train(output_dir=folder, resume=True, **settings)
    assert int(report.model.optimizer.iterations) == 80
    assert weights_of(report) == weights_of(expected)
    assert report.history == expected.history
    for name in ("log.csv", "gradient_norms.csv"):
        assert (folder / name).read_bytes() == (
            tmp_path / "expected" / name
        ).read_bytes()
    finished = train(output_dir=folder, resume=True, **settings)
    assert weights_of(finished) == weights_of(report)
    assert finished.history == report.history


def test_a_run_goes_on_in_another_folder(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    report = train(epochs=1, output_dir=tmp_path / "a", checkpoint_dir=checkpoint)
    again = train(
        epochs=1, output_dir=tmp_path / "b", checkpoint_dir=checkpoint, resume=True
    )
    assert weights_of(again) == weights_of(report)
    assert (tmp_path / "b" / "trained.weights.h5").exists()


def recorded(folder, column):
    """A column of `gradient_norms.csv`."""
    lines = (folder / "gradient_norms.csv").read_text("utf-8").splitlines()
    return [float(row[column]) for row in csv.DictReader(lines)]


def test_gradient_norms_of_an_interrupted_run_are_whole(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(output_dir=tmp_path, gradient_norms=True, callbacks=[Crash()])
    assert recorded(tmp_path, "step") == list(range(60))
    resumed = train(output_dir=tmp_path, gradient_norms=True, resume=True)
    assert recorded(tmp_path, "step") == list(range(80))
    norms = list(resumed.gradient_norms.global_norm)
    assert recorded(tmp_path, "global_norm") == norms
    train(output_dir=tmp_path, gradient_norms=True, resume=True)
    assert recorded(tmp_path, "global_norm") == norms


def test_what_was_logged_after_the_checkpoint_is_not_repeated(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(output_dir=tmp_path, callbacks=[Crash()])
    with (tmp_path / "log.csv").open("a", newline="") as file:
        file.write("1,0.5,0.5,0.5,0.5\r\n2,0.")  # killed while it was written
    train(output_dir=tmp_path, resume=True)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text("utf-8").splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert rows[1]["accuracy"] != "0.5"


def test_a_run_without_a_checkpoint_begins_anew(tmp_path):
    train(output_dir=tmp_path, epochs=1, gradient_norms=True)
    shutil.rmtree(tmp_path / "checkpoint")
    train(output_dir=tmp_path, epochs=1, gradient_norms=True)
    assert recorded(tmp_path, "step") == list(range(40))
    assert (tmp_path / "log.csv").read_text("utf-8").count("\n") == 2


def test_trained_weights_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    train(output_dir=tmp_path, epochs=1)
    before = contents(tmp_path)

    def save_a_part(model, path, **options):
        with open(path, "wb") as file:
            file.write(b"HDF")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save_weights", save_a_part)
    with pytest.raises(KeyboardInterrupt):
        train(output_dir=tmp_path, epochs=1, resume=True)
    assert contents(tmp_path) == before


def test_an_error_before_the_first_step_is_shown(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no distortion")

    monkeypatch.setattr(training, "distort", fail)
    with pytest.raises(RuntimeError, match="no distortion"):
        train(output_dir=tmp_path, gradient_norms=True)


def test_a_checkpoint_is_not_overwritten_or_mixed_up(tmp_path):
    train(output_dir=tmp_path, epochs=1)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="resume=True"):
        train(output_dir=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="belongs to another run"):
        train(output_dir=tmp_path, epochs=1, seed=5, resume=True)
    arrays = zoo.load_dataset("digits-sample", as_="numpy")
    with pytest.raises(ValueError, match="belongs to another run"):
        zoo.train("deep_mlp", arrays, RECIPE, output_dir=tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_own_model_and_arrays(tmp_path):
    images, labels = zoo.load_dataset("digits-sample", "train", as_="numpy")
    model = keras.Sequential(
        [
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10),  # logits: the loss must take them as such
        ]
    )
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


def test_loss_and_scores_follow_the_last_activation():
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    recipe = dataclasses.replace(RECIPE, epochs=1)
    logits = zoo.ShallowMLP(8, classifier_activation=None)
    inputs, softmax = logits.input, keras.layers.Softmax()(logits.output)
    for model, from_logits in (
        (keras.Sequential([keras.Input((28, 28, 1)), logits]), True),
        (keras.Model(inputs, softmax), False),
        (
            keras.Sequential([keras.Input((28, 28, 1)), keras.Model(inputs, softmax)]),
            False,
        ),
    ):
        training.compile_model(model, recipe, 1)
        assert model.loss.from_logits is from_logits
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        expected = float(loss(labels, model.predict(images, verbose=0)))
        score = zoo.evaluate(model, (images, labels))["loss"]
        assert score == pytest.approx(expected, rel=1e-5)
    relu = keras.Model(inputs, keras.layers.ReLU()(logits.output))
    with pytest.raises(ValueError, match="must end in a softmax"):
        zoo.evaluate(relu, (images, labels))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((6, 28, 28, 1), np.zeros(5, int), r"\[6, 28, 28, 1\], int64 .* \[5\]"),
        ((6, 28, 28, 1), np.eye(6, 10), r"float64 labels of shape \[6, 10\]"),
        ((6, 28, 28, 1), np.zeros(6), r"float64 labels of shape \[6\]"),
        ((0, 28, 28, 1), np.zeros(0, int), r"images of shape \[0, 28, 28, 1\]"),
    ],
)
def test_wrong_arrays_are_refused(images, labels, message):
    examples = np.zeros(images, "uint8"), labels
    model = zoo.ShallowMLP(8)
    with pytest.raises(ValueError, match=message):
        zoo.evaluate(model, examples)
    with pytest.raises(ValueError, match=message):
        zoo.train(model, examples, RECIPE)
    with pytest.raises(ValueError, match=message):
        train(validation_data=examples)


def test_pipelines_are_refused():
    pipeline = zoo.load_dataset("digits-sample", batch_size=10)
    with pytest.raises(ValueError, match='as_="numpy"'):
        zoo.evaluate(zoo.ShallowMLP(8), pipeline)
    with pytest.raises(ValueError, match='as_="numpy"'):
        zoo.train("deep_mlp", pipeline, RECIPE)


def test_a_column_of_labels_is_taken_as_labels():
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    model = zoo.ShallowMLP(8)
    column = zoo.evaluate(model, (images, labels[:, None]))
    assert column == zoo.evaluate(model, (images, labels))


def test_distortions_are_for_images():
    vectors = np.zeros((8, 784), "uint8"), np.arange(8)
    report = zoo.train("shallow_mlp", vectors, epochs=1, verbose=0)
    assert report.recipe.augmentation == {}
    with pytest.raises(ValueError, match=r"Received: images of shape \[8, 784\]"):
        zoo.train("deep_mlp", vectors, RECIPE)


def test_validation_data_take_the_place_of_the_split():
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    report = train(epochs=1, validation_data=(images[:7], labels[:7]))
    accuracy = zoo.evaluate(report.model, (images[:7], labels[:7]))["accuracy"]
    assert report.history["val_accuracy"][0] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "not for training. Received: split='test'"),
        ({"tensorboard": True}, "needs a folder. Received: output_dir=None"),
        ({"resume": True}, "needs a folder. Received: output_dir=None"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train(**options)


def test_evaluate_agrees_with_keras():
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    for activation in ("softmax", None):
        model = zoo.ShallowMLP(16, classifier_activation=activation)
        scores = zoo.evaluate(model, (images, labels))
        assert scores == zoo.evaluate(model, "digits-sample", split="validation")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not activation)
        model.compile(loss=loss, metrics=["accuracy"])
        expected = model.evaluate(images, labels, verbose=0, return_dict=True)
        assert scores["accuracy"] == pytest.approx(expected["accuracy"])
        assert scores["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert scores["images"] == 1000
