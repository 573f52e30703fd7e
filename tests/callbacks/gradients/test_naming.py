"""Tests of the names of layers, which have to be the same in every process."""

import keras
import numpy as np
from references import fit

from zoo.callbacks import GradientNorms
from zoo.callbacks.gradients.naming import variable_columns


def names(model, points):
    model.compile("sgd", "mse")
    gradients = GradientNorms()
    fit(model, points, gradients)
    return list(gradients.history)


def test_shared_and_nested_layers_are_named_once_by_their_path(points):
    def build():
        shared = keras.layers.Dense(4)
        encoder = keras.Sequential([keras.layers.Dense(4), shared], name="encoder")
        inputs = keras.Input((4,))
        outputs = keras.layers.Dense(1)(shared(encoder(inputs)))
        return keras.Model(inputs, outputs)

    keras.backend.clear_session()
    first = names(build(), points)
    assert sorted(first) == ["dense_1", "encoder/dense", "encoder/dense_1"]
    assert names(build(), points) == first


def test_the_directions_of_a_layer_built_twice_have_equal_names():
    for _ in range(2):
        layers = [keras.layers.Bidirectional(keras.layers.LSTM(2))]
        model = keras.Sequential([keras.Input((3, 4)), *layers, keras.layers.Dense(1)])
        assert names(model, (np.ones((8, 3, 4)), np.ones((8, 1)))) == [
            "bidirectional/forward_lstm/lstm_cell",
            "bidirectional/backward_lstm/lstm_cell",
            "dense",
        ]


def test_no_two_variables_share_a_column(points):
    """A layer called `model` beside the model's own variable, and other variables."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(1, name="model")
            self.kernel = self.add_weight(shape=(4, 4), name="kernel")

        def call(self, x):
            return self.inner(x @ self.kernel)

    model, gradients = Own(), GradientNorms()
    model.compile("sgd", "mse")
    fit(model, points, gradients)
    assert len(gradients.variables) == 3
    outside = [keras.Variable(np.ones(3), name="kernel") for _ in range(2)]
    columns = variable_columns(model, [*model.trainable_variables, *outside], {})
    assert len({column for column, _ in columns}) == 5


def test_names_that_were_given_are_kept(points):
    given = ["dense_1", "dense_2", "output"]
    model = keras.Sequential([keras.layers.Dense(1, name=name) for name in given])
    assert names(model, points) == given


def test_names_outlive_the_process_that_made_them_up(points, tmp_path):
    model = keras.Sequential([keras.layers.Dense(1), keras.layers.Dense(1)])
    assert names(model, points) == ["dense", "dense_1"]
    model.save(tmp_path / "model.keras")
    keras.backend.clear_session()
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert names(loaded, points) == ["dense", "dense_1"]
