"""The state of a model: variables, random generators, and what cannot be saved."""

import io
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.random.seed_generator import global_seed_generator

from ..optimizers import find_optimizers

_UNSAVED = (Iterator, random.Random, np.random.RandomState)
_LIBRARIES = ("builtins", "jax", "jaxlib", "keras", "numpy", "tensorflow", "torch")


def find_state(model: Any) -> tuple[list[Any], list[Any], list[str]]:
    """Returns the state of a model, its optimizers, and the objects in attributes.

    Returns:
        Three lists: variables, without those of metrics; NumPy's bit generators; the
        names of attributes with a state that cannot be saved.
    """
    found = [*model.variables, global_seed_generator().state]
    for _, optimizer in find_optimizers(model):
        found += optimizer.variables
    generators, unsaved, seen = [], [], dict[int, Any]()
    for layer in model._flatten_layers():
        if keras.backend.backend() == "torch":
            found += layer.buffers()  # Such as the statistics of torch's BatchNorm1d.
        for name, value in _walk(layer.name, vars(layer), seen):
            if _is_variable(value):
                found.append(value)
            elif isinstance(value, np.random.Generator):
                generators.append(value.bit_generator)
            elif isinstance(value, _UNSAVED) and not isinstance(value, io.IOBase):
                unsaved.append(name)
    metrics = {id(variable) for variable in model.metrics_variables}
    unique = {id(variable): variable for variable in found}
    return [v for key, v in unique.items() if key not in metrics], generators, unsaved


def _walk(name: str, value: Any, seen: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """Yields an object and those that it holds, as (name, object)."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    yield name, value
    is_known = type(value).__name__ in ("SeedGenerator", "Generator")  # Of TensorFlow.
    is_foreign = type(value).__module__.split(".")[0] not in _LIBRARIES
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif not isinstance(value, type | keras.Layer | keras.Metric):
        items = getattr(value, "__dict__", {}).items() if is_known or is_foreign else ()
    for key, item in list(items):
        yield from _walk(f"{name}.{key}", item, seen)


def _is_variable(value: Any) -> bool:
    return isinstance(value, keras.Variable) or (
        type(value).__module__.startswith("tensorflow.")
        and any(base.__name__ == "Variable" for base in type(value).__mro__)
    )
