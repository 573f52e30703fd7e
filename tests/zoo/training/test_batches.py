"""Soft targets of training batches, and statistics of averaged weights."""

import dataclasses

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy

import zoo
from zoo.data.examples import LabeledImages
from zoo.training.batches import (
    STATISTICS_BATCHES,
    TrainingBatches,
    as_input,
    fit_statistics,
    make_batches,
    make_targets,
)
from zoo.training.recipes import Recipe, compile_model

DIGITS = tuple("0123456789")
RECIPE = Recipe("shallow_mlp", "digits-sample", epochs=2, batch_size=100)


@pytest.fixture
def examples():
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    return LabeledImages(images[:300], labels[:300], DIGITS)


def targets(examples, **changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    batches = make_batches(examples, recipe)
    batches.targets = make_targets(examples, recipe, 10)
    return batches[0]


def test_tensorflow_reads_the_same_batches_without_autotuning(examples):
    recipe = dataclasses.replace(RECIPE, augmentation={"shift": 2})
    batches = make_batches(examples, recipe)
    dataset = as_input(batches)
    for index, batch in enumerate(dataset.take(4)):  # from two epochs of three batches
        for received, expected in zip(batch, batches[index], strict=True):
            np.testing.assert_array_equal(received, expected, strict=True)
    assert dataset.options().autotune.enabled is False


def test_label_smoothing_is_that_of_keras(examples):
    _, labels = make_batches(examples, RECIPE)[0]
    hot = keras.utils.to_categorical(labels, 10)
    x, soft = targets(examples, label_smoothing=0.1)
    outputs = zoo.create("lenet5.mnist")(x)
    loss = keras.losses.CategoricalCrossentropy
    expected = convert_to_numpy(loss(label_smoothing=0.1)(hot, outputs))
    assert convert_to_numpy(loss()(soft, outputs)) == pytest.approx(expected)


def test_a_teacher_sees_the_distorted_images(examples):
    options = {"augmentation": {"shift": 6}, "label_smoothing": 0.2}
    x, smooth = targets(examples, **options)
    taught = zoo.create("lenet5.mnist").predict(x, verbose=0)
    teaching = {**options, "teacher": "lenet5.mnist", "teacher_weight": 0.75}
    same, soft = targets(examples, **teaching)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_allclose(soft, 0.25 * smooth + 0.75 * taught, atol=1e-6)
    assert np.ptp(taught.max(-1)) > 0.1  # It is less sure of some.
    # The data may have its classes in another order.
    backwards = examples._replace(categories=DIGITS[::-1], labels=9 - examples.labels)
    _, reordered = targets(backwards, **teaching)
    np.testing.assert_allclose(reordered, soft[:, ::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "received"),
    [
        ({"images": np.zeros((300, 32, 32, 1))}, r"shape \(32, 32, 1\) with 10"),
        ({"categories": tuple("abcdefghij")}, r"10 classes, \('a', 'b'"),
    ],
)
def test_a_teacher_of_other_data_is_refused(examples, change, received):
    with pytest.raises(ValueError, match=f"'lenet5.mnist.v1' takes.*{received}"):
        targets(examples._replace(**change), teacher="lenet5.mnist")
    with pytest.raises(ValueError, match="Did you mean 'lenet5'"):
        targets(examples, teacher="lenet.mnist")


def test_statistics_are_those_of_the_batches(examples):
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    model.add(keras.layers.BatchNormalization(momentum=0.9))
    batches = make_batches(examples, dataclasses.replace(RECIPE, batch_size=300))
    fit_statistics(model, batches)
    pixels = examples.images.reshape(300, -1).astype("float32")
    layer = model.layers[-1]
    np.testing.assert_allclose(layer.moving_mean, pixels.mean(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(layer.moving_variance, pixels.var(0), rtol=1e-3, atol=1)
    assert layer.momentum == 0.9


AVERAGED = {
    "model": "deep_mlp",
    "arguments": {"hidden_units": [16], "dropout": 0.2},
    "batch_size": 10,
    "ema_momentum": 0.8,
}


def test_averaged_weights_replace_those_of_the_last_step(examples):
    recipe = dataclasses.replace(RECIPE, **AVERAGED)
    data = examples.images, examples.labels
    report = zoo.train("deep_mlp", data, recipe, validation_data=data, verbose=0)
    steps = []

    class Recorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            variables = self.model.trainable_variables
            steps.append([convert_to_numpy(v).copy() for v in variables])

    plain = dataclasses.replace(recipe, ema_momentum=0)
    options = {"validation_data": data, "verbose": 0}  # On torch, it draws seeds.
    zoo.train("deep_mlp", data, plain, callbacks=[Recorder()], **options)
    average = steps[0]
    for step in steps[1:]:
        average = [0.8 * a + 0.2 * w for a, w in zip(average, step, strict=True)]
    for found, expected in zip(report.model.trainable_variables, average, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # The last validation is of these weights, with statistics of their own.
    accuracy = zoo.evaluate(report.model, data)["accuracy"]
    assert report.history["val_accuracy"][-1] == pytest.approx(accuracy)


def test_a_short_run_averages_its_last_tenth():
    recipe = dataclasses.replace(RECIPE, ema_momentum=0.999)
    for steps, momentum in ((2, 0), (200, 0.975), (20_000, 0.999)):
        model = zoo.ShallowMLP(8)
        compile_model(model, recipe, steps)
        assert model.optimizer.ema_momentum == pytest.approx(momentum)


def test_soft_targets_and_averages_are_resumed_to_the_bit(
    examples, tmp_path, monkeypatch
):
    class Stop(keras.callbacks.Callback):
        def __init__(self, stop):
            super().__init__()
            self.stop = stop

        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations >= self.stop:
                raise InterruptedError

    recipe = dataclasses.replace(
        RECIPE, **AVERAGED, label_smoothing=0.1, teacher="lenet5.mnist"
    )
    data = examples.images, examples.labels
    options = {"recipe": recipe, "save_freq": 1, "verbose": 0}
    whole = zoo.train("deep_mlp", data, **options, output_dir=tmp_path / "whole")
    options |= {"output_dir": tmp_path / "resumed", "resume": True}
    for stop in (2, 30, 60):
        with pytest.raises(InterruptedError):
            zoo.train("deep_mlp", data, **options, callbacks=[Stop(stop)])
    drawn, draw = [], TrainingBatches.__getitem__

    def note(self, index):
        drawn.append(index)
        return draw(self, index)

    monkeypatch.setattr(TrainingBatches, "__getitem__", note)
    resumed = zoo.train("deep_mlp", data, **options)
    # Those of finished epochs are not drawn. `fit_statistics` draws some more, too.
    steps = len(data[0]) // recipe.batch_size
    left = recipe.epochs * steps - 60
    assert len(drawn) - STATISTICS_BATCHES in range(left, left + steps + 5)
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, other)
