"""Stable, readable names for the variables of a Keras model."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .record import Column, Position


def variable_columns(model: Any, variables: list[Any]) -> list[tuple[Column, Position]]:
    """Names variables by the path of the layer that owns them.

    The path leads through the layers that contain the layer (`encoder/dense`), without
    the model's name, so that identical models have identical paths. A shared layer is
    named by its first place, a variable outside the model's layers by its own path.
    """
    automatic = _automatic_names(model._flatten_layers(include_self=False))
    owned: dict[int, tuple[Column, Position]] = {}
    for position, path, own in _walk(model, (), "", automatic, set()):
        taken: set[str] = set()
        for number, variable in enumerate(own):
            column = Column(path, _unique(variable.name, taken), len(variable.shape))
            owned.setdefault(id(variable), (column, (*position, number)))
    last = len(getattr(model, "layers", ()))
    for variable in variables:
        if id(variable) not in owned:
            path, _, name = getattr(variable, "path", variable.name).rpartition("/")
            taken = {
                column.layer for column, _ in owned.values() if column.name == name
            }
            column = Column(_unique(path or name, taken), name, len(variable.shape))
            owned[id(variable)] = column, (last, len(owned))
    return [owned[id(variable)] for variable in variables]


def _walk(
    layer: Any, position: Position, path: str, automatic: set[str], seen: set[int]
) -> Iterator[tuple[Position, str, list[Any]]]:
    """Yields (position, path, own variables) of each layer, containers first."""
    seen.add(id(layer))
    children = layer._flatten_layers(include_self=False, recursive=False)
    inherited = {id(v) for child in children for v in child.weights}
    own = [v for v in layer.weights if id(v) not in inherited]
    taken: set[str] = set()
    names = {}
    for child in sorted(children, key=lambda child: child.name in automatic):
        name = _split(child.name)[0] if child.name in automatic else child.name
        names[id(child)] = _unique(name, taken)
    yield position, path or _unique("model", taken), own
    for number, child in enumerate(children):
        if id(child) not in seen:
            name = names[id(child)]
            child_path = f"{path}/{name}" if path else name
            yield from _walk(child, (*position, number), child_path, automatic, seen)


def _automatic_names(layers: Iterable[Any]) -> set[str]:
    """Returns the names that Keras generated from a layer's class and a number.

    Keras counts within a process (`dense_7`), people from 1 (`dense_1`, `dense_2`).
    """
    numbers: dict[str, dict[str, int]] = {}
    for layer in layers:
        name, number = _split(layer.name)
        generated = re.sub("^(forward|backward)_", "", name)  # within Bidirectional
        if generated.replace("_", "") == type(layer).__name__.lower():
            numbers.setdefault(name, {})[layer.name] = number
    return {
        name
        for group in numbers.values()
        if len(group) == 1 or sorted(group.values()) != list(range(1, len(group) + 1))
        for name in group
    }


def _split(name: str) -> tuple[str, int]:
    """Splits `"dense_7"` into `("dense", 7)`, and `"dense"` into `("dense", 0)`."""
    match = re.fullmatch(r"(.+?)_(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def _unique(name: str, taken: set[str]) -> str:
    """Returns `name`, or the first of `name_1`, `name_2`... that is not taken."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
