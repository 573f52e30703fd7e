"""Labels of the classes of a model, and the form of its images."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from zoo.data.images import read_image
from zoo.models.weights import card_of


def describe_data(
    model: keras.Model, categories: Sequence[str], normalization: str | None = None
) -> None:
    """Sets `model.categories` and `model.normalization`; `model.save` keeps them.

    Args:
        model: Keras model.
        categories: Sequence of strings. The label of each class.
        normalization: `"mnist"`, `"fashion_mnist"` or `None`. The form into which image
            files are brought for the model (see `zoo.read_images`).
    """
    model.categories, model.normalization = tuple(categories), normalization
    build_config = type(model).get_build_config

    # Keras writes the build configuration to a `.keras` file, whatever it holds.
    def get_build_config() -> dict[str, Any]:
        described = {"categories": list(categories), "normalization": normalization}
        return {**(build_config(model) or {}), **described}

    object.__setattr__(model, "get_build_config", get_build_config)


def find_data(model: keras.Model) -> tuple[tuple[str, ...] | None, str | None]:
    """Returns the categories and the normalization of a model, or `(None, None)`.

    A copy without these attributes has them if its weights are published ones.
    """
    if getattr(model, "categories", None):
        return tuple(model.categories), getattr(model, "normalization", None)
    if card := card_of(model):
        return card.categories, card.normalization
    return None, None


def read_images(
    files: Iterable[str | os.PathLike[str]], model: keras.Model, *, as_is: bool = False
) -> np.ndarray:
    """Reads image files as the pixels that a model takes.

    Files are brought into the form of the images that the model was trained on. For the
    weights for MNIST, this is a digit in light ink on black, in the middle of 28x28
    pixels, whatever the size, the colors and the light of the picture are. Images that
    have this form are not changed. For other models, images are resized.

    Args:
        files: Iterable of paths, or of binary files. Formats that Pillow reads.
        model: Keras model of images `(height, width)`, with or without 1 or 3 channels.
        as_is: Boolean. Whether to only resize the images. Defaults to `False`.

    Returns:
        uint8 array of shape `(n, *model.input_shape[1:])`.

    Raises:
        OSError: If a file cannot be read or is no image. The message names it.

    Example:

    ```python
    model = zoo.ConvNet(weights="mnist")
    pixels = zoo.read_images(["seven.jpg", "three.png"], model)
    zoo.decode_predictions(model.predict(pixels), model, top=1)
    ```
    """
    form = None if as_is else find_data(model)[1]
    return np.stack([read_image(file, model.input_shape[1:], form) for file in files])
