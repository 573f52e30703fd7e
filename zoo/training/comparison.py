"""Comparison of models that one recipe trains."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import keras

from zoo.data.catalog import PathLike
from zoo.data.examples import Data
from zoo.display import Table
from zoo.models.inspection import count_flops
from zoo.models.registry import list_models
from zoo.training.evaluation import evaluate
from zoo.training.opening import load_model
from zoo.training.recipes import Recipe, load_recipe
from zoo.training.run import Report, train


def compare(
    models: Sequence[str | keras.Model | Report],
    data: Data,
    recipe: Recipe | PathLike | None = None,
    *,
    validation_data: Data | None = None,
    split: str = "validation",
    data_dir: PathLike | None = None,
    **options: Any,
) -> Table:
    """Trains or loads several models and compares them.

    Args:
        models: Sequence. Names of models and Keras models, which are trained; and
            names of published weights, `.keras` files, folders of runs and `Report`s,
            which are taken as they are.
        data: As in `zoo.train`.
        recipe: As in `zoo.train`, whatever model it was written for: its `arguments`
            are left out for the others. Defaults to that of each model.
        validation_data: As `data`. To evaluate on. Defaults to a split of `data`.
        split: String. The split to evaluate on. Defaults to `"validation"`.
        data_dir: Path. Folder of the prepared datasets. Defaults to TFDS' folder.
        **options: Arguments of `zoo.train`, such as `epochs`.

    Returns:
        A list of dicts, displayed as a table: `model`, `parameters`, `flops`,
        `accuracy`, its 95 % `interval` (Wilson), and the verdict on the `gradients`.

    Reference: [Wilson, 1927](https://doi.org/10.1080/01621459.1927.10502953)

    Example:

    >>> table = zoo.compare(["lenet5", "lenet5.mnist"], "digits-sample", epochs=1)
    >>> [row["model"] for row in table]
    ['lenet5', 'lenet5.mnist']
    """
    if recipe is not None and not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    options |= {"validation_data": validation_data, "data_dir": data_dir}
    rows = Table()
    for entry in models:
        name, model, verdict = _train_or_load(entry, data, recipe, options)
        images = data if validation_data is None else validation_data
        scores = evaluate(model, images, split=split, data_dir=data_dir)
        row = {"model": name, "parameters": model.count_params()}
        row |= {"flops": count_flops(model), "accuracy": scores["accuracy"]}
        row["interval"] = _interval(scores["accuracy"], int(scores["images"]))
        rows.append(row | {"gradients": verdict})
    return rows


def _train_or_load(
    entry: Any, data: Data, recipe: Recipe | None, options: dict[str, Any]
) -> tuple[str, keras.Model, str]:
    """Returns the name of a model, the trained model, and the verdict on it."""
    if isinstance(entry, str | os.PathLike) and entry not in list_models():
        return str(entry), load_model(entry), ""
    if not isinstance(entry, Report):
        name = getattr(entry, "name", entry)
        if recipe is not None and recipe.model != name:
            recipe = dataclasses.replace(recipe, model=name, arguments={})
        entry = train(entry, data, recipe, **{"gradient_norms": True, **options})
    norms = entry.gradient_norms
    return entry.model.name, entry.model, norms.diagnose().verdict if norms else ""


def _interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Returns the Wilson interval of a share of `n`."""
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z**2 / n)
    return middle - half, middle + half
