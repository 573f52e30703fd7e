"""The parts that all builders share: arguments, input, head, and loading of weights."""

import dataclasses
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.data.normalization import is_form_shape
from zoo.errors import check_argument, check_size, is_size
from zoo.models.labels import describe_data
from zoo.models.registry import default_arguments
from zoo.models.weight_files import (
    load_layers,
    read_config,
    read_data,
    read_layers,
    split_prefix,
)
from zoo.models.weights import Weights, identify, resolve

HEAD = "logits"


@dataclasses.dataclass
class Blueprint:
    """The arguments that all builders share, after validation.

    A builder creates a blueprint with `of`, starts from `input`, adds its own layers,
    and returns `model`.

    Attributes:
        model_name: String. Name of the model in the registry, e.g. `"lenet5"`.
        architecture: Dict. The builder's own arguments, which must agree with those of
            the weights. The other attributes are the arguments of all builders.
    """

    model_name: str
    architecture: dict[str, Any]
    weights: Any
    include_top: bool
    input_shape: Any
    input_tensor: Any
    classes: int | None
    classifier_activation: Any
    include_preprocessing: bool
    name: str

    @classmethod
    def of(cls, model_name: str, arguments: dict[str, Any]) -> "Blueprint":
        """Creates the blueprint of a builder from its arguments, `locals()`."""
        _, _, *shared = (field.name for field in dataclasses.fields(cls))
        own = {name: arguments[name] for name in default_arguments(model_name)}
        return cls(model_name, own, **{name: arguments[name] for name in shared})

    def __post_init__(self) -> None:
        self.input_shape = self._check_shape()
        # Names are unique in a graph, and `input_tensor` may belong to other models.
        self.prefix = "" if self.input_tensor is None else f"{self.name}_"
        self.path = resolve(self.model_name, self.weights)
        saved = read_layers(self.path) if self.path else {}
        self.saved_prefix, self.saved = split_prefix(saved)
        card = identify(self.saved)
        self.card = card if card and card.model == self.model_name else None
        if self.card:
            self._check_architecture(self.card)
        self._check_head()

    def _check_shape(self) -> tuple[int | None, ...]:
        shape, tensor = self.input_shape, self.input_tensor
        if tensor is not None:
            if not keras.backend.is_keras_tensor(tensor):
                raise TypeError(
                    "`input_tensor` must be a Keras tensor, the output of "
                    "`keras.Input` or of a layer. Received: "
                    f"input_tensor={tensor!r} (of type {type(tensor).__name__})."
                )
            shape = tuple(tensor.shape[1:])
        is_valid = np.ndim(shape) == 1 and all(d is None or is_size(d) for d in shape)
        expected = "a tuple of positive integers without the batch dimension, such as "
        check_argument(is_valid, "input_shape", shape, f"{expected}(28, 28, 1)")
        shape = tuple(None if d is None else int(d) for d in shape)
        return (1, 28, 28) if shape == (28, 28, 1) and _channels_first() else shape

    def _check_architecture(self, card: Weights) -> None:
        for name, value in self.architecture.items():
            trained = card.arguments[name]
            if name == "activation":
                same = keras.activations.get(value) is keras.activations.get(trained)
            else:
                same = (list(value) if isinstance(value, tuple) else value) == trained
            if not same:
                raise ValueError(
                    f"`{name}` differs from that of the weights {card.id!r}. Leave it "
                    "out, or build the model with `weights=None`. Expected: "
                    f"{name}={trained!r}. Received: {name}={value!r}."
                )

    def _check_head(self) -> None:
        if self.classes is not None and not self.include_top:
            raise ValueError(
                "`classes` is the size of the head, which `include_top=False` leaves "
                f"out. Pass only one of the two. Received: classes={self.classes!r}."
            )
        activation = self.classifier_activation
        is_softmax = keras.activations.get(activation) is keras.activations.softmax
        if self.path and activation is not None and not is_softmax:
            raise ValueError(
                "With `weights`, `classifier_activation` must be 'softmax', or None "
                f"for logits. Received: classifier_activation={activation!r}."
            )
        saved_classes = len(self.saved[HEAD][-1]) if HEAD in self.saved else 10
        if self.classes is None:
            self.classes = saved_classes
        self.classes = check_size("classes", self.classes)
        self.has_fresh_head = self.card is not None and self.classes != saved_classes

    def input(self, smallest: int | None = None) -> tuple[Any, Any]:
        """Returns the input tensor, and the same with preprocessing.

        `smallest` is the least height and width of an image, or `None` for models that
        take inputs of any rank.
        """
        if smallest is None:
            self._check_fixed_size()
        else:
            self._check_image(smallest)
        inputs = self.input_tensor
        if inputs is None:
            inputs = keras.Input(self.input_shape, name="image")
        x = inputs
        if self.include_preprocessing:
            x = layers.Rescaling(1 / 255, name="rescaling")(x)
        return inputs, x

    def _check_fixed_size(self) -> None:
        shape = self.input_shape
        if not shape or None in shape:
            raise ValueError(
                f"{self.model_name!r} needs an input of one fixed size, such as "
                f"(28, 28, 1) or (784,). Received: input_shape={shape}."
            )
        if self.card:
            # Images of another shape can have as many pixels, but in another order.
            expected = self.card.input_shape
            sizes = [d for d in shape if d > 1]
            if sizes not in ([d for d in expected if d > 1], [math.prod(expected)]):
                raise self._misfit(self.card)

    def _check_image(self, smallest: int) -> None:
        shape, first = self.input_shape, _channels_first()
        size = shape[1:] if first else shape[:2]
        if len(shape) != 3 or shape[0 if first else -1] is None:
            form = "(channels, height, width)" if first else "(height, width, channels)"
            problem = f"{self.model_name!r} takes images: `input_shape` must be {form}"
        elif self.include_top and None in size:
            problem = "An image size of None needs `include_top=False`"
        elif any(d is not None and d < smallest for d in size):
            least = f"{smallest}x{smallest} pixels"
            problem = f"{self.model_name!r} needs images of at least {least}"
        else:
            return
        raise ValueError(f"{problem}. Received: input_shape={shape}.")

    def model(self, inputs: Any, x: Any, top: Sequence[str] = ()) -> keras.Model:
        """Adds the head to the features `x`, loads the weights, returns the model.

        `top` names the other layers with weights that `include_top=False` leaves out.
        """
        if self.include_top:
            x = layers.Dense(self.classes, dtype="float32", name=HEAD)(x)
            if self.classifier_activation is not None:
                options = {"dtype": "float32", "name": "predictions"}
                x = layers.Activation(self.classifier_activation, **options)(x)
        preceding: list[Any] = []  # The operations that lead to `input_tensor`.
        if self.input_tensor is not None:
            sources = keras.utils.get_source_inputs(inputs)
            preceding = keras.Model(sources, inputs).operations
            self._add_prefix(x, [*preceding])
            inputs = sources[0] if len(sources) == 1 else sources
        model = keras.Model(inputs, x, name=self.name)
        describe_data(model, None)
        if self.path:
            self._load(self.path, model, preceding, top)
        return model

    def _add_prefix(self, x: Any, done: list[Any]) -> None:
        """Adds the prefix to the names of the layers that lead to `x` after `done`."""
        layer, node, _ = x._keras_history
        if layer not in done:
            done.append(layer)
            layer.name = self.prefix + layer.name
            for tensor in layer._inbound_nodes[node].input_tensors:
                self._add_prefix(tensor, done)

    def _load(
        self, path: Path, model: keras.Model, preceding: list[Any], top: Sequence[str]
    ) -> None:
        """Loads all saved layers, except for a head that is left out or untrained."""
        saved = self.saved
        if not self.include_top:
            saved = {n: arrays for n, arrays in saved.items() if n not in (HEAD, *top)}
        elif self.has_fresh_head:
            warnings.warn(
                f"The layer {HEAD!r} is untrained: it has {self.classes} classes, but "
                f"the weights have {len(saved[HEAD][-1])}.",
                stacklevel=4,
            )
            saved = {**saved, HEAD: model.get_layer(self.prefix + HEAD).get_weights()}
        try:
            load_layers(model, saved, source=path, leave_out=preceding)
        except ValueError as error:
            if self.card:
                raise self._misfit(self.card) from error
            raise
        file = read_config(path)
        self._compare(file.get("config", {}), model)
        categories, form = read_data(file)
        if self.card and not (categories or form):
            categories, form = self.card.categories, self.card.normalization
        is_known = self.include_top and not self.has_fresh_head
        # Other operations before the model, or another size, change what it takes.
        keeps_form = (
            self.include_preprocessing
            and is_form_shape(self.input_shape)
            and all(isinstance(x, layers.InputLayer) for x in preceding)
        )
        describe_data(
            model, categories if is_known else None, form if keeps_form else None
        )

    def _compare(self, config: dict[str, Any], model: keras.Model) -> None:
        """Compares the architecture with that of a `.keras` file."""
        built = _operations(model.get_config(), self.prefix)
        for name, saved in _operations(config, self.saved_prefix).items():
            if config and saved != built[name]:
                received = self.architecture.get(name, self.include_preprocessing)
                raise ValueError(
                    f"`{name}` differs from that of the saved model. Build the model "
                    f"with the arguments that it was saved with. Expected: {saved}. "
                    f"Received: {name}={received!r}."
                )

    def _misfit(self, card: Weights) -> ValueError:
        return ValueError(
            f"The weights {card.id!r} do not fit this input. Resize the images. "
            f"Expected: input_shape={card.input_shape}. Received: "
            f"input_shape={self.input_shape}."
        )


def new_initializer(initializer: Any, activation: Any) -> Any:
    """Returns an initializer for one layer.

    By default, the initializer preserves the variance of the signal. An object is
    cloned: shared, it would give layers of one shape the same values.
    """
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    if initializer is not None:
        return initializer
    name = getattr(activation, "__name__", activation)
    if name in ("relu", "leaky_relu", "elu", "gelu", "silu", "swish", "mish"):
        return "he_normal"
    return "lecun_normal" if name == "selu" else "glorot_uniform"


def _channels_first() -> bool:
    return bool(keras.config.image_data_format() == "channels_first")


def _operations(config: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Reads the arguments that the shapes of a model's variables do not show."""
    hidden = re.compile(r"(conv|dense|pool|activation|add)\d+|rescaling")
    found = [
        layer
        for layer in config.get("layers", [])
        if layer["config"]["name"].startswith(prefix)
        and hidden.fullmatch(layer["config"]["name"], len(prefix))
    ]
    configs = [layer["config"].get("activation", "linear") for layer in found]
    activations = set(map(_describe_activation, configs))
    kinds = {layer["class_name"] for layer in found}
    return {
        "activation": sorted(activations - {"linear"}),
        "pooling_layer": sorted(kinds & {"MaxPooling2D", "AveragePooling2D"}),
        "residual": "Add" in kinds,
        "include_preprocessing": "Rescaling" in kinds,
    }


def _describe_activation(activation: Any) -> str:
    """Describes an activation by its class and settings, without its name."""
    if not isinstance(activation, dict) or not isinstance(activation["config"], dict):
        return str(activation)
    config = activation["config"].items()
    own = {k: v for k, v in config if k not in ("name", "dtype", "trainable")}
    return f"{activation['class_name']}({own})"
