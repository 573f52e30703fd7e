"""Fixtures that the tests of both packages share."""

import os

os.environ["MPLBACKEND"] = "agg"  # needs no display
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a process per core already.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # Freeing an iterator waits for its autotuner, which sleeps for up to a minute.
    OPTIONS = tf.data.Options()
    OPTIONS.autotune.enabled = False
    ITERATE = tf.data.Dataset.__iter__
    tf.data.Dataset.__iter__ = lambda self: ITERATE(self.with_options(OPTIONS))


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Starts every test from Keras' defaults and the same seed."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
