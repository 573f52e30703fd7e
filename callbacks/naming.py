"""Stable, readable names for the variables of a Keras model."""

import re
from collections.abc import Iterator
from typing import Any

from .recording import Column


def variable_columns(model: Any, variables: list[Any]) -> list[Column]:
    """Names `variables` by the layer of `model` that owns them.

    A layer's path leads through the layers that contain it (`encoder/dense`) and
    does not name the model itself, so that two models built alike have equal paths.
    A layer used twice is named by its first place.

    Args:
        model: A built `keras.Model`.
        variables: The `keras.Variable`s to name; one that no layer of the model
            owns is named by its own path.

    Returns:
        A list of `Column`, one per variable.
    """
    owned: dict[int, tuple[int, str, str]] = {}
    for path, own in _walk(model, "", set()):
        taken: set[str] = set()
        for variable in own:
            if id(variable) not in owned:
                name = _unique(variable.name, taken)
                owned[id(variable)] = (len(owned), path, name)
    columns: list[Column] = []
    for variable in variables:
        outside = getattr(variable, "path", variable.name).rpartition("/")
        default = (len(owned) + len(columns), outside[0] or outside[2], outside[2])
        position, path, name = owned.get(id(variable), default)
        columns.append(Column(position, path, name, len(variable.shape)))
    return columns


def _walk(layer: Any, path: str, seen: set[int]) -> Iterator[tuple[str, list[Any]]]:
    """Yields (path, variables of its own) of each layer, containers first."""
    seen.add(id(layer))
    children = layer._flatten_layers(include_self=False, recursive=False)
    inherited = {id(v) for child in children for v in child.weights}
    yield path or "model", [v for v in layer.weights if id(v) not in inherited]
    taken: set[str] = set()
    names = {}
    for child in sorted(children, key=_has_automatic_name):
        name = child.name
        if _has_automatic_name(child):
            name = _without_number(name)
        names[id(child)] = _unique(name, taken)
    for child in children:
        if id(child) not in seen:
            name = names[id(child)]
            yield from _walk(child, f"{path}/{name}" if path else name, seen)


def _has_automatic_name(layer: Any) -> bool:
    """Whether Keras made the layer's name up, from its class and a running number.

    Such numbers count on through the process (`dense_7`), so they are counted anew
    within the model. A name that was given in the same form counts as given as long
    as Keras' own count has not come so far.
    """
    name = _without_number(layer.name)
    number = int(layer.name[len(name) + 1 :] or 0)
    made_up = re.sub("^(forward|backward)_", "", name)  # within Bidirectional
    is_of_class = made_up.replace("_", "") == type(layer).__name__.lower()
    return is_of_class and number < _automatic_names().get(made_up, 0)


def _automatic_names() -> dict[str, int]:
    """How many names Keras has made up, by class."""
    try:
        from keras.src.backend.common import global_state
    except ImportError:
        return {}
    return global_state.get_global_attribute("object_name_uids") or {}


def _without_number(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def _unique(name: str, taken: set[str]) -> str:
    """`name`, or else the first of `name_1`, `name_2`... that is not taken."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
