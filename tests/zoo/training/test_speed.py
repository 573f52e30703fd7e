"""The choice of compiler and library for training on a CPU."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.training import speed
from zoo.training.recipes import Recipe


@pytest.mark.parametrize(
    ("model", "steps", "expected"),
    [
        ("deep_mlp", 10_000, True),
        ("deep_mlp", 100, "auto"),  # It would take longer to compile than to train.
        ("lenet5", 10_000, "auto"),
        ("convnet", 10_000, "auto"),
    ],
)
def test_xla_is_for_long_runs_of_dense_layers(model, steps, expected, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])  # No GPU.
    assert speed.choose_jit(zoo.create(model), steps) == expected


def test_a_resumed_run_is_compiled_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "COMPILED_STEPS", 6)
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    data, recipe = (images[:300], labels[:300]), Recipe("shallow_mlp", "mnist")
    options = {"epochs": 2, "batch_size": 100, "save_freq": 1, "verbose": 0}

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 2:
                raise InterruptedError

    def train(folder, **more):
        folder = tmp_path / folder
        more |= options
        return zoo.train("shallow_mlp", data, recipe, output_dir=folder, **more).model

    whole = train("whole")
    assert whole.jit_compile
    with pytest.raises(InterruptedError):
        train("resumed", callbacks=[Stop()])
    resumed = train("resumed", resume=True)
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    message = "another run.*differs in TF_ENABLE_ONEDNN_OPTS: saved"
    monkeypatch.setattr(speed, "uses_onednn", lambda: 2)
    with pytest.raises(ValueError, match=message):
        train("resumed", resume=True)


def test_advice_is_given_once_and_for_convolutions(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "zoo")
    monkeypatch.setattr(speed, "uses_onednn", lambda: False)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    speed._log_advice.cache_clear()
    speed.tell_about_onednn(zoo.ShallowMLP(8))
    assert not caplog.records
    for _ in range(2):
        speed.tell_about_onednn(zoo.LeNet5())
    assert "TF_ENABLE_ONEDNN_OPTS=1" in caplog.text
    assert len(caplog.records) == 1
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    speed._log_advice.cache_clear()
    speed.tell_about_onednn(zoo.LeNet5())
    assert len(caplog.records) == 1


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_step_is_traced_once(label_smoothing):
    """It creates no variables, neither of the optimizer nor of a metric."""
    traced = []
    count = keras.layers.Lambda(lambda x: traced.append(x) or x)
    layers = [keras.Input((28, 28, 1)), count, keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(10, "softmax")])
    traced.clear()
    data = zoo.load_dataset("digits-sample", as_="numpy")
    recipe = Recipe("shallow_mlp", "mnist", epochs=1, label_smoothing=label_smoothing)
    zoo.train(model, data, recipe, gradient_norms=False, verbose=0)
    assert len(traced) == 1
