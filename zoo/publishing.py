"""Making a published weight: its training runs, its file and its card."""

import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import h5py
import keras
import numpy as np

from zoo.datasets import dataset_info, load_dataset
from zoo.inspection import count_flops
from zoo.recipes import Recipe, load_recipe
from zoo.registry import create
from zoo.training import evaluate, train, written_whole
from zoo.weights import PUBLISHED, Weights, load_layers, published, read_layers

SEEDS = (0, 1, 2)


def publish(
    recipe: str | os.PathLike[str],
    *,
    seeds: Sequence[int] = SEEDS,
    runs_dir: str | os.PathLike[str] = "runs",
    data_dir: str | os.PathLike[str] | None = None,
    verbose: Any = "auto",
) -> Weights:
    """Trains a recipe with several seeds and publishes the first of them.

    Each seed is trained on all training images, those for validation included. The
    weights are rounded to float16, and the rounded models are evaluated on the test
    images, by which nothing is chosen. A run that stands in `runs_dir` is not repeated,
    and an interrupted one goes on from its last epoch.

    Args:
        recipe: path of the recipe's file, which is copied beside the card unless it
            stands there.
        seeds: seeds to train with, at least two; the first is published, whatever its
            accuracy.
        runs_dir: folder of the runs: each in `<id>/seed<seed>`.
        data_dir: folder of the prepared datasets. Defaults to TFDS' own.
        verbose: as in `keras.Model.fit`.

    Returns:
        The `Weights`, whose file and card now stand in `zoo/published`.

    Raises:
        ValueError: the seeds are not two or more different ones, the dataset has no
            test split, or `TF_CONFIG` is set: a card is of one machine's run.
        FileExistsError: there is a weight of this id by another recipe or first seed.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(
            "`seeds` must be two or more different integers, for a standard deviation. "
            f"Received: seeds={seeds!r}."
        )
    if os.environ.get("TF_CONFIG"):
        raise ValueError(
            "A weight is published by one process: unset `TF_CONFIG`. Received: "
            f"TF_CONFIG={os.environ['TF_CONFIG']}"
        )
    source = pathlib.Path(recipe).expanduser()
    spec = load_recipe(source)
    recipe_text = source.read_bytes()
    recipes = [dataclasses.replace(spec, seed=seed) for seed in seeds]
    recipe_path = PUBLISHED / f"{spec.id}.toml"
    card_path = PUBLISHED / f"{spec.id}.json"
    _check_not_replaced(card_path, recipes[0])
    # Data that cannot be had are found out before hours of training.
    test = load_dataset(spec.dataset, "test", as_="numpy", data_dir=data_dir)
    info = dataset_info(spec.dataset, data_dir=data_dir)
    folders = [pathlib.Path(runs_dir) / spec.id / f"seed{seed}" for seed in seeds]
    for seeded, folder in zip(recipes, folders, strict=True):
        train(
            spec.model,
            spec.dataset,
            seeded,
            split="train+validation",
            output_dir=folder,
            resume=True,
            data_dir=data_dir,
            verbose=verbose,
        )

    model = create(
        spec.model,
        input_shape=info.image_shape,
        classes=len(info.classes),
        **spec.arguments,
    )
    scores = []
    for folder in folders:
        _load_rounded(model, folder / "trained.weights.h5")
        scores.append(evaluate(model, test))
    _load_rounded(model, folders[0] / "trained.weights.h5")
    accuracies = [score["accuracy"] for score in scores]
    run = json.loads((folders[0] / "run.json").read_text())
    command = f"zoo publish zoo/published/{spec.id}.toml"
    if tuple(seeds) != SEEDS:
        command += "".join(f" --seed {seed}" for seed in seeds)

    if source.resolve() != recipe_path.resolve():
        with written_whole(recipe_path) as file:
            file.write_bytes(recipe_text)
    # The two get their names as the block is left, the last one first: without its
    # card, a weights file is not seen.
    with (
        written_whole(card_path) as card_file,
        written_whole(PUBLISHED / f"{spec.id}.weights.h5") as weights_file,
    ):
        save_float16(model, weights_file)
        content = weights_file.read_bytes()
        card = Weights(
            model=spec.model,
            dataset=spec.dataset,
            version=spec.version,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            categories=info.classes,
            input_shape=info.image_shape,
            arguments=spec.arguments,
            parameters=model.count_params(),
            flops=count_flops(model),
            metrics={
                "split": "test",
                "images": scores[0]["images"],
                "seed": seeds[0],
                "accuracy": accuracies[0],
                "loss": scores[0]["loss"],
                "seeds": list(seeds),
                "mean_accuracy": statistics.mean(accuracies),
                "sd_accuracy": statistics.stdev(accuracies),
            },
            data={
                "source": info.source,
                "version": info.version,
                "license": info.license,
                "citation": info.citation,
            },
            license="Apache-2.0",
            recipe=run["recipe"],
            command=command,
            versions=run["versions"],
            golden=golden_outputs(model, info.image_shape),
        )
        card_file.write_text(card.to_json())
    published.cache_clear()
    return card


def _check_not_replaced(card_path: pathlib.Path, recipe: Recipe) -> None:
    """Refuses another recipe for a published weight; the same may be run again."""
    if not card_path.exists():
        return
    card = Weights.from_json(card_path.read_text())
    earlier = Recipe.from_dict(card.recipe)
    if recipe != earlier:
        raise FileExistsError(
            f"{card.id!r} is published, and a weight is never replaced by that of "
            "another recipe or first seed: raise `version` in a new recipe file. "
            f"Expected: {earlier}. Received: {recipe}."
        )


def _load_rounded(model: keras.Model, path: pathlib.Path) -> None:
    """Loads weights as they are published, in the precision of float16."""
    layers = read_layers(path)
    rounded = {k: [a.astype("float16") for a in v] for k, v in layers.items()}
    load_layers(model, rounded, source=path)


def save_float16(model: keras.Model, path: pathlib.Path) -> None:
    """Saves the weights of `model` as Keras does, but in float16.

    `model.load_weights` reads the file like any other.
    """
    model.save_weights(path)
    with h5py.File(path) as file:
        arrays: dict[str, np.ndarray] = {}
        names: dict[str, str] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                arrays[name] = item[()].astype("float16")
            elif "name" in item.attrs:
                names[name] = item.attrs["name"]

        file.visititems(visit)
    with h5py.File(path, "w") as file:
        for name, layer in names.items():
            file.create_group(name).attrs["name"] = layer
        for name, array in arrays.items():
            file[name] = array


def golden_images(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Two images of noise, uint8 `[2, *shape]`, the same on every machine."""
    return np.random.default_rng(seed).integers(0, 256, (2, *shape), "uint8")


def golden_outputs(model: keras.Model, shape: Sequence[int]) -> dict[str, Any]:
    """The outputs of `model` for `golden_images`, to be kept in its card."""
    outputs = model.predict(golden_images(shape), verbose=0)
    return {"seed": 0, "probabilities": outputs.tolist()}
