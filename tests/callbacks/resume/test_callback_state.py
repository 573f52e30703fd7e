import datetime

import keras
import numpy as np
import pytest
from killed_runs import StoppedError, fit_small, fit_with_stops, small


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
        model, losses, begun = small(), Losses(), []
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9)
        saving = keras.callbacks.ModelCheckpoint(
            folder / "{epoch}-{batch}-{loss:.4f}.weights.h5",
            save_freq=5,
            save_weights_only=True,
        )
        calls = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: begun.append(batch)
        )
        # No loss improves by that much, unless the sign of the difference changes.
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=9.0)
        callbacks = [schedule, losses, saving, calls, plateau]
        fit_small(folder / "c", model, callbacks, extra, epochs=4, save_freq=3)
        weights = [w.tolist() for w in model.get_weights()]
        rate = float(model.optimizer.learning_rate)
        kept = sorted(path.name for path in folder.glob("*.h5"))
        # The last of the stopped runs resumes in the second of the four epochs.
        assert begun in ([*range(8)] * 4, [*range(3, 8), *range(8), *range(8)])
        return weights, losses.losses, losses.epochs_seen, rate, kept

    assert len(fit_with_stops(run, tmp_path, (13, 4, 6))[1]) == 32


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
        dense = keras.layers.Dense(3, activation="softmax", dtype="bfloat16")
        model = keras.Sequential([keras.Input((8,)), dense])
        metrics = [keras.metrics.F1Score()]
        model.compile("adam", "categorical_crossentropy", metrics=metrics)
        y, keeping = np.eye(3)[np.arange(32) % 3], Keeping()
        history = fit_small(folder, model, [keeping], extra, y=y, epochs=2, save_freq=3)
        kept = [(w.dtype, w.tobytes()) for w in keeping.kept]
        scores = [np.array(score) for score in history.history["f1_score"]]
        return kept, keeping.batches, np.array([*keeping.scores, *scores]).tolist()

    kept, batches, scores = fit_with_stops(run, tmp_path, (6, 8))
    assert kept[0][0].name == "bfloat16"
    assert batches == {0: 8, 1: 8}
    assert np.shape(scores) == (4, 3)


def test_values_that_a_checkpoint_cannot_hold_are_left_out_of_the_history(tmp_path):
    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs |= {"epoch": epoch, "none": None, "when": datetime.date.today()}

    for epochs in (2, 3):
        with pytest.warns(UserWarning, match=r"cannot hold .* when=datetime"):
            fitted = fit_small(tmp_path, small(), [Log()], epochs=epochs)
    history = fitted.history
    assert (history["epoch"], history["none"]) == ([0, 1, 2], [None] * 3)
    assert len(history["when"]) == 1


def test_early_stopping_stays_stopped(tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            raise StoppedError

    def run(folder, *extra):
        keras.utils.set_random_seed(0)
        model = small()
        stopping = keras.callbacks.EarlyStopping(
            "loss", min_delta=1e9, patience=2, restore_best_weights=True
        )
        history = fit_small(folder, model, [stopping], extra, epochs=20)
        return history.history, [w.tolist() for w in model.get_weights()]

    expected = run(tmp_path / "whole")
    assert len(expected[0]["loss"]) < 20
    with pytest.raises(StoppedError):
        run(tmp_path / "killed", Killed())
    with pytest.warns(UserWarning, match=r"after 3 epochs: nothing is trained"):
        assert run(tmp_path / "killed") == expected
