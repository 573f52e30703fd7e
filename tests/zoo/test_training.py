import csv
import dataclasses
import json

import keras
import numpy as np
import pytest

import zoo
from zoo.recipes import Recipe
from zoo.training import TrainingBatches

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


def test_batches_depend_on_recipe_and_step_alone():
    images = np.arange(1050 * 4).reshape(1050, 2, 2, 1)
    labels = np.arange(1050)
    plain = dataclasses.replace(RECIPE, augmentation={})
    stream = TrainingBatches(images, labels, plain)
    batches = [stream[i] for i in range(20)]
    for x, y in batches:
        np.testing.assert_array_equal(x, images[y])
    first = np.concatenate([y for _, y in batches[:10]])
    second = np.concatenate([y for _, y in batches[10:]])
    assert len(set(first)) == len(set(second)) == 1000
    assert not np.array_equal(first, second)

    later = TrainingBatches(images, labels, plain, start=13)
    np.testing.assert_array_equal(later[0][1], batches[13][1])


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


def test_output_dir_holds_everything(tmp_path):
    report = train(output_dir=tmp_path, tensorboard=True, gradient_norms=True)
    trained = tmp_path / "trained.weights.h5"
    model = zoo.DeepMLP([32, 32], activation="relu", weights=trained)
    x, _ = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    np.testing.assert_array_equal(
        model.predict(x[:9], verbose=0), report.model.predict(x[:9], verbose=0)
    )
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["val_accuracy"]) == report.history["val_accuracy"][1]
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["recipe"]["arguments"]["hidden_units"] == [32, 32]
    assert run["split"] == "train"
    assert run["versions"]["keras"] == keras.__version__
    assert list(tmp_path.glob("tensorboard/*/events*"))
    assert len(report.gradient_norms.global_norm) == 80
    assert (tmp_path / "gradient_norms.csv").read_text().count("\n") > 1


class Crash(keras.callbacks.Callback):
    """Ends the process's training in the middle of the second epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 20 and self.model.optimizer.iterations > 30:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(output_dir=tmp_path, callbacks=[Crash()])
    assert not (tmp_path / "trained.weights.h5").exists()
    report = train(output_dir=tmp_path, resume=True)
    assert int(report.model.optimizer.iterations) == 80
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    finished = train(output_dir=tmp_path, resume=True)
    assert weights_of(finished) == weights_of(report)
    assert finished.history == {}


def test_without_dropout_a_resumed_run_gives_the_uninterrupted_weights(tmp_path):
    arguments = {"hidden_units": [32, 32], "activation": "relu"}
    recipe = dataclasses.replace(RECIPE, arguments=arguments)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, output_dir=tmp_path, callbacks=[Crash()])
    resumed = train(recipe, output_dir=tmp_path, resume=True)
    assert weights_of(resumed) == weights_of(train(recipe))


def test_a_checkpoint_is_not_overwritten_or_mixed_up(tmp_path):
    train(output_dir=tmp_path, epochs=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="resume=True"):
        train(output_dir=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="belongs to another run"):
        train(output_dir=tmp_path, epochs=1, seed=5, resume=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_own_model_and_arrays():
    images, labels = zoo.load_dataset("digits-sample", "train", as_="numpy")
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10),  # logits: the loss must take them as such
        ]
    )
    report = zoo.train(
        model,
        (images[:3000], labels[:3000]),
        dataclasses.replace(RECIPE, epochs=3),
        validation_data=(images[3000:], labels[3000:]),
        verbose=0,
    )
    assert report.model is model
    assert report.history["val_accuracy"][-1] > 0.75


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
