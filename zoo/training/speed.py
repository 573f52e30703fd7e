"""The fastest way in which TensorFlow trains a model on a CPU."""

import functools
import logging
import os
from typing import Any

import keras
from keras import layers

_DENSE = (layers.Dense, layers.BatchNormalization, layers.LayerNormalization)
_CONVOLUTION = layers.Conv2D.__base__
# XLA takes one to two seconds to compile, the time that it saves in about 2,000 steps.
COMPILED_STEPS = 2_000


def choose_jit(model: keras.Model, steps: int) -> bool | str:
    """Returns the `jit_compile` with which `model` trains fastest.

    On a CPU, XLA fuses the operations of dense layers, but its convolutions are slower
    than those of TensorFlow. For a short run, compiling takes longer than it saves.
    """
    if keras.backend.backend() != "tensorflow" or steps < COMPILED_STEPS:
        return "auto"
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU") or tf.distribute.has_strategy():
        return "auto"
    inner = [x for x in model._flatten_layers() if not isinstance(x, keras.Model)]
    return all(isinstance(x, _DENSE) or not x.weights for x in inner) or "auto"


def uses_onednn() -> bool:
    """Returns `True` if TensorFlow runs its convolutions with oneDNN.

    By default, TensorFlow does so only on CPUs with VNNI, BF16 or AMX.
    """
    from tensorflow.python.util import _pywrap_util_port as port

    return bool(port.IsMklEnabled())


def describe_engine(model: keras.Model) -> dict[str, Any]:
    """Returns the choices on which the bits of a compiled model's training depend."""
    engine: dict[str, Any] = {"jit_compile": model.jit_compile}
    if keras.backend.backend() == "tensorflow":
        engine["TF_ENABLE_ONEDNN_OPTS"] = int(uses_onednn())
    return engine


def tell_about_onednn(model: keras.Model) -> None:
    """Logs, once, how to train convolutions faster, if TensorFlow can."""
    if (
        keras.backend.backend() == "tensorflow"
        and any(isinstance(x, _CONVOLUTION) for x in model._flatten_layers())
        and "TF_ENABLE_ONEDNN_OPTS" not in os.environ
        and not uses_onednn()
    ):
        _log_advice()


@functools.cache
def _log_advice() -> None:
    logging.getLogger("zoo").warning(
        "On this CPU, TensorFlow does not use oneDNN, which may train convolutions "
        "several times faster. Set the environment variable TF_ENABLE_ONEDNN_OPTS=1 "
        "before Python starts, or 0 to keep the default without this message."
    )
