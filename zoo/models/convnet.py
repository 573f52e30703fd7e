"""Convolutional networks: LeNet-5, and a modern net in its style."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.errors import check_argument, check_size
from zoo.models.blueprint import Blueprint, new_initializer

POOLING = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}


def LeNet5(
    *,
    activation: Any = "relu",
    pooling_layer: str = "max",
    weights: Any = None,
    include_top: bool = True,
    input_shape: tuple[int | None, ...] = (28, 28, 1),
    input_tensor: Any = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "lenet5",
) -> keras.Model:
    """Builds LeNet-5: two convolutions with pooling, followed by an MLP.

    The 5x5 convolutions share their weights and so find a feature anywhere in the
    image, pooling makes its exact position matter less, and the MLP of 120 and 84 units
    classifies the result. The first convolution pads 28x28 images to 32x32. With
    `activation="tanh", pooling_layer="average"` it is closer to the paper, which
    `zoo.LeNet1998` follows in every layer.

    Reference:
    - [LeCun, Bottou, Bengio and Haffner, 1998](https://doi.org/10.1109/5.726791):
      0.95 % error on MNIST, 0.8 % with distorted images.

    Args:
        activation: String or function. Hidden activation. Defaults to `"relu"`.
        pooling_layer: `"max"` or `"average"`, for `pool1` and `pool2`. Defaults to
            `"max"`.
        include_top: Boolean. Include the MLP. If `False`, the output is the feature
            maps, `(n, 5, 5, 16)` for 28x28 images, and height and width may be `None`.
            Defaults to `True`.
        input_shape: Tuple. Shape of an image in Keras' image data format, at least
            12x12 pixels. Defaults to 28x28 gray images in either format.
        pooling: `"avg"`, `"max"` or `None`. With `include_top=False`, global pooling of
            the last feature maps to `(n, channels)`. Defaults to `None`.
        weights, input_tensor, classes, classifier_activation, include_preprocessing,
            name: As in `zoo.ShallowMLP`.

    Returns:
        A functional `keras.Model`. Output and errors as in `zoo.ShallowMLP`.

    Example:

    >>> zoo.LeNet5().count_params()
    61706
    """
    expected = "'max' or 'average'; the last feature maps are pooled by `pooling`"
    is_known = pooling_layer in ("max", "average")
    check_argument(is_known, "pooling_layer", pooling_layer, expected)
    _check_pooling(pooling, include_top)
    blueprint = Blueprint.of("lenet5", locals())
    pool = layers.MaxPooling2D if pooling_layer == "max" else layers.AveragePooling2D

    inputs, x = blueprint.input(smallest=12)
    x = layers.Conv2D(6, 5, padding="same", activation=activation, name="conv1")(x)
    x = pool(2, name="pool1")(x)
    x = layers.Conv2D(16, 5, activation=activation, name="conv2")(x)
    x = pool(2, name="pool2")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(120, activation=activation, name="dense1")(x)
        x = layers.Dense(84, activation=activation, name="dense2")(x)
    elif pooling:
        x = POOLING[pooling](name=f"{pooling}_pool")(x)
    return blueprint.model(inputs, x, top=("dense1", "dense2"))


def ConvNet(
    *,
    filters: Sequence[int] = (32, 64, 64, 128, 128),
    dense_units: int = 128,
    activation: Any = "relu",
    dropout: float = 0.3,
    weights: Any = None,
    include_top: bool = True,
    input_shape: tuple[int | None, ...] = (28, 28, 1),
    input_tensor: Any = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "convnet",
) -> keras.Model:
    """Builds a modern net in the style of LeNet, with under 500,000 parameters.

    Compared with LeNet-5, it has five convolutions, more feature maps, batch
    normalization and dropout. The first convolution has kernels of 5x5, the others of
    3x3. Pooling follows the first, third and fifth, and precedes the normalization,
    which then has a quarter of the work.

    Reference:
    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167): batch normalization.
    - [Srivastava et al., 2014](https://jmlr.org/papers/v15/srivastava14a): dropout.

    Args:
        filters: Five integers. Feature maps of each convolution. Defaults to
            `(32, 64, 64, 128, 128)`.
        dense_units: Integer. Units of the hidden dense layer. Defaults to 128.
        activation: String or function. Hidden activation. Defaults to `"relu"`.
        dropout: Float. Fraction of the dense layers' inputs dropped. Defaults to 0.3.
        include_top, input_shape, pooling: As in `zoo.LeNet5`, with images of at least
            8x8 pixels, and feature maps `(n, 3, 3, 128)` for 28x28 images.
        weights, input_tensor, classes, classifier_activation, include_preprocessing,
            name: As in `zoo.ShallowMLP`.

    Returns:
        A functional `keras.Model`. Output and errors as in `zoo.ShallowMLP`.

    Example:

    >>> zoo.ConvNet(include_top=False, pooling="avg").output.shape
    (None, 128)
    """
    is_list = np.ndim(filters) == 1 and len(filters) == 5
    expected = "the feature maps of five convolutions, such as (32, 64, 64, 128, 128)"
    check_argument(is_list, "filters", filters, expected)
    filters = tuple(check_size("filters", maps) for maps in filters)
    dense_units = check_size("dense_units", dense_units)
    _check_pooling(pooling, include_top)
    blueprint = Blueprint.of("convnet", locals())
    # Batch normalization has its own bias.
    initializer = new_initializer(None, activation)
    options = {"use_bias": False, "kernel_initializer": initializer}
    axis = 1 if keras.config.image_data_format() == "channels_first" else -1

    inputs, x = blueprint.input(smallest=8)
    for i, maps in enumerate(filters, start=1):
        size = 5 if i == 1 else 3
        x = layers.Conv2D(maps, size, padding="same", name=f"conv{i}", **options)(x)
        if i in (1, 3, 5):
            x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
        x = layers.BatchNormalization(axis, name=f"normalization{i}")(x)
        x = layers.Activation(activation, name=f"activation{i}")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dropout(dropout, name="dropout5")(x)
        x = layers.Dense(dense_units, name="dense6", **options)(x)
        x = layers.BatchNormalization(name="normalization6")(x)
        x = layers.Activation(activation, name="activation6")(x)
        x = layers.Dropout(dropout, name="dropout6")(x)
    elif pooling:
        x = POOLING[pooling](name=f"{pooling}_pool")(x)
    return blueprint.model(inputs, x, top=("dense6", "normalization6"))


def _check_pooling(pooling: str | None, include_top: bool) -> None:
    is_known = pooling in (None, *POOLING)
    check_argument(is_known, "pooling", pooling, "None, 'avg' or 'max'")
    if pooling is not None and include_top:
        raise ValueError(
            "`pooling` applies to the last feature maps: pass `include_top=False`, or "
            f"leave `pooling` out. Received: pooling={pooling!r}."
        )
