"""Stable, readable names for the variables of a Keras model."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from .record import Column, Position


def variable_columns(
    model: Any, variables: list[Any], calls: dict[int, int]
) -> list[tuple[Column, Position]]:
    """Names variables by the path of the layer that owns them.

    The path leads through the layers that contain the layer (`encoder/dense`), without
    the model's name, so that identical models have identical paths. A shared layer is
    named by its first place, a variable outside the model's layers by its own path.

    `calls` maps the id of a layer to its place in the order of first calls. A layer
    that is not in it comes right after the layer that contains it.
    """
    automatic = _automatic_names(model._flatten_layers(include_self=False))
    owned: dict[int, tuple[Column, Position]] = {}
    places = list(_walk(model, (), "", automatic, set(), calls))
    in_order = [layer for _, _, layer, _ in sorted(places, key=lambda place: place[0])]
    following = dict(zip(map(id, in_order), [*in_order[1:], None], strict=True))
    for position, path, layer, own in places:
        taken: set[str] = set()
        activation = _activation(layer) or _activation(following[id(layer)], own=False)
        for number, variable in enumerate(own):
            name = _unique(variable.name, taken)
            column = Column(path, name, tuple(variable.shape), activation)
            owned.setdefault(id(variable), (column, (*position, number)))
    last = len(calls) + len(getattr(model, "layers", ()))
    for variable in variables:
        if id(variable) not in owned:
            path, _, name = getattr(variable, "path", variable.name).rpartition("/")
            taken = {
                column.layer for column, _ in owned.values() if column.name == name
            }
            layer_name = _unique(path or name, taken)
            column = Column(layer_name, name, tuple(variable.shape))
            owned[id(variable)] = column, (last, len(owned))
    return [owned[id(variable)] for variable in variables]


def _walk(
    layer: Any,
    position: Position,
    path: str,
    automatic: set[str],
    seen: set[int],
    calls: dict[int, int],
) -> Iterator[tuple[Position, str, Any, list[Any]]]:
    """Yields (position, path, layer, own variables) of each layer, containers first."""
    seen.add(id(layer))
    children = layer._flatten_layers(include_self=False, recursive=False)
    inherited = {id(v) for child in children for v in child.weights}
    own = [v for v in layer.weights if id(v) not in inherited]
    taken: set[str] = set()
    names = {}
    for child in sorted(children, key=lambda child: child.name in automatic):
        name = _split(child.name)[0] if child.name in automatic else child.name
        names[id(child)] = _unique(name, taken)
    yield position, path or _unique("model", taken), layer, own
    # Layers of the model itself that are not called come last.
    inside = position or (len(calls),) * bool(calls)
    for number, child in enumerate(children):
        if id(child) not in seen:
            name = names[id(child)]
            child_path = f"{path}/{name}" if path else name
            place = calls.get(id(child))
            child_position = (*inside, number) if place is None else (place,)
            yield from _walk(child, child_position, child_path, automatic, seen, calls)


def _activation(layer: Any, own: bool = True) -> str:
    """Returns the name of a layer's activation, or "" if it is linear or none.

    With `own=False`, only that of a layer without weights, such as `Activation`.
    """
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.ReLU | keras.layers.LeakyReLU):
        return "relu"
    is_linear = not callable(activation) or activation is keras.activations.linear
    if is_linear or (not own and layer.weights):
        return ""
    return str(getattr(activation, "__name__", type(activation).__name__))


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
