"""The state of a model, and its description, which a resumed run must match."""

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


def describe_model(model: Any) -> dict[str, Any]:
    """Returns what must be the same in a resumed run, apart from variables."""
    return {
        "layers": [_describe(layer) for layer in model._flatten_layers()],
        "loss": keras.tree.map_structure(_describe_loss, model.loss),
        "optimizer": _describe_optimizer(model.optimizer),
    }


def _describe(layer: Any) -> str:
    """Returns the class, activation and dtype policy, which no variable shows."""
    activation = _name(getattr(layer, "activation", ""))
    return " ".join([type(layer).__name__, str(activation), layer.dtype_policy.name])


def _describe_loss(loss: Any) -> Any:
    if not isinstance(loss, keras.losses.Loss):
        return _name(loss)
    settings = {k: v for k, v in loss.get_config().items() if np.isscalar(v)}
    return {**settings, "class": type(loss).__name__}


def _name(value: Any) -> Any:
    known = isinstance(value, str | None)
    return value if known else getattr(value, "__name__", type(value).__name__)


def _describe_optimizer(optimizer: Any) -> Any:
    try:
        return _fixed(keras.optimizers.serialize(optimizer))
    except NotImplementedError:  # A schedule without `get_config`.
        return type(optimizer).__name__


def _fixed(config: Any) -> Any:
    """Returns the optimizer settings that must not change in a resumed run."""
    if not isinstance(config, dict):
        return config
    return {
        name: _fixed(value)
        for name, value in config.items()
        # A constant learning rate may be lowered, and is saved as a variable.
        if name != "name" and not (name == "learning_rate" and np.isscalar(value))
    }


def get_torch_generators() -> list[np.ndarray]:
    """Returns the state of torch's global generators, used by layers without a seed."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return [state.numpy() for state in states]


def set_torch_generators(states: list[np.ndarray]) -> None:
    """Sets what `get_torch_generators` returned."""
    if states:
        import torch

        of_cpu, *of_gpus = [torch.from_numpy(state) for state in states]
        torch.set_rng_state(of_cpu)
        torch.cuda.set_rng_state_all(of_gpus)
