"""Draws docs/cards/<id>.png, the figure of each card: `make docs` runs it.

How the run that made the published weights learned, the gradients of its layers, its
confusions, and its accuracy on images that are shifted, rotated, scaled or noisy.
"""

import pathlib
from typing import Any

import matplotlib
import numpy as np
from tables import DISTORTIONS

import zoo

matplotlib.use("agg")
from matplotlib import pyplot

FOLDER = pathlib.Path(__file__).parent / "cards"


def draw(card: zoo.Weights) -> Any:
    """Returns the figure of a card."""
    figure = pyplot.figure(figsize=(13, 6.6), layout="constrained")
    curve, gradients, confusion, *robustness = figure.subplots(2, 4).flat
    figure.suptitle(f"{card.id}: {card.metrics['accuracy']:.2%} of the test images")
    epochs = np.arange(1, len(card.training["curve"]["accuracy"]) + 1)
    errors = 1 - np.array(card.training["curve"]["accuracy"])
    curve.semilogy(epochs, 100 * errors)
    curve.set(xlabel="epoch", ylabel="training error, %", title="Training")
    layers = card.training["gradient_norms"]
    colors = pyplot.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    for (name, norms), color in zip(layers.items(), colors, strict=True):
        gradients.semilogy(epochs, norms, color=color, label=name)
    gradients.set(xlabel="epoch", title="Gradient norm, median per epoch")
    gradients.legend(fontsize=7, ncols=2)
    draw_confusion(confusion, card)
    for axis, (name, label) in zip(robustness, DISTORTIONS.items(), strict=False):
        values = card.metrics[name]
        axis.plot([float(x) for x in values], [100 * y for y in values.values()], "o-")
        axis.set(xlabel=label, ylim=(0, 102), ylabel="accuracy, %")
        axis.set_title(f"{name.capitalize()} images")
    draw_classes(robustness[-1], card)
    return figure


def draw_confusion(axis: Any, card: zoo.Weights) -> None:
    counts = np.array(card.metrics["confusion"])
    errors = np.where(np.eye(len(counts)), 0, counts)
    axis.imshow(errors, cmap="Reds")
    for row, column in np.argwhere(counts):
        color = "white" if errors[row, column] > errors.max() / 2 else "black"
        style = {"ha": "center", "va": "center", "fontsize": 7, "color": color}
        axis.text(column, row, counts[row, column], **style)
    axis.set(xlabel="predicted", ylabel="true", title="Confusion")
    ticks = range(len(counts))
    axis.set_xticks(ticks, card.categories, rotation=90, fontsize=8)
    axis.set_yticks(ticks, card.categories, fontsize=8)


def draw_classes(axis: Any, card: zoo.Weights) -> None:
    axis.barh(card.categories, [100 * x for x in card.metrics["class_accuracy"]])
    axis.invert_yaxis()
    lowest = min(card.metrics["class_accuracy"])
    axis.set(xlim=(100 * lowest - 2, 100), xlabel="accuracy, %", title="Classes")
    axis.tick_params("y", labelsize=8)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for card in zoo.list_weights():
        if card.training:
            draw(card).savefig(FOLDER / f"{card.id}.png", dpi=100)
