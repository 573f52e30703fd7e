"""Fixtures for the callbacks' tests, which run on every Keras backend."""

import keras
import numpy as np
import pytest

collect_ignore = {
    "tensorflow": ["test_jax.py"],
    "jax": ["test_tensorflow.py", "test_two_optimizers.py", "test_zoo_models.py"],
    "torch": ["test_tensorflow.py", "test_jax.py", "test_zoo_models.py"],
}[keras.backend.backend()]

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # For the tests with a strategy; it has to be said before TensorFlow starts.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )


@pytest.fixture(autouse=True)
def fresh_compiler():
    """On torch, a step that all models share is compiled eight times in a process.

    Then it runs eagerly, which rounds otherwise: of two models that a test compares,
    only the first might still be compiled.
    """
    if keras.backend.backend() == "torch":
        import torch

        torch.compiler.reset()


@pytest.fixture
def data():
    """Seven batches of 16 and one of 8, of three classes in eight dimensions."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 120)
    points = random.normal(size=(120, 8)) + labels[:, None]
    return points.astype("float32"), labels
