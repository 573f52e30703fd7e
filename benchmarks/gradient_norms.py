"""Measures the cost of `GradientNorms` and of alternatives per training step.

    python benchmarks/gradient_norms.py [--pairs 400] [--models lenet5 ...] [--jit]

Runs on the Keras backend in use. Steps of the plain model and of a variant alternate,
in random order within each pair, so that both run under the same conditions. The
result is the median over pairs of the ratio of their times, with its quartiles. Two
identical models differ by a few percent, depending on where their memory lies, so the
pairs come from several builds. `control` is a second plain model: its distance from 1
is the error of the measurement.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from zoo.callbacks import GradientNorms

BACKEND = keras.backend.backend()
BATCH = 128
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp(depth: int, units: int = 128) -> keras.Model:
    hidden = [keras.layers.Dense(units, "relu") for _ in range(depth)]
    inputs = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
    return keras.Sequential([*inputs, *hidden, keras.layers.Dense(10)])


def lenet5() -> keras.Model:
    """Builds the net of 1998, so that results stay comparable."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(6, 5, padding="same", activation="tanh"),
            keras.layers.AveragePooling2D(2),
            keras.layers.Conv2D(16, 5, activation="tanh"),
            keras.layers.AveragePooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(120, "tanh"),
            keras.layers.Dense(84, "tanh"),
            keras.layers.Dense(10),
        ]
    )


MODELS: dict[str, Callable[[], keras.Model]] = {
    "lenet5": lenet5,
    "mlp 8x128": lambda: mlp(8),
    "mlp 100x128": lambda: mlp(100),
}


class Probe(keras.callbacks.Callback):
    """Computes another gradient, of a fixed batch, after every step."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.x, self.y = x, y

    def set_model(self, model: Any) -> None:
        import tensorflow as tf

        super().set_model(model)

        @tf.function
        def norms() -> Any:
            with tf.GradientTape() as tape:
                loss = LOSS(self.y, model(self.x, training=True))
            weights = [v.value for v in model.trainable_variables]
            return [tf.norm(g) for g in tape.gradient(loss, weights)]

        self.norms = norms

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.norms()


def with_logged_norms(model: keras.Model) -> keras.Model:
    """Overrides `train_step` to return the norms with the logs."""
    import tensorflow as tf

    def train_step(data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = model.compute_loss(x, y, predicted)
        weights = model.trainable_weights
        gradients = tape.gradient(loss, weights)
        model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        logs = model.compute_metrics(x, y, predicted)
        norms = zip(weights, gradients, strict=True)
        return {**logs, **{weight.path: tf.norm(g) for weight, g in norms}}

    model.train_step = train_step
    return model


def variants(x: Any, y: Any) -> dict[str, tuple[Callable[[Any], Any], list[Any]]]:
    """Returns the variants, as (change to the model, callbacks) by name."""
    compared: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "control": (lambda model: model, []),
        "GradientNorms": (lambda model: model, [GradientNorms()]),
    }
    if BACKEND == "tensorflow":
        compared |= {
            "train_step that logs norms": (with_logged_norms, []),
            "read back every batch": (lambda m: m, [GradientNorms(buffer_size=1)]),
            "recomputed on a probe batch": (lambda m: m, [Probe(x, y)]),
        }
    return compared


def stepper(model: Any, callbacks: list[Any], x: Any, y: Any) -> Callable[[], None]:
    """Returns a function that trains for one step as `fit` does, and waits for it."""
    listed = keras.callbacks.CallbackList(callbacks, model=model)
    model.make_train_function()
    listed.on_train_begin()
    state: Any = None  # On JAX, each step takes and returns the training state.
    if BACKEND == "tensorflow":
        import tensorflow as tf

        batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    elif BACKEND == "torch":
        batches = [tuple(keras.ops.convert_to_tensor(array) for array in (x, y))]
    else:
        import jax

        batches = itertools.repeat((x, y))
        model._symbolic_build(data_batch=(x, y))
        kinds = ("trainable", "non_trainable", "optimizer", "metrics")
        state = model._get_jax_state(**{f"{kind}_variables": True for kind in kinds})

    def step() -> None:
        nonlocal state
        listed.on_train_batch_begin(0)
        if BACKEND == "jax":
            logs, state = model.train_function(state, batches)
            jax.block_until_ready(state)
        else:
            logs = model.train_function(batches)
        listed.on_train_batch_end(0, {"loss": float(logs["loss"])})

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--builds", type=int, default=4)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--jit", action="store_true", help="jit_compile=True")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(BATCH, 28, 28, 1)).astype("float32")
    y = generator.integers(0, 10, BATCH)

    print(
        f"{BACKEND}, Keras {keras.__version__}, batch {BATCH}, {arguments.pairs} pairs"
    )
    for name in arguments.models:
        for label, (change, callbacks) in variants(x, y).items():
            pairs = []
            for _ in range(arguments.builds):
                steps = []
                for apply, attached in ((lambda m: m, []), (change, callbacks)):
                    model = apply(MODELS[name]())
                    jit_compile = arguments.jit or BACKEND == "jax"
                    model.compile("adam", LOSS, jit_compile=jit_compile)
                    steps.append(stepper(model, attached, x, y))
                for _ in range(10):
                    _ = [step() for step in steps]
                for _ in range(arguments.pairs // arguments.builds):
                    times = [0.0, 0.0]
                    for index in random.sample([0, 1], 2):
                        times[index] = seconds(steps[index])
                    pairs.append(times)
            ratios = [changed / plain for plain, changed in pairs]
            low, ratio, high = statistics.quantiles(ratios, n=4)
            print(
                f"{name:12} {label:28} {ratio:6.3f}  ({low:.3f} to {high:.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
