"""Feature maps, predicted labels, and operations of a model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from noise import images

import zoo
from zoo.models.inspection import ends_in_softmax


def test_features_returns_every_feature_map():
    model = zoo.LeNet5()
    maps = zoo.features(model)
    outputs = maps.predict(images(), verbose=0)
    assert list(maps.output)[:3] == ["rescaling", "conv1", "pool1"]
    assert outputs.keys() == maps.output.keys()  # JAX sorts them.
    assert outputs["pool2"].shape == (4, 5, 5, 16)
    np.testing.assert_allclose(
        outputs["predictions"], model.predict(images(), verbose=0), atol=1e-6
    )
    assert list(zoo.features(model, ["pool1"]).output) == ["pool1"]
    with pytest.raises(ValueError, match=r"no layer 'pool9'. Did you mean 'pool2'\?"):
        zoo.features(model, ["pool9"])


def test_features_are_those_of_the_model_that_shares_layers():
    base = zoo.LeNet5(weights="mnist")
    x = base.input
    for layer in [*base.layers[1:4], layers.Activation("tanh"), *base.layers[4:]]:
        x = layer(x)
    model = keras.Model(base.input, x)
    outputs = zoo.features(model, ["predictions"]).predict(images(), verbose=0)
    expected = model.predict(images(), verbose=0)
    np.testing.assert_allclose(outputs["predictions"], expected, atol=1e-6)
    front = [layers.RandomRotation(0.1), *base.layers[1:]]
    turned = keras.Sequential([keras.Input((28, 28, 1)), *front])
    assert zoo.features(turned, ["conv1"]).output["conv1"].shape == (None, 28, 28, 6)
    twice = layers.Dense(8, name="twice")
    model = keras.Sequential([keras.Input((8,)), twice, layers.ReLU()])
    model = keras.Model(model.inputs, twice(model.outputs[0]))
    with pytest.raises(ValueError, match=r"called several times.*layer='twice'"):
        zoo.features(model, ["twice"])


def test_decode_predictions():
    card = zoo.get_weights("lenet5", "fashion_mnist")
    probabilities = np.zeros((2, 10))
    probabilities[0, [1, 9]] = 0.25, 0.75
    probabilities[1] = 0.1
    decoded = zoo.decode_predictions(probabilities, card, top=2)
    assert decoded[0] == [("Ankle boot", 0.75), ("Trouser", 0.25)]
    assert decoded[1] == [("T-shirt/top", 0.1), ("Trouser", 0.1)]
    assert len(zoo.decode_predictions(probabilities, card)[0]) == 5
    model = zoo.LeNet5(weights=card)
    labels = list(card.categories)
    assert decoded == zoo.decode_predictions(probabilities, model, top=2)
    assert decoded == zoo.decode_predictions(probabilities, labels, top=2)
    with pytest.raises(ValueError, match=r"shape \(n, 10\).*Received: .*\(10,\)"):
        zoo.decode_predictions(probabilities[0], card)
    with pytest.raises(ValueError, match=r"shape \(n, 10\).*Received: .* type dict"):
        zoo.decode_predictions({"probabilities": probabilities}, card)
    with pytest.raises(ValueError, match=r"Received: labels=None\."):
        zoo.decode_predictions(probabilities, zoo.LeNet5())
    array = np.array(card.categories)
    assert decoded == zoo.decode_predictions(probabilities, array, top=2)
    tensor = keras.ops.convert_to_tensor([[0, 10, 245]], "uint8")
    assert zoo.decode_predictions(tensor, list("abc"), top=1) == [[("c", 245.0)]]


@pytest.mark.parametrize(
    ("value", "labels", "top", "message"),
    [
        (1, {"a", "b"}, 1, "`labels` must be .*Received: labels={"),
        (1, ["a", "b"], 0, r"`top` must be .*Received: top=0\."),
        (1, ["a", "b"], -1, r"`top` must be .*Received: top=-1\."),
        (np.nan, ["a", "b"], 1, r"must not contain NaN.*Received: probabilities="),
    ],
)
def test_bad_predictions(value, labels, top, message):
    with pytest.raises(ValueError, match=message):
        zoo.decode_predictions([[0, 1], [value, 0]], labels, top)


@pytest.mark.parametrize("names", ["", "a", "ab"])
def test_features_take_inputs_of_the_same_structure(names):
    inputs = {name: keras.Input((3,), name=name) for name in names or "a"}
    hidden = layers.Dense(2, name="hidden")(sum(inputs.values()))
    model = keras.Model(inputs if names else inputs["a"], hidden)
    arrays = {name: np.ones((1, 3)) for name in inputs}
    maps = zoo.features(model)(arrays if names else arrays["a"])
    assert maps["hidden"].shape == (1, 2)
    sequential = keras.Sequential([layers.Dense(2, name="hidden")])
    with pytest.raises(ValueError, match="has been built"):
        zoo.features(sequential)
    sequential.build((None, 3))
    assert zoo.features(sequential)(arrays["a"])["hidden"].shape == (1, 2)


def test_preprocess_input_returns_its_argument():
    x = images()
    assert zoo.preprocess_input(x) is x


def test_count_flops_counts_a_multiply_add_as_two():
    # conv1, conv2, dense1, dense2, logits.
    counts = (784 * 25 * 6, 100 * 150 * 16, 400 * 120, 120 * 84, 84 * 10)
    assert zoo.count_flops(zoo.LeNet5()) == 2 * sum(counts)
    keras.config.set_image_data_format("channels_first")
    assert zoo.count_flops(zoo.LeNet5()) == 2 * sum(counts)


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds"),
    [
        (layers.Dense(2), (5, 6), 5 * 12),
        (layers.Conv1D(7, 3), (5, 6), 3 * 3 * 6 * 7),
        (layers.Conv2D(8, 3, groups=2), (8, 8, 4), 36 * 9 * 2 * 8),
        (layers.Conv3D(3, 2, strides=2), (4, 4, 4, 2), 8 * 8 * 2 * 3),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4), 36 * 9 * 4 * 2),
        (layers.SeparableConv1D(5, 3), (8, 4), 6 * (3 * 4 + 4 * 5)),
        (layers.Conv2DTranspose(5, 3, strides=2), (8, 8, 4), 64 * 9 * 5 * 4),
        (layers.LSTM(3), (5, 6), 5 * (6 + 3) * 12),
        (layers.Bidirectional(layers.GRU(3)), (5, 6), 2 * 5 * (6 + 3) * 9),
        (layers.TimeDistributed(layers.Conv1D(7, 3)), (4, 5, 6), 4 * 3 * 3 * 6 * 7),
        (layers.Embedding(9, 4), (5,), 0),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_count_flops_of_layers(layer, shape, multiply_adds):
    model = keras.Sequential([keras.Input(shape), layer])
    assert zoo.count_flops(model) == 2 * multiply_adds
    x, y = keras.Input(shape), keras.Input(shape)
    twice = keras.Model([x, y], [layer(x), model(y)])
    assert zoo.count_flops(twice) == 4 * multiply_adds


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.EinsumDense("abc,cd->abd", (5, 2), name="last"), (5, 6)),
        (layers.ConvLSTM1D(2, 3, name="last"), (5, 6, 4)),
        (layers.LSTM(2, name="last"), (None, 6)),
        (layers.TimeDistributed(layers.Dense(2), name="last"), (None, 6)),
    ],
)
def test_count_flops_names_a_layer_that_it_cannot_count(layer, shape):
    with pytest.raises(ValueError, match=r"of fixed size. Received: layer='last'"):
        zoo.count_flops(keras.Sequential([keras.Input(shape), layer]))


def test_ends_in_softmax():
    assert ends_in_softmax(zoo.LeNet5())
    assert not ends_in_softmax(zoo.LeNet5(classifier_activation=None))
    nested = keras.Sequential([keras.Input((28, 28, 1)), zoo.LeNet5()])
    assert ends_in_softmax(nested)
    with pytest.raises(ValueError, match=r"must end in a softmax.*activation sigmoid"):
        ends_in_softmax(zoo.LeNet5(classifier_activation="sigmoid"))
    with pytest.raises(ValueError, match="has been built"):
        ends_in_softmax(keras.Sequential([keras.layers.Dense(2)]))


def sigmoid(x):
    return keras.Sequential([keras.Input((3,)), layers.Dense(3, "sigmoid")])(x)


def classifier(end):
    """A model that ends in a function of the outputs of two layers."""
    inputs = keras.Input((2,))
    return keras.Model(inputs, end(layers.Dense(3)(inputs), layers.Dense(3)(inputs)))


@pytest.mark.parametrize(
    "end",
    [
        lambda x, _: ops.softmax(x),
        lambda x, _: layers.Activation(ops.softmax)(x),
        lambda x, _: layers.Activation(tf.nn.softmax)(x),
        lambda x, _: layers.Lambda(lambda z: ops.softmax(z))(x),
        lambda x, _: layers.Dense(3, ops.softmax)(x),
        lambda x, _: layers.Flatten()(layers.Reshape((1, 3))(layers.Softmax()(x))),
        lambda x, _: ops.cast(layers.Dropout(0.5)(ops.softmax(x)), "float16"),
        lambda x, _: layers.Softmax()(layers.BatchNormalization()(x)),
        lambda x, _: ops.softmax(sigmoid(x)),
        lambda x, y: 0.3 * ops.softmax(x) + 0.7 * ops.softmax(y),
        lambda x, _: keras.Sequential([keras.Input((3,)), layers.Dense(3, "softmax")])(
            x
        ),
    ],
)
def test_other_forms_of_softmax(end):
    assert ends_in_softmax(classifier(end))
    assert not ends_in_softmax(classifier(lambda *x: layers.Average()(x)))


@pytest.mark.parametrize(
    ("end", "last"),
    [
        (lambda x, _: layers.Softmax(axis=0)(x), "softmax"),
        (lambda x, _: layers.BatchNormalization()(x), "batch"),
        (lambda x, y: x + layers.BatchNormalization()(y), "add"),
        (lambda x, _: sigmoid(x), "sequential"),
        (lambda x, _: ops.log_softmax(x), "log_softmax"),
        (lambda x, y: ops.add(ops.softmax(x), y), "add"),
        (lambda x, y: ops.add(ops.softmax(x), ops.softmax(y)), "add"),
        (lambda x, _: layers.LSTM(3, "softmax")(layers.Reshape((1, 3))(x)), "lstm"),
        (lambda x, _: layers.Flatten()(ops.softmax(x[..., None] - x[:, None])), "flat"),
    ],
)
def test_ends_that_are_neither_softmax_nor_linear(end, last):
    message = rf"pass `from_logits`. Received: layer='{last}"
    with pytest.raises(ValueError, match=message):
        ends_in_softmax(classifier(end))
