"""Selects the recorder for the Keras backend in use."""

import importlib
from typing import Any

import keras

RECORDERS = {"tensorflow": "TensorFlow", "jax": "Jax", "torch": "Torch"}


def recorder_class() -> Any:
    """Returns the class of the recorder for the Keras backend in use."""
    backend = keras.backend.backend()
    # New in Keras 3.11.
    is_nnx_enabled = getattr(keras.config, "is_nnx_enabled", lambda: False)
    if backend not in RECORDERS or (backend == "jax" and is_nnx_enabled()):
        raise NotImplementedError(
            "GradientNorms supports the TensorFlow, JAX (without NNX) and torch "
            "backends. Set KERAS_BACKEND to one of them before importing Keras. "
            f"Received: keras.backend.backend()={backend!r}."
        )
    module = importlib.import_module(f".{backend}_recorder", __package__)
    return getattr(module, f"{RECORDERS[backend]}Recorder")
