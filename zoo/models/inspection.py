"""Inspection of models: feature maps, predicted labels, and operations."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.errors import suggest
from zoo.models.labels import find_data
from zoo.models.weights import Weights

# Layers that return logits or probabilities if their inputs are.
_PASSING_LAYERS = (layers.Flatten, layers.GlobalAveragePooling2D, layers.Reshape)


def features(model: keras.Model, layers: Sequence[str] | None = None) -> keras.Model:
    """Creates a model that returns the outputs of the layers of `model`, by name.

    Args:
        model: Functional or Sequential `keras.Model` that has been built.
        layers: Sequence of strings. Names of layers. Defaults to all but the inputs.

    Returns:
        A `keras.Model` that shares the layers, and so the weights, with `model`. Its
        output is `{layer name: tensor}`. On JAX, `predict` sorts the names.

    Raises:
        ValueError: If `model` has no layer with one of the names.

    Example:

    >>> maps = zoo.features(zoo.LeNet5(weights="mnist"), ["conv1", "pool2"])
    >>> maps(np.zeros((1, 28, 28, 1)))["pool2"].shape
    TensorShape([1, 5, 5, 16])
    """
    kind = keras.layers.InputLayer
    available = [layer.name for layer in model.layers if not isinstance(layer, kind)]
    wanted = available if layers is None else list(layers)
    for name in wanted:
        if name not in available:
            raise ValueError(
                f"The model {model.name!r} has no layer {name!r}. "
                f"{suggest(str(name), available)} Received: layers={layers!r}."
            )
    outputs = {name: model.get_layer(name).output for name in wanted}
    return keras.Model(model.inputs, outputs, name=f"{model.name}_features")


def decode_predictions(
    probabilities: Any, labels: Any, top: int = 5
) -> list[list[tuple[str, float]]]:
    """Returns the most probable labels of each image.

    Args:
        probabilities: Array of shape `(n, classes)`. The outputs of a model.
        labels: Keras model, `zoo.Weights`, or sequence of strings. The model or its
            weights, which know their labels, or the label of each class.
        top: Integer. Number of labels per image. Defaults to 5.

    Returns:
        For each image, `[(label, probability), ...]`, the most probable first.

    Raises:
        ValueError: If `probabilities` does not have one column per label, or the model
            has no labels.

    Example:

    >>> weights = zoo.get_weights("lenet5", "fashion_mnist")
    >>> zoo.decode_predictions(np.eye(10)[:1], weights, top=1)
    [[('T-shirt/top', 1.0)]]
    """
    if isinstance(labels, keras.Model):
        labels, _ = find_data(labels)
    elif isinstance(labels, Weights):
        labels = labels.categories
    if labels is None or isinstance(labels, str):
        raise ValueError(
            "`labels` must be a model with `categories`, `zoo.Weights`, or one label "
            f"per class. Received: labels={labels!r}."
        )
    probabilities, classes = np.asarray(probabilities), len(labels)
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise ValueError(
            f"`probabilities` must have shape (n, {classes}) for {classes} labels. "
            f"Received: probabilities of shape={probabilities.shape}."
        )
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [(labels[i], float(row[i])) for i in indices]
        for row, indices in zip(probabilities, best, strict=True)
    ]


def count_flops(model: keras.Model) -> int:
    """Counts the floating point operations of one forward pass on one input.

    Counts `Dense` and `Conv2D` layers, a multiply-add as two operations. The rest
    (biases, activations, pooling, normalization) adds a few percent at most.

    Args:
        model: Functional `keras.Model` with a fixed input size.

    Returns:
        The number of operations.

    Example:

    >>> zoo.count_flops(zoo.LeNet5())
    833040
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Dense | layers.Conv2D):
            places = math.prod(layer.output.shape[1:]) // layer.kernel.shape[-1]
            total += 2 * math.prod(layer.kernel.shape) * places
    return total


def ends_in_softmax(model: keras.Model) -> bool:
    """Returns `True` if a classifier returns probabilities, `False` if logits.

    Args:
        model: Functional or Sequential `keras.Model` with one output, built.

    Raises:
        ValueError: If the last layers do not show which of the two it returns.
    """
    # Subclassed models, and Sequential models that are not built, have no outputs.
    if not getattr(model, "outputs", None):
        raise ValueError(
            "Only a functional or Sequential model that has been built shows whether "
            "it returns probabilities or logits. Received: "
            f"model={model.name!r} ({type(model).__name__})."
        )
    return _is_softmax(model.outputs[0])


def _is_softmax(output: Any) -> bool:
    """Follows a symbolic output back to the layer that decides."""
    layer = output._keras_history.operation
    activation = getattr(layer, "activation", None)
    linear = activation is keras.activations.linear
    if activation is keras.activations.softmax or isinstance(layer, layers.Softmax):
        return True
    if linear and not isinstance(layer, layers.Activation):
        return False
    if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
        return ends_in_softmax(layer)
    # A linear `Activation` may only cast probabilities to float32.
    if linear or isinstance(layer, _PASSING_LAYERS):
        return _is_softmax(layer.input)
    raise ValueError(
        "The model must end in a softmax, for probabilities, or in a layer with linear "
        f"activation, for logits. Received: layer={layer.name!r} "
        f"({type(layer).__name__}), activation "
        f"{getattr(activation, '__name__', activation)}."
    )
