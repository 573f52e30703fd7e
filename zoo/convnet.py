"""Convolutional networks: LeNet-5, and a modern net in its style."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from zoo.building import Blueprint, check_size, default_initializer

POOLING = {"average": layers.AveragePooling2D, "max": layers.MaxPooling2D}


def LeNet5(
    *,
    activation: Any = None,
    pooling: str | None = None,
    weights: Any = None,
    include_top: bool = True,
    input_shape: tuple[int | None, ...] = (28, 28, 1),
    input_tensor: Any = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "lenet5",
) -> keras.Model:
    """LeNet-5: two convolutions with pooling in front of an MLP.

    The 5x5 receptive fields with shared weights find the same feature wherever it
    stands, pooling makes its exact place matter less, and the MLP of 120 and 84 units
    classifies what they found. The first convolution pads 28x28 images to the 32x32 of
    the paper.

    Reference:
    - [LeCun, Bottou, Bengio and Haffner, 1998](https://doi.org/10.1109/5.726791):
      0.95 % error on MNIST, 0.8 % with distorted images.

    Args:
        activation: activation of the hidden layers, by Keras' name or a function.
            Defaults to `"tanh"`.
        pooling: `"average"` or `"max"`. Defaults to `"average"`.
        weights: `None` (random initialisation), the name of published weights
            (`"mnist"`, `"fashion_mnist"`, or pinned, `"mnist.v1"`), a `zoo.Weights`, or
            the path of a `.weights.h5` or `.keras` file.
        include_top: whether to include the MLP. If `False`, the model is the feature
            extractor and returns the last feature maps, float `[n, 5, 5, 16]` for
            28x28 images; height and width may then be `None`.
        input_shape: shape of one image in Keras' image data format, at least 12x12
            pixels; the default means 28x28 grey images in either format.
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

    >>> zoo.LeNet5().count_params()
    61706
    """
    blueprint = Blueprint(
        "lenet5",
        weights=weights,
        include_top=include_top,
        input_shape=input_shape,
        input_tensor=input_tensor,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name,
    )
    activation = blueprint.argument("activation", activation, "tanh")
    pooling = blueprint.argument("pooling", pooling, "average")
    if pooling not in POOLING:
        raise ValueError(
            f"`pooling` must be 'average' or 'max'. Received: pooling={pooling!r}."
        )
    pool = POOLING[pooling]

    inputs, x = blueprint.input(smallest=12)
    x = layers.Conv2D(6, 5, padding="same", activation=activation, name="conv1")(x)
    x = pool(2, name="pool1")(x)
    x = layers.Conv2D(16, 5, activation=activation, name="conv2")(x)
    x = pool(2, name="pool2")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(120, activation=activation, name="dense1")(x)
        x = layers.Dense(84, activation=activation, name="dense2")(x)
    return blueprint.model(inputs, x)


def ConvNet(
    *,
    filters: Sequence[int] | None = None,
    dense_units: int | None = None,
    activation: Any = None,
    dropout: float | None = None,
    weights: Any = None,
    include_top: bool = True,
    input_shape: tuple[int | None, ...] = (28, 28, 1),
    input_tensor: Any = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "convnet",
) -> keras.Model:
    """A modern net in the style of LeNet, under 500,000 parameters.

    It adds what LeNet lacked: a third convolution, more feature maps, batch
    normalisation, ReLU, max pooling and dropout. Pooling comes before the
    normalisation, which then has a quarter of the work.

    Reference:
    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167): batch normalisation.
    - [Srivastava et al., 2014](https://jmlr.org/papers/v15/srivastava14a.html):
      dropout.

    Args:
        filters: feature maps of the three convolutions. Defaults to `(32, 64, 128)`.
        dense_units: units of the hidden layer behind the convolutions. Defaults to 128.
        activation: activation of the hidden layers, by Keras' name or a function.
            Defaults to `"relu"`.
        dropout: fraction of the feature maps and of the hidden units dropped in
            training. Defaults to 0.3.
        weights: `None` (random initialisation), the name of published weights
            (`"mnist"`, `"fashion_mnist"`, or pinned, `"mnist.v1"`), a `zoo.Weights`, or
            the path of a `.weights.h5` or `.keras` file.
        include_top: whether to include the MLP. If `False`, the model is the feature
            extractor and returns the last feature maps, float `[n, 3, 3, 128]` for
            28x28 images; height and width may then be `None`.
        input_shape: shape of one image in Keras' image data format, at least 8x8
            pixels; the default means 28x28 grey images in either format.
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

    >>> zoo.ConvNet(include_top=False).output.shape
    (None, 3, 3, 128)
    """
    blueprint = Blueprint(
        "convnet",
        weights=weights,
        include_top=include_top,
        input_shape=input_shape,
        input_tensor=input_tensor,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name,
    )
    filters = blueprint.argument("filters", filters, (32, 64, 128))
    dense_units = blueprint.argument("dense_units", dense_units, 128)
    activation = blueprint.argument("activation", activation, "relu")
    dropout = blueprint.argument("dropout", dropout, 0.3)
    if not isinstance(filters, Sequence) or len(filters) != 3:
        raise ValueError(
            "`filters` must list the feature maps of the three convolutions, such as "
            f"(32, 64, 128). Received: filters={filters!r}."
        )
    dense_units = check_size("dense_units", dense_units)
    # Batch normalisation has a bias of its own.
    options = {"use_bias": False, "kernel_initializer": default_initializer(activation)}

    inputs, x = blueprint.input(smallest=8)
    for i, (maps, size) in enumerate(zip(filters, (5, 3, 3), strict=True), start=1):
        maps = check_size("filters", maps)
        x = layers.Conv2D(maps, size, padding="same", name=f"conv{i}", **options)(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
        x = layers.BatchNormalization(blueprint.channel_axis, name=f"normalization{i}")(
            x
        )
        x = layers.Activation(activation, name=f"activation{i}")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dropout(dropout, name="dropout3")(x)
        x = layers.Dense(dense_units, name="dense4", **options)(x)
        x = layers.BatchNormalization(name="normalization4")(x)
        x = layers.Activation(activation, name="activation4")(x)
        x = layers.Dropout(dropout, name="dropout4")(x)
    return blueprint.model(inputs, x)
