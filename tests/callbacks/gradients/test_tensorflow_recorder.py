"""Tests of the ring buffers, which only the TensorFlow backend has."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from references import alike, batches, fit, mse, norms, recorded, regression

from zoo.callbacks import GradientNorms


def test_a_strategy_records_the_aggregated_gradient(points, strategy):
    sgd = keras.optimizers.SGD(0.01)
    expected = norms(alike(regression), sgd, mse, batches(points))
    with strategy.scope():
        model = alike(regression)
        model.compile(keras.optimizers.SGD(0.01), "mse")
    gradients = GradientNorms()
    fit(model, points, gradients)
    np.testing.assert_allclose(recorded(gradients), expected, rtol=1e-5)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("eagerly", [True, False])
def test_a_step_that_fails_has_no_row(eagerly, steps_per_execution, points):
    def loss(y, outputs):
        tf.debugging.assert_less(y, 1000.0, message="bad label")
        return mse(y, outputs)

    expected, gradients = GradientNorms(), GradientNorms()
    model = alike(regression)
    model.compile("sgd", mse)
    fit(model, points, expected)
    x, y = points[0], points[1].copy()
    y[35] = 1000
    model = alike(regression)
    options = {"run_eagerly": eagerly, "steps_per_execution": steps_per_execution}
    model.compile("sgd", loss, **options)
    with pytest.raises(tf.errors.InvalidArgumentError, match="bad label"):
        fit(model, (x, y), gradients)
    np.testing.assert_allclose(recorded(gradients), recorded(expected)[:4], rtol=1e-6)
    assert not {"apply", "stateless_apply"} & vars(model.optimizer).keys()


def test_a_step_is_traced_once(points):
    """Its optimizer is built before, whose variables it would create."""
    traced = []
    count = keras.layers.Lambda(lambda x: traced.append(x) or x)
    model = keras.Sequential([count, keras.layers.Dense(1)])
    model.build(points[0].shape)
    traced.clear()
    model.compile("adam", "mse")
    fit(model, points, GradientNorms())
    assert len(traced) == 1


class ManyCalls(keras.Model):
    """Calls its optimizer five times per step."""

    def train_step(self, data):
        x, y = data
        for _ in range(5):
            with tf.GradientTape() as tape:
                loss = mse(y, self(x))
            weights = self.trainable_weights
            self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def test_a_ring_is_read_in_time_for_steps_of_several_calls(model, points):
    many_calls = ManyCalls(model.inputs[0], model.outputs[0])
    many_calls.compile("sgd", "mse")
    gradients = GradientNorms(buffer_size=11)
    fit(many_calls, points, gradients, epochs=3)
    np.testing.assert_array_equal(gradients.steps, range(90))
    too_small = GradientNorms(buffer_size=4)
    with pytest.warns(UserWarning, match="lost 1 rows.*buffer_size=4"):
        fit(many_calls, (points[0][:8], points[1][:8]), too_small)
    np.testing.assert_array_equal(too_small.steps, [1, 2, 3, 4])


def test_a_ring_is_read_in_time_after_steps_have_become_longer(model, points):
    gradients = GradientNorms(buffer_size=8)
    fit(model, points, gradients)
    model.compile("sgd", "mse", steps_per_execution=4)
    fit(model, points, gradients, epochs=8)
    np.testing.assert_array_equal(gradients.steps, range(54))


class Decorated(ManyCalls):
    """A train step that is a `tf.function` itself, with one call per step."""

    @tf.function
    def train_step(self, data):
        return keras.Model.train_step(self, data)


class Nested(ManyCalls):
    """Calls its optimizer in a `tf.function`, or in a branch."""

    kind = "function"

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = mse(y, self(x))
        gradients = tape.gradient(loss, self.trainable_weights)
        if self.kind == "function":
            self.update(gradients)
        else:
            tf.cond(loss < 1e9, lambda: self.apply(gradients), lambda: None)
        return {"loss": loss}

    def apply(self, gradients):
        self.optimizer.apply(gradients, self.trainable_weights)

    update = tf.function(apply)


def trained(build, points, *callbacks, **attributes):
    whole = alike(regression)
    model = build(whole.inputs, whole.outputs)
    vars(model).update(attributes)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    for callback in callbacks:
        fit(model, points, *filter(None, [callback]))
    return [w.tobytes() for w in model.get_weights()]


def test_a_decorated_train_step_is_recorded_by_each_callback_alone(points):
    expected, first, second = GradientNorms(), GradientNorms(), GradientNorms()
    whole = trained(keras.Model, points, expected, None, None)
    assert trained(Decorated, points, first, None, second) == whole
    assert recorded(first).tolist() == recorded(expected).tolist()
    assert len(second.steps) == len(first.steps) == 6
    branch = GradientNorms()
    trained(Nested, points, branch, kind="branch")
    np.testing.assert_allclose(recorded(branch), recorded(expected), rtol=1e-5)


def test_a_call_in_a_nested_function_is_named_and_trains_unharmed(points):
    whole, gradients = trained(Nested, points, None, None), GradientNorms()
    with pytest.warns(UserWarning, match="inside a `tf.function`") as caught:
        assert trained(Nested, points, gradients, None) == whole
    # NumPy also warns of TensorFlow's `__array__`.
    assert [warning.category for warning in caught].count(UserWarning) == 1
    assert gradients.history == {}
