"""The cost of `ExactResume`: the time of a checkpoint relative to that of training.

    python benchmarks/checkpoints.py [--epochs 20] [--model lenet5]

Trains for epochs of 200 steps. Each ends with a checkpoint, which also holds the norms
of all gradients. Prints the time of the checkpoint divided by that of the steps: the
median over epochs, with quartiles.
"""

import argparse
import statistics
import tempfile
import time
from typing import Any

import keras
import numpy as np

import zoo
from zoo.callbacks import ExactResume, GradientNorms

STEPS = 200
BATCH = 128


class Clock(keras.callbacks.Callback):
    """Records the times at which `on_epoch_end` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.times.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--model", default="lenet5")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * BATCH, 28, 28, 1), "uint8")
    labels = rng.integers(0, 10, len(images))
    model = zoo.create(arguments.model)
    model.compile("adam", "sparse_categorical_crossentropy")
    before, after, gradients = Clock(), Clock(), GradientNorms()
    with tempfile.TemporaryDirectory() as folder:
        resume = ExactResume(folder, callbacks=[gradients])
        callbacks = [gradients, before, resume, after]
        fit: dict[str, Any] = {"epochs": arguments.epochs, "verbose": 0}
        model.fit(images, labels, BATCH, shuffle=False, callbacks=callbacks, **fit)
    saves = [b - a for a, b in zip(before.times, after.times, strict=True)]
    epochs = [b - a for a, b in zip(after.times, before.times[1:], strict=False)]
    ratios = [save / steps for save, steps in zip(saves[1:], epochs, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    print(
        f"{arguments.model}, {keras.backend.backend()}: a checkpoint every {STEPS} "
        f"steps takes {median:.2%} ({low:.2%} to {high:.2%}) of their time"
    )


if __name__ == "__main__":
    main()
