"""Labels of the classes of a model, and the form of its images."""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from zoo.data.images import is_file_shape, read_image
from zoo.data.normalization import is_form_shape
from zoo.files import PathLike
from zoo.models.weights import card_of


def describe_data(
    model: keras.Model,
    categories: Sequence[str] | None,
    normalization: str | None = None,
) -> None:
    """Sets `model.categories` and `model.normalization`; files and copies keep them.

    These are the class labels, and the form to which image files are converted
    for the model: `"mnist"`, `"fashion_mnist"` or `None` (see `zoo.read_images`).
    """
    model.categories = tuple(categories) if categories else None
    if not isinstance(getattr(model, "normalization", None), keras.Layer):
        model.normalization = normalization
    kind = type(model)

    # Keras writes the build configuration to a `.keras` file, whatever it holds.
    def get_build_config() -> dict[str, Any]:
        categories, normalization = find_data(model)
        described = {"categories": categories, "normalization": normalization}
        return {**(kind.get_build_config(model) or {}), **described}

    # `copy.deepcopy` and `pickle` call it.
    def reduce(protocol: Any) -> tuple[Any, ...]:
        return _restore, (model.__reduce__(), *find_data(model))

    object.__setattr__(model, "get_build_config", get_build_config)
    object.__setattr__(model, "__reduce_ex__", reduce)


def _restore(reduced: tuple[Any, ...], *description: Any) -> keras.Model:
    model: keras.Model = reduced[0](*reduced[1])
    describe_data(model, *description)
    return model


def find_data(model: keras.Model) -> tuple[tuple[str, ...] | None, str | None]:
    """Returns the categories and the normalization of a model, or `(None, None)`.

    A copy that lost these attributes is recognized by its weights, if these are
    published ones. A mere wrapper has those of the model inside it.
    """
    categories = getattr(model, "categories", None)
    categories = tuple(categories) if isinstance(categories, Iterable) else ()
    normalization = getattr(model, "normalization", None)
    if isinstance(normalization, keras.Layer):  # of a subclass of Model
        normalization = None
    if categories or normalization:
        return categories or None, normalization
    graph = getattr(model, "_functional", None) or model
    operations = getattr(graph, "operations", model.layers)
    operations = [x for x in operations if not isinstance(x, keras.layers.InputLayer)]
    if operations and isinstance(operations[0], keras.Model):
        names, form = find_data(operations[0])
        if form or not operations[1:]:
            return (None if operations[1:] else names), form
    if card := card_of(model):
        # Other operations at the ends change what the model takes or returns.
        is_raw = isinstance(operations[0], keras.layers.Rescaling)
        takes_form = is_raw and is_form_shape(model.input_shape[1:])
        is_known = operations[-1].name.endswith(("logits", "predictions"))
        categories = card.categories if is_known else None
        return categories, card.normalization if takes_form else None
    return None, None


def read_images(
    files: Iterable[PathLike], model: keras.Model, *, as_is: bool = False
) -> np.ndarray:
    """Reads image files as the pixels that a model takes.

    Files are converted to the form of the images that the model was trained on. For the
    weights for MNIST, this is a digit in light ink on black, in the middle of 28x28
    pixels, whatever the size, colors and lighting of the picture. Only one digit is
    read. Images that have this form are not changed. For models without a form, images
    are resized. A model that lacks this information, such as a copy by
    `keras.models.clone_model`, causes a warning: set `categories` and `normalization`.

    Args:
        files: Iterable of paths, or of binary files. Formats that Pillow reads.
        model: Keras model of images `(height, width)`, optionally with 1 or 3 channels.
        as_is: Boolean. Whether to only resize the images. Defaults to `False`.

    Returns:
        uint8 array of shape `(n, *model.input_shape[1:])`.

    Raises:
        OSError: If a file cannot be read or is not an image. The message names it.
        ValueError: If there are no files, or the model has no fixed image size.
        TypeError: If `files` is a single path, or `model` is not a Keras model.

    Example:

    ```python
    model = zoo.ConvNet(weights="mnist")
    pixels = zoo.read_images(["seven.jpg", "three.png"], model)
    zoo.decode_predictions(model.predict(pixels), model, top=1)
    ```
    """
    if not isinstance(model, keras.Model) or isinstance(files, str | os.PathLike):
        raise TypeError(
            "`read_images` takes a list of files and a Keras model, e.g. one from "
            f"`zoo.load_model`. Received: files={files!r}, model={model!r}."
        )
    shape = tuple(getattr(model, "input_shape", ()))[1:]
    if not is_file_shape(shape):
        raise ValueError(
            "The model must take images of one size, (height, width), optionally with "
            f"1 or 3 channels. Received: model.input_shape={(None, *shape)}."
        )
    categories, form = (None, None) if as_is else find_data(model)
    if not as_is and categories is None and form is None:
        warnings.warn(
            f"The form of the images of the model {model.name!r} is unknown: files are "
            'only resized. Set `model.normalization`, e.g. to "mnist", or pass '
            "`as_is=True`.",
            stacklevel=2,
        )
    images = [read_image(file, shape, form) for file in files]
    if not images:
        raise ValueError("`files` must hold at least one file. Received: files=[].")
    return np.stack(images)
