"""ShallowMLP and DeepMLP."""

import keras
import numpy as np
import pytest
from noise import images, softmax

import zoo

MLPS = zoo.list_models("*mlp")
FAULTY = {"activation": "sigmoid", "normalization": None, "residual": False}


@pytest.mark.parametrize("name", MLPS)
def test_mlps_take_vectors(name):
    model = zoo.create(name, input_shape=(784,))
    assert model.predict(images().reshape(4, 784), verbose=0).shape == (4, 10)
    with pytest.raises(ValueError, match="one fixed size"):
        zoo.create(name, input_shape=(None, 28, 1))


def test_shallow_mlp_without_hidden_units_is_logistic_regression():
    model = zoo.ShallowMLP(0)
    assert model.count_params() == 7_850
    model.set_weights([w + 0.01 for w in model.get_weights()])
    kernel, bias = model.get_layer("logits").get_weights()
    logits = images().reshape(4, -1) / 255 @ kernel + bias
    outputs = model.predict(images(), verbose=0)
    np.testing.assert_allclose(outputs, softmax(logits), rtol=1e-4)
    with pytest.raises(ValueError, match="positive integer"):
        zoo.ShallowMLP(-1)


@pytest.mark.parametrize(
    ("activation", "initializer"),
    [
        ("sigmoid", "GlorotUniform"),
        ("tanh", "GlorotUniform"),
        ("relu", "HeNormal"),
        ("gelu", "HeNormal"),
        ("selu", "LecunNormal"),
        (keras.activations.relu, "HeNormal"),
    ],
)
def test_deep_mlp_initializes_for_its_activation(activation, initializer):
    dense = zoo.DeepMLP([8, 8], activation=activation).get_layer("dense2")
    assert type(dense.kernel_initializer).__name__ == initializer
    given = zoo.DeepMLP([8], activation=activation, kernel_initializer="zeros")
    assert type(given.get_layer("dense1").kernel_initializer).__name__ == "Zeros"


def test_deep_mlp_initializes_each_layer_differently():
    model = zoo.DeepMLP([8] * 3, kernel_initializer=keras.initializers.HeNormal())
    second, third = (model.get_layer(name).kernel for name in ("dense2", "dense3"))
    assert not np.allclose(second.numpy(), third.numpy())


@pytest.mark.parametrize("depth", [1, 2, 100])
def test_deep_mlp_depth(depth):
    model = zoo.DeepMLP(np.full(depth, 4), normalization="layer", dropout=0.1)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert len(dense) == depth + 1


@pytest.mark.parametrize("hidden_units", [[], [4] * 101, 64, [64, 0], [64, -1], [2.5]])
def test_deep_mlp_refuses_bad_depths(hidden_units):
    with pytest.raises(ValueError, match=r"hidden_units.*Received"):
        zoo.DeepMLP(hidden_units)


def test_deep_mlp_layers():
    names = [layer.name for layer in zoo.DeepMLP([8, 8, 4], dropout=0.5).layers]
    block = ["dense2", "normalization2", "activation2", "dropout2", "add2"]
    assert names[names.index("dense2") :][:5] == block
    assert "add1" not in names, "the images are not a hidden layer"
    assert "add3" not in names, "8 units cannot be added to 4"
    plain = {type(layer).__name__ for layer in zoo.DeepMLP([8, 8], **FAULTY).layers}
    assert plain == {"InputLayer", "Rescaling", "Flatten", "Dense", "Activation"}
    with pytest.raises(ValueError, match=r"'batch' or 'layer'. Received: .*'group'"):
        zoo.DeepMLP(normalization="group")
