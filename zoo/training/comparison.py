"""Comparison of models that one recipe trains."""

import contextlib
import dataclasses
import math
import os
import statistics
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import keras

from zoo.data.examples import ALL, Data, choose_split, has_splits, load_examples, locate
from zoo.display import Table
from zoo.errors import check_argument
from zoo.files import PathLike
from zoo.models.inspection import count_classes, count_flops
from zoo.models.labels import find_data
from zoo.models.registry import list_models
from zoo.training.evaluation import evaluate, image_shape
from zoo.training.measures import check_distortable
from zoo.training.opening import has_seen, load_model
from zoo.training.recipes import Recipe, load_recipe
from zoo.training.run import Report, train


def compare(
    models: Sequence[str | keras.Model | Report],
    data: Data,
    recipe: Recipe | PathLike | None = None,
    *,
    validation_data: Data | None = None,
    split: str = "validation",
    detailed: bool = False,
    data_dir: PathLike | None = None,
    **options: Any,
) -> Table:
    """Trains or loads several models and compares them.

    Args:
        models: List. Names of models and Keras models, to be trained; and names of
            published weights, `.keras` files, folders of runs and `Report`s, which are
            taken as they are.
        data: As in `zoo.train`.
        recipe: As in `zoo.train`, whatever model it was written for: its `arguments`
            are ignored for other models. Defaults to each model's own.
        validation_data: As `data`, to evaluate on. Defaults to a split of `data`, which
            must then have splits.
        split: String. The split to evaluate on. Defaults to `"validation"`.
        detailed: Boolean. Adds the calibration error and the mean accuracy for each
            kind of distortion. Defaults to `False`.
        data_dir: Path. Folder of the prepared datasets. Defaults to TFDS' folder.
        **options: Arguments of `zoo.train`, such as `epochs`. In `output_dir`, each
            model has a folder.

    Returns:
        A list of dicts, displayed as a table: `model`, `parameters`, `flops` (`None` if
        `zoo.count_flops` does not know a layer), `accuracy`, its 95 % `interval`
        (Wilson), and the verdict on the `gradients`; if `detailed`, also
        `calibration_error`, `shifted`, `rotated`, `scaled` and `noisy`.

    Raises:
        ValueError: If there is nothing to evaluate on. Also raises the errors of
            `zoo.train`, `zoo.evaluate` and `zoo.load_model`.

    Reference: [Wilson, 1927](https://doi.org/10.1080/01621459.1927.10502953)

    Example:

    >>> models = ["shallow_mlp", "lenet5"]
    >>> table = zoo.compare(models, "digits-sample", epochs=1, verbose=0)
    >>> [row["model"] for row in table]
    ['shallow_mlp', 'lenet5']
    """
    kinds = str | os.PathLike | Report | keras.Model
    is_list = isinstance(models, Collection) and not isinstance(models, str)
    is_valid = is_list and all(isinstance(entry, kinds) for entry in models) and models
    check_argument(is_valid, "models", models, "a list of at least one model")
    if validation_data is None and not has_splits(data):
        raise ValueError(
            "There are no images to evaluate on: pass `validation_data`, or data that "
            f"have splits. Received: data={str(data)[:200]!r}."
        )
    if recipe is not None and not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    options |= {"validation_data": validation_data, "data_dir": data_dir}
    tested_data = data if validation_data is None else validation_data
    split = choose_split(tested_data, split)
    tested: dict[str, Any] = {"split": split, "data_dir": data_dir}
    paths_and_names = [e for e in models if isinstance(e, str | os.PathLike)]
    trained = [entry for entry in paths_and_names if entry not in list_models()]
    others = [e for e in models if not isinstance(e, Report) and e not in trained]
    names = [getattr(entry, "name", entry) for entry in others]
    if len(names) > len(set(names)):  # Their rows and folders would be the same.
        raise ValueError(f"Models to train need different names. Received: {names}.")
    # Errors in names and data are found before hours of training.
    examples = load_examples(tested_data, **tested)
    if detailed:
        check_distortable(examples.images)
    opened = {str(entry): load_model(entry) for entry in trained}
    _check_classes([*opened.values()], others, examples)
    runs = [e.output_dir for e in models if isinstance(e, Report) and e.output_dir]
    seen = [str(e) for e in trained + runs if has_seen(e, tested_data, split)]
    is_same = tested_data is data or locate(tested_data) == locate(data) is not None
    if is_same and {"train", ALL} & {*split.split("+")}:
        seen += names
    if seen:
        warnings.warn(
            "Models are evaluated on images that they were trained on. Use others, "
            f"e.g. a test split. Received: split={split!r} for {', '.join(seen)}.",
            stacklevel=2,
        )
    tested |= {"detailed": detailed, "from_logits": options.get("from_logits")}
    rows = Table()
    for entry in models:
        if model := opened.get(str(entry)):
            name, verdict = str(entry), ""
        else:
            name, model, verdict = _train(entry, data, recipe, options)
        scores = evaluate(model, tested_data, **tested)
        rows.append({"model": name, **_row(model, verdict, scores)})
    return rows


def _check_classes(opened: list[Any], others: list[Any], examples: Any) -> None:
    """Raises an error if `zoo.evaluate` would raise one about classes."""
    for model in [*opened, *others]:
        if getattr(model, "output_shape", None):  # Not of names and subclasses.
            # Training gives a model the labels of the data.
            known = find_data(model)[0] if model in opened else None
            largest = examples.labels_in(known).max()
            count_classes(model, image_shape(model), largest)


def _train(
    entry: Any, data: Data, recipe: Recipe | None, options: dict[str, Any]
) -> tuple[str, keras.Model, str]:
    """Returns the name of a model, the trained model, and the verdict on it."""
    if not isinstance(entry, Report):
        name = getattr(entry, "name", entry)
        if recipe is not None and recipe.model != name:
            recipe = dataclasses.replace(recipe, model=name, arguments={})
        if options.get("output_dir"):
            options = {**options, "output_dir": Path(options["output_dir"], name)}
        entry = train(entry, data, recipe, **{"gradient_norms": True, **options})
    norms = entry.gradient_norms
    verdict = norms.diagnose().verdict if norms and len(norms.steps) else ""
    return entry.model.name, entry.model, verdict


def _row(model: keras.Model, verdict: str, scores: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of a model in the table, without its name."""
    row = {"parameters": model.count_params(), "flops": None}
    with contextlib.suppress(ValueError):  # Of a layer that it does not know.
        row["flops"] = count_flops(model)
    row["accuracy"] = scores["accuracy"]
    row["interval"] = _interval(scores["accuracy"], int(scores["images"]))
    row["gradients"] = verdict
    if "calibration_error" in scores:
        row["calibration_error"] = scores["calibration_error"]
        for name in ("shifted", "rotated", "scaled", "noisy"):
            row[name] = statistics.mean(scores[name].values())
    return row


def _interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Returns the Wilson interval of a share of `n`."""
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z**2 / n)
    return middle - half, middle + half
