"""Networks, healthy and faulty, on which the diagnosis of gradients is measured.

The faulty networks have one fault, at a layer and a step known by construction. Half A,
with the seeds 0 to 2, was used to set the rules and thresholds of the diagnosis; half
B, with the seeds 6 to 8, was not.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import layers

import zoo
from zoo.callbacks import GradientNorms


class Fault(NamedTuple):
    """The kind, the layers that may be named, and the first and last step."""

    kind: str
    layers: tuple[str, ...]
    first: int = 0
    last: int = 0


class Network(NamedTuple):
    half: str
    fault: Fault | None
    train: Callable[[keras.callbacks.Callback], Any]


NETWORKS: dict[str, Network] = {}
SEEDS = {"A": (0, 1, 2), "B": (6, 7, 8)}


def network(half: str, *fault: Any) -> Callable[[Any], Any]:
    """Adds a function that trains with a callback to the networks."""

    def register(train: Any) -> Any:
        name = train.__name__.replace("_", " ")
        NETWORKS[name] = Network(half, Fault(*fault) if fault else None, train)
        return train

    return register


def examine(name: str, seed: int) -> tuple[Any, bool]:
    """Trains a network. Returns its diagnosis, and whether that is right."""
    keras.utils.set_random_seed(seed)
    gradients, fault = GradientNorms(), NETWORKS[name].fault
    NETWORKS[name].train(gradients)
    diagnosis = gradients.diagnose()
    if fault is None or not diagnosis:
        return diagnosis, fault is None and not diagnosis
    first = diagnosis[0]
    is_right = first.kind == fault.kind and first.layer in fault.layers
    return diagnosis, is_right and fault.first <= first.step <= fault.last


@functools.cache
def digits(count: int = 1600) -> Any:
    """Returns digits as float32 in [0, 1], and labels."""
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    return images[:count].astype("float32") / 255, labels[:count]


def raw_digits() -> Any:
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    return images[:1600], labels[:1600]


def fit(model: Any, data: Any, callback: Any, **options: Any) -> None:
    """Trains with Adam and cross entropy, unless `options` say otherwise."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        options.pop("optimizer", "adam"),
        options.pop("loss", loss),
        loss_weights=options.pop("loss_weights", None),
        jit_compile=keras.backend.backend() == "jax",
    )
    options = {"batch_size": 32, "epochs": 2, "verbose": 0, **options}
    model.fit(*data, callbacks=[callback], **options)


def sgd(rate: Any, momentum: float = 0.0) -> Any:
    return keras.optimizers.SGD(rate, momentum)


def sequence(shape: tuple[int, ...], *stack: Any) -> Any:
    return keras.Sequential([keras.Input(shape), *stack])


def mlp(depth: int, activation: str, initializer: Any = None, units: int = 64) -> Any:
    """Builds an MLP of the layers dense1, dense2... and logits."""
    kernel = {"kernel_initializer": initializer or "glorot_uniform"}
    hidden = [
        layers.Dense(units, activation, name=name, **kernel) for name in names(depth)
    ]
    logits = layers.Dense(10, name="logits", **kernel)
    return sequence((28, 28, 1), layers.Flatten(), *hidden, logits)


def names(depth: int) -> tuple[str, ...]:
    return tuple(f"dense{index}" for index in range(1, depth + 1))


def normal(stddev: float) -> Any:
    return keras.initializers.RandomNormal(stddev=stddev)
