"""What only the TensorFlow backend has: strategies, rings, TensorBoard."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from killed_runs import fit as fit_run
from killed_runs import results
from references import norms
from test_exact_resume import fit_with_stops

from zoo.callbacks import GradientNorms


def build():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh", name="hidden"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


def mse(y, outputs):
    return keras.ops.mean(keras.ops.square(outputs - y))


@pytest.fixture
def points():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)), random.normal(size=(40, 1))
    return x.astype("float32"), y.astype("float32")


def read_events(folder):
    """`{tag: [(step, value)]}` of the only event file in a folder."""
    events = {}
    (path,) = folder.rglob("*tfevents*")
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            entry = event.step, tf.make_ndarray(value.tensor)
            events.setdefault(value.tag, []).append(entry)
    return events


def batches(points, size=8):
    x, y = points
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def fit(model, points, gradients, **kwargs):
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs}
    model.fit(*points, callbacks=[gradients], **kwargs)
    return np.stack(list(gradients.variables.values()), axis=1)


@pytest.fixture(scope="module")
def strategy():
    """Of which a process can have one: a second takes the first's collective keys."""
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert len(devices) == 2, "conftest.py makes two logical devices"
    return tf.distribute.MirroredStrategy(devices)


def test_a_strategy_records_the_aggregated_gradient(points, strategy):
    expected = norms(build(), keras.optimizers.SGD(0.01), mse, batches(points))
    with strategy.scope():
        model = build()
        model.compile(keras.optimizers.SGD(0.01), "mse")
    recorded = fit(model, points, GradientNorms())
    np.testing.assert_allclose(recorded, expected, rtol=1e-5)


def test_replicas_resume_with_what_each_of_them_held(tmp_path, strategy):
    """Metrics and batch normalization's statistics differ between them."""
    # Keras' optimizers cannot overwrite weights by their average in a replica.
    settings = {"epochs": 2, "ema": None}
    with strategy.scope():
        whole = tmp_path / "whole"
        expected = results(whole, *fit_run(whole, **settings))
        received = fit_with_stops(tmp_path / "stopped", (5, 2, 4), **settings)
    assert received == expected


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("eagerly", [True, False])
def test_a_step_that_fails_has_no_row(eagerly, steps_per_execution, points):
    def loss(y, outputs):
        tf.debugging.assert_less(y, 100.0, message="bad label")
        return mse(y, outputs)

    expected = GradientNorms()
    model = build()
    model.compile("sgd", mse)
    expected = fit(model, points, expected)
    x, y = points[0], points[1].copy()
    y[35] = 100
    model = build()
    model.compile(
        "sgd", loss, run_eagerly=eagerly, steps_per_execution=steps_per_execution
    )
    gradients = GradientNorms()
    with pytest.raises(tf.errors.InvalidArgumentError, match="bad label"):
        fit(model, (x, y), gradients)
    recorded = np.stack(list(gradients.variables.values()), axis=1)
    np.testing.assert_allclose(recorded, expected[:4], rtol=1e-6)
    assert not {"apply", "stateless_apply"} & vars(model.optimizer).keys()


class ManyCalls(keras.Model):
    """Calls its optimizer five times per step."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        x, y = data
        for _ in range(5):
            with tf.GradientTape() as tape:
                loss = mse(y, self(x))
            weights = self.trainable_weights
            self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def test_a_ring_that_is_too_small_says_how_many_rows_it_lost(points):
    model = ManyCalls()
    model.compile("sgd", "mse")
    gradients = GradientNorms(buffer_size=4)
    with pytest.warns(UserWarning, match="lost 1 rows.*buffer_size=4"):
        fit(model, (points[0][:8], points[1][:8]), gradients)
    np.testing.assert_array_equal(gradients.steps, [1, 2, 3, 4])


def test_a_ring_is_read_in_time_for_steps_of_several_calls(points):
    model = ManyCalls()
    model.compile("sgd", "mse")
    gradients = GradientNorms(buffer_size=11)
    fit(model, points, gradients, epochs=3)
    np.testing.assert_array_equal(gradients.steps, range(75))


def test_a_ring_is_read_in_time_after_steps_have_become_longer(points):
    model, gradients = build(), GradientNorms(buffer_size=8)
    model.compile("sgd", "mse")
    fit(model, points, gradients)
    model.compile("sgd", "mse", steps_per_execution=4)
    fit(model, points, gradients, epochs=8)
    np.testing.assert_array_equal(gradients.steps, range(45))


@pytest.mark.parametrize("update_freq", ["batch", 2, "epoch"])
def test_tensorboard_receives_scalars_and_a_histogram(update_freq, points, tmp_path):
    model = build()
    model.compile("sgd", "mse")
    gradients = GradientNorms(log_dir=tmp_path, update_freq=update_freq)
    fit(model, points, gradients, epochs=2)
    events = read_events(tmp_path)
    hidden = gradients.history["hidden"]
    expected = {
        "batch": list(enumerate(hidden)),
        2: list(enumerate(hidden))[::2],
        "epoch": [(0, hidden[:5].mean()), (1, hidden[5:].mean())],
    }[update_freq]
    np.testing.assert_allclose(events["gradient_norm/hidden"], expected, rtol=1e-6)
    histogram = events["log10_gradient_norm"]
    assert [step for step, _ in histogram] == [step for step, _ in expected]
    assert histogram[0][1][:, 2].sum() == 2  # one count per layer


def test_optimizers_that_take_turns_are_each_written_in_their_turn(points, tmp_path):
    class Turns(keras.Model):
        """An optimizer in a private attribute, one in a model within, in turns."""

        def __init__(self):
            super().__init__()
            self.first = keras.Sequential([keras.layers.Dense(4)], name="first")
            self.last = keras.layers.Dense(1, name="last")
            self._optimizer_of_last = keras.optimizers.SGD(0.01)
            self.first.compile("sgd")

        def call(self, inputs):
            return self.last(self.first(inputs))

        def train_step(self, data):
            x, y = data
            for layer, optimizer in (
                (self.last, self._optimizer_of_last),
                (self.first, self.first.optimizer),
            ):
                with tf.GradientTape() as tape:
                    loss = mse(y, self(x))
                weights = layer.trainable_weights
                optimizer.apply(tape.gradient(loss, weights), weights)
            return {"loss": loss}

    model = Turns()
    model.compile()
    gradients = GradientNorms(log_dir=tmp_path, update_freq=2)
    model.fit(*points, batch_size=8, verbose=0, callbacks=[gradients])
    labels = ["_optimizer_of_last", "first.optimizer"]
    assert list(gradients.optimizers) == labels * 5
    assert list(gradients.history) == ["first/dense", "last"]
    events = read_events(tmp_path)
    assert [step for step, _ in events["gradient_norm/last"]] == [0, 4, 8]
    assert [step for step, _ in events["gradient_norm/first/dense"]] == [1, 5, 9]
    values = [value for _, value in events["gradient_norm/first/dense"]]
    expected = gradients.history["first/dense"][1::4]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
