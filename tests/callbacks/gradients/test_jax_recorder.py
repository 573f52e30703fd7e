"""Tests of data parallelism and control flow, on the JAX backend alone."""

import keras
import numpy as np
import pytest
from paths import HELPERS, run_python
from references import LOSS, alike, fit

from zoo.callbacks import GradientNorms

PROGRAM = """
import keras
import numpy as np
from references import alike, batches, fit, mse, norms, recorded

from zoo.callbacks import GradientNorms

devices = keras.distribution.list_devices("cpu")
assert len(devices) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


def build():
    layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


random = np.random.default_rng(0)
x, y = random.normal(size=(40, 3)), random.normal(size=(40, 1))
expected = norms(alike(build), keras.optimizers.SGD(0.01), mse, batches((x, y)))
model = alike(build)
model.compile(keras.optimizers.SGD(0.01), mse)
gradients = GradientNorms()
fit(model, (x, y), gradients)
np.testing.assert_allclose(recorded(gradients), expected, rtol=1e-5)
"""


def test_data_parallelism_records_the_gradient_of_the_whole_batch():
    environment = {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(HELPERS),
    }
    run_python("-c", PROGRAM, env=environment)


def built():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])


class Guarded(keras.Sequential):
    """Updates its weights within control flow."""

    def __init__(self, kind, layers):
        super().__init__(layers)
        self.kind = kind

    def train_step(self, state, data):
        import jax

        weights, others, optimizer_state, metrics = state
        x, y = data

        def loss(weights):
            outputs, _ = self.stateless_call(weights, others, x)
            return self.compute_loss(x, y, outputs)

        value, gradients = jax.value_and_grad(loss)(weights)

        def update(gradients):
            return self.optimizer.stateless_apply(optimizer_state, gradients, weights)

        if self.kind == "jit":
            updated = jax.jit(update)(gradients)
        elif self.kind == "scan":
            batch = jax.tree.map(lambda g: g[None], gradients)
            _, updates = jax.lax.scan(lambda _, g: (0, update(g)), 0, batch)
            updated = jax.tree.map(lambda v: v[0], updates)
        else:

            def kept(gradients):
                return weights, optimizer_state

            finite = jax.numpy.isfinite(value)
            updated = jax.lax.cond(finite, update, kept, gradients)
        weights, optimizer_state = updated
        return {"loss": value}, (weights, others, optimizer_state, metrics)


@pytest.mark.parametrize("kind", ["jit", "scan", "cond"])
def test_a_call_in_control_flow_is_named_and_trains_unharmed(kind):
    random = np.random.default_rng(0)
    data = random.normal(size=(64, 8)), random.integers(0, 3, 64)
    results = []
    for callbacks in ([], [GradientNorms()]):
        model = Guarded(kind, alike(built).layers)
        model.compile("adam", LOSS)
        if callbacks:
            with pytest.warns(UserWarning, match="inside `jax.lax.cond`") as caught:
                fit(model, data, *callbacks)
            assert [warning.category for warning in caught].count(UserWarning) == 1
        else:
            fit(model, data)
        results.append([w.tobytes() for w in model.get_weights()])
    assert results[0] == results[1]
