"""Multilayer perceptrons: one hidden layer, and many."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from zoo.building import Blueprint, check_size, default_initializer


def ShallowMLP(
    hidden_units: int | None = None,
    *,
    activation: Any = None,
    dropout: float | None = None,
    weights: Any = None,
    include_top: bool = True,
    input_shape: tuple[int, ...] = (28, 28, 1),
    input_tensor: Any = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "shallow_mlp",
) -> keras.Model:
    """A multilayer perceptron with one hidden layer.

    One layer of enough units can approximate any function; what it cannot do is reuse
    what it has learnt at one place of the image at another.

    Reference:
    - [Simard, Steinkraus and Platt, 2003](https://doi.org/10.1109/ICDAR.2003.1227801):
      800 hidden units, cross-entropy, 1.6 % error on MNIST.

    Args:
        hidden_units: number of hidden units; 0 gives logistic regression. Defaults to
            800.
        activation: activation of the hidden layer, by Keras' name or a function.
            Defaults to `"sigmoid"`.
        dropout: fraction of the hidden units dropped in training. Defaults to 0.
        weights: `None` (random initialisation), the name of published weights
            (`"mnist"`, `"fashion_mnist"`, or pinned, `"mnist.v1"`), a `zoo.Weights`, or
            the path of a `.weights.h5` or `.keras` file.
        include_top: whether to include the classifier. If `False`, the model returns
            the hidden layer, float `[n, hidden_units]`.
        input_shape: shape of one input of any rank, e.g. `(784,)`.
        input_tensor: Keras tensor to build the model on, instead of a new input.
        classes: number of classes; if it differs from that of the weights, the head is
            fresh. Defaults to the weights', or 10.
        classifier_activation: `"softmax"`, or `None` for logits.
        include_preprocessing: whether the model scales raw pixels in [0, 255] to
            [0, 1] itself.
        name: name of the model.

    Returns:
        A functional `keras.Model` from raw pixels of any numeric dtype to float32
        probabilities, `[n, classes]`. Without weights, arguments left at `None` take
        the defaults above; with weights, those of the card.

    Raises:
        ValueError: an argument is out of range or differs from the weights' card, or
            the weights are unknown, damaged or do not fit.
        TypeError: `weights` or `input_tensor` is of a type not listed.
        FileNotFoundError: `weights` is the path of no file.

    Example:

    >>> model = zoo.ShallowMLP()
    >>> model.count_params()
    636010
    """
    blueprint = Blueprint(
        "shallow_mlp",
        weights=weights,
        include_top=include_top,
        input_shape=input_shape,
        input_tensor=input_tensor,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name,
    )
    hidden_units = blueprint.argument("hidden_units", hidden_units, 800)
    activation = blueprint.argument("activation", activation, "sigmoid")
    dropout = blueprint.argument("dropout", dropout, 0)

    inputs, x = blueprint.input()
    x = layers.Flatten(name="flatten")(x)
    if hidden_units != 0:
        hidden_units = check_size("hidden_units", hidden_units)
        initializer = default_initializer(activation)
        x = layers.Dense(hidden_units, kernel_initializer=initializer, name="dense1")(x)
        x = layers.Activation(activation, name="activation1")(x)
        if dropout:
            x = layers.Dropout(dropout, name="dropout1")(x)
    return blueprint.model(inputs, x)


def DeepMLP(
    hidden_units: Sequence[int] | None = None,
    *,
    activation: Any = None,
    kernel_initializer: Any = None,
    normalization: str | None = None,
    residual: bool | None = None,
    dropout: float | None = None,
    weights: Any = None,
    include_top: bool = True,
    input_shape: tuple[int, ...] = (28, 28, 1),
    input_tensor: Any = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "deep_mlp",
) -> keras.Model:
    """A multilayer perceptron with many hidden layers.

    At its defaults it has the classical fault: every sigmoid layer multiplies the
    gradient by at most 1/4, so that it vanishes on its way to the first layers. The
    other arguments are the classical tricks that bring it back.

    Reference:
    - [Glorot and Bengio, 2010](https://proceedings.mlr.press/v9/glorot10a.html): why
      deep sigmoid nets do not train, and an initialisation that helps.
    - [He et al., 2015](https://arxiv.org/abs/1502.01852): initialisation for ReLU.
    - [Klambauer et al., 2017](https://arxiv.org/abs/1706.02515): SELU.
    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167) and
      [Ba et al., 2016](https://arxiv.org/abs/1607.06450): batch and layer
      normalisation.
    - [He et al., 2016](https://arxiv.org/abs/1512.03385): residual paths.

    Args:
        hidden_units: units of each hidden layer, 1 to 100 of them. Defaults to ten
            layers of 128.
        activation: activation of the hidden layers, by Keras' name or a function.
            Defaults to `"sigmoid"`.
        kernel_initializer: initialiser of the hidden layers, by Keras' name or an
            object. Defaults to what suits the activation: He for ReLU and its kin,
            LeCun for SELU, Glorot for the rest.
        normalization: `"batch"` or `"layer"`, before each activation. Defaults to
            none.
        residual: whether to add its input to the output of each hidden layer that has
            as many units as the one before. Defaults to `False`.
        dropout: fraction of each hidden layer's units dropped in training. Defaults to
            0.
        weights: `None` (random initialisation), the name of published weights
            (`"mnist"`, `"fashion_mnist"`, or pinned, `"mnist.v1"`), a `zoo.Weights`, or
            the path of a `.weights.h5` or `.keras` file.
        include_top: whether to include the classifier. If `False`, the model returns
            the last hidden layer, float `[n, hidden_units[-1]]`.
        input_shape: shape of one input of any rank, e.g. `(784,)`.
        input_tensor: Keras tensor to build the model on, instead of a new input.
        classes: number of classes; if it differs from that of the weights, the head is
            fresh. Defaults to the weights', or 10.
        classifier_activation: `"softmax"`, or `None` for logits.
        include_preprocessing: whether the model scales raw pixels in [0, 255] to
            [0, 1] itself.
        name: name of the model.

    Returns:
        A functional `keras.Model` from raw pixels of any numeric dtype to float32
        probabilities, `[n, classes]`. Without weights, arguments left at `None` take
        the defaults above; with weights, those of the card.

    Raises:
        ValueError: an argument is out of range or differs from the weights' card, or
            the weights are unknown, damaged or do not fit.
        TypeError: `weights` or `input_tensor` is of a type not listed.
        FileNotFoundError: `weights` is the path of no file.

    Example:

    >>> vanishing = zoo.DeepMLP()
    >>> learning = zoo.DeepMLP(activation="relu", normalization="batch", residual=True)
    >>> [layer.name for layer in learning.layers][3:7]
    ['dense1', 'normalization1', 'activation1', 'dense2']
    """
    blueprint = Blueprint(
        "deep_mlp",
        weights=weights,
        include_top=include_top,
        input_shape=input_shape,
        input_tensor=input_tensor,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name,
    )
    hidden_units = blueprint.argument("hidden_units", hidden_units, (128,) * 10)
    activation = blueprint.argument("activation", activation, "sigmoid")
    kernel_initializer = blueprint.argument(
        "kernel_initializer", kernel_initializer, default_initializer(activation)
    )
    normalization = blueprint.argument("normalization", normalization, None)
    residual = blueprint.argument("residual", residual, False)
    dropout = blueprint.argument("dropout", dropout, 0)
    if not isinstance(hidden_units, Sequence) or not 1 <= len(hidden_units) <= 100:
        raise ValueError(
            "`hidden_units` must list the units of 1 to 100 hidden layers, such as "
            f"[128] * 10. Received: hidden_units={hidden_units!r}."
        )
    if normalization not in (None, "batch", "layer"):
        raise ValueError(
            "`normalization` must be None, 'batch' or 'layer'. Received: "
            f"normalization={normalization!r}."
        )

    inputs, x = blueprint.input()
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(hidden_units, start=1):
        before = x
        x = layers.Dense(
            check_size("hidden_units", units),
            kernel_initializer=kernel_initializer,
            name=f"dense{i}",
        )(x)
        if normalization == "batch":
            x = layers.BatchNormalization(name=f"normalization{i}")(x)
        elif normalization == "layer":
            x = layers.LayerNormalization(name=f"normalization{i}")(x)
        x = layers.Activation(activation, name=f"activation{i}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{i}")(x)
        if residual and i > 1 and before.shape == x.shape:
            x = layers.Add(name=f"add{i}")([before, x])
    return blueprint.model(inputs, x)
