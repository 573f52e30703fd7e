"""What `GradientNorms` writes, read back."""

import copy
import pickle
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from zoo.callbacks import GradientNorms


@pytest.fixture
def model():
    layers = [keras.layers.Dense(4, "tanh", name="hidden"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile("sgd", "mse")
    return model


@pytest.fixture
def points():
    random = np.random.default_rng(0)
    return random.normal(size=(40, 3)), random.normal(size=(40, 1))


def fit(model, points, *callbacks, **kwargs):
    return model.fit(*points, batch_size=8, verbose=0, callbacks=callbacks, **kwargs)


def test_dict_and_file_hold_the_recording(model, points, tmp_path):
    gradients = GradientNorms()
    fit(model, points, gradients)
    columns = gradients.to_dict()
    assert list(columns) == ["step", "optimizer", "global_norm", "hidden", "dense"]
    gradients.to_csv(tmp_path / "layers.csv")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "layers.csv"),
        pd.DataFrame(columns),
    )
    gradients.to_csv(tmp_path / "variables.csv", variables=True)
    table = pd.read_csv(tmp_path / "variables.csv")
    np.testing.assert_array_equal(
        table["hidden/kernel"], gradients.variables["hidden/kernel"]
    )


def test_layers_may_have_the_names_of_columns(points):
    layers = [keras.layers.Dense(2, name=name) for name in ("step", "global_norm")]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    gradients = GradientNorms()
    fit(model, points, gradients)
    columns = gradients.to_dict()
    np.testing.assert_array_equal(columns["step"], range(5))
    np.testing.assert_array_equal(columns["layer/step"], gradients.history["step"])
    np.testing.assert_array_equal(columns["global_norm"], gradients.global_norm)
    assert len(columns) == 6


def test_the_file_grows_at_the_end_of_each_epoch(model, points, tmp_path):
    path = tmp_path / "norms.csv"
    lengths = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: lengths.append(len(pd.read_csv(path, sep=";")))
    )
    gradients = GradientNorms(csv=path, separator=";")
    fit(model, points, gradients, look, epochs=3)
    assert lengths == [5, 10, 15]
    table = pd.read_csv(path, sep=";")
    np.testing.assert_array_equal(table["hidden"], gradients.history["hidden"])
    np.testing.assert_array_equal(table["step"], range(15))


def test_the_file_has_the_rows_before_a_step_that_fails(model, points, tmp_path):
    def batches():
        for start in (0, 8, 16):
            yield tuple(array[start : start + 8] for array in points)
        raise RuntimeError("no more data")

    path = tmp_path / "norms.csv"
    with pytest.raises(Exception, match="no more data"):
        model.fit(
            batches(), callbacks=[GradientNorms(csv=path)], shuffle=False, verbose=0
        )
    written = pd.read_csv(path) if path.exists() else []
    # On torch, Keras draws the data outside of the step.
    assert len(written) == (0 if keras.backend.backend() == "torch" else 3)


def test_a_file_that_is_there_hides_no_error_of_the_step(model, points, tmp_path):
    path = tmp_path / "norms.csv"
    path.write_text("epoch,loss\n0,1\n")
    model.compile("sgd", lambda y, outputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, points, GradientNorms(csv=path))
    assert path.read_text("utf-8") == "epoch,loss\n0,1\n"


def test_a_file_that_cannot_be_written_hides_no_error_of_the_step(model, points):
    def batches():
        for start in (0, 8, 16):
            yield tuple(array[start : start + 8] for array in points)
        raise RuntimeError("no more data")

    if keras.backend.backend() == "torch":
        return  # Keras draws the data outside of the step.
    with (
        pytest.raises(Exception, match="no more data"),
        pytest.warns(UserWarning, match="cannot write.*nowhere"),
    ):
        model.fit(
            batches(),
            callbacks=[GradientNorms(csv="nowhere/x")],
            shuffle=False,
            verbose=0,
        )


PROGRAM = """
import sys
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
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, path], capture_output=True, text=True
    )
    assert "KeyboardInterrupt" in process.stderr
    np.testing.assert_array_equal(pd.read_csv(path)["step"], range(4))


def test_appending_to_a_file(model, points, tmp_path):
    path = tmp_path / "norms.csv"
    fit(model, points, GradientNorms(csv=path))
    fit(model, points, GradientNorms(csv=path, append=True))
    assert len(pd.read_csv(path)) == 10
    fit(model, points, GradientNorms(csv=path))
    assert len(pd.read_csv(path)) == 5
    path.write_text("epoch,loss\n0,1\n")
    with pytest.raises(ValueError, match="Received: epoch,loss"):
        fit(model, points, GradientNorms(csv=path, append=True))
    assert path.read_text("utf-8") == "epoch,loss\n0,1\n"


def test_the_file_is_written_anew_when_a_layer_is_unfrozen(model, points, tmp_path):
    path = tmp_path / "norms.csv"
    gradients = GradientNorms(csv=path)
    model.layers[0].trainable = False
    model.compile("sgd", "mse")
    fit(model, points, gradients)
    assert "hidden" not in pd.read_csv(path)
    model.layers[0].trainable = True
    model.compile("sgd", "mse")
    fit(model, points, gradients)
    assert list(pd.read_csv(path)["hidden"].isna()) == [True] * 5 + [False] * 5


def test_epoch_means_reach_the_callbacks_that_come_later(model, points, tmp_path):
    gradients = GradientNorms(logs=True)
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model, points, gradients, logger, epochs=2).history
    means = gradients.history["hidden"].reshape(2, 5).mean(axis=1)
    np.testing.assert_allclose(history["grad_norm/hidden"], means)
    assert "grad_norm/hidden" in pd.read_csv(tmp_path / "log.csv")
    assert list(fit(model, points, GradientNorms()).history) == ["loss"]


def test_training_ends_at_a_finding(model, points):
    x, y = points[0].copy(), points[1]
    x[0] = np.nan
    gradients = GradientNorms(stop_on=("non_finite",))
    with pytest.warns(UserWarning, match="ends training: non-finite gradient at"):
        history = fit(model, (x, y), gradients, epochs=10)
    assert history.epoch == [0]
    gradients = GradientNorms(stop_on=("vanishing", "dead"))
    assert fit(model, (x, y), gradients, epochs=3).epoch == [0, 1, 2]


def test_a_finding_of_an_earlier_fit_does_not_end_this_one(model, points):
    x, y = points[0].copy(), points[1]
    x[0] = np.nan
    weights = model.get_weights()
    gradients = GradientNorms(stop_on=("non_finite",))
    with pytest.warns(UserWarning, match="ends training"):
        fit(model, (x, y), gradients)
    model.set_weights(weights)
    assert fit(model, points, gradients, epochs=3).epoch == [0, 1, 2]


@pytest.mark.parametrize(
    "arguments", [{"stop_on": "dead"}, {"stop_on": ("Dead",)}, {"update_freq": 0}]
)
def test_bad_arguments_are_named(arguments):
    name, value = arguments.popitem()
    with pytest.raises(ValueError, match=f"Received: {name}="):
        GradientNorms(**{name: value})


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_copies_and_pickles_go_on(duplicate, append, model, points, tmp_path):
    path = tmp_path / "norms.csv"
    gradients = GradientNorms(csv=path, append=append, log_dir=tmp_path)
    fit(model, points, duplicate(gradients))
    assert len(gradients.steps) == 0
    path.unlink()
    fit(model, points, gradients)
    copied = duplicate(gradients)
    for name, column in gradients.to_dict().items():
        np.testing.assert_array_equal(copied.to_dict()[name], column)
    fit(model, points, copied)
    assert len(gradients.steps) == 5
    table = pd.read_csv(path)
    np.testing.assert_array_equal(table["step"], range(10))
    np.testing.assert_array_equal(table["hidden"], copied.history["hidden"])
