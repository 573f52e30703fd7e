"""The tour of `zoo demo`: published weights, gradients, a figure, an export."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

import zoo
from zoo.callbacks import GradientNorms
from zoo.cli import terminal
from zoo.errors import require
from zoo.training.publishing import golden_images


def run(
    output: str | os.PathLike[str] = "demo", *, epochs: int = 3, images: int = 4_000
) -> None:
    """Shows what the zoo does; writes a figure and an export to the folder `output`."""
    require("matplotlib", "demo", "The tour")
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    x, y = zoo.load_dataset("digits-sample", as_="numpy")
    validation = zoo.load_dataset("digits-sample", "validation", as_="numpy")

    print("\n1. The published weights, loaded from the package\n")
    show_published_weights()

    print(f"\n2. Four models, trained on {images:,} digits with GradientNorms\n")
    gradients = train_and_compare((x[:images], y[:images]), validation, epochs)

    print("\n3. Their gradients, layer by layer and step by step\n")
    figure = folder / "gradients.png"
    draw(gradients, figure)
    print(f"{figure} shows them. A gradient that vanishes is dark towards the input.")

    print("\n4. LeNet5, exported for TF Serving and loaded back\n")
    export_and_reload(folder / "serving" / "lenet5", validation[0])

    print("\n5. What to try next\n")
    print(
        "zoo list                          the models and their weights\n"
        "zoo info lenet5.mnist             a card: data, recipe, accuracy\n"
        "zoo predict digit.png --invert    the label of an image\n"
        "zoo train lenet5 --dataset digits-sample --epochs 5 --gradient-norms\n"
        "python -c 'import zoo; zoo.LeNet5(weights=\"mnist\").summary()'"
    )


def show_published_weights() -> None:
    """Loads all published weights and compares the models' outputs with the cards."""
    # The accuracy on training images shows that the weights are loaded, no more.
    digits = zoo.load_dataset("digits-sample", "train+validation", as_="numpy")
    rows = []
    for card in zoo.list_weights():
        model = zoo.create(card.model, weights=card)
        outputs = model.predict(golden_images(card.input_shape), verbose=0)
        same = np.allclose(outputs, card.golden["probabilities"], rtol=0, atol=1e-3)
        row = {"weights": card.id, "parameters": card.parameters}
        row["test accuracy"] = f"{card.metrics['accuracy']:.2%}"
        row["outputs"] = "as published" if same else "DIFFERENT"
        row["on 5,000 digits"] = "(clothes)"
        if card.dataset == "mnist":
            row["on 5,000 digits"] = f"{zoo.evaluate(model, digits)['accuracy']:.2%}"
        rows.append(row)
    terminal.show(rows)


def train_and_compare(
    training: Any, validation: Any, epochs: int
) -> dict[str, GradientNorms]:
    """Trains four models by one recipe and prints what happened to their gradients."""
    recipe = zoo.Recipe(
        model="four models",
        dataset="digits-sample",
        epochs=epochs,
        batch_size=32,
        optimizer={"name": "Adam", "learning_rate": 1e-3},
        schedule="constant",
    )
    deep = {"hidden_units": (128,) * 10}
    fault = {"activation": "sigmoid", "normalization": None, "residual": False}
    models: dict[str, tuple[Any, dict[str, Any]]] = {
        "ShallowMLP": (zoo.ShallowMLP, {}),
        "DeepMLP, sigmoid": (zoo.DeepMLP, deep | fault),
        "DeepMLP": (zoo.DeepMLP, deep),
        "LeNet5": (zoo.LeNet5, {}),
    }
    rows, recorded = [], {}
    for name, (build, arguments) in models.items():
        print(name, flush=True)
        keras.utils.set_random_seed(0)
        gradients = recorded[name] = GradientNorms()
        report = zoo.train(
            build(**arguments),
            training,
            recipe,
            validation_data=validation,
            callbacks=[gradients],
            verbose=terminal.progress(),
        )
        norms = [np.median(norm) for norm in gradients.history.values()]
        row = {"model": name, "parameters": report.model.count_params()}
        row["validation accuracy"] = f"{report.history['val_accuracy'][-1]:.1%}"
        row["gradient, first layer"] = f"{norms[0]:.1e}"
        row["gradient, last layer"] = f"{norms[-1]:.1e}"
        rows.append(row | {"diagnosis": gradients.diagnose().verdict})
    terminal.show(rows)
    for name, gradients in recorded.items():
        for finding in gradients.diagnose():
            print(f"{name}: {finding}")
    return recorded


def draw(recorded: Mapping[str, GradientNorms], path: pathlib.Path) -> None:
    """Draws depth against step for each model, with one color scale for all."""
    from matplotlib.figure import Figure

    # The few parameters of normalization layers have small gradients at any depth.
    norms = {
        name: {k: v for k, v in gradients.history.items() if "normalization" not in k}
        for name, gradients in recorded.items()
    }
    logs = {
        name: np.log10(np.maximum([*layers.values()], 1e-12))
        for name, layers in norms.items()
    }
    scale = {
        "vmin": min(values.min() for values in logs.values()),
        "vmax": max(values.max() for values in logs.values()),
    }
    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.subplots(2, 2)
    for axes, (name, gradients) in zip(grid.flat, recorded.items(), strict=True):
        image = axes.imshow(logs[name], aspect="auto", interpolation="nearest", **scale)
        axes.set_yticks(range(len(norms[name])), norms[name], fontsize=8)
        axes.set_title(f"{name}: {gradients.diagnose().verdict}", loc="left")
        axes.set_xlabel("optimizer step")
    figure.colorbar(image, ax=grid, label="log10 of the layer's gradient norm")
    figure.suptitle("Gradient norms, from the input (top) to the output (bottom)")
    figure.savefig(path, dpi=120)


def export_and_reload(base: pathlib.Path, images: np.ndarray) -> None:
    """Exports LeNet5, loads the export and compares the two on digits."""
    model = zoo.LeNet5(weights="mnist")
    version = zoo.export(model, base)
    print(f"Written: {version}")
    answer = zoo.load_exported(version).predict(images)
    expected = model.predict(images, verbose=0)
    same = np.mean(answer["class_id"] == expected.argmax(-1))
    difference = np.abs(answer["probabilities"] - expected).max()
    print(
        f"The two give the same label for {same:.2%} of {len(images):,} digits; their "
        f"probabilities differ by at most {difference:.1g}."
    )
