"""Training runs that are stopped or killed, for the tests of `ExactResume`.

    python killed_runs.py FOLDER KILLS

Trains once without and once with kills, and writes the results of each to a file.
"""

import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import sys
import time

import keras
import numpy as np
import pytest

from zoo.callbacks import ExactResume, GradientNorms, ShuffledBatches

layers = keras.layers


class StoppedError(Exception):
    pass


class StopAt(keras.callbacks.Callback):
    """Ends a fit when its n-th batch begins; skipped batches count, too."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def on_train_batch_begin(self, batch, logs=None):
        self.count -= 1
        if self.count == 0:
            raise StoppedError


def small(optimizer="adam", units=1):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(units)])
    model.compile(optimizer, "mse")
    return model


def fit_small(
    folder, model, callbacks=(), extra=(), *, y=None, batch_size=4, epochs=1, **resume
):
    """Trains on 32 examples; `extra` callbacks come before ExactResume."""
    saving = ExactResume(folder, callbacks=callbacks, **resume)
    return model.fit(
        np.random.default_rng(0).normal(size=(32, 8)).astype("float32"),
        np.ones((32, 1)) if y is None else y,
        batch_size,
        epochs,
        shuffle=False,
        callbacks=[*callbacks, *extra, saving],
        verbose=0,
    )


def fit_with_stops(run, folder, counts):
    """Calls `run(folder, *extra)` with stops; the results must be those without."""
    expected = run(folder / "whole")
    for count in counts:
        with pytest.raises(StoppedError):
            run(folder / "stopped", StopAt(count))
    assert run(folder / "stopped") == expected
    return expected


def add_noise(x, rng):
    return x + rng.normal(scale=0.01, size=x.shape).astype("float32")


def fit(
    folder, *, run_eagerly=False, epochs=5, extra=(), save_freq=3, ema=7, **settings
):
    """Trains with every kind of state; returns model, history, gradients."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dropout(0.5),
            layers.BatchNormalization(),
            layers.GaussianNoise(0.1),
            layers.Dense(3, name="logits"),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 40)
    model.compile(
        keras.optimizers.Adam(rate, use_ema=True, ema_overwrite_frequency=ema),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
        **settings,
    )
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    x = (rng.normal(size=(120, 8)) + y[:, None]).astype("float32")
    data = ShuffledBatches(x, y, batch_size=16, seed=3, augment=add_noise)
    folder.mkdir(exist_ok=True)
    gradients = GradientNorms(csv=folder / "norms.csv")
    callbacks = [
        gradients,
        keras.callbacks.EarlyStopping("loss", patience=3, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5",
            monitor="loss",
            save_best_only=True,
            save_weights_only=True,
        ),
        keras.callbacks.CSVLogger(folder / "log.csv", append=True),
    ]
    resume = ExactResume(
        folder / "checkpoints", save_freq=save_freq, callbacks=callbacks, data=data
    )
    try:
        history = model.fit(
            data,
            steps_per_epoch=data.steps_per_epoch,
            epochs=epochs,
            validation_data=(x, y),
            shuffle=False,
            callbacks=[*callbacks, *extra, resume],
            verbose=0,
        )
    finally:
        gradients.flush()
        if file := getattr(callbacks[-1], "csv_file", None):
            file.close()
    return model, history, gradients


def results(folder, model, history, gradients):
    """Returns everything that must not depend on kills, as bytes by name."""
    variables = [*model.weights, *model.optimizer.variables]
    arrays = map(keras.ops.convert_to_numpy, variables)
    found = {str(i): array.tobytes() for i, array in enumerate(arrays)}
    found["history"] = json.dumps([history.epoch, history.history]).encode()
    found["steps"] = gradients.steps.tobytes()
    found |= {name: norms.tobytes() for name, norms in gradients.variables.items()}
    for name in ("norms.csv", "log.csv"):
        found[name] = (folder / name).read_bytes()
    return found


def train(folder):
    def fsync(descriptor):  # A slow disk, so that kills hit an unfinished save.
        time.sleep(0.01)

    os.fsync = fsync
    found = results(folder, *fit(folder, run_eagerly=True, epochs=40))
    text = json.dumps({name: content.hex() for name, content in found.items()})
    (folder / "results.json").write_text(text)


def main():
    base, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    context = multiprocessing.get_context("fork")  # Importing takes longest.

    def begin(folder):
        process = context.Process(target=train, args=(folder,))
        process.start()
        return process

    begin(base / "whole").join()
    rng = random.Random(0)
    folder = base / "killed"
    unfinished = folder / "checkpoints" / ".unfinished"
    counts = {"killed": 0, "during_a_save": 0, "finished": 0}
    while counts["killed"] < kills:
        process = begin(folder)
        deadline = time.monotonic() + rng.uniform(0.2, 1.8)
        while time.monotonic() < deadline and process.is_alive():
            time.sleep(0.001)
        if rng.random() < 0.5:
            while process.is_alive() and not unfinished.exists():
                time.sleep(0.001)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            counts["killed"] += 1
            counts["during_a_save"] += unfinished.exists()
            unfinished.unlink(missing_ok=True)
        elif process.exitcode == 0:
            counts["finished"] += 1
            shutil.move(folder, base / f"finished{counts['finished']}")
        else:
            sys.exit("a run failed")
    begin(folder).join()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
