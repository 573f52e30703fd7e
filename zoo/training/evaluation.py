"""Evaluation, and the images and labels that it and training use."""

import functools
import zlib
from typing import Any, NamedTuple

import keras
import numpy as np

from zoo.data.catalog import PathLike
from zoo.data.datasets import dataset_info, load_dataset
from zoo.models.inspection import ends_in_softmax

# `(images, labels)`.
ArrayPair = tuple[np.ndarray, np.ndarray]


def evaluate(
    model: keras.Model,
    dataset: str | ArrayPair,
    *,
    split: str = "test",
    batch_size: int = 1000,
    data_dir: PathLike | None = None,
    verbose: Any = 0,
) -> dict[str, float]:
    """Returns the accuracy and loss of a classifier, compiled or not.

    Args:
        model: Keras model. Returns probabilities or logits of shape `(n, classes)`.
        dataset: String, or tuple of arrays `(images, labels)`. Name of a dataset, or
            images of shape `(n, ...)` and integer labels of shape `(n,)` or `(n, 1)`.
        split: String. `"train"`, `"validation"` or `"test"`. Defaults to `"test"`.
        batch_size: Integer. Images per batch. Defaults to 1000.
        data_dir: Path. Folder of the prepared datasets. Defaults to TFDS' folder.
        verbose: As in `keras.Model.predict`. Defaults to 0.

    Returns:
        Dict of `accuracy` (a fraction), `loss` (the mean cross-entropy in nats) and
        `images` (their number).

    Raises:
        ValueError: If `dataset` is neither a name nor such arrays, or the last layer of
            `model` does not show whether it returns probabilities or logits.

    Example:

    >>> model = zoo.LeNet5(weights="mnist")
    >>> scores = zoo.evaluate(model, "digits-sample", split="train")
    >>> scores["accuracy"] > 0.99
    True
    """
    if isinstance(dataset, str):
        dataset = load_dataset(dataset, split, as_="numpy", data_dir=data_dir)
    images, labels = check_examples(dataset)
    outputs = np.float64(model.predict(images, batch_size=batch_size, verbose=verbose))
    if ends_in_softmax(model):
        log_probabilities = np.log(np.maximum(outputs, np.finfo("float32").tiny))
    else:
        outputs = outputs - outputs.max(-1, keepdims=True)
        log_probabilities = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    return {
        "accuracy": float(np.mean(outputs.argmax(-1) == labels)),
        "loss": float(-np.mean(log_probabilities[np.arange(len(labels)), labels])),
        "images": len(labels),
    }


class TrainingData(NamedTuple):
    """Images and labels to train on."""

    images: np.ndarray
    labels: np.ndarray
    validation: ArrayPair | None
    classes: int

    def checksum(self) -> int:
        """Returns the checksum by which a resumed run recognizes its data."""
        of_images = zlib.crc32(np.ascontiguousarray(self.images).data)
        return zlib.crc32(np.ascontiguousarray(self.labels).data, of_images)


def load_training_data(
    dataset: str | ArrayPair,
    split: str,
    validation_data: ArrayPair | None,
    data_dir: PathLike | None,
) -> TrainingData:
    """Loads a dataset by its name, or checks the arrays given instead."""
    if split not in ("train", "train+validation"):
        raise ValueError(
            "`split` must be 'train' or 'train+validation': test images are not used "
            f"for training. Received: split={split!r}."
        )
    if isinstance(dataset, str):
        load = functools.partial(load_dataset, dataset, as_="numpy", data_dir=data_dir)
        images, labels = load(split=split)
        classes = len(dataset_info(dataset).classes)
        if validation_data is None and split == "train":
            validation_data = load(split="validation")
    else:
        images, labels = check_examples(dataset)
        classes = int(labels.max()) + 1
    if validation_data is not None:
        validation_data = check_examples(validation_data)
    return TrainingData(images, labels, validation_data, classes)


def check_examples(examples: Any) -> ArrayPair:
    """Returns `(images, labels)` as arrays of shapes `(n, ...)` and `(n,)`."""
    if not isinstance(examples, tuple | list) or len(examples) != 2:
        raise ValueError(
            "Data must be the name of a dataset or a pair of arrays, (images, labels), "
            'as `zoo.load_dataset(..., as_="numpy")` returns. Received: '
            f"data of type {type(examples).__name__}."
        )
    images, labels = map(np.asarray, examples)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if (
        images.ndim < 2
        or labels.ndim != 1
        or not 0 < len(images) == len(labels)
        or not np.issubdtype(labels.dtype, np.integer)
    ):
        raise ValueError(
            "Images and labels must have the shapes (n, ...) and (n,) or (n, 1), with "
            f"integer labels. Received: images of shape {images.shape}, "
            f"{labels.dtype} labels of shape {np.shape(examples[1])}."
        )
    return images, labels
