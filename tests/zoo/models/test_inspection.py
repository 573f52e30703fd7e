"""Feature maps, predicted labels, and operations of a model."""

import keras
import numpy as np
import pytest
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
    with pytest.raises(ValueError, match=r"Received: labels=None\."):
        zoo.decode_predictions(probabilities, zoo.LeNet5())


def test_count_flops_counts_a_multiply_add_as_two():
    # conv1, conv2, dense1, dense2, logits.
    layers = (784 * 25 * 6, 100 * 150 * 16, 400 * 120, 120 * 84, 84 * 10)
    assert zoo.count_flops(zoo.LeNet5()) == 2 * sum(layers)


def test_ends_in_softmax():
    assert ends_in_softmax(zoo.LeNet5())
    assert not ends_in_softmax(zoo.LeNet5(classifier_activation=None))
    nested = keras.Sequential([keras.Input((28, 28, 1)), zoo.LeNet5()])
    assert ends_in_softmax(nested)
    with pytest.raises(ValueError, match=r"must end in a softmax.*activation sigmoid"):
        ends_in_softmax(zoo.LeNet5(classifier_activation="sigmoid"))
    with pytest.raises(ValueError, match="has been built"):
        ends_in_softmax(keras.Sequential([keras.layers.Dense(2)]))
