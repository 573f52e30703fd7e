"""What a model computes and costs: feature maps, labels, operations."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.weights import Weights

# Layers whose outputs are logits or probabilities as their inputs are.
_PASSING_LAYERS = (
    layers.Flatten,
    layers.GlobalAveragePooling2D,
    layers.Reshape,
)


def features(model: keras.Model, layers: Sequence[str] | None = None) -> keras.Model:
    """A model that returns the outputs of the layers of `model`, by name.

    It shares the layers, and so the weights, with `model`.

    Args:
        model: a functional or Sequential model that has been built.
        layers: names of the layers wanted. Defaults to all but the inputs.

    Returns:
        A `keras.Model` with the inputs of `model` and a dict `{layer name: tensor}` as
        its output, in the order of the layers (from `predict` on the JAX backend, in
        alphabetical order).

    Raises:
        ValueError: `model` has no layer of a name in `layers`.

    Example:

    >>> maps = zoo.features(zoo.LeNet5(weights="mnist"), ["conv1", "pool2"])
    >>> maps(np.zeros((1, 28, 28, 1)))["pool2"].shape
    TensorShape([1, 5, 5, 16])
    """
    available = [
        layer.name
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    wanted = available if layers is None else list(layers)
    unknown = [name for name in wanted if name not in available]
    if unknown:
        raise ValueError(
            f"{model.name!r} has no layers {unknown}. Available: {available}."
        )
    outputs = {name: model.get_layer(name).output for name in wanted}
    return keras.Model(model.inputs, outputs, name=f"{model.name}_features")


def decode_predictions(
    probabilities: Any, weights: Weights, top: int = 3
) -> list[list[tuple[str, float]]]:
    """The most probable labels of each image.

    Args:
        probabilities: `[n, classes]`, the outputs of a model.
        weights: the `Weights` that the model was built with, whose categories name the
            classes.
        top: number of labels per image.

    Returns:
        For each image `[(label, probability), ...]`, the most probable first.

    Raises:
        ValueError: `probabilities` does not have a column for each category.

    Example:

    >>> weights = zoo.get_weights("lenet5", "fashion_mnist")
    >>> zoo.decode_predictions(np.eye(10)[:1], weights, top=1)
    [[('T-shirt/top', 1.0)]]
    """
    probabilities = np.asarray(probabilities)
    classes = len(weights.categories)
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise ValueError(
            f"`probabilities` must have shape [n, {classes}] for {weights.id!r}. "
            f"Received: shape {list(probabilities.shape)}."
        )
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [(weights.categories[i], float(row[i])) for i in indices]
        for row, indices in zip(probabilities, best, strict=True)
    ]


def count_flops(model: keras.Model) -> int:
    """Floating point operations of one forward pass on one input.

    Counts the dense and convolution layers, a multiply-add as two operations; the rest
    (biases, activations, pooling, normalisation) adds a few percent at most.

    Args:
        model: a functional model that has been built.

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
    """Whether a classifier returns softmax probabilities; otherwise it returns logits.

    Args:
        model: a functional or Sequential model that has been built, with one output.

    Raises:
        ValueError: the model does not tell.
    """
    # Subclassed models, and Sequential models that are not built, have no outputs.
    if not getattr(model, "outputs", None):
        raise ValueError(
            "Only a functional or Sequential model that has been built tells whether "
            "it returns probabilities or logits. Received: "
            f"{model.name!r} ({type(model).__name__})"
        )
    return _is_softmax(model.outputs[0])


def _is_softmax(output: Any) -> bool:
    """Follows a symbolic output back to the layer that tells."""
    layer = output._keras_history.operation
    activation = getattr(layer, "activation", None)
    linear = activation is keras.activations.linear
    if activation is keras.activations.softmax:
        return True
    if isinstance(layer, layers.Softmax):
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
        f"activation, for logits. Received: layer {layer.name!r} "
        f"({type(layer).__name__}), activation "
        f"{getattr(activation, '__name__', activation)}"
    )
