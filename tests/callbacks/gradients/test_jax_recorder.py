"""Tests of distributions, which only the JAX backend has."""

import subprocess
import sys

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


def test_data_parallelism_records_the_gradient_of_the_whole_batch(pytestconfig):
    environment = {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(pytestconfig.rootpath / "tests" / "helpers"),
    }
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)
