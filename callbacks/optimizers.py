"""Finds the optimizers of a model."""

from typing import Any

import keras
from keras.optimizers import Optimizer


def find_optimizers(model: Any) -> list[tuple[str, Any]]:
    """Returns the optimizers in the attributes of a model, as (label, optimizer).

    The label is the name of the attribute, followed by an index or key if the
    attribute is a list or dict, and preceded by the name of the nested model that has
    it. The compiled optimizer comes first. The optimizer inside a
    `LossScaleOptimizer` is left out, since only its owner calls it.
    """
    found: dict[int, tuple[str, Any]] = {}
    for owner in model._flatten_layers():
        if owner is not model and not isinstance(owner, keras.Model):
            continue
        prefix = "" if owner is model else f"{owner.name}."
        attributes = {"optimizer": getattr(owner, "optimizer", None), **vars(owner)}
        # Keras and TensorFlow also list what attributes hold, in private attributes.
        for name, value in sorted(
            attributes.items(),
            key=lambda item: (not isinstance(item[1], Optimizer), item[0][0] == "_"),
        ):
            candidates = {name: value}
            if isinstance(value, list | tuple):
                value = dict(enumerate(value))
            if isinstance(value, dict):
                candidates = {f"{name}[{key!r}]": item for key, item in value.items()}
            for label, candidate in candidates.items():
                if isinstance(candidate, Optimizer):
                    found.setdefault(id(candidate), (prefix + label, candidate))
    inner = {id(getattr(opt, "inner_optimizer", None)) for _, opt in found.values()}
    return [item for key, item in found.items() if key not in inner]
