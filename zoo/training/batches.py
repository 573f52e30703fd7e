"""The batches of a training run: distorted images, and labels or soft targets."""

import copy
import functools
import itertools
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from zoo.callbacks import ShuffledBatches
from zoo.callbacks.resume.replicas import process_place
from zoo.data.augmentation import distort
from zoo.data.examples import LabeledImages
from zoo.models.registry import create, get_weights
from zoo.training.recipes import Recipe

STATISTICS_BATCHES = 100


class TrainingBatches(ShuffledBatches):
    """Shuffled batches. If set, `targets(x, y)` replaces the labels."""

    targets: Callable[[Any, np.ndarray], np.ndarray] | None = None

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = super().__getitem__(index)
        return x, self.targets(x, y) if self.targets else y


def make_batches(examples: LabeledImages, recipe: Recipe) -> TrainingBatches:
    """Returns the batches that a recipe makes of images and labels."""
    augment = functools.partial(distort, **recipe.augmentation)
    return TrainingBatches(
        examples.images,
        examples.labels,
        recipe.batch_size,
        seed=recipe.seed,
        augment=augment if recipe.augmentation else None,
        shard=process_place(),
    )


def checksums(examples: LabeledImages, validation: Any) -> list[int]:
    """Returns the checksums by which a resumed run recognizes its data."""
    sums = []
    for images, labels in [examples[:2], validation] if validation else [examples[:2]]:
        of_images = zlib.crc32(np.ascontiguousarray(images).data)
        sums.append(zlib.crc32(np.ascontiguousarray(labels).data, of_images))
    return sums


def as_input(batches: TrainingBatches) -> Any:
    """Returns batches in the form in which `fit` reads them on this backend.

    TensorFlow reads them through `tf.data`. Keras would turn on autotuning. The
    autotuner's thread sleeps for as long as it has been running, up to a minute, and
    `fit` often waits for it at the end.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    signature = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in batches[0])
    dataset = tf.data.Dataset.from_generator(
        lambda: map(batches.__getitem__, itertools.count()), output_signature=signature
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)


def make_targets(
    examples: LabeledImages, recipe: Recipe, classes: int
) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Returns a function from images and labels to probabilities `(n, classes)`.

    Cross-entropy is linear in its targets: a weighted mean of labels and probabilities
    as the target gives the same weighted mean of the losses.
    """
    smoothing = np.float32(recipe.label_smoothing)
    table = (1 - smoothing) * np.eye(classes, dtype="float32") + smoothing / classes
    if recipe.teacher is None:
        return lambda x, y: table[y]
    card = get_weights(recipe.teacher)
    shape, labels = examples.images.shape[1:], examples.categories or card.categories
    if (shape, classes) != (card.input_shape, len(card.categories)) or (
        set(labels) != set(card.categories)
    ):
        raise ValueError(
            f"The teacher {card.id!r} takes images of shape {card.input_shape} and has "
            f"the classes {card.categories}. Received: images of shape {shape} with "
            f"{classes} classes, {examples.categories}."
        )
    order = [card.categories.index(label) for label in labels]
    weight = np.float32(recipe.teacher_weight)
    predict = create(card.model, weights=card).predict_on_batch

    def mix(x: Any, y: np.ndarray) -> np.ndarray:
        taught = np.asarray(predict(x))[:, order]
        return np.asarray((1 - weight) * table[y] + weight * taught)

    return mix


def fit(
    model: keras.Model,
    batches: TrainingBatches,
    validation: Any,
    recipe: Recipe,
    callbacks: list[keras.callbacks.Callback],
    verbose: Any,
) -> dict[str, list[float]]:
    """Fits a model, and returns the values per epoch."""
    fitted = model.fit(
        as_input(batches),
        epochs=recipe.epochs,
        steps_per_epoch=batches.steps_per_epoch,
        validation_data=validation,
        validation_batch_size=1000,
        shuffle=False,
        callbacks=callbacks,
        verbose=verbose,
    )
    history = dict(fitted.history)
    if recipe.has_averages:
        fit_statistics(model, batches)
        if validation:
            scores = model.evaluate(*validation, 1000, verbose=0, return_dict=True)
            for name, value in scores.items():
                # A finished run that is resumed has no history.
                past = history.get(f"val_{name}", [])
                history[f"val_{name}"] = [*past[:-1], value]
    return history


def fit_statistics(model: keras.Model, batches: TrainingBatches) -> None:
    """Recomputes the statistics of batch normalization after the weights changed.

    They become the means over the first batches of the run.
    """
    whole = copy.copy(batches)
    whole.shard = (0, 1)  # Every process computes the same from whole batches.
    kind = keras.layers.BatchNormalization
    found = [layer for layer in model._flatten_layers() if isinstance(layer, kind)]
    momenta = [layer.momentum for layer in found]
    try:
        for index in range(STATISTICS_BATCHES if found else 0):
            for layer in found:
                layer.momentum = index / (index + 1)  # of the mean of all batches
            model(whole[index][0], training=True)
    finally:
        for layer, momentum in zip(found, momenta, strict=True):
            layer.momentum = momentum
