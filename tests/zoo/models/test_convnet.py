"""LeNet5 and ConvNet."""

import keras
import numpy as np
import pytest
from noise import images

import zoo

CONVNETS = ("lenet5", "convnet")


def test_lenet5_layers():
    model = zoo.LeNet5()
    assert model.count_params() == 61_706
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}
    expected = {"conv1": (28, 28, 6), "pool1": (14, 14, 6), "conv2": (10, 10, 16)}
    expected |= {"pool2": (5, 5, 16), "dense1": (120,), "dense2": (84,)}
    assert expected.items() <= shapes.items()
    assert model.get_layer("conv2").kernel_size == (5, 5)
    assert model.get_layer("dense1").activation is keras.activations.relu
    assert isinstance(model.get_layer("pool2"), keras.layers.MaxPooling2D)

    classical = zoo.LeNet5(activation="tanh", pooling_layer="average")
    assert classical.count_params() == 61_706
    assert classical.get_layer("conv1").activation is keras.activations.tanh
    assert isinstance(classical.get_layer("pool1"), keras.layers.AveragePooling2D)
    with pytest.raises(ValueError, match=r"'max' or 'average'.*Received: .*'sum'"):
        zoo.LeNet5(pooling_layer="sum")


def test_convnet_stays_small():
    assert zoo.ConvNet().count_params() < 500_000
    small = zoo.ConvNet(filters=np.array([8, 8, 8, 4, 4]), dense_units=4)
    assert small.count_params() < 3_000
    shapes = [small.get_layer(f"activation{i}").output.shape[1:] for i in range(1, 6)]
    assert shapes == [(14, 14, 8), (14, 14, 8), (7, 7, 8), (7, 7, 4), (3, 3, 4)]
    few, none = dict(filters=(32, 64, 128)), dict(filters=(32, 64, 64, 128, 0))
    for bad in (few, none, dict(dense_units=0)):
        with pytest.raises(ValueError, match="Received"):
            zoo.ConvNet(**bad)


@pytest.mark.parametrize(("name", "smallest"), [("lenet5", 12), ("convnet", 8)])
def test_smallest_image(name, smallest):
    model = zoo.create(name, input_shape=(smallest, smallest, 1))
    assert model.predict(images(1, (smallest, smallest, 1)), verbose=0).shape == (1, 10)
    too_small = (smallest, smallest - 1, 1)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels"):
        zoo.create(name, input_shape=too_small)
    for shape in ((784,), (28, 28, None)):
        with pytest.raises(ValueError, match=r"takes images.*Received: input_shape="):
            zoo.create(name, input_shape=shape)


@pytest.mark.parametrize("name", CONVNETS)
@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_global_pooling_of_the_last_feature_maps(name, pooling, reduce):
    options = {"weights": "mnist", "include_top": False}
    size = {"input_shape": (None, None, 1)}
    pooled = zoo.create(name, pooling=pooling, **options, **size)
    maps = zoo.create(name, **options, **size)
    assert pooled.layers[-1].name == f"{pooling}_pool"
    assert pooled.output.shape == (None, maps.output.shape[-1])
    x = images(2, (32, 40, 1))
    expected = reduce(maps.predict(x, verbose=0), axis=(1, 2))
    np.testing.assert_allclose(pooled.predict(x, verbose=0), expected, rtol=1e-5)

    keras.config.set_image_data_format("channels_first")
    first = zoo.create(name, pooling=pooling, **options)
    assert first.output.shape == pooled.output.shape


@pytest.mark.parametrize("name", CONVNETS)
def test_global_pooling_needs_a_feature_extractor(name):
    with pytest.raises(ValueError, match=r"include_top=False.*Received: pooling='avg'"):
        zoo.create(name, pooling="avg")
    with pytest.raises(ValueError, match="include_top=False"):
        zoo.create(name, input_shape=(None, None, 1))
    for pooling in ("average", True, ""):
        with pytest.raises(ValueError, match=r"None, 'avg' or 'max'. Received"):
            zoo.create(name, include_top=False, pooling=pooling)
