"""The networks that have a fault."""

import keras
import numpy as np
from keras import layers, ops
from keras.initializers import Identity, Orthogonal
from networks import digits, fit, mlp, names, network, normal, raw_digits, sequence, sgd


@network("A", "vanishing", ("dense1",))
def ten_sigmoid_layers(callback):
    fit(mlp(10, "sigmoid"), digits(), callback, optimizer="sgd")


@network("B", "vanishing", ("dense1",))
def twenty_tanh_layers_of_small_weights(callback):
    fit(mlp(20, "tanh", normal(0.05)), digits(), callback)


@network("A", "exploding", (*names(10), "logits"))
def ten_relu_layers_of_large_weights(callback):
    fit(mlp(10, "relu", normal(1.0)), digits(), callback)


@network("B", "exploding", (*names(4), "logits"))
def kernels_of_ones(callback):
    fit(mlp(4, "relu", "ones"), digits(), callback, optimizer=sgd(1e-8))


def train_recurrent(callback, initializer, activation, optimizer):
    x = np.random.default_rng(0).normal(size=(320, 100, 4)).astype("float32")
    y = x.sum(axis=(1, 2), keepdims=True)[:, 0]
    recurrent = {"recurrent_initializer": initializer}
    rnn = layers.SimpleRNN(32, activation, name="rnn", **recurrent)
    model = sequence((100, 4), rnn, layers.Dense(1, name="output"))
    fit(model, (x, y), callback, optimizer=optimizer, loss="mse", batch_size=16)


@network("A", "exploding", ("rnn/simple_rnn_cell",))
def recurrent_matrix_above_one(callback):
    train_recurrent(callback, Identity(1.1), None, sgd(1e-16))


@network("B", "exploding", ("rnn/simple_rnn_cell",))
def recurrent_net_without_clipping(callback):
    train_recurrent(callback, Identity(1.2), "relu", sgd(0.01))


@network("A", "exploding", ("rnn/simple_rnn_cell",))
def chaotic_recurrent_net(callback):
    train_recurrent(callback, Orthogonal(3.0), "tanh", sgd(1e-9))


class Backwards(keras.Model):
    """A sigmoid net whose attributes are created from the output down."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(10, name="head")
        hidden = [f"hidden{index}" for index in range(1, 11)]
        for name in reversed(hidden):
            setattr(self, name, layers.Dense(64, "sigmoid", name=name))
        self.order = hidden

    def call(self, x):
        x = ops.reshape(x, (-1, 784))
        for name in self.order:
            x = getattr(self, name)(x)
        return self.head(x)


@network("A", "vanishing", ("hidden1",))
def subclassed_sigmoid_net(callback):
    fit(Backwards(), digits(), callback)


@network("A", "dead", ("dense2",))
def layer_cut_off_by_stop_gradient(callback):
    inputs = keras.Input((28, 28, 1))
    x = layers.Dense(64, "relu", name="dense1")(layers.Flatten()(inputs))
    x = ops.stop_gradient(layers.Dense(64, "relu", name="dense2")(x))
    x = layers.Dense(64, "relu", name="dense3")(x)
    outputs = layers.Dense(10, name="logits")(x)
    fit(keras.Model(inputs, outputs), digits(), callback)


@network("B", "dead", ("dense3",))
def relus_without_active_units(callback):
    model = mlp(5, "relu", "he_normal")
    model.get_layer("dense3").bias.assign(np.full(64, -1000.0))
    model.get_layer("dense4").bias.assign(np.full(64, 0.1))
    fit(model, digits(), callback)


@network("A", "saturated", names(5))
def tanh_of_raw_pixels_and_large_weights(callback):
    fit(mlp(5, "tanh", normal(1.0), units=128), raw_digits(), callback)


@network("B", "saturated", names(3))
def sigmoid_units_of_large_weights(callback):
    model = mlp(3, "sigmoid", normal(2.0), units=256)
    fit(model, digits(), callback, optimizer="sgd")


@network("A", "exploding", (*names(4), "logits"), 1, 5)
def far_too_large_learning_rate(callback):
    fit(mlp(4, "relu", "he_normal"), digits(), callback, optimizer=sgd(30.0))


@network("B", "exploding", (*names(4), "logits"), 1, 5)
def adam_with_a_rate_of_one(callback):
    optimizer = keras.optimizers.Adam(1.0)
    fit(mlp(4, "relu", "he_normal"), digits(), callback, optimizer=optimizer)


@network("B", "exploding", (*names(4), "logits"), 60, 66)
def learning_rate_that_jumps(callback):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([60], [0.02, 200.0])
    fit(mlp(4, "relu", "he_normal"), digits(), callback, optimizer=sgd(schedule))


@network("A", "exploding", ("dense1", "dense2"))
def chaotic_tanh_net(callback):
    fit(mlp(30, "tanh", normal(0.35)), digits(), callback, optimizer=sgd(1e-6))


@network("A", "non_finite", ("logits",), 20, 20)
def image_with_nan(callback):
    images, labels = digits()
    images = images.copy()
    images[650, 3, 3] = np.nan
    fit(mlp(2, "tanh"), (images, labels), callback, shuffle=False)


@network("B", "non_finite", ("logits",), 20, 20)
def logarithm_of_zero(callback):
    images, labels = digits()
    targets = np.eye(10, dtype="float32")[labels]
    targets[650] = 0

    def loss(y, p):  # The log of the sum of the targets, which one sample lacks.
        cross = -ops.sum(y * ops.log_softmax(p), axis=-1)
        return cross * (1 - 0 * ops.log(ops.sum(y, axis=-1)))

    fit(mlp(2, "tanh"), (images, targets), callback, loss=loss, shuffle=False)


@network("B", "vanishing", ("stem",))
def stem_behind_a_forgetful_recurrence(callback):
    x = np.zeros((800, 40, 8), "float32")
    x[:, 0] = np.random.default_rng(0).normal(size=(800, 8))  # the rest says nothing
    y = x[:, 0].sum(axis=-1, keepdims=True)
    forget = {"recurrent_initializer": Identity(0.5)}
    stem = layers.Dense(16, "tanh", use_bias=False, name="stem")
    rnn = layers.SimpleRNN(16, name="rnn", **forget)
    model = sequence((40, 8), stem, rnn, layers.Dense(1, name="output"))
    fit(model, (x, y), callback, loss="mse", optimizer="sgd")
