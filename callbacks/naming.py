"""Stable, readable names for the variables of a Keras model."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .recording import Column, Position


def variable_columns(
    model: Any, variables: list[Any]
) -> tuple[list[Column], list[Position]]:
    """Names `variables` by the layer of `model` that owns them.

    A layer's path leads through the layers that contain it (`encoder/dense`) and
    does not name the model itself, so that two models built alike have equal paths.
    A layer used twice is named by its first place.

    Args:
        model: A built `keras.Model`.
        variables: The `keras.Variable`s to name; one that no layer of the model
            owns is named by its own path.

    Returns:
        A `Column` and a `Position` for each variable.
    """
    automatic = _automatic_names(model._flatten_layers(include_self=False))
    owned: dict[int, tuple[Column, Position]] = {}
    for position, path, own in _walk(model, (), "", automatic, set()):
        taken: set[str] = set()
        for number, variable in enumerate(own):
            name = _unique(variable.name, taken)
            column = Column(path, name, len(variable.shape))
            owned.setdefault(id(variable), (column, (*position, number)))
    columns: list[Column] = []
    positions: list[Position] = []
    for variable in variables:
        path, _, name = getattr(variable, "path", variable.name).rpartition("/")
        outside = Column(path or name, name, len(variable.shape))
        last = len(model.layers) if hasattr(model, "layers") else 0
        column, position = owned.get(id(variable), (outside, (last, len(columns))))
        columns.append(column)
        positions.append(position)
    return columns, positions


def _walk(
    layer: Any, position: Position, path: str, automatic: set[str], seen: set[int]
) -> Iterator[tuple[Position, str, list[Any]]]:
    """Yields (position, path, own variables) of each layer, containers first."""
    seen.add(id(layer))
    children = layer._flatten_layers(include_self=False, recursive=False)
    inherited = {id(v) for child in children for v in child.weights}
    own = [v for v in layer.weights if id(v) not in inherited]
    yield position, path or "model", own
    taken: set[str] = set()
    names = {}
    for child in sorted(children, key=lambda child: child.name in automatic):
        name = child.name
        if name in automatic:
            name = _split(name)[0]
        names[id(child)] = _unique(name, taken)
    for number, child in enumerate(children):
        if id(child) not in seen:
            name = names[id(child)]
            child_path = f"{path}/{name}" if path else name
            yield from _walk(child, (*position, number), child_path, automatic, seen)


def _automatic_names(layers: Iterable[Any]) -> set[str]:
    """The names that Keras made up, from a layer's class and a running number.

    Such numbers count on through the process (`dense_7`), so they are counted anew
    within the model. A layer does not tell whether its name was given, but people who
    number by hand begin at 1 (`dense_1`, `dense_2`): such names are kept.
    """
    numbers: dict[str, dict[str, int]] = {}
    for layer in layers:
        name, number = _split(layer.name)
        made_up = re.sub("^(forward|backward)_", "", name)  # within Bidirectional
        if made_up.replace("_", "") == type(layer).__name__.lower():
            numbers.setdefault(name, {})[layer.name] = number
    return {
        name
        for group in numbers.values()
        if len(group) == 1 or sorted(group.values()) != list(range(1, len(group) + 1))
        for name in group
    }


def _split(name: str) -> tuple[str, int]:
    """`("dense", 7)` from `"dense_7"`, `("dense", 0)` from `"dense"`."""
    match = re.fullmatch(r"(.+?)_(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def _unique(name: str, taken: set[str]) -> str:
    """`name`, or else the first of `name_1`, `name_2`... that is not taken."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
