"""Selects the recorder for the Keras backend in use."""

import keras

from .recorder import Recorder


def recorder_class() -> type[Recorder]:
    """Returns the class of the recorder for the Keras backend in use."""
    backend = keras.backend.backend()
    is_nnx_enabled = getattr(keras.config, "is_nnx_enabled", None)  # since Keras 3.11
    if backend == "tensorflow":
        from .tensorflow_recorder import TensorFlowRecorder

        return TensorFlowRecorder
    if backend == "jax" and not (is_nnx_enabled and is_nnx_enabled()):
        from .jax_recorder import JaxRecorder

        return JaxRecorder
    if backend == "torch":
        from .torch_recorder import TorchRecorder

        return TorchRecorder
    raise NotImplementedError(
        "GradientNorms supports the TensorFlow, JAX (without NNX) and torch backends. "
        "Set KERAS_BACKEND to one of them before importing Keras. "
        f"Received: keras.backend.backend()={backend!r}."
    )
