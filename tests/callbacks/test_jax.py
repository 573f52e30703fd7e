"""What only the JAX backend has: distributions."""

import subprocess
import sys

PROGRAM = """
import keras
import numpy as np
from references import norms

from zoo.callbacks import GradientNorms

devices = keras.distribution.list_devices("cpu")
assert len(devices) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


def build():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


def mse(y, outputs):
    return keras.ops.mean(keras.ops.square(outputs - y))


random = np.random.default_rng(0)
x, y = random.normal(size=(40, 3)), random.normal(size=(40, 1))
batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
expected = norms(build(), keras.optimizers.SGD(0.01), mse, batches)
model = build()
model.compile(keras.optimizers.SGD(0.01), mse)
gradients = GradientNorms()
model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[gradients])
recorded = np.stack(list(gradients.variables.values()), axis=1)
np.testing.assert_allclose(recorded, expected, rtol=1e-5)
"""


def test_data_parallelism_records_the_gradient_of_the_whole_batch(pytestconfig):
    environment = {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(pytestconfig.rootpath / "tests" / "callbacks"),
    }
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)
