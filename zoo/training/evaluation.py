"""Evaluation of classifiers."""

from typing import Any

import keras
import numpy as np

from zoo.data.examples import Data, load_examples
from zoo.errors import quiet_tensorflow, warn_if_scaled
from zoo.files import PathLike
from zoo.models.inspection import count_classes, returns_logits, takes_raw_pixels
from zoo.models.labels import find_data
from zoo.training.measures import check_distortable, measure


def image_shape(model: keras.Model) -> tuple[Any, ...]:
    """Returns the shape of the images that a model takes, or else 28x28 gray."""
    shape = getattr(model, "input_shape", None) if model.built else None
    return tuple(shape[1:]) if isinstance(shape, tuple) else (28, 28, 1)


def evaluate(
    model: keras.Model,
    data: Data,
    *,
    split: str = "test",
    batch_size: int = 1000,
    from_logits: bool | None = None,
    detailed: bool = False,
    data_dir: PathLike | None = None,
    verbose: Any = 0,
) -> dict[str, Any]:
    """Returns the accuracy and loss of a classifier, compiled or not.

    Args:
        model: Keras model. Returns probabilities or logits of shape `(n, classes)`.
        data: As in `zoo.train`. Labels of data and model are matched by name.
        split: String. `"train"`, `"validation"` or `"test"`, if the data have splits.
            Defaults to `"test"`.
        batch_size: Integer. Images per batch. Defaults to 1000.
        from_logits: Boolean. True if the model returns logits. Used only if the last
            layers do not show it. Defaults to `None`.
        detailed: Boolean. Adds the measures of a card (50 times slower): accuracy per
            class and on distorted images, confusion, calibration. Defaults to `False`.
        data_dir: Path. Folder of the prepared datasets. Defaults to TFDS' folder.
        verbose: As in `keras.Model.predict`. Defaults to 0.

    Returns:
        Dict of `accuracy` (a fraction), `loss` (in nats) and the number of `images`;
        `detailed` adds the items of `zoo.training.measures.measure`.

    Raises:
        ValueError: If `data` is invalid or has labels that the model does not know,
            or the last layers do not show whether it returns probabilities or logits.
            If `detailed` and the data are not images with pixels in [0, 255].

    Example:

    >>> model = zoo.LeNet5(weights="mnist")
    >>> scores = zoo.evaluate(model, "digits-sample", split="train")
    >>> scores["accuracy"] > 0.99
    True
    """
    from_logits = returns_logits(model, from_logits)
    categories, form = find_data(model)
    shape = image_shape(model)
    examples = load_examples(data, split, data_dir=data_dir, shape=shape, form=form)
    labels = examples.labels_in(categories)
    if takes_raw_pixels(model):
        warn_if_scaled(examples.images)
    if detailed:
        check_distortable(examples.images)
    classes = count_classes(model, examples.images.shape[1:], labels.max())
    names = examples.categories
    if names and not categories and len(names) != classes:
        raise ValueError(
            f"The model {model.name!r} has {classes} classes without labels. "
            "Set `model.categories` to match its classes to the data. Received: "
            f"data with the {len(names)} labels {[*names[:20]]}."
        )
    with quiet_tensorflow():
        predicted = model.predict(examples.images, batch_size, verbose)
    [outputs] = keras.tree.flatten(predicted)  # It may be a dict of one array.
    outputs = np.asarray(outputs, np.float64)  # for accurate sums
    if np.isnan(outputs).any():
        raise ValueError(
            "The outputs of the model are NaN for some images. Are its weights finite? "
            f"Received: model={model.name!r}."
        )
    if from_logits:
        log_probabilities = outputs - np.logaddexp.reduce(outputs, -1, keepdims=True)
    else:
        log_probabilities = np.log(np.maximum(outputs, np.finfo("float32").tiny))
    scores = {
        "accuracy": float(np.mean(outputs.argmax(-1) == labels)),
        "loss": float(-np.mean(log_probabilities[np.arange(len(labels)), labels])),
        "images": len(labels),
    }
    if detailed:
        with quiet_tensorflow():
            scores |= measure(model, examples.images, labels, np.exp(log_probabilities))
    return scores
