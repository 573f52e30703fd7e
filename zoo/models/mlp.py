"""Multilayer perceptrons: one with a single hidden layer, one with many."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.errors import check_argument, check_size
from zoo.models.blueprint import Blueprint, new_initializer

NORM_LAYERS = {"batch": layers.BatchNormalization, "layer": layers.LayerNormalization}


def ShallowMLP(
    hidden_units: int = 800,
    *,
    activation: Any = "relu",
    dropout: float = 0.0,
    weights: Any = None,
    include_top: bool = True,
    input_shape: tuple[int, ...] = (28, 28, 1),
    input_tensor: Any = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "shallow_mlp",
) -> keras.Model:
    """Builds a multilayer perceptron with one hidden layer.

    A single layer with enough units can approximate any continuous function, but it
    cannot reuse at one place of the image what it has learned at another.

    Reference:
    - [Simard, Steinkraus and Platt, 2003](https://doi.org/10.1109/ICDAR.2003.1227801):
      800 hidden units, cross-entropy, 1.6 % error on MNIST.

    Args:
        hidden_units: Integer. Units; 0 gives logistic regression. Defaults to 800.
        activation: String or function. Hidden activation. Defaults to `"relu"`.
        dropout: Float. Fraction of the hidden units dropped in training. Defaults to 0.
        weights: Name (`"mnist"`, `"fashion_mnist"`, `"mnist.v1"`), `zoo.Weights`, path
            of a `.weights.h5` or `.keras` file, or `None` (random). Defaults to `None`.
        include_top: Boolean. Include the classifier. If `False`, the output is the
            hidden layer, `(n, hidden_units)`. Defaults to `True`.
        input_shape: Tuple. Shape of an input, of any rank. Defaults to `(28, 28, 1)`.
        input_tensor: Keras tensor. Input of the model, whose layers then have `name` as
            a prefix (`{name}_logits`). Defaults to a new input.
        classes: Integer. Number of classes. The head is untrained if published weights
            have a different number. Defaults to theirs, or 10.
        classifier_activation: String or `None` for logits. Defaults to `"softmax"`.
        include_preprocessing: Boolean. Scale raw pixels to [0, 1]. Defaults to `True`.
        name: String. Defaults to `"shallow_mlp"`.

    Returns:
        A functional `keras.Model` from raw pixels in [0, 255], of any numeric dtype, to
        float32 probabilities of shape `(n, classes)`.

    Raises:
        ValueError: If an argument is out of range, or if the weights are unknown,
            damaged, or do not fit the other arguments.
        TypeError: If `weights` or `input_tensor` has another type.
        FileNotFoundError: If `weights` is a path that does not exist.

    Example:

    >>> zoo.ShallowMLP().count_params()
    636010
    """
    if hidden_units != 0:
        hidden_units = check_size("hidden_units", hidden_units)
    blueprint = Blueprint.of("shallow_mlp", locals())
    inputs, x = blueprint.input()
    x = layers.Flatten(name="flatten")(x)
    if hidden_units:
        initializer = new_initializer(None, activation)
        x = layers.Dense(hidden_units, kernel_initializer=initializer, name="dense1")(x)
        x = layers.Activation(activation, name="activation1")(x)
        if dropout:
            x = layers.Dropout(dropout, name="dropout1")(x)
    return blueprint.model(inputs, x)


def DeepMLP(
    hidden_units: Sequence[int] = (384,) * 6,
    *,
    activation: Any = "relu",
    kernel_initializer: Any = None,
    normalization: str | None = "batch",
    residual: bool = True,
    dropout: float = 0.0,
    weights: Any = None,
    include_top: bool = True,
    input_shape: tuple[int, ...] = (28, 28, 1),
    input_tensor: Any = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "deep_mlp",
) -> keras.Model:
    """Builds a multilayer perceptron with many hidden layers.

    Without normalization and residual connections, the gradient of a sigmoid net
    vanishes: the slope of a sigmoid is at most 1/4, and the first layers hardly learn.

    Reference:
    - [Glorot and Bengio, 2010](https://proceedings.mlr.press/v9/glorot10a.html):
      deep sigmoid nets and their initialization.
    - [He et al., 2015](https://arxiv.org/abs/1502.01852): initialization for ReLU.
    - [Klambauer et al., 2017](https://arxiv.org/abs/1706.02515): SELU.
    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167): batch normalization.
    - [Ba et al., 2016](https://arxiv.org/abs/1607.06450): layer normalization.
    - [He et al., 2016](https://arxiv.org/abs/1512.03385): residual connections.

    Args:
        hidden_units: Sequence of 1 to 100 integers. Defaults to six layers of 384.
        activation: String or function. Hidden activation. Defaults to `"relu"`.
        kernel_initializer: String or Keras initializer. Defaults to `None`, chosen to
            suit the activation: He for ReLU-like ones, LeCun for SELU, else Glorot.
        normalization: `"batch"`, `"layer"` or `None`. Defaults to `"batch"`.
        residual: Boolean. Add the input of each hidden layer to its output, where both
            have the same number of units. Defaults to `True`.
        dropout: Float. Fraction of the hidden units dropped in training. Defaults to 0.
        include_top: Boolean. Include the classifier. If `False`, the output is the last
            hidden layer, `(n, hidden_units[-1])`. Defaults to `True`.
        weights, input_shape, input_tensor, classes, classifier_activation,
            include_preprocessing, name: As in `zoo.ShallowMLP`.

    Returns:
        A functional `keras.Model`. Output and errors as in `zoo.ShallowMLP`.

    Example:

    >>> learning = zoo.DeepMLP()
    >>> vanishing = zoo.DeepMLP(
    ...     (128,) * 10, activation="sigmoid", normalization=None, residual=False
    ... )
    """
    is_list = np.ndim(hidden_units) == 1 and 1 <= len(hidden_units) <= 100
    expected = "a list of the units of 1 to 100 hidden layers, such as [128] * 10"
    check_argument(is_list, "hidden_units", hidden_units, expected)
    hidden_units = tuple(check_size("hidden_units", units) for units in hidden_units)
    is_known = normalization in (None, *NORM_LAYERS)
    known = "None, 'batch' or 'layer'"
    check_argument(is_known, "normalization", normalization, known)
    blueprint = Blueprint.of("deep_mlp", locals())
    inputs, x = blueprint.input()
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(hidden_units, start=1):
        before = x
        initializer = new_initializer(kernel_initializer, activation)
        x = layers.Dense(units, kernel_initializer=initializer, name=f"dense{i}")(x)
        if normalization:
            x = NORM_LAYERS[normalization](name=f"normalization{i}")(x)
        x = layers.Activation(activation, name=f"activation{i}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{i}")(x)
        if residual and i > 1 and before.shape == x.shape:
            x = layers.Add(name=f"add{i}")([before, x])
    return blueprint.model(inputs, x)
