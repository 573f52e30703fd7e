"""The speed of input pipelines, and its effect on training.

    python benchmarks/data.py [--rounds 15]

Each pipeline yields the same 60,000 uint8 images in shuffled batches of 128. Prints the
images per second of `fit` with a train function that only draws its batch, and the time
of an epoch of ShallowMLP, the fastest model to train, relative to ShuffledBatches. The
pipelines are measured in alternation. Medians, with quartiles.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import zoo
from zoo.callbacks import ShuffledBatches

IMAGES = 60_000
BATCH = 128
STEPS = IMAGES // BATCH


def pipelines(x: np.ndarray, y: np.ndarray) -> dict[str, dict[str, Any]]:
    """Returns the arguments of `fit` for each pipeline."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    dataset = dataset.shuffle(IMAGES, seed=0).repeat().batch(BATCH).prefetch(2)
    shuffled = ShuffledBatches(x, y, BATCH)
    return {
        "ShuffledBatches, as in zoo.train": {"x": shuffled, "steps_per_epoch": STEPS},
        "arrays": {"x": x, "y": y, "batch_size": BATCH},
        "tf.data: shuffle, batch, prefetch": {"x": dataset, "steps_per_epoch": STEPS},
    }


class Drawing(keras.Model):
    """Draws the batches of `fit` and ignores them."""

    def make_train_function(self, force: bool = False) -> None:
        def draw(batches: Any) -> dict[str, Any]:
            next(batches)
            return {}

        self.train_function = draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    warnings.filterwarnings("ignore", "`shuffle=True` was passed")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (IMAGES, 28, 28, 1), "uint8")
    y = rng.integers(0, 10, IMAGES)
    inputs = pipelines(x, y)
    models = {}
    for name in inputs:
        models[name] = zoo.ShallowMLP()
        models[name].compile("adam", "sparse_categorical_crossentropy")

    def measure(run: Callable[[str], Any]) -> dict[str, list[float]]:
        seconds: dict[str, list[float]] = {name: [] for name in inputs}
        for _ in range(rounds + 1):
            for name, times in seconds.items():
                start = time.perf_counter()
                run(name)
                times.append(time.perf_counter() - start)
        # The first round warms up.
        return {name: times[1:] for name, times in seconds.items()}

    drawing = Drawing()
    drawing.compile("adam", "sparse_categorical_crossentropy")
    drawn = measure(lambda name: drawing.fit(**inputs[name], verbose=0))
    trained = measure(lambda name: models[name].fit(**inputs[name], verbose=0))
    own, *_ = trained.values()
    print(f"{keras.backend.backend()}, {rounds} rounds")
    for name in inputs:
        rates = [STEPS * BATCH / seconds / 1e3 for seconds in drawn[name]]
        ratios = [a / b for a, b in zip(trained[name], own, strict=True)]
        low, rate, high = statistics.quantiles(rates, n=4)
        print(
            f"{name}: {rate:.0f} ({low:.0f} to {high:.0f}) thousand images per second"
        )
        low, ratio, high = statistics.quantiles(ratios, n=4)
        print(f"  an epoch of ShallowMLP takes {ratio:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
