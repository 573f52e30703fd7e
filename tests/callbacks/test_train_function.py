"""Tests that wrappers of the train function are removed whatever happens."""

import copy
import pickle

import keras
import numpy as np
import pytest
from references import fit

from zoo.callbacks import GradientNorms


class Raises(keras.callbacks.Callback):
    """Raises in one of its methods, at batch or epoch `at`."""

    def __init__(self, method, error, at):
        super().__init__()

        def fail(index, logs=None):
            if index == at:
                raise error

        setattr(self, method, fail)


@pytest.mark.parametrize(
    ("method", "at", "rows", "error"),
    [
        ("on_train_batch_begin", 3, 3, KeyboardInterrupt),
        ("on_train_batch_end", 3, 4, KeyboardInterrupt),
        ("on_epoch_end", 0, 6, ArithmeticError),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_exception_leaves_nothing_behind(
    method, at, rows, error, first, model, points
):
    gradients, failing = GradientNorms(), Raises(method, error, at)
    fit(model, points)
    before = dict(vars(model)), dict(vars(model.optimizer))
    with pytest.raises(error):
        fit(model, points, *([failing, gradients] if first else [gradients, failing]))
    assert len(gradients.steps) == rows
    assert vars(model).keys() == before[0].keys()
    assert vars(model.optimizer).keys() == before[1].keys()
    if first or method != "on_train_batch_begin":
        assert model.train_function is before[0]["train_function"]
    fit(model, points)
    assert len(gradients.steps) == rows
    assert model.train_function is before[0]["train_function"]
    fit(model, points, gradients)
    assert len(gradients.steps) == rows + 6


def test_a_model_is_usable_after_a_crash(model, points, tmp_path):
    gradients = GradientNorms()
    failing = Raises("on_train_batch_begin", KeyboardInterrupt(), 3)
    with pytest.raises(KeyboardInterrupt):
        fit(model, points, gradients, failing)
    outputs = model.predict(points[0], verbose=0)
    model.save(tmp_path / "model.keras")
    for copied in (
        keras.models.load_model(tmp_path / "model.keras"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ):
        np.testing.assert_array_equal(copied.predict(points[0], verbose=0), outputs)
    keras.models.clone_model(model)
    if keras.backend.backend() == "tensorflow":
        model.export(tmp_path / "exported", verbose=False)
    model.evaluate(*points, verbose=0)
    model.compile("sgd", "mse")
    fit(model, points)
    assert len(gradients.steps) == 3
