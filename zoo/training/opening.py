"""Opens trained models: published weights, and the weights files of training runs."""

import json
import pathlib
from typing import TYPE_CHECKING, Any, cast

from zoo.data.catalog import PathLike
from zoo.data.datasets import dataset_info
from zoo.models.labels import describe_data
from zoo.models.registry import create, get_weights
from zoo.models.weights import is_path

if TYPE_CHECKING:
    import keras


def open_model(
    name: PathLike, dataset: str | None = None, data_dir: PathLike | None = None
) -> "tuple[keras.Model, str]":
    """Builds a model with trained weights; returns it and the name of its dataset.

    `name` is that of published weights, or the path of a weights file of `zoo.train`:
    the `run.json` beside it names its model and dataset. A `dataset` that is given is
    returned; `model.categories` are always the labels of the training data.
    """
    if not is_path(name):
        card = get_weights(str(name))
        return create(card.model, weights=card), dataset or card.dataset
    recipe = read_run(name).get("recipe", {})
    trained_on = recipe.get("dataset") or dataset
    if not recipe.get("model") or not trained_on:
        raise FileNotFoundError(
            "No run.json beside the weights file names its model and its dataset. In "
            "Python, `zoo.create(model, weights=file)` loads any weights file. "
            f"Received: file={str(name)!r}."
        )
    info = dataset_info(trained_on)
    arguments = {"input_shape": info.image_shape, **(recipe.get("arguments") or {})}
    model = create(recipe["model"], weights=pathlib.Path(name), **arguments)
    describe_data(model, info.classes, info.normalization)
    return model, dataset or trained_on


def read_run(weights_path: PathLike) -> dict[str, Any]:
    """Returns the `run.json` beside a weights file of `zoo.train`, or `{}`."""
    path = pathlib.Path(weights_path).with_name("run.json")
    try:
        return cast("dict[str, Any]", json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"The description of a run is damaged: {error}. Received: {path}."
        ) from error
