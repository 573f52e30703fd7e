"""Opens trained models: published weights, and the weights files of training runs."""

import json
import pathlib
from typing import TYPE_CHECKING, Any, cast

from zoo.data.catalog import PathLike
from zoo.data.datasets import dataset_info
from zoo.models.registry import create, get_weights
from zoo.models.weights import is_path

if TYPE_CHECKING:
    import keras


def open_model(
    name: str,
    file: PathLike | None = None,
    dataset: str | None = None,
    data_dir: PathLike | None = None,
) -> "tuple[keras.Model, str]":
    """Builds a model with trained weights; returns it and the name of its dataset.

    `name` is that of published weights, or the path of a weights file, or, if `file` is
    given, the name of a model. The `run.json` beside a weights file of `zoo.train`
    names its model and dataset; for any other file, give both. A `dataset` that is
    given is returned; `model.categories` are always the labels of the training data.

    Example:

    >>> model, dataset = open_model("lenet5.mnist")
    >>> model.name, dataset
    ('lenet5', 'mnist')
    """
    if is_path(name) and file is None:
        name, file = "", name
    if file is None:
        card = get_weights(name)
        return create(card.model, weights=card), dataset or card.dataset
    recipe = read_run(file).get("recipe", {})
    trained = recipe.get("model") or name
    if name not in ("", trained):
        raise ValueError(
            f"The weights file belongs to the model {trained!r}. Received: "
            f"name={name!r}, file={file!r}."
        )
    trained_on = recipe.get("dataset") or dataset
    if not trained or not trained_on:
        raise FileNotFoundError(
            "No run.json beside the weights file names its model and its dataset. Give "
            "both (on the command line, the model, --weights FILE and --dataset NAME). "
            f"Received: file={file!r}."
        )
    info = dataset_info(trained_on, data_dir=data_dir)
    shape, arguments = info.image_shape, recipe.get("arguments") or {}
    model = create(trained, weights=pathlib.Path(file), input_shape=shape, **arguments)
    model.categories = info.classes
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
