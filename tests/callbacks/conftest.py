"""Fixtures for the callbacks' tests, which run on every Keras backend."""

import keras
import numpy as np
import pytest
from references import regression

collect_ignore = [
    f"gradients/test_{backend}_recorder.py"
    for backend in ("jax", "tensorflow")
    if backend != keras.backend.backend()
]

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # For the tests with a strategy. It must be set before TensorFlow starts.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Resets torch's limit of eight compilations of the step that models share."""
    # Beyond it, the step runs eagerly, which rounds differently.
    if keras.backend.backend() == "torch":
        import torch

        torch.compiler.reset()


@pytest.fixture
def data():
    """Points of three classes in eight dimensions: seven batches of 16, one of 8."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 120)
    points = random.normal(size=(120, 8)) + labels[:, None]
    return points.astype("float32"), labels


@pytest.fixture
def points():
    """Points in four dimensions with a value for each: six batches of 8."""
    x = np.random.default_rng(1).normal(size=(48, 4)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) ** 2).astype("float32")


@pytest.fixture
def model():
    """A compiled model for `points`, with the layers hidden and output."""
    model = regression()
    model.compile("sgd", "mse")
    return model


@pytest.fixture(scope="session")
def strategy():
    """The process's only `MirroredStrategy`: a second one would take its keys."""
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert len(devices) == 2
    return tf.distribute.MirroredStrategy(devices)
