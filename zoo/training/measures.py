"""Measures of a classifier: classes, calibration, and distorted images."""

import statistics
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from zoo.data.augmentation import can_distort, transform

SHIFTS = range(1, 9)  # pixels
ROTATIONS = (10, 20, 30, 45)  # degrees
SCALES = (0.5, 0.7, 1.2, 1.4)
NOISES = (16, 32, 64, 96)  # standard deviation, in gray levels
BINS = 15


def check_distortable(images: np.ndarray) -> None:
    """Raises a `ValueError` unless `measure` can distort the images."""
    if images.max() <= 1 or not can_distort(images):
        raise ValueError(
            "`detailed` distorts images of shape (n, height, width, channels) with "
            f"pixels in [0, 255]. Received: shape={images.shape}, "
            f"pixels up to {images.max():g}."
        )


def measure(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
) -> dict[str, Any]:
    """Measures a classifier of images `(n, height, width, channels)` beyond accuracy.

    The pixels are in [0, 255]; `probabilities` are those of the model for `images`.

    Returns:
        Dict of `class_accuracy`, a list with `None` for classes without images;
        `confusion`, rows of counts per true class; `calibration_error`, the ECE
        over 15 bins of equal width; and the accuracies `shifted` (pixels, mean of
        four directions), `rotated` (degrees, mean of both), `scaled` (factors) and
        `noisy` (standard deviation of Gaussian noise in gray levels), dicts by amount.

    Reference:
    - [Guo et al., 2017](https://arxiv.org/abs/1706.04599): calibration error.
    """

    def accuracy(images: np.ndarray) -> float:
        parts = (images[i : i + 1000] for i in range(0, len(images), 1000))
        answers = [keras.tree.flatten(model.predict_on_batch(part)) for part in parts]
        predicted = np.concatenate([output.argmax(-1) for [output] in answers])
        return float(np.mean(predicted == labels))

    def accuracies(amounts: Any, make: Callable[[Any], list[np.ndarray]]) -> Any:
        return {str(a): statistics.mean(map(accuracy, make(a))) for a in amounts}

    predicted, classes = probabilities.argmax(-1), probabilities.shape[-1]
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    counts = confusion.tolist()
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(images.shape, "float32")
    return {
        "class_accuracy": [
            row[i] / sum(row) if any(row) else None for i, row in enumerate(counts)
        ],
        "confusion": counts,
        "calibration_error": calibration_error(probabilities, labels),
        "shifted": accuracies(SHIFTS, lambda pixels: shift_images(images, pixels)),
        "rotated": accuracies(
            ROTATIONS, lambda angle: [transform(images, r) for r in (-angle, angle)]
        ),
        "scaled": accuracies(SCALES, lambda s: [transform(images, scale=s)]),
        "noisy": accuracies(NOISES, lambda sd: [(images + sd * noise).clip(0, 255)]),
    }


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the expected calibration error (ECE) over bins of confidence."""
    confidence = probabilities.max(-1).astype("float64")
    surplus = confidence - (probabilities.argmax(-1) == labels)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, surplus, BINS)).sum() / len(labels))


def shift_images(images: np.ndarray, p: int) -> list[np.ndarray]:
    """Returns images moved down, up, right and left by `p` pixels, on zeros."""
    padded = np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)))
    _, height, width, _ = images.shape
    corners = (0, p), (2 * p, p), (p, 0), (p, 2 * p)
    return [padded[:, y : y + height, x : x + width] for y, x in corners]
