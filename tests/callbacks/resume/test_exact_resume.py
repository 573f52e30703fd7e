"""Runs that are stopped at any moment end like uninterrupted runs."""

import json
import os
import signal

import keras
import numpy as np
import pytest
from killed_runs import (
    StopAt,
    StoppedError,
    fit,
    fit_small,
    fit_with_stops,
    results,
    small,
)
from paths import HELPERS, run_python

from zoo.callbacks import ExactResume, GradientNorms, ShuffledBatches

# Half of the kills wait for a save, so that about ten hit an unfinished file.
KILLS = 20
SETTINGS = [{}, {"save_freq": "epoch"}, {"jit_compile": True}]
SETTINGS += [{"steps_per_execution": 3, "save_freq": 2}]


@pytest.mark.endurance
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_stopped_run_ends_as_if_it_were_not(settings, tmp_path):
    if keras.backend.backend() == "torch" and settings.keys() & {
        "jit_compile",
        "steps_per_execution",
    }:
        pytest.skip("Keras does not do this on torch.")
    # Stops before and after a save, in the first and later epochs, and at once.
    counts = (5, 1, 2, 9, 4, 12, 3) if settings.keys() <= {"save_freq"} else (4, 1, 6)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = results(whole, *fit(whole, **settings))
    for count in counts:
        with pytest.raises(StoppedError):
            fit(stopped, extra=[StopAt(count)], **settings)
    received = results(stopped, *fit(stopped, **settings))
    assert received.keys() == expected.keys()
    for name, content in expected.items():
        assert received[name] == content, name
    # A finished run is not trained again.
    assert results(whole, *fit(whole, **settings)) == expected


@pytest.mark.endurance
def test_killed_at_any_moment(tmp_path):
    output = run_python(HELPERS / "killed_runs.py", tmp_path, KILLS)
    counts = json.loads(output.splitlines()[-1])
    assert counts["killed"] == KILLS
    assert counts["during_a_save"] >= KILLS / 5
    expected = json.loads((tmp_path / "whole" / "results.json").read_text("utf-8"))
    others = [path for path in tmp_path.glob("*/results.json")]
    assert len(others) == counts["finished"] + 2
    for path in others:
        assert json.loads(path.read_text("utf-8")) == expected, path


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("*.npz"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    expected = results(tmp_path / "whole", *fit(tmp_path / "whole"))
    folder = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        fit(folder, extra=[StopAt(20)])
    newest = checkpoints(folder)[-1]
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
        assert results(folder, *fit(folder)) == expected


HOOKS = ["train_begin", "epoch_begin", "train_batch_begin", "train_batch_end"]
HOOKS += ["epoch_end", "train_end"]


def weights_of_a_run(folder, *extra, is_first=True):
    keras.utils.set_random_seed(0)
    model, saving = small(), ExactResume(folder, save_freq=3)
    callbacks = [*extra, saving] if is_first else [saving, *extra]
    settings = {"batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    model.fit(x, np.ones((32, 1)), callbacks=callbacks, **settings)
    return [weight.tolist() for weight in model.get_weights()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return weights_of_a_run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_callback_that_fails_keeps_the_checkpoint(
    hook, is_first, uninterrupted, tmp_path
):
    def fail(*args, logs=None):
        counts.append(None)
        if len(counts) == (1 if "train_" in hook and "batch" not in hook else 2):
            raise KeyboardInterrupt

    counts = []
    callback = keras.callbacks.LambdaCallback(**{f"on_{hook}": fail})
    with pytest.raises(KeyboardInterrupt):
        weights_of_a_run(tmp_path, callback, is_first=is_first)
    assert weights_of_a_run(tmp_path, is_first=is_first) == uninterrupted


@pytest.mark.parametrize("save_freq", ["epoch", 2])
def test_beside_backup_and_restore(save_freq, tmp_path):
    def run(folder, *extra):
        keras.utils.set_random_seed(0)
        model = small()
        backup = keras.callbacks.BackupAndRestore(folder / "backup", save_freq)
        extra = [backup, *extra]
        fit_small(folder, model, extra=extra, epochs=3, save_freq=3)
        with pytest.raises(ValueError, match="Remove BackupAndRestore"):
            model.fit(np.ones((4, 8)), callbacks=[ExactResume(folder), backup])
        return [weight.tolist() for weight in model.get_weights()]

    fit_with_stops(run, tmp_path, (6, 12))


def test_a_full_disk_ends_nothing(uninterrupted, tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if 2 < len(calls) < 6:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="training continues: .*No space left"):
        assert weights_of_a_run(tmp_path) == uninterrupted
    assert not (tmp_path / ".unfinished").exists()
    assert len([*tmp_path.glob("*.npz")]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_for_a_checkpoint(number, tmp_path):
    class Signal(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                os.kill(os.getpid(), number)

    data = ShuffledBatches(np.ones((96, 8)), np.ones((96, 1)), batch_size=16)
    settings = {"steps_per_epoch": 6, "shuffle": False, "verbose": 0}
    resume = ExactResume(tmp_path, data=data)
    before = signal.getsignal(number)
    error = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    model = small("sgd")
    with pytest.raises(error), resume.saving_when_stopped():
        model.fit(data, callbacks=[GradientNorms(), Signal(), resume], **settings)
    assert signal.getsignal(number) is before
    assert (tmp_path / "00000-00000003.checkpoint.npz").exists()
    assert "zoo.callbacks" not in type(model.train_function).__module__
    other, resumed = small("sgd"), small("sgd")
    other.compile("sgd", "mse", metrics=["mae"])
    with pytest.raises(ValueError, match=r"metrics of the interrupted.*absolute"):
        other.fit(data, callbacks=[ExactResume(tmp_path, data=data)], **settings)
    resumed.fit(data, callbacks=[ExactResume(tmp_path, data=data)], **settings)
    assert int(resumed.optimizer.iterations) == 6


def test_another_run_is_refused(tmp_path):
    fit_small(tmp_path, small(), description={"data": 1})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    two = {"model": small(units=2), "y": np.ones((32, 2))}
    tanh, other_loss, summed, low = small(), small(), small(), small()
    summed.compile(summed.optimizer, keras.losses.MeanSquaredError("sum"))
    low.layers[-1].dtype_policy = "mixed_bfloat16"
    tanh.layers[-1].activation = keras.activations.tanh
    other_loss.compile(other_loss.optimizer, "mae")
    for settings, difference in [
        ({"model": tanh}, "layers: saved .*linear.*, received .*tanh"),
        ({"model": other_loss}, "loss: saved .*, received mae"),
        ({"model": summed}, "loss: saved .*, received .*'reduction': 'sum'"),
        ({"model": low}, "layers: saved .*float32.*, received .*bfloat16"),
        ({"model": small("sgd")}, "optimizer: saved .*Adam.*, received .*SGD"),
        (two, r"variables: saved .*\[8, 1\].*, received .*8, 2"),
        ({"batch_size": 8}, "batches: saved 8, received 4"),
        ({"description": {"data": 2}}, "data: saved 1, received 2"),
    ]:
        settings = {"model": small(), "description": {"data": 1}, **settings}
        with pytest.raises(ValueError, match=f"belongs to another run.*{difference}"):
            fit_small(tmp_path, **settings)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("first", [True, False])
def test_the_gradients_of_skipped_batches_are_not_recorded(first, tmp_path):
    x, y = np.ones((32, 8)), np.ones((32, 1))

    def run(*extra):  # The order of the callbacks must not matter.
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


def test_a_learning_rate_may_be_lowered_under_a_loss_scale(tmp_path):
    for epochs, rate in (1, 1e-2), (2, 1e-3):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate))
        history = fit_small(tmp_path, small(optimizer), epochs=epochs)
        assert len(history.history["loss"]) == epochs


def test_a_schedule_needs_no_configuration(tmp_path):
    class Constant(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 1e-3

    for epochs in (1, 2):
        model = small(keras.optimizers.SGD(Constant()))
        assert len(fit_small(tmp_path, model, epochs=epochs).epoch) == epochs


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


def test_wrong_arguments(tmp_path):
    for save_freq in (0, True):
        message = rf"`save_freq` must be .* Received: save_freq={save_freq}\.$"
        with pytest.raises(ValueError, match=message):
            ExactResume(tmp_path, save_freq=save_freq)
    with pytest.raises(ValueError, match=r"local folder\. .*directory='gs://x'"):
        ExactResume("gs://x")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"local folder\. .*directory='.*file'"):
        ExactResume(tmp_path / "file")
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    with pytest.raises(ValueError, match="must be created with `append=True`"):
        ExactResume(tmp_path, callbacks=[log])
    data = ShuffledBatches(np.ones((96, 8)), np.ones((96, 1)))
    resume, model = ExactResume(tmp_path, data=data), small()
    with pytest.raises(ValueError, match="is endless: pass its `steps_per_epoch"):
        model.fit(data, shuffle=False, callbacks=[resume], verbose=0)
    model.second = keras.optimizers.SGD()
    with pytest.raises(ValueError, match=r"Received: unbuilt=\['second'\]\.$"):
        fit_small(tmp_path, model)
    if keras.backend.backend() == "tensorflow":  # Other backends build it before.
        unbuilt = keras.Sequential([keras.layers.Dense(1)])
        unbuilt.compile("sgd", "mse")
        with pytest.raises(ValueError, match="'model', 'optimizer'"):
            fit_small(tmp_path, unbuilt)
