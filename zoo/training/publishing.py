"""Publication of weights: the training runs, the weights file and the card."""

import dataclasses
import json
import os
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from zoo.data.catalog import DatasetInfo
from zoo.data.datasets import dataset_info, load_dataset
from zoo.errors import check_argument
from zoo.files import PathLike, atomic_write, expand, sha256
from zoo.models.inspection import count_flops
from zoo.models.registry import TRAINING_ARGUMENTS, default_arguments, recipe_path
from zoo.models.weight_files import save_float16
from zoo.models.weights import PUBLISHED, Weights, published
from zoo.training.evaluation import evaluate
from zoo.training.opening import load_model, read_run
from zoo.training.recipes import Recipe, load_recipe
from zoo.training.run import train

SEEDS = (0, 1, 2)
DATA_FIELDS = ("source", "version", "license", "citation")


def publish(
    recipe: PathLike,
    *,
    seeds: Sequence[int] | None = None,
    runs_dir: PathLike = "runs",
    data_dir: PathLike | None = None,
    verbose: Any = "auto",
) -> Weights:
    """Runs a recipe with several seeds and publishes the weights of the first.

    Every run trains on the training and validation images. The models, rounded to
    float16, are evaluated on the test images, never used for selection. Finished runs
    in `runs_dir` are not repeated, and an interrupted one is resumed.

    Args:
        recipe: Path of a recipe file, or name of published weights to train again.
        seeds: Sequence of at least two integers. The weights of the first seed are
            published, whatever their accuracy. Defaults to those of the published
            weights, or to `(0, 1, 2)`.
        runs_dir: Path. Folder of the runs `<id>/seed<seed>`. Defaults to `"runs"`.
        data_dir: Path. Folder of the prepared datasets. Defaults to TFDS' folder.
        verbose: As in `keras.Model.fit`. Defaults to `"auto"`.

    Returns:
        The `Weights`, whose file and card are now in `zoo/published`.

    Raises:
        ValueError: If there are fewer than two different seeds, the recipe changes the
            architecture, or the dataset has no test split.
        FileExistsError: If this id is published from another recipe or first seed.
    """
    if os.environ.get("TF_CONFIG"):
        raise ValueError(
            "One process publishes weights: unset `TF_CONFIG`. Received: "
            f"TF_CONFIG={os.environ['TF_CONFIG']}."
        )
    source = recipe_path(recipe)
    spec, recipe_text = load_recipe(source), source.read_bytes()
    arguments = _check_architecture(spec)
    if seeds is None:
        before = [card for card in published() if card.id == spec.id]
        seeds = before[0].metrics["seeds"] if before else SEEDS
    are_different = 1 < len(seeds) == len(set(seeds))
    check_argument(are_different, "seeds", seeds, "two or more different integers")
    recipes = [dataclasses.replace(spec, seed=seed) for seed in seeds]
    seeds = [seeded.seed for seeded in recipes]  # Python's integers, for the card.
    _check_not_replaced(recipes[0])
    # Errors in the data are found before hours of training.
    test = load_dataset(spec.dataset, "test", as_="numpy", data_dir=data_dir)
    info = dataset_info(spec.dataset)
    folders = [expand(runs_dir) / spec.id / f"seed{seed}" for seed in seeds]
    options: dict[str, Any] = {"split": "train+validation", "resume": True}
    options |= {"data_dir": data_dir, "verbose": verbose}
    for seeded, folder in zip(recipes, folders, strict=True):
        options |= {"output_dir": folder, "gradient_norms": folder == folders[0]}
        options["callbacks"] = [_EpochTimes(folder / "seconds.csv")]
        train(spec.model, spec.dataset, seeded, **options)

    scores = []
    for folder in reversed(folders):  # The first, which is published, comes last.
        model = load_model(folder)
        model.set_weights([array.astype("float16") for array in model.get_weights()])
        scores.append(evaluate(model, test, detailed=folder == folders[0]))
    accuracies = [score["accuracy"] for score in scores]
    metrics = {
        "split": "test",
        "seed": seeds[0],
        **scores[-1],
        "seeds": seeds,
        "mean_accuracy": statistics.mean(accuracies),
        "sd_accuracy": statistics.stdev(accuracies),
    }
    return _write(model, spec, recipe_text, arguments, info, metrics, folders[0])


class _EpochTimes(keras.callbacks.Callback):
    """Appends the seconds of each epoch to a file, which a resumed run continues."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with self.path.open("a") as file:
            file.write(f"{time.perf_counter() - self.started:.2f}\n")


def _read_training(folder: pathlib.Path, epochs: int) -> dict[str, Any]:
    """Returns the time, the curve and the gradient norms of a run."""
    # An epoch that was interrupted, or ran beside other work, does not count.
    times = (folder / "seconds.csv").read_text("utf-8").split()
    seconds = statistics.median(map(float, times))
    logs, norms = (
        np.genfromtxt(folder / name, delimiter=",", names=True, ndmin=1)
        for name in ("log.csv", "gradient_norms.csv")
    )
    steps = len(norms) // epochs
    layers = {
        name: np.median(norms[name][: steps * epochs].reshape(epochs, steps), 1)
        for name in norms.dtype.names or ()
        if name not in ("step", "optimizer", "global_norm")
    }
    return {
        "seconds": round(seconds * epochs),
        **read_run(folder)["machine"],
        "curve": {x: np.round(logs[x], 5).tolist() for x in ("accuracy", "loss")},
        "gradient_norms": {
            name: [float(f"{value:.3g}") for value in values]
            for name, values in layers.items()
        },
    }


def _check_architecture(recipe: Recipe) -> dict[str, Any]:
    """Returns the architecture arguments, which the recipe must not change."""
    # TOML has lists where signatures have tuples.
    text = json.dumps(default_arguments(recipe.model))
    defaults: dict[str, Any] = json.loads(text)
    changed = {
        name: value
        for name, value in recipe.arguments.items()
        if name not in TRAINING_ARGUMENTS and (name, value) not in defaults.items()
    }
    if changed:
        raise ValueError(
            "Published weights have the architecture of the builder's defaults: remove "
            f"all arguments but {' and '.join(TRAINING_ARGUMENTS)} from the recipe. "
            f"Expected: {defaults}. Received: arguments={changed}."
        )
    return defaults


def _check_not_replaced(recipe: Recipe) -> None:
    """Refuses to replace published weights, except by the same recipe and seed."""
    for card in published():
        earlier = Recipe.from_dict(card.recipe)
        if card.id == recipe.id and earlier != recipe:
            raise FileExistsError(
                f"{card.id!r} is published from another recipe or first seed, and is "
                "not replaced: raise `version` in a new recipe file. "
                f"Expected: {earlier}. Received: recipe={recipe}."
            )


def _write(
    model: keras.Model,
    spec: Recipe,
    recipe_text: bytes,
    arguments: dict[str, Any],
    info: DatasetInfo,
    metrics: dict[str, Any],
    folder: pathlib.Path,
) -> Weights:
    """Writes the recipe, the weights file and the card to `zoo/published`."""
    command = f"zoo publish {spec.id}"
    if metrics["seeds"] != list(SEEDS):
        command += "".join(f" --seed {seed}" for seed in metrics["seeds"])
    run = read_run(folder)
    outputs = model.predict(golden_images(info.image_shape), verbose=0)
    # The card is moved into place last: without it, the weights are not listed.
    with (
        atomic_write(PUBLISHED / f"{spec.id}.json") as card_file,
        atomic_write(PUBLISHED / f"{spec.id}.weights.h5") as weights_file,
        atomic_write(PUBLISHED / f"{spec.id}.toml") as recipe_file,
    ):
        recipe_file.write_bytes(recipe_text)
        save_float16(model, weights_file)
        card = Weights(
            model=spec.model,
            dataset=spec.dataset,
            version=spec.version,
            sha256=sha256(weights_file),
            bytes=weights_file.stat().st_size,
            categories=info.classes,
            normalization=info.normalization,
            input_shape=info.image_shape,
            arguments=arguments,
            parameters=model.count_params(),
            flops=count_flops(model),
            metrics=metrics,
            data={field: getattr(info, field) for field in DATA_FIELDS},
            license="Apache-2.0",
            recipe=run["recipe"],
            command=command,
            versions=run["versions"],
            golden={"seed": 0, "probabilities": outputs.tolist()},
            training=_read_training(folder, spec.epochs),
        )
        card_file.write_text(card.to_json())
    published.cache_clear()
    return card


def golden_images(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Returns two uint8 images of noise of a shape, the same on every machine."""
    return np.random.default_rng(seed).integers(0, 256, (2, *shape), "uint8")
