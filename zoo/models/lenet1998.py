"""LeNet-5 as in the paper of 1998, with the layers that Keras does not have."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from zoo.models.labels import describe_data

# The maps of S2 that each map of C3 is connected to: table I of the paper.
CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5)),
    *((0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)

# The targets of F6, 7x12 pixels for each digit. The paper shows its own in a figure
# only: these are drawn after the same description.
DRAWN = """
..###.. ...#... ..###.. ..###.. ....##. ####### ...###. ####### ..###.. ..###..
.#...#. ..##... .#...#. .#...#. ...#.#. #...... ..#.... ......# .#...#. .#...#.
#.....# .#.#... #.....# #.....# ...#.#. #...... .#..... ......# #.....# #.....#
#.....# ...#... ......# ......# ..#..#. #...... #...... .....#. #.....# #.....#
#.....# ...#... .....#. .....#. ..#..#. #.###.. #...... .....#. .#...#. #.....#
#.....# ...#... ....#.. ..###.. .#...#. ##...#. #.###.. ....#.. ..###.. .#...##
#.....# ...#... ...#... .....#. .#...#. ......# ##...#. ....#.. .#...#. ..###.#
#.....# ...#... ..#.... ......# #....#. ......# #.....# ...#... #.....# ......#
#.....# ...#... .#..... ......# ####### ......# #.....# ...#... #.....# ......#
#.....# ...#... #...... #.....# .....#. #.....# #.....# ..#.... #.....# .....#.
.#...#. ...#... #...... .#...#. .....#. .#...#. .#...#. ..#.... .#...#. ....#..
..###.. .#####. ####### ..###.. .....#. ..###.. ..###.. .#..... ..###.. .###...
"""
ROWS = zip(*(row.split() for row in DRAWN.split("\n")[1:-1]), strict=True)
BITMAPS = np.where([[x == "#" for x in "".join(rows)] for rows in ROWS], 1, -1)

register = keras.saving.register_keras_serializable("zoo")


def LeNet1998(
    *,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "lenet1998",
) -> keras.Model:
    """Builds LeNet-5 as in the paper: 60,000 trainable parameters, 340,908 connections.

    The layers have the names of the paper. A unit of S2 and S4 adds four inputs,
    multiplies the sum by a coefficient of its map and adds a bias, both trained. C3
    connects each of its maps to some maps of S2. All units up to F6 have the activation
    `scaled_tanh`. An output is the squared distance between F6 and the fixed 7x12
    bitmap of a digit, a penalty. The `logits` are these distances with a negative sign,
    so their softmax gives probabilities. `MAPCriterion` is the paper's loss for the
    logits. It has no published weights; `docs/results/lenet1998.py` trains it.
    `zoo.load_model` opens its files.

    Reference:
    - [LeCun, Bottou, Bengio and Haffner, 1998](https://doi.org/10.1109/5.726791):
      section II-B and appendix A.

    Args:
        classifier_activation: String or function. Activation of the output. `None`
            returns the negative distances. Defaults to `"softmax"`.
        include_preprocessing: Boolean. Include the layers that pad 28x28 raw pixels in
            [0, 255] to 32x32 and scale them to -0.1 for the background and 1.175 for
            the foreground. If `False`, the input is such a 32x32 image. Defaults to
            `True`.
        name: String. Name of the model. Defaults to `"lenet1998"`.

    Returns:
        A functional `keras.Model` for images of shape `(n, height, width, 1)`, in
        either image data format.

    Example:

    >>> zoo.LeNet1998().count_params()
    60840
    """
    options = {"activation": scaled_tanh, "data_format": "channels_last"}
    inputs = keras.Input((28, 28, 1) if include_preprocessing else (32, 32, 1))
    x = inputs
    if include_preprocessing:
        x = layers.ZeroPadding2D(2, data_format="channels_last", name="padding")(x)
        x = layers.Rescaling(1.275 / 255, -0.1, name="rescaling")(x)
    x = layers.Conv2D(6, 5, kernel_initializer=uniform(25), name="C1", **options)(x)
    x = Subsampling(name="S2")(x)
    x = PartialConv2D(CONNECTIONS, 5, name="C3")(x)
    x = Subsampling(name="S4")(x)
    x = layers.Conv2D(120, 5, kernel_initializer=uniform(400), name="C5", **options)(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(84, scaled_tanh, kernel_initializer=uniform(120), name="F6")(x)
    x = DigitDistance(dtype="float32", name="logits")(x)
    if classifier_activation is not None:
        head = {"dtype": "float32", "name": "predictions"}
        x = layers.Activation(classifier_activation, **head)(x)
    model = keras.Model(inputs, x, name=name)
    describe_data(model, "0123456789", "mnist" if include_preprocessing else None)
    return model


def uniform(fan_in: int) -> Any:
    """Returns the initializer of appendix A for units with `fan_in` inputs."""
    return keras.initializers.RandomUniform(-2.4 / fan_in, 2.4 / fan_in)


def scaled_tanh(x: Any) -> Any:
    """Returns 1.7159 tanh(2x / 3), which is 1 at 1 and -1 at -1."""
    return 1.7159 * ops.tanh(2 / 3 * x)


register(scaled_tanh)


@register
class Subsampling(layers.Layer):
    """Adds 2x2 inputs, multiplies by a coefficient, adds a bias: S2 and S4."""

    def build(self, input_shape: Any) -> None:
        shape = input_shape[-1:]
        self.coefficient = self.add_weight(shape, uniform(4), name="coefficient")
        self.bias = self.add_weight(shape, "zeros", name="bias")

    def call(self, x: Any) -> Any:
        total = 4 * ops.average_pool(x, 2, 2, data_format="channels_last")
        return scaled_tanh(self.coefficient * total + self.bias)


@register
class PartialConv2D(layers.Layer):
    """Convolves some of the input's maps for each of its own maps: C3.

    Args:
        connections: Sequence of sequences of integers. For each output map, the input
            maps that it is connected to.
        kernel_size: Integer. Height and width of the kernels.
    """

    def __init__(self, connections: Any, kernel_size: int, **options: Any) -> None:
        super().__init__(**options)
        self.connections, self.kernel_size = connections, kernel_size

    def build(self, input_shape: Any) -> None:
        pairs = [(i, o) for o, maps in enumerate(self.connections) for i in maps]
        self.places = np.zeros((len(pairs), input_shape[-1], len(self.connections)))
        self.places[(range(len(pairs)), *zip(*pairs, strict=True))] = 1
        size, maps = self.kernel_size, len(self.connections)
        # One 5x5 kernel per connection.
        fan_in = [size**2 * len(self.connections[o]) for _, o in pairs]
        self.kernel = self.add_weight(
            (size, size, len(pairs)),
            lambda shape, dtype: uniform(1)(shape, dtype) / ops.cast(fan_in, dtype),
            name="kernel",
        )
        self.bias = self.add_weight((maps,), "zeros", name="bias")

    def call(self, x: Any) -> Any:
        places = ops.cast(self.places, self.compute_dtype)
        kernel = ops.tensordot(self.kernel, places, 1)
        x = ops.conv(x, kernel, data_format="channels_last")
        return scaled_tanh(x + self.bias)

    def get_config(self) -> dict[str, Any]:
        own = {"connections": self.connections, "kernel_size": self.kernel_size}
        return {**super().get_config(), **own}


@register
class DigitDistance(layers.Layer):
    """Returns minus the squared distance to the bitmap of each digit: the output."""

    def build(self, input_shape: Any) -> None:
        shape = BITMAPS.shape
        bitmaps = keras.initializers.Constant(BITMAPS)
        self.bitmaps = self.add_weight(shape, bitmaps, trainable=False, name="bitmaps")

    def call(self, x: Any) -> Any:
        return -ops.sum((x[:, None] - self.bitmaps) ** 2, -1)


@register
class MAPCriterion(keras.losses.Loss):
    """Computes the loss of the paper, its equation 9, from negative distances.

    This is the cross-entropy of a softmax with an extra class, for non-digit images,
    whose distance is always `j`. Far from the bitmaps, it is the distance to the right
    one, up to a constant, and its gradient is smooth; close to them, the wrong digits
    compete.

    Args:
        j: Float. The distance of the additional class. The paper gives no value.
            Defaults to 1.
    """

    def __init__(self, j: float = 1.0, name: str = "map", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.j = j

    def call(self, y_true: Any, y_pred: Any) -> Any:
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        right = ops.one_hot(labels, y_pred.shape[-1])
        total = ops.logaddexp(ops.logsumexp(y_pred, -1), -self.j)
        return total - ops.sum(right * y_pred, -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "j": self.j}
