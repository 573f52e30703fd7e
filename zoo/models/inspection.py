"""Inspection of models: feature maps, predicted labels, and operations."""

import contextlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.errors import as_list, check_argument, is_size, suggest
from zoo.models.labels import find_data
from zoo.models.weights import Weights

# Layers that apply their kernels at each pixel or step of their output, or input. The
# convolutions of all dimensions have a common base.
_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_PER_OUTPUT = (layers.Dense, *(layer.__base__ for layer in _CONVOLUTIONS))
_RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN)
_PER_INPUT = (layers.Conv2DTranspose.__base__, *_RECURRENT)
# Layers whose two-axis variables are lookup tables or elementwise factors.
_WITHOUT_KERNEL = (layers.Embedding, layers.LayerNormalization, layers.PReLU)


def features(model: keras.Model, layers: Sequence[str] | None = None) -> keras.Model:
    """Creates a model that returns the outputs of the layers of `model`, by name.

    Args:
        model: Functional or Sequential `keras.Model` that has been built.
        layers: Sequence of strings. Names of layers, each called once. Defaults to all
            but the inputs.

    Returns:
        A `keras.Model` that shares the layers, and so the weights, with `model`. Its
        output is `{layer name: tensor}`. On JAX, `predict` sorts the names.

    Raises:
        ValueError: If `model` is not built, or has no layer with one of the names.

    Example:

    >>> maps = zoo.features(zoo.LeNet5(weights="mnist"), ["conv1", "pool2"])
    >>> maps(np.zeros((1, 28, 28, 1)))["pool2"].shape
    TensorShape([1, 5, 5, 16])
    """
    inputs = _functional(model).input
    kind = keras.layers.InputLayer
    available = [layer.name for layer in model.layers if not isinstance(layer, kind)]
    wanted = available if layers is None else list(layers)
    for name in wanted:
        if name not in available:
            raise ValueError(
                f"The model {model.name!r} has no layer {name!r}. "
                f"{suggest(str(name), available)} Received: layers={layers!r}."
            )
    outputs = layer_outputs(model, wanted)
    return keras.Model(inputs, outputs, name=f"{model.name}_features")


def layer_outputs(model: keras.Model, names: Sequence[str]) -> dict[str, Any]:
    """Returns the outputs of layers by name, as they are called in this model.

    A layer that other models share has an output in each of them.
    """
    found: dict[str, list[Any]] = {name: [] for name in names}
    for nodes in _functional(model)._nodes_by_depth.values():
        for node in nodes:
            found.get(node.operation.name, []).append(node.outputs)
    for name, calls in found.items():
        if len(calls) > 1:
            raise ValueError(
                "A layer that is called several times has no single output. "
                f"Received: layer={name!r} of the model {model.name!r}."
            )
    return {
        name: outputs[0] if len(outputs) == 1 else outputs
        for name, [outputs] in found.items()
    }


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Returns `x` unchanged: the models take raw pixels and scale them in the graph.

    Exists for code written for `keras.applications`.
    """
    return x


def decode_predictions(
    probabilities: Any, labels: Any, top: int = 5
) -> list[list[tuple[str, float]]]:
    """Returns the most probable labels of each image.

    Args:
        probabilities: Array of shape `(n, classes)`. The outputs of a model.
        labels: Keras model, `zoo.Weights`, or sequence or array of strings. The model
            or its weights, which know their labels, or the label of each class.
        top: Integer. Number of labels per image, at least 1. Defaults to 5.

    Returns:
        For each image, `[(label, probability), ...]`, the most probable first.

    Raises:
        ValueError: If there is not one column per label, a probability is NaN, `top` is
            not positive, or the model has no labels.

    Example:

    >>> weights = zoo.get_weights("lenet5", "fashion_mnist")
    >>> zoo.decode_predictions(np.eye(10)[:1], weights, top=1)
    [[('T-shirt/top', 1.0)]]
    """
    if isinstance(labels, keras.Model):
        labels, _ = find_data(labels)
    elif isinstance(labels, Weights):
        labels = labels.categories
    names = as_list(labels)
    expected = "a model with `categories`, `zoo.Weights`, or one label per class"
    check_argument(names, "labels", labels, expected)
    check_argument(is_size(top), "top", top, "a positive integer")
    if keras.ops.is_tensor(probabilities):
        probabilities = keras.ops.convert_to_numpy(probabilities)
    classes, shape = len(names), ()
    with contextlib.suppress(TypeError, ValueError):
        probabilities = np.asarray(probabilities, "float64")
        shape = probabilities.shape
    if len(shape) != 2 or shape[1] != classes:
        raise ValueError(
            f"`probabilities` must have shape (n, {classes}) for {classes} labels. "
            f"Received: probabilities of type {type(probabilities).__name__} and "
            f"shape={shape}."
        )
    if np.isnan(probabilities).any():
        raise ValueError(
            "`probabilities` must not contain NaN. Check the weights and the images. "
            f"Received: probabilities={str(probabilities)[:200]}."
        )
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    rows = zip(probabilities, best, strict=True)
    return [[(names[i], float(row[i])) for i in indices] for row, indices in rows]


def count_flops(model: keras.Model) -> int:
    """Counts the floating point operations of one forward pass on one input.

    Counts the kernels of dense, convolutional and recurrent layers, a multiply-add as
    two operations. The rest (biases, activations, pooling...) is a few percent at most.

    Args:
        model: Functional or Sequential `keras.Model` with a fixed input size, built.

    Returns:
        The number of operations.

    Raises:
        ValueError: If a size is `None`, or if any other layer has a kernel (a variable
            with two or more axes). The message names the layer.

    Example:

    >>> zoo.count_flops(zoo.LeNet5())
    833040
    """
    # A layer has one node per call.
    return sum(
        _count(node.operation, node.input_tensors[0].shape, node.outputs[0].shape)
        for nodes in _functional(model)._nodes_by_depth.values()
        for node in nodes
        if getattr(node.operation, "weights", None)
    )


def _count(layer: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> int:
    """Counts the operations of a layer from the shapes of its input and output."""
    # The bias of a GRU has two axes.
    kernels = [v.shape for v in layer.weights if len(v.shape) > 1 and v.name != "bias"]
    if not kernels or isinstance(layer, _WITHOUT_KERNEL):
        return 0
    if isinstance(layer, keras.Model):
        return count_flops(layer)
    if isinstance(layer, layers.Bidirectional):
        return 2 * _count(layer.forward_layer, inputs, outputs)
    if isinstance(layer, layers.TimeDistributed) and outputs[1]:
        step = (shape[:1] + shape[2:] for shape in (inputs, outputs))
        return int(outputs[1]) * _count(layer.layer, *step)
    shape = inputs if isinstance(layer, _PER_INPUT) else outputs
    if not isinstance(layer, _PER_INPUT + _PER_OUTPUT) or None in shape[1:]:
        raise ValueError(
            "Operations are counted for dense, convolutional and recurrent layers of "
            "Keras, with an input of fixed size. Received: "
            f"layer={layer.name!r} ({type(layer).__name__}) of shape {shape}."
        )
    is_first = getattr(layer, "data_format", None) == "channels_first"
    places = int(math.prod(shape[1:]) // shape[1 if is_first else -1])
    return 2 * places * sum(int(math.prod(kernel)) for kernel in kernels)


def count_classes(
    model: keras.Model, image_shape: tuple[Any, ...], largest: int = 0
) -> int:
    """Returns the number of classes, if images and labels up to `largest` fit."""
    shape = getattr(model, "output_shape", None)
    if shape is None:  # of a subclass of `keras.Model`
        outputs = model.compute_output_spec(keras.KerasTensor((None, *image_shape)))
        shapes = [x.shape for x in keras.tree.flatten(outputs)]
        shape = shapes[0] if len(shapes) == 1 else shapes
    elif not _fits(image_shape, model.input_shape):
        raise ValueError(
            f"The model {model.name!r} takes images of shape {model.input_shape[1:]}. "
            f"Received: images of shape {image_shape}."
        )
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(
            "A classifier must return one array of shape (n, classes). Received: "
            f"model={model.name!r} with outputs of shape {shape}."
        )
    if shape[-1] < 2:
        raise ValueError(
            "A classifier needs at least two classes, with an output for each. "
            f"Received: a model with {shape[-1]} output, labels up to {largest}."
        )
    if shape[-1] <= largest:
        raise ValueError(
            f"The model {model.name!r} has {shape[-1]} classes. Received: data with "
            f"the label {largest}."
        )
    return int(shape[-1])


def _fits(shape: tuple[Any, ...], expected: Any) -> bool:
    """Returns `False` if images of a shape do not fit a model of one input."""
    if not isinstance(expected, tuple):  # of several inputs
        return True
    # Keras adds or removes a last axis of 1.
    sizes = itertools.zip_longest(expected[1:], shape, fillvalue=1)
    return all(size in (None, given) for size, given in sizes)


def takes_raw_pixels(model: keras.Model) -> bool:
    """Returns `True` if a model scales its pixels itself."""
    scaling = [x for x in model._flatten_layers() if isinstance(x, layers.Rescaling)]
    return any(0.001 < np.max(layer.scale) < 0.1 for layer in scaling)


def returns_logits(model: keras.Model, given: bool | None = None) -> bool:
    """Returns `True` if a classifier returns logits.

    `given` is returned if the last operations do not show this.
    """
    try:
        return not ends_in_softmax(model)
    except ValueError:
        if given is None:
            raise
        return given


def ends_in_softmax(model: keras.Model) -> bool:
    """Returns `True` if the outputs are probabilities, `False` if logits.

    Evaluates the operations that follow the last variables, on random numbers. Raises a
    `ValueError` if they show neither.
    """
    output = _functional(model).outputs[0]
    last = output._keras_history.operation
    activation = getattr(last, "activation", None)
    if activation is keras.activations.softmax and not isinstance(last, layers.RNN):
        return True

    def run(scale: float) -> Any:
        value = _evaluate(output, scale, np.random.default_rng(0), {})
        return keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))

    once, back, never = run(1), run(-2), run(0)
    if np.all(once >= 0) and np.allclose(once.sum(-1), 1, atol=0.01):
        return True
    # An affine function of logits returns logits. The tolerance is that of bfloat16.
    if np.abs(back + 2 * once - 3 * never).max() <= 0.03 * np.abs(back).max():
        return False
    raise ValueError(
        "The model must end in a softmax, for probabilities, or in a layer with linear "
        "activation, for logits. For other models, pass `from_logits`. "
        f"Received: layer={last.name!r} ({type(last).__name__}), activation "
        f"{getattr(activation, '__name__', activation)}."
    )


def _evaluate(tensor: Any, scale: float, generator: Any, values: dict[int, Any]) -> Any:
    """Evaluates a tensor, with random numbers for the outputs of the last layers."""
    operation, node, index = tensor._keras_history
    node = operation._inbound_nodes[node]
    is_last = getattr(operation, "weights", None) or not node.input_tensors
    is_graph = isinstance(operation, keras.Model) and hasattr(operation, "outputs")
    if id(tensor) in values:
        pass
    elif is_last and is_graph:
        output = _functional(operation).outputs[index]
        values[id(tensor)] = _evaluate(output, scale, generator, {})
    elif is_last:
        x = scale * generator.normal(0, 2, [size or 16 for size in tensor.shape])
        activation = getattr(operation, "activation", None)
        if not activation or isinstance(operation, layers.RNN):
            # Random numbers reveal a softmax that follows. NaN fails the check.
            activation = keras.activations.linear
            x = x if scale == 1 else x * np.nan
        values[id(tensor)] = activation(keras.ops.convert_to_tensor(x, "float32"))
    else:
        for x in node.input_tensors:
            _evaluate(x, scale, generator, values)
        args, kwargs = node.arguments.fill_in(values)
        values[id(tensor)] = keras.tree.flatten(operation(*args, **kwargs))[index]
    return values[id(tensor)]


def _functional(model: Any) -> Any:
    """Returns the graph of a model; a Sequential model holds one."""
    graph = getattr(model, "_functional", model)
    if not getattr(graph, "outputs", None):
        raise ValueError(
            "`model` must be a functional model, or a Sequential model that has been "
            f"built. Received: model={getattr(model, 'name', model)!r} "
            f"({type(model).__name__})."
        )
    return graph
