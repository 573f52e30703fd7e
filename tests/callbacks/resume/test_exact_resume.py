"""Runs that are stopped at any moment end like uninterrupted runs."""

import json
import os
import signal

import keras
import numpy as np
import pytest
from killed_runs import StopAt, StoppedError, fit, fit_small, results, small
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


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX keeps no such state")
def test_states_that_are_no_weights_are_resumed(tmp_path):
    """Those of a stateful recurrent layer, and a variable of the train step."""

    class Counting(keras.Sequential):
        def train_step(self, *args):
            self.total[0].assign(self.total[0] + 1)
            return super().train_step(*args)

    def train(folder, *extra):
        keras.utils.set_random_seed(0)
        rnn = keras.layers.SimpleRNN(3, stateful=True)
        model = Counting(
            [keras.Input((4, 2), batch_size=4), rnn, keras.layers.Dense(1)]
        )
        model.total = [keras.Variable(0.0, trainable=False)]
        model.compile("adam", "mse")
        x = np.random.default_rng(0).normal(size=(32, 4, 2)).astype("float32")
        saving = ExactResume(folder, save_freq=np.int64(2))
        options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
        model.fit(x, np.ones((32, 1)), callbacks=[*extra, saving], **options)
        values = [*model.weights, *rnn.states, *model.total]
        return [keras.ops.convert_to_numpy(value).tobytes() for value in values]

    expected = train(tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(tmp_path / "stopped", StopAt(6))
    assert train(tmp_path / "stopped") == expected


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    expected = results(tmp_path / "whole", *fit(tmp_path / "whole"))
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if 2 < len(calls) < 6:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    folder = tmp_path / "full"
    with pytest.warns(UserWarning, match="training continues: .*No space left"):
        assert results(folder, *fit(folder)) == expected
    assert not (folder / "checkpoints" / ".unfinished").exists()
    assert len(checkpoints(folder)) == 2


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
    resumed = small("sgd")
    resumed.fit(data, callbacks=[ExactResume(tmp_path, data=data)], **settings)
    assert int(resumed.optimizer.iterations) == 6


def test_another_run_is_refused(tmp_path):
    fit_small(tmp_path, small(), description={"data": 1})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    two = {"model": small(units=2), "y": np.ones((32, 2))}
    for settings, difference in [
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
