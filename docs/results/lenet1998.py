"""Trains LeNet-5 as in the paper of 1998 on MNIST, without and with distorted images.

The number of epochs is chosen on the 10,000 validation images. The chosen network is
then trained on all 60,000 training images, and the test images are read once. A run
that was interrupted is resumed. Writes lenet1998.md, .csv and .png.
"""

import functools
import math
import pathlib
from typing import Any

import keras
import numpy as np
import page
from matplotlib import pyplot

import zoo
from zoo.callbacks import ExactResume, ShuffledBatches
from zoo.data.augmentation import distort
from zoo.models.lenet1998 import BITMAPS, MAPCriterion

BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 3e-3, 0.1
DISTORTIONS = {"rotation": 10, "scale": 0.1, "shear": 0.1, "shift": 1.5}
# For each experiment: the distortions, the numbers of epochs to choose from, and the
# error of the paper in percent (section III-B).
EXPERIMENTS = {
    "without distortions": ({}, (10, 20), 0.95),
    "with distortions": (DISTORTIONS, (20, 40), 0.8),
}


def train(
    data: Any,
    epochs: int,
    folder: pathlib.Path,
    *,
    distortions: dict[str, float],
    validation: Any = None,
    verbose: int = 2,
) -> tuple[keras.Model, list[dict[str, float]]]:
    """Trains a network or resumes its run; returns it and the log of its epochs."""
    keras.utils.set_random_seed(0)
    augment = functools.partial(distort, **distortions) if distortions else None
    batches = ShuffledBatches(*data, BATCH, augment=augment)
    steps = epochs * batches.steps_per_epoch
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model = zoo.LeNet1998(classifier_activation=None)
    optimizer = keras.optimizers.AdamW(rate, WEIGHT_DECAY)
    model.compile(optimizer, MAPCriterion(), metrics=["accuracy"])
    folder.mkdir(parents=True, exist_ok=True)
    log = keras.callbacks.CSVLogger(folder / "log.csv", append=True)
    model.fit(
        batches,
        epochs=epochs,
        steps_per_epoch=batches.steps_per_epoch,
        shuffle=False,
        validation_data=validation,
        validation_batch_size=1000,
        callbacks=[log, ExactResume(folder / "checkpoint", callbacks=[log])],
        verbose=verbose,
    )
    return model, page.read_csv(folder / "log.csv")


def draw(curves: dict, misread: Any, path: pathlib.Path) -> None:
    """Draws the errors by epoch, the bitmaps, and the test images that are misread."""
    figure = pyplot.figure(figsize=(11, 7), layout="constrained")
    left, right = figure.subfigures(1, 2)
    errors, bitmaps = left.subplots(2, 1, height_ratios=(3, 1))
    for (name, log), color in zip(curves.items(), ("C0", "C1"), strict=True):
        epochs = [row["epoch"] + 1 for row in log]
        for kind, style in (("accuracy", ":"), ("val_accuracy", "-")):
            label = f"{name}, {'training' if style == ':' else 'validation'}"
            values = [100 * (1 - row[kind]) for row in log]
            errors.semilogy(epochs, values, color + style, label=label)
    errors.set(title="Errors of one run each", xlabel="epoch", ylabel="error, %")
    errors.legend()
    digits = np.pad(BITMAPS.reshape(10, 12, 7), ((0, 0), (1, 1), (1, 1)))
    bitmaps.imshow(np.hstack(digits), cmap="gray_r")
    bitmaps.set(title="Targets of F6", xticks=[], yticks=[])
    images, labels, predicted = misread
    axes = right.subplots(-(-len(labels) // 10), 10)
    right.suptitle(f"{len(labels)} misread test images: true → read")
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(labels):
            axis.imshow(images[i, ..., 0], cmap="gray_r")
            axis.set_title(f"{labels[i]} → {predicted[i]}", fontsize=9, pad=1)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    rows = [["", "paper, test error", "here, test error", "validation error", "epochs"]]
    splits = ("train", "validation", "train+validation", "test")
    fitted, validation, everything, test = (
        zoo.load_dataset("mnist", split, as_="numpy") for split in splits
    )
    numbers, curves = [], {}
    for name, (distortions, choices, printed) in EXPERIMENTS.items():
        folder, best = page.RUNS / f"lenet1998-{name.split()[0]}", (math.inf, 0)
        options = {"distortions": distortions}
        for epochs in choices:
            own = folder / f"{epochs}-epochs"
            _, log = train(fitted, epochs, own, validation=validation, **options)
            error = 100 * (1 - log[-1]["val_accuracy"])
            numbers += [{"experiment": name, "epochs": epochs, **row} for row in log]
            if (error, epochs) < best:
                best, curves[name] = (error, epochs), log
        model, _ = train(everything, best[1], folder / "all", **options)
        predicted = model.predict(test[0], 1000, verbose=0).argmax(1)
        wrong = predicted != test[1]
        figures = printed, 100 * wrong.mean(), best[0]
        rows.append([name, *(f"{x:.2f} %" for x in figures), str(best[1])])
    misread = test[0][wrong], test[1][wrong], predicted[wrong]
    page.write_csv(page.FOLDER / "lenet1998.csv", numbers)
    draw(curves, misread, page.FOLDER / "lenet1998.png")
    page.write_page(page.FOLDER / "lenet1998.md", page.table(rows))


if __name__ == "__main__":
    main()
