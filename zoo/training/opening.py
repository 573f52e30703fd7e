"""Opens trained models: published weights, `.keras` files, and training runs."""

import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

from zoo.data.catalog import DESCRIBED, SAMPLE
from zoo.data.examples import ALL, locate
from zoo.files import PathLike, expand
from zoo.models.registry import create, get_weights
from zoo.models.weight_files import read_config, read_data
from zoo.models.weights import is_path

if TYPE_CHECKING:
    import keras

TRAINED = "trained.keras"  # the model of a run, in its folder


def load_model(target: PathLike, *, safe_mode: bool = True) -> "keras.Model":
    """Loads a trained model with the labels of its classes.

    Args:
        target: String or path. Name of published weights, e.g. `"lenet5.mnist"`; a
            `.keras` or `.h5` file of a model; or the folder of a run of `zoo.train`.
        safe_mode: Boolean. `False` allows Lambda layers, which run code from the file:
            only for files that you trust. Defaults to `True`.

    Returns:
        A `keras.Model`. `model.categories` are the labels, if the file has them.

    Raises:
        ValueError: If there are no such weights, or the file is not a model.
        FileNotFoundError: If there is no such file or folder.

    Example:

    >>> zoo.load_model("lenet5.mnist").categories[:3]
    ('0', '1', '2')
    """
    if not is_target_path(target):
        card = get_weights(str(target))
        return create(card.model, weights=card)
    import keras

    import zoo.models.lenet1998  # noqa: F401  registers layers
    from zoo.models.labels import describe_data, find_data

    path = trained_file(target)
    model: keras.Model
    model = keras.saving.load_model(path, compile=False, safe_mode=safe_mode)
    data = read_data(read_config(path))
    describe_data(model, *(data if any(data) else find_data(model)))
    return model


def is_target_path(target: PathLike) -> bool:
    """Returns `True` if a target is a path rather than the name of weights."""
    if is_path(target):
        return True
    try:
        get_weights(str(target))
    except ValueError:
        return pathlib.Path(target).is_dir()
    return False  # A folder never shadows the name.


def trained_file(target: PathLike) -> pathlib.Path:
    """Returns the path of the file of a model: a run's, if `target` is its folder."""
    path = expand(target)
    if path.is_dir():
        if any(any(path.glob(x)) for x in ("export.json", "[0-9]*/export.json")):
            raise ValueError(
                "The folder holds an export, not a run. Load it in Python with "
                f"`zoo.load_exported`. Received: folder={str(path)!r}."
            )
        path = path / TRAINED
    if not path.is_file():
        raise FileNotFoundError(
            "The file does not exist. A run writes trained.keras when it is complete; "
            f"resume it with `zoo train --resume`. Received: file={str(path)!r}."
        )
    try:
        config = read_config(path)
    except Exception as error:  # Damaged files cause errors of many types.
        raise ValueError(
            f"The model is damaged: {error}. Received: file={str(path)!r}."
        ) from error
    if not config:
        raise ValueError(
            "The file holds weights, not a model. Build the model and load them: "
            f"`zoo.create(MODEL, weights={str(path)!r})`. Received: {path.name!r}."
        )
    return path


def read_run(target: PathLike) -> dict[str, Any]:
    """Returns the `run.json` of a run, given its folder or model, or `{}`."""
    path = expand(target)
    path = (path.parent if path.name == TRAINED else path) / "run.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # Another model beside a run's.
        return {}
    except ValueError as error:
        raise ValueError(
            f"The description of a run is damaged: {error}. Received: {path}."
        ) from error
    return description


def training_data(target: PathLike) -> str:
    """Returns the name or path of the data on which a model was trained."""
    if not is_target_path(target):
        return get_weights(str(target)).dataset
    run = read_run(target)
    source = run.get("recipe", {}).get("dataset") or run.get("data", {}).get("source")
    if not source:
        raise ValueError(
            f"Name the data to evaluate on: one of {[*DESCRIBED]}, or a path. "
            f"Received: data=None for {str(target)!r}."
        )
    return str(source)


def has_seen(target: PathLike, data: Any, split: str) -> bool:
    """Returns `True` if a model is known to have been trained on a split of data."""
    if not isinstance(data, str | os.PathLike):
        return False
    if is_target_path(target):
        run = read_run(target)
        source, parts = run.get("data", {}).get("source"), run.get("split", "")
    else:
        source, parts = get_weights(str(target)).dataset, "train+validation"
    if {source, data} == {"mnist", SAMPLE}:  # The sample is from the training images.
        return split != "test"
    shared = {*parts.split("+"), ALL} & {*split.split("+")}
    return source == locate(data) and bool(shared)
