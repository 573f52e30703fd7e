"""Runs that were stopped, at any moment, against one that was not."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from killed_runs import fit, results

from zoo.callbacks import ExactResume, GradientNorms, ShuffledBatches

KILLS = 50 if keras.backend.backend() == "tensorflow" else 15


class StoppedError(Exception):
    pass


class StopAt(keras.callbacks.Callback):
    """Ends a fit as its n-th batch begins."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def on_train_batch_begin(self, batch, logs=None):
        self.count -= 1
        if self.count == 0:
            raise StoppedError


def fit_with_stops(folder, counts=(5, 1, 2, 9, 4, 12, 3), **settings):
    for count in counts:
        with pytest.raises(StoppedError):
            fit(folder, extra=[StopAt(count)], **settings)
    return results(folder, *fit(folder, **settings))


@pytest.mark.endurance
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"save_freq": "epoch"},
        {"jit_compile": True},
        {"steps_per_execution": 3, "save_freq": 2},
    ],
    ids=str,
)
def test_a_stopped_run_ends_as_if_it_were_not(settings, tmp_path):
    if keras.backend.backend() == "torch" and settings.keys() & {
        "jit_compile",
        "steps_per_execution",
    }:
        pytest.skip("Keras does not do this on torch.")
    counts = (5, 1, 2, 9, 4, 12, 3) if settings.keys() <= {"save_freq"} else (4, 1, 6)
    whole = tmp_path / "whole"
    expected = results(whole, *fit(whole, **settings))
    received = fit_with_stops(tmp_path / "stopped", counts, **settings)
    assert received.keys() == expected.keys()
    for name, content in expected.items():
        assert received[name] == content, name
    # A run that is done is not trained on.
    assert results(whole, *fit(whole, **settings)) == expected


@pytest.mark.endurance
def test_killed_at_any_moment(tmp_path):
    program = pathlib.Path(__file__).with_name("killed_runs.py")
    process = subprocess.run(
        [sys.executable, program, tmp_path, str(KILLS)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    counts = json.loads(process.stdout.splitlines()[-1])
    assert counts["killed"] == KILLS
    assert counts["during_a_save"] >= KILLS / 5
    expected = json.loads((tmp_path / "whole" / "results.json").read_text("utf-8"))
    others = [path for path in tmp_path.glob("*/results.json")]
    assert len(others) == counts["finished"] + 2
    for path in others:
        assert json.loads(path.read_text("utf-8")) == expected, path


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("*.npz"))


@pytest.mark.endurance
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, tmp_path):
    expected = results(tmp_path / "whole", *fit(tmp_path / "whole"))
    folder = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        fit(folder, extra=[StopAt(20)])
    newest = checkpoints(folder)[-1]
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        middle = len(content) // 2
        content[middle : middle + 500] = bytes(500)
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
        assert results(folder, *fit(folder)) == expected

    with pytest.raises(StoppedError):
        fit(tmp_path / "other", extra=[StopAt(20)])
    for path in checkpoints(tmp_path / "other"):
        path.write_bytes(b"PK")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match=r"Every checkpoint in .* is damaged: remove"),
    ):
        fit(tmp_path / "other")


def test_every_altered_byte_is_seen_or_harmless(tmp_path):
    with pytest.raises(StoppedError):
        fit(tmp_path, extra=[StopAt(4)])
    from zoo.callbacks.exact_resume import _read

    path = checkpoints(tmp_path)[-1]
    content = path.read_bytes()
    expected = _read(path)
    rng = np.random.default_rng(0)
    seen = 0
    for place in rng.integers(0, len(content), 300):
        altered = bytearray(content)
        altered[place] ^= 1 << rng.integers(8)
        path.write_bytes(altered)
        try:
            received = _read(path)
        except Exception:
            seen += 1
        else:
            np.testing.assert_equal(received, expected)
    assert seen > 150


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    expected = results(tmp_path / "whole", *fit(tmp_path / "whole"))
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if 5 < len(calls) < 12:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    folder = tmp_path / "full"
    with pytest.warns(UserWarning, match="training goes on: .*No space left"):
        assert results(folder, *fit(folder)) == expected
    assert not (folder / "checkpoints" / ".unfinished").exists()
    assert len(checkpoints(folder)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_for_a_checkpoint(number, tmp_path):
    def build():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    class Signal(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                os.kill(os.getpid(), number)

    data = ShuffledBatches(np.ones((96, 8)), np.ones((96, 1)), batch_size=16)
    resume = ExactResume(tmp_path, data=data)
    before = signal.getsignal(number)
    error = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    model = build()
    with pytest.raises(error), resume.saving_when_stopped():
        model.fit(
            data,
            steps_per_epoch=6,
            shuffle=False,
            callbacks=[GradientNorms(), Signal(), resume],
            verbose=0,
        )
    assert signal.getsignal(number) is before
    assert (tmp_path / "00000-00000003.checkpoint.npz").exists()
    assert type(model.train_function).__module__ != "zoo.callbacks.capture"
    resumed = build()
    resumed.fit(
        data,
        steps_per_epoch=6,
        shuffle=False,
        callbacks=[ExactResume(tmp_path, data=data)],
        verbose=0,
    )
    assert int(resumed.optimizer.iterations) == 6


def small(optimizer="adam", units=1):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(units)])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize(
    ("model", "settings", "difference"),
    [
        (lambda: small("sgd"), {}, "optimizer: saved .*Adam.*, received .*SGD"),
        (lambda: small(units=2), {}, r"variables: saved .*\[8, 1\].*, received .*8, 2"),
        (small, {"batch_size": 4}, "batches: saved 4, received 8"),
        (small, {"description": {"data": 2}}, "data: saved 1, received 2"),
    ],
)
def test_another_run_is_refused(model, settings, difference, tmp_path):
    def run(model, batch_size=8, description=None):
        resume = ExactResume(tmp_path, description=description or {"data": 1})
        x, y = np.ones((32, 8)), np.ones((32, 1))
        model.fit(x, y, batch_size, shuffle=False, callbacks=[resume], verbose=0)

    run(small())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"belongs to another run.*{difference}"):
        run(model(), **settings)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("first", [True, False])
def test_gradients_are_not_recorded_of_batches_passed_over(first, tmp_path):
    # Whatever the order of the callbacks, nothing is trained on these batches.
    x, y = np.ones((32, 8)), np.ones((32, 1))

    def run(*extra):
        model, gradients = small(), GradientNorms()
        resume = ExactResume(tmp_path, save_freq=3)
        callbacks = [gradients, resume] if first else [resume, gradients]
        model.fit(x, y, 4, shuffle=False, callbacks=[*callbacks, *extra], verbose=0)
        return model, gradients

    with pytest.raises(StoppedError):
        run(StopAt(8))
    model, gradients = run()
    assert int(model.optimizer.iterations) == 8
    assert len(gradients.steps) == 2


def test_callbacks_that_count_batches_and_set_variables(tmp_path):
    class Losses(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.losses, self.epochs_seen = [], 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epochs_seen += 1

        def on_train_batch_end(self, batch, logs=None):
            self.losses.append(logs.get("loss"))

    def run(folder, *extra):
        keras.utils.set_random_seed(0)
        model, losses = small(), Losses()
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9)
        saving = keras.callbacks.ModelCheckpoint(
            folder / "{epoch}-{batch}-{loss:.4f}.weights.h5",
            save_freq=5,
            save_weights_only=True,
        )
        followed = [schedule, losses, saving]
        resume = ExactResume(folder / "c", save_freq=3, callbacks=followed)
        x, y = np.ones((32, 8)), np.ones((32, 1))
        model.fit(
            *(x, y, 4, 4),
            shuffle=False,
            callbacks=[*followed, *extra, resume],
            verbose=0,
        )
        weights = [w.tolist() for w in model.get_weights()]
        kept = {p.name: p.read_bytes() for p in folder.glob("*.h5")}
        rate = float(model.optimizer.learning_rate)
        return weights, losses.losses, losses.epochs_seen, rate, sorted(kept)

    expected = run(tmp_path / "whole")
    assert len(expected[1]) == 32
    for count in (13, 4, 6):
        with pytest.raises(StoppedError):
            run(tmp_path / "stopped", StopAt(count))
    assert run(tmp_path / "stopped") == expected


def test_all_kinds_of_state(tmp_path):
    class Keeping(keras.callbacks.Callback):
        """Holds a value per class, weights in bfloat16, and counts by epoch."""

        def __init__(self):
            super().__init__()
            self.kept, self.scores, self.batches = [], [], {}

        def on_train_batch_begin(self, batch, logs=None):
            self.batches[self.epoch] = self.batches.get(self.epoch, 0) + 1

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_epoch_end(self, epoch, logs=None):
            self.kept = [keras.ops.convert_to_numpy(w) for w in self.model.weights]
            self.scores.append(np.array(logs["f1_score"]))

    def run(folder, *extra):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(3, activation="softmax", dtype="bfloat16"),
            ]
        )
        model.compile(
            "adam", "categorical_crossentropy", metrics=[keras.metrics.F1Score()]
        )
        x, y = np.ones((32, 8)), np.eye(3)[np.arange(32) % 3]
        keeping = Keeping()
        resume = ExactResume(folder, save_freq=3, callbacks=[keeping])
        history = model.fit(
            *(x, y, 4, 2),
            shuffle=False,
            callbacks=[keeping, *extra, resume],
            verbose=0,
        )
        kept = [(w.dtype, w.tobytes()) for w in keeping.kept]
        scores = [np.array(score) for score in history.history["f1_score"]]
        return kept, keeping.batches, np.array([*keeping.scores, *scores]).tolist()

    expected = run(tmp_path / "whole")
    assert expected[0][0][0].name == "bfloat16"
    assert expected[1] == {0: 8, 1: 8}
    assert np.shape(expected[2]) == (4, 3)
    for count in (6, 8):
        with pytest.raises(StoppedError):
            run(tmp_path / "stopped", StopAt(count))
    assert run(tmp_path / "stopped") == expected


def test_a_learning_rate_may_be_lowered_under_a_loss_scale(tmp_path):
    def run(rate, epochs):
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.Adam(rate)
        model.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
        x, y = np.ones((32, 8)), np.ones((32, 1))
        resume = ExactResume(tmp_path)
        return model.fit(
            *(x, y, 4, epochs), shuffle=False, callbacks=[resume], verbose=0
        )

    run(1e-2, 1)
    assert len(run(1e-3, 2).history["loss"]) == 2


def test_several_fits_with_the_same_objects(tmp_path):
    data = ShuffledBatches(np.ones((96, 8)), np.ones((96, 1)), batch_size=16)
    first = [data[index][1] for index in range(8)]
    model, resume = small(), ExactResume(tmp_path, data=data)
    settings = {"steps_per_epoch": 6, "shuffle": False, "verbose": 0}
    model.fit(data, epochs=2, callbacks=[resume], **settings)
    model.fit(data, epochs=3, callbacks=[resume], **settings)
    assert int(model.optimizer.iterations) == 18
    model.fit(data, epochs=1, **settings)
    assert int(model.optimizer.iterations) == 24
    for index, targets in enumerate(first):
        np.testing.assert_array_equal(data[index][1], targets)


def test_early_stopping_stays_stopped(tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if self.model.stop_training:
                raise StoppedError

    def run(folder, *extra):
        keras.utils.set_random_seed(0)
        model = small()
        stopping = keras.callbacks.EarlyStopping(
            "loss", min_delta=1e9, patience=2, restore_best_weights=True
        )
        resume = ExactResume(folder, callbacks=[stopping])
        x, y = np.ones((32, 8)), np.ones((32, 1))
        history = model.fit(
            *(x, y, 8, 20),
            shuffle=False,
            callbacks=[stopping, resume, *extra],
            verbose=0,
        )
        return history.history, [w.tolist() for w in model.get_weights()]

    expected = run(tmp_path / "whole")
    assert len(expected[0]["loss"]) < 20
    with pytest.raises(StoppedError):
        run(tmp_path / "killed", Killed())
    assert run(tmp_path / "killed") == expected


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"`save_freq` must be .* Received: .*=0"):
        ExactResume(tmp_path, save_freq=0)
    with pytest.raises(ValueError, match="lengths 3 and 4, batch_size=32"):
        ShuffledBatches(np.ones((3, 1)), np.ones(4))
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    with pytest.raises(ValueError, match="only if made with `append=True`"):
        ExactResume(tmp_path, callbacks=[log])
    data = ShuffledBatches(np.ones((96, 8)), np.ones((96, 1)))
    resume, model = ExactResume(tmp_path, data=data), small()
    with pytest.raises(ValueError, match="has no end: give `fit`"):
        model.fit(data, shuffle=False, callbacks=[resume], verbose=0)
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile("sgd", "mse")
    if keras.backend.backend() == "tensorflow":  # Others build it before.
        with pytest.raises(ValueError, match="built and compiled before `fit`"):
            unbuilt.fit(
                *(np.ones((8, 2)), np.ones((8, 1))),
                callbacks=[ExactResume(tmp_path)],
                verbose=0,
            )


def test_batches_are_a_function_of_their_place():
    x, y = np.arange(1050 * 4).reshape(1050, 4), np.arange(1050)
    batches = ShuffledBatches(x, y, 100, seed=1)
    assert batches.steps_per_epoch == 10
    expected = [batches[i] for i in range(20)]
    for inputs, targets in expected:
        np.testing.assert_array_equal(inputs, x[targets])
    first, second = (
        np.concatenate([targets for _, targets in expected[start : start + 10]])
        for start in (0, 10)
    )
    assert len(set(first)) == len(set(second)) == 1000
    assert not np.array_equal(first, second)
    batches.start_at(8, 3)
    for index in (5, 3, 9):
        np.testing.assert_array_equal(batches[index][1], expected[8 + index][1])


def test_shards_are_the_parts_of_every_batch():
    x, y = np.arange(400).reshape(100, 4), np.arange(100)

    def add_noise(x, rng):
        return x + rng.normal(size=x.shape)

    whole = ShuffledBatches(x, y, 12, augment=add_noise)
    shards = [
        ShuffledBatches(x, y, 12, augment=add_noise, shard=(i, 3)) for i in range(3)
    ]
    for index in (0, 5, 11):
        for part in (0, 1):
            np.testing.assert_array_equal(
                np.concatenate([shard[index][part] for shard in shards]),
                whole[index][part],
            )
    with pytest.raises(ValueError, match=r"Received: shard=\(0, 5\), batch_size=12"):
        ShuffledBatches(x, y, 12, shard=(0, 5))
