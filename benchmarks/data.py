"""How fast training batches come, and what that means for training.

    python benchmarks/data.py [--rounds 15]

Each way gives the same 60,000 uint8 images in shuffled batches of 128. Images per
second are of `fit` with a train function that only draws its batch; then an epoch of
ShallowMLP, the fastest to train, by that of ShuffledBatches, in alternation. Medians,
with quartiles.
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


def ways(x: np.ndarray, y: np.ndarray) -> dict[str, dict[str, Any]]:
    """The arguments of `fit` for each way."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    dataset = dataset.shuffle(IMAGES, seed=0).repeat().batch(BATCH).prefetch(2)
    shuffled = ShuffledBatches(x, y, BATCH)
    return {
        "ShuffledBatches, as zoo.train": {"x": shuffled, "steps_per_epoch": STEPS},
        "arrays": {"x": x, "y": y, "batch_size": BATCH},
        "tf.data: shuffle, batch, prefetch": {"x": dataset, "steps_per_epoch": STEPS},
    }


class Drawing(keras.Model):
    """Draws the batches that `fit` gives it, and does nothing with them."""

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
    given = ways(x, y)
    models = {}
    for name in given:
        models[name] = zoo.ShallowMLP()
        models[name].compile("adam", "sparse_categorical_crossentropy")

    def measure(run: Callable[[str], Any]) -> dict[str, list[float]]:
        seconds: dict[str, list[float]] = {name: [] for name in given}
        for _ in range(rounds + 1):
            for name, times in seconds.items():
                start = time.perf_counter()
                run(name)
                times.append(time.perf_counter() - start)
        return {name: times[1:] for name, times in seconds.items()}  # One to warm up.

    drawing = Drawing()
    drawing.compile("adam", "sparse_categorical_crossentropy")
    drawn = measure(lambda name: drawing.fit(**given[name], verbose=0))
    trained = measure(lambda name: models[name].fit(**given[name], verbose=0))
    own, *_ = trained.values()
    print(f"{keras.backend.backend()}, {rounds} rounds")
    for name in given:
        rates = [STEPS * BATCH / seconds / 1e3 for seconds in drawn[name]]
        ratios = [a / b for a, b in zip(trained[name], own, strict=True)]
        low, rate, high = statistics.quantiles(rates, n=4)
        print(f"{name}: {rate:.0f} ({low:.0f} to {high:.0f}) thousand images a second")
        low, ratio, high = statistics.quantiles(ratios, n=4)
        print(f"  an epoch of ShallowMLP takes {ratio:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
