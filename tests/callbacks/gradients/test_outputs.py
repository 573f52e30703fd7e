"""Tests of what `GradientNorms` writes, by reading it back."""

import copy
import gc
import pickle
import subprocess
import sys
import weakref

import keras
import numpy as np
import pandas as pd
import pytest
from references import batches, fit, read_events, record_of

from zoo.callbacks import GradientNorms
from zoo.callbacks.gradients.outputs import TensorBoardOutput

BACKEND = keras.backend.backend()


def fit_until_error(model, points, gradients):
    def failing_batches():
        yield from batches(points)[:3]
        raise RuntimeError("no more data")

    with pytest.raises(Exception, match="no more data"):
        model.fit(failing_batches(), callbacks=[gradients], shuffle=False, verbose=0)


def test_dict_and_file_hold_the_recording(model, points, tmp_path):
    gradients = GradientNorms()
    fit(model, points, gradients)
    columns = gradients.to_dict()
    assert list(columns) == ["step", "optimizer", "global_norm", "hidden", "output"]
    gradients.to_csv(tmp_path / "layers.csv")
    read = pd.read_csv(tmp_path / "layers.csv")
    pd.testing.assert_frame_equal(read, pd.DataFrame(columns))
    gradients.to_csv(tmp_path / "variables.csv", variables=True)
    kernels = pd.read_csv(tmp_path / "variables.csv")["hidden/kernel"]
    np.testing.assert_array_equal(kernels, gradients.variables["hidden/kernel"])


def test_outputs_expand_the_home_folder(model, points, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    log_dir = "~/logs" if BACKEND == "tensorflow" else None
    gradients = GradientNorms(csv="~/norms.csv", log_dir=log_dir)
    assert repr(gradients) == "<GradientNorms of 'model': 0 rows read>"
    fit(model, points, gradients)
    assert repr(gradients) == f"<GradientNorms of {model.name!r}: 6 rows read>"
    gradients.to_csv("~/copy.csv")
    expected = {"norms.csv", "copy.csv", *(["logs"] if log_dir else [])}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_the_file_grows_at_the_end_of_each_epoch(model, points, tmp_path):
    path = tmp_path / "norms.csv"
    lengths = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: lengths.append(len(pd.read_csv(path)))
    )
    gradients = GradientNorms(csv=path)
    fit(model, points, gradients, look, epochs=3)
    assert lengths == [6, 12, 18]
    table = pd.read_csv(path)
    np.testing.assert_array_equal(table["hidden"], gradients.history["hidden"])
    np.testing.assert_array_equal(table["step"], range(18))


def test_the_file_has_the_rows_before_a_step_that_fails(model, points, tmp_path):
    path = tmp_path / "norms.csv"
    path.write_text("epoch,loss\n0,1\n")
    gradients = GradientNorms(csv=path)
    model.compile("sgd", lambda y, outputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, points, gradients)
    assert path.read_text("utf-8") == "epoch,loss\n0,1\n"
    model.compile("sgd", "mse")
    fit_until_error(model, points, gradients)
    if BACKEND != "torch":  # On torch, Keras draws the data outside of the step.
        assert len(pd.read_csv(path)) == 3


def test_a_file_that_cannot_be_written_fails_before_the_first_step(
    model, points, tmp_path
):
    gradients = GradientNorms(csv=tmp_path / "nowhere" / "norms.csv")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fit(model, points, gradients)
    with (
        pytest.raises(FileNotFoundError, match="nowhere"),
        gradients.watch(model.optimizer, model),
    ):
        pass
    assert len(gradients.steps) == 0


@pytest.mark.skipif(BACKEND == "torch", reason="draws the data outside of the step")
def test_a_full_disk_hides_no_error_of_the_step(model, points, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.callbacks.gradients.outputs.write_csv", full)
    with pytest.warns(UserWarning, match="cannot write.*No space left"):
        fit_until_error(model, points, GradientNorms(csv=tmp_path / "norms.csv"))


PROGRAM = """
import sys
import weakref
import keras
from zoo.callbacks import GradientNorms


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            raise KeyboardInterrupt


model = keras.Sequential([keras.layers.Dense(1)])
model.compile("sgd", "mse")
x = keras.ops.ones((80, 2))
model.fit(x, x, batch_size=8, callbacks=[GradientNorms(csv=sys.argv[1]), Interrupt()])
"""


def test_an_interrupted_program_leaves_the_rows_in_the_file(tmp_path):
    path = tmp_path / "norms.csv"
    command = [sys.executable, "-c", PROGRAM, path]
    process = subprocess.run(command, capture_output=True, text=True)
    assert "KeyboardInterrupt" in process.stderr
    np.testing.assert_array_equal(pd.read_csv(path)["step"], range(4))


def test_an_exception_in_another_callback_keeps_no_model_alive(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                raise KeyboardInterrupt

    def interrupted():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        x, norms = np.ones((80, 2)), GradientNorms(csv=tmp_path / "norms.csv")
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, x, batch_size=8, callbacks=[norms, Interrupt()], verbose=0)
        return weakref.ref(model)

    model = interrupted()
    gc.collect()
    assert model() is None
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "norms.csv")["step"], range(4))


def test_another_record_replaces_the_file(model, points, tmp_path):
    path = tmp_path / "norms.csv"
    gradients = GradientNorms(csv=path)
    fit(model, points, gradients, epochs=2)
    state = gradients.get_state()
    fit(model, points, gradients)
    assert len(pd.read_csv(path)) == 18
    gradients.set_state(state)
    fit(model, points, gradients)
    np.testing.assert_array_equal(pd.read_csv(path)["step"], range(18))
    fit(model, points, GradientNorms(csv=path))
    np.testing.assert_array_equal(pd.read_csv(path)["step"], range(6))


def test_epoch_means_reach_the_callbacks_that_come_later(model, points, tmp_path):
    gradients = GradientNorms(logs=True)
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model, points, gradients, logger, epochs=2).history
    means = gradients.history["hidden"].reshape(2, 6).mean(axis=1)
    np.testing.assert_allclose(history["grad_norm/hidden"], means)
    assert "grad_norm/hidden" in pd.read_csv(tmp_path / "log.csv")
    assert list(fit(model, points, GradientNorms()).history) == ["loss"]
    late = [keras.callbacks.EarlyStopping("loss"), gradients]
    with pytest.warns(UserWarning, match=r"callbacks=\[EarlyStopping, GradientNorms\]"):
        fit(model, points, *late)


def test_means_leave_out_steps_that_a_loss_scale_skips(model, points):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    model.compile(optimizer, "mse")
    x, y = points[0], points[1].copy()
    y[8] = np.inf
    gradients = GradientNorms(logs=True)
    history = fit(model, (x, y), gradients).history
    norms = gradients.history["hidden"]
    assert np.isinf(norms).sum() + np.isnan(norms).sum() == 1
    means = norms[np.isfinite(norms)].mean()
    np.testing.assert_allclose(history["grad_norm/hidden"], [means])


def test_a_finding_of_this_fit_ends_training(model, points):
    x, y = points[0].copy(), points[1]
    x[0] = np.nan
    weights = model.get_weights()
    gradients, other = (GradientNorms(stop_on=(k,)) for k in ("non_finite", "dead"))
    assert fit(model, (x, y), other, epochs=3).epoch == [0, 1, 2]
    with pytest.warns(UserWarning, match="stops training: non-finite gradient at"):
        assert fit(model, (x, y), gradients, epochs=10).epoch == [0]
    model.set_weights(weights)
    assert fit(model, points, gradients, epochs=3).epoch == [0, 1, 2]


def test_copies_and_pickles_continue_the_record(model, points, tmp_path):
    def duplicate(gradients):
        return pickle.loads(pickle.dumps(copy.deepcopy(gradients)))

    path = tmp_path / "norms.csv"
    log_dir = tmp_path if BACKEND == "tensorflow" else None
    gradients = GradientNorms(csv=path, log_dir=log_dir)
    fit(model, points, duplicate(gradients))
    assert len(gradients.steps) == 0
    path.unlink()
    fit(model, points, gradients)
    copied = duplicate(gradients)
    for name, column in gradients.to_dict().items():
        np.testing.assert_array_equal(copied.to_dict()[name], column)
    fit(model, points, copied)
    assert len(gradients.steps) == 6
    table = pd.read_csv(path)
    np.testing.assert_array_equal(table["step"], range(12))
    np.testing.assert_array_equal(table["hidden"], copied.history["hidden"])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="writes with TensorFlow")
@pytest.mark.parametrize("update_freq", ["batch", "epoch"])
def test_tensorboard_receives_scalars_histogram_and_plot(
    update_freq, model, points, tmp_path
):
    gradients = GradientNorms(log_dir=tmp_path, update_freq=update_freq)
    fit(model, points, gradients, epochs=2)
    events = read_events(tmp_path)
    hidden = gradients.history["hidden"]
    expected = {
        "batch": list(enumerate(hidden)),
        "epoch": [(0, hidden[:6].mean()), (1, hidden[6:].mean())],
    }[update_freq]
    logs = [(step, np.log10(norm)) for step, norm in expected]
    np.testing.assert_allclose(events["log10_gradient_norm/hidden"], logs, rtol=1e-5)
    histogram = events["log10_gradient_norm"]
    assert [step for step, _ in histogram] == [step for step, _ in expected]
    assert histogram[0][1][:, 2].sum() == 2  # one count per layer
    (first, (*_, image)), (second, _) = events["gradient_norms"]
    assert (first, second, image[:4]) == (0, 1, b"\x89PNG")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="writes with TensorFlow")
def test_tensorboard_needs_no_matplotlib_and_no_zero_or_infinite_norm(
    tmp_path, monkeypatch
):
    output = TensorBoardOutput(tmp_path, "batch", 0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    output.write(record_of(np.array([[0.0, 10.0], [100.0, np.inf]])), epoch=0)
    events = read_events(tmp_path)
    assert events.pop("log10_gradient_norm/dense1") == [(1, 2.0)]
    assert events.pop("log10_gradient_norm/logits") == [(0, 1.0)]
    assert list(events) == ["log10_gradient_norm"]


@pytest.mark.parametrize("package", ["tensorflow", "tensorboard"])
def test_tensorboard_needs_its_packages(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    message = r'pip install .*\[tensorboard\]"`\. Received: '
    with pytest.raises(ImportError, match=message):
        GradientNorms(log_dir=tmp_path)
