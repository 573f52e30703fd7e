"""Tests of the norms of weights and of their updates."""

import keras
import numpy as np
import pytest
from references import alike, fit, regression

from zoo.callbacks import GradientNorms


class Snapshots(keras.callbacks.Callback):
    """Copies the kernel of the layer hidden before and after each batch."""

    def __init__(self):
        super().__init__()
        self.pairs = []

    def copy(self):
        hidden = self.model.get_layer("hidden")
        return np.concatenate([np.ravel(v) for v in hidden.get_weights()])

    def on_train_batch_begin(self, batch, logs=None):
        self.pairs.append([self.copy()])

    def on_train_batch_end(self, batch, logs=None):
        self.pairs[-1].append(self.copy())


EXECUTIONS = [1] if keras.backend.backend() == "torch" else [1, 3]


@pytest.mark.parametrize("steps_per_execution", EXECUTIONS)
def test_update_ratio_is_that_of_the_first_batch_of_each_epoch(
    steps_per_execution, points
):
    model, gradients, snapshots = alike(regression), GradientNorms(), Snapshots()
    model.compile("adam", "mse", steps_per_execution=steps_per_execution)
    fit(model, points, gradients, snapshots, epochs=3)
    runs = 6 // steps_per_execution
    expected = [
        np.linalg.norm(after - before) / np.linalg.norm(before)
        for before, after in snapshots.pairs[::runs]
    ]
    assert list(gradients.update_ratio) == ["hidden", "output"]
    np.testing.assert_allclose(gradients.update_ratio["hidden"], expected, rtol=1e-5)


def test_update_ratio_of_an_epoch_of_one_batch_and_of_a_layer_unfrozen_later(points):
    model, gradients = alike(regression), GradientNorms()
    model.get_layer("hidden").trainable = False
    model.compile("sgd", "mse")
    fit(model, points, gradients, epochs=2, batch_size=48)
    model.get_layer("hidden").trainable = True
    model.compile("sgd", "mse")
    fit(model, points, gradients, batch_size=48)
    ratios = gradients.update_ratio
    assert np.isnan(ratios["hidden"]).tolist() == [True, True, False]
    assert (ratios["output"] > 0).all()
    assert len(ratios["output"]) == 3
