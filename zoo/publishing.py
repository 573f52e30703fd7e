"""Making a published weight: its training runs, its file and its card."""

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
from zoo.recipes import load_recipe
from zoo.registry import create
from zoo.training import evaluate, train
from zoo.weights import PUBLISHED, Weights, load_layers, published, read_layers


def publish(
    recipe: str | os.PathLike[str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    runs_dir: str | os.PathLike[str] = "runs",
    data_dir: str | os.PathLike[str] | None = None,
    verbose: Any = "auto",
) -> Weights:
    """Trains a recipe with several seeds and publishes the first of them.

    Each seed is trained on all 60,000 training images. The weights are rounded to
    float16, and the rounded model is evaluated on the test images, which no other
    command of the project reads. A run that stands in `runs_dir` is not repeated, and
    an interrupted one goes on from its last epoch.

    Args:
        recipe: path of the recipe's file.
        seeds: seeds to train with, at least two; the first is published, whatever its
            accuracy.
        runs_dir: folder of the runs: each in `<id>/seed<seed>`.
        data_dir: folder of the prepared datasets. Defaults to TFDS' own.
        verbose: as in `keras.Model.fit`.

    Returns:
        The `Weights`, whose file and card now stand in `zoo/published`.
    """
    spec = load_recipe(recipe)
    info = dataset_info(spec.dataset, data_dir=data_dir)
    folders = [pathlib.Path(runs_dir) / spec.id / f"seed{seed}" for seed in seeds]
    for seed, folder in zip(seeds, folders, strict=True):
        train(
            spec.model,
            spec.dataset,
            spec,
            split="train+validation",
            seed=seed,
            output_dir=folder,
            resume=True,
            data_dir=data_dir,
            verbose=verbose,
        )

    test = load_dataset(spec.dataset, "test", as_="numpy", data_dir=data_dir)
    model = create(
        spec.model,
        input_shape=info.image_shape,
        classes=len(info.classes),
        **spec.arguments,
    )
    scores: list[dict[str, float]] = []
    for folder in reversed(folders):
        layers = read_layers(folder / "trained.weights.h5")
        rounded = {k: [a.astype("float16") for a in v] for k, v in layers.items()}
        load_layers(model, rounded, source=folder)
        scores.insert(0, evaluate(model, test))

    path = PUBLISHED / f"{spec.id}.weights.h5"
    save_float16(model, path)
    content = path.read_bytes()
    accuracies = [score["accuracy"] for score in scores]
    run = json.loads((folders[0] / "run.json").read_text())
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
        command=f"zoo publish zoo/published/{spec.id}.toml",
        versions=run["versions"],
        golden=golden_outputs(model, info.image_shape),
    )
    (PUBLISHED / f"{spec.id}.json").write_text(card.to_json())
    published.cache_clear()
    return card


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
