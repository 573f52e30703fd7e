"""What every builder shares: input, preprocessing, head and the loading of weights."""

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from zoo.weights import Weights, load_layers, read_layers, resolve

HEAD = "logits"


class Blueprint:
    """The arguments that all builders have in common, checked, and what they imply.

    A builder makes one, takes its architecture arguments from it (`argument`), starts
    from `input`, writes out its layers, and ends with `model`.

    Args:
        model: name of the model in the zoo, e.g. `"lenet5"`.
        weights, include_top, input_shape, input_tensor, classes,
        classifier_activation, include_preprocessing, name: as in the builders.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: Any,
        include_top: bool,
        input_shape: tuple[int | None, ...],
        input_tensor: Any,
        classes: int | None,
        classifier_activation: Any,
        include_preprocessing: bool,
        name: str,
    ) -> None:
        self.model_name = model
        self.include_top = include_top
        self.input_tensor = input_tensor
        self.input_shape = self._shape(input_shape)
        self.include_preprocessing = include_preprocessing
        self.name = name

        resolved = resolve(model, weights)
        self.card = resolved if isinstance(resolved, Weights) else None
        self.path = resolved.path if isinstance(resolved, Weights) else resolved
        if self.card:
            self.card.verify()
        self.saved = read_layers(self.path) if self.path else {}

        if classes is not None and not include_top:
            raise ValueError(
                "`classes` is the size of the head, which `include_top=False` leaves "
                f"out: give one of the two. Received: classes={classes!r}."
            )
        if self.path and classifier_activation not in ("softmax", None):
            raise ValueError(
                "With `weights`, `classifier_activation` must be 'softmax', or None "
                f"for logits. Received: {classifier_activation!r}."
            )
        self.classifier_activation = classifier_activation
        saved_classes = len(self.saved[HEAD][-1]) if HEAD in self.saved else 10
        self.classes = saved_classes
        if classes is not None:
            self.classes = check_size("classes", classes)
        self.fresh_head = self.card is not None and self.classes != saved_classes

    def _shape(self, shape: Any) -> tuple[int | None, ...]:
        tensor = self.input_tensor
        if tensor is not None:
            if not keras.backend.is_keras_tensor(tensor):
                raise TypeError(
                    "`input_tensor` must be a Keras tensor, the output of "
                    f"`keras.Input` or of a layer. Received: {tensor!r} (of type "
                    f"{type(tensor).__name__})."
                )
            shape = tuple(tensor.shape[1:])
        if not isinstance(shape, Sequence) or not all(
            d is None or (isinstance(d, int) and d > 0) for d in shape
        ):
            raise ValueError(
                "`input_shape` must be a tuple of positive integers without the batch "
                f"dimension, such as (28, 28, 1). Received: input_shape={shape!r}."
            )
        if _channels_first() and tuple(shape) == (28, 28, 1):
            return (1, 28, 28)
        return tuple(shape)

    def argument(self, name: str, value: Any, default: Any) -> Any:
        """An architecture argument: as given, else as in the card, else the default.

        Raises:
            ValueError: `value` differs from what the weights were trained with.
        """
        if self.card is None:
            return default if value is None else value
        trained = self.card.arguments.get(name, default)
        if value is not None and _plain(value) != _plain(trained):
            raise ValueError(
                f"The weights {self.card.id!r} were trained with {name}={trained!r}: "
                f"leave `{name}` out, or build the model with `weights=None`. "
                f"Received: {name}={value!r}."
            )
        return trained

    def input(self, smallest: int | None = None) -> tuple[Any, Any]:
        """The input of the model and the tensor that its first layer takes.

        Args:
            smallest: least height and width in pixels of an image model; `None` for
                models that take inputs of any rank.

        Returns:
            `(inputs, x)`: raw pixels in [0, 255], and the same in [0, 1], or the
            input tensor itself with `include_preprocessing=False`.

        Raises:
            ValueError: the input shape does not suit the model.
        """
        shape = self.input_shape
        if smallest is None:
            if not shape or None in shape:
                raise ValueError(
                    f"{self.model_name!r} needs an input of one fixed size, such as "
                    f"(28, 28, 1) or (784,). Received: input_shape={shape}."
                )
            if self.card and not _same_pixels(shape, self.card.input_shape):
                raise self._misfit(self.card)
        else:
            self._check_image(shape, smallest)

        inputs = self.input_tensor
        if inputs is None:
            inputs = keras.Input(shape, name="image")
        x = inputs
        if self.include_preprocessing:
            x = layers.Rescaling(1 / 255, name="rescaling")(x)
        return inputs, x

    def _check_image(self, shape: tuple[int | None, ...], smallest: int) -> None:
        form = (
            "(channels, height, width)"
            if _channels_first()
            else ("(height, width, channels)")
        )
        if len(shape) != 3 or shape[0 if _channels_first() else -1] is None:
            raise ValueError(
                f"{self.model_name!r} takes images: `input_shape` must be {form}. "
                f"Received: input_shape={shape}."
            )
        size = shape[1:] if _channels_first() else shape[:2]
        if self.include_top and None in size:
            raise ValueError(
                "An image size of None needs `include_top=False`. Received: "
                f"input_shape={shape}."
            )
        if any(d is not None and d < smallest for d in size):
            raise ValueError(
                f"{self.model_name!r} needs images of at least {smallest}x{smallest} "
                f"pixels. Received: input_shape={shape}."
            )

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in Keras' image data format."""
        return 1 if _channels_first() else -1

    def model(self, inputs: Any, x: Any) -> keras.Model:
        """Adds the head to the features `x`, loads the weights, returns the model."""
        if self.include_top:
            x = layers.Dense(self.classes, dtype="float32", name=HEAD)(x)
            if self.classifier_activation is not None:
                x = layers.Activation(
                    self.classifier_activation, dtype="float32", name="predictions"
                )(x)
        before: list[Any] = []  # the layers that lead to `input_tensor`
        if self.input_tensor is not None:
            sources = keras.utils.get_source_inputs(inputs)
            before = keras.Model(sources, inputs).layers
            inputs = sources[0] if len(sources) == 1 else sources
        model = keras.Model(inputs, x, name=self.name)
        if self.path:
            self._load(model, before)
        return model

    def _load(self, model: keras.Model, before: list[Any]) -> None:
        """Loads the saved layers: all of them, but for a head that is not wanted."""
        saved = self.saved
        if not self.include_top:
            kept = {layer.name for layer in model.layers}
            saved = {name: arrays for name, arrays in saved.items() if name in kept}
        elif self.fresh_head:
            head = model.get_layer(HEAD)
            warnings.warn(
                f"The layer {HEAD!r} is untrained: it has {self.classes} classes, and "
                f"that of the weights {len(saved[HEAD][-1])}.",
                stacklevel=4,
            )
            saved = {**saved, HEAD: head.get_weights()}
        try:
            load_layers(model, saved, source=self.path, leave_out=before)
        except ValueError as error:
            if self.card and self.input_shape != self.card.input_shape:
                raise self._misfit(self.card) from error
            raise
        if self.card and self.include_top and not self.fresh_head:
            model.categories = self.card.categories

    def _misfit(self, card: Weights) -> ValueError:
        return ValueError(
            f"The weights {card.id!r} do not fit this input: expected input_shape="
            f"{card.input_shape}, to which images can be resized. Received: "
            f"input_shape={self.input_shape}."
        )


def check_size(name: str, value: Any) -> int:
    """Returns `value` as an `int` if it is a positive integer, else a ValueError."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}."
        )
    return int(value)


def default_initializer(activation: Any) -> str:
    """The initialiser that keeps the variance of the signal through an activation.

    He's for those that cut off one side, LeCun's for SELU, Glorot's for the rest.
    """
    name = getattr(activation, "__name__", activation)
    if name in ("relu", "leaky_relu", "elu", "gelu", "silu", "swish", "mish"):
        return "he_normal"
    return "lecun_normal" if name == "selu" else "glorot_uniform"


def _channels_first() -> bool:
    return bool(keras.config.image_data_format() == "channels_first")


def _same_pixels(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether arrays of both shapes, laid out flat, hold the same pixels in turn."""
    one, two = ([d for d in sizes if d and d > 1] for sizes in (shape, other))
    return one == two or (one == [math.prod(two)])


def _plain(value: Any) -> Any:
    """An argument in the form in which it is compared with the card's."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, keras.initializers.Initializer):
        value = type(value).__name__
    name = getattr(value, "__name__", value)
    return name.replace("_", "").lower() if isinstance(name, str) else value
