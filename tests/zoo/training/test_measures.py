"""Measures of a classifier for its card."""

import keras
import numpy as np
import pytest

import zoo
from zoo.data.augmentation import transform
from zoo.training.measures import calibration_error, shift_images


def test_calibration_error_by_hand():
    # Two bins: 0.9 and 1.0 share the last one; 0.6 is in another.
    probabilities = np.array([[0.6, 0.4], [0.95, 0.05], [1.0, 0.0], [0.6, 0.4]])
    labels = np.array([0, 0, 1, 0])
    surplus = abs(0.6 + 0.6 - 2), abs(0.95 + 1.0 - 1)
    assert calibration_error(probabilities, labels) == pytest.approx(sum(surplus) / 4)


def test_shifted_images_come_in_with_zeros():
    image = np.arange(1, 10, dtype="uint8").reshape(1, 3, 3, 1)
    down, up, right, left = (moved[0, :, :, 0] for moved in shift_images(image, 1))
    assert down.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert up.tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert right.tolist() == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert left.tolist() == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]


def test_transform_rotates_and_enlarges():
    image = np.zeros((1, 9, 9, 1), "uint8")
    image[0, 2, 4] = 200  # above the center, which is (4, 4)
    places = [np.argwhere(transform(image, r)[0, :, :, 0] > 100) for r in (90, -90)]
    assert sorted(map(np.ndarray.tolist, places)) == [[[4, 2]], [[4, 6]]]
    assert transform(image, scale=2.0)[0, 0, 4, 0] == pytest.approx(200, abs=1)
    np.testing.assert_array_equal(transform(image), image)
    smaller = transform(np.full((1, 9, 9, 1), 255, "uint8"), scale=0.5)[0, :, :, 0]
    assert smaller[[0, -1]].max() == smaller[:, [0, -1]].max() == 0


def test_measures_of_a_published_weight():
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    images, labels = images[:300], labels[:300]
    model = zoo.create("lenet5.mnist")
    result = zoo.evaluate(model, (images, labels), detailed=True)
    predicted = model.predict(images, verbose=0).argmax(-1)
    accuracy = np.mean(predicted == labels)
    confusion = np.array(result["confusion"])
    assert confusion.trace() == (predicted == labels).sum()
    assert (confusion.sum(1) == np.bincount(labels)).all()
    seven = labels == 7
    assert result["class_accuracy"][7] == np.mean(predicted[seven] == 7)
    assert result["calibration_error"] < 0.1
    for amounts in ("shifted", "rotated", "noisy"):
        values = list(result[amounts].values())
        assert accuracy + 0.02 > values[0] > values[-1]
    assert result["shifted"].keys() == set("12345678")
    assert max(result["scaled"], key=result["scaled"].get) in ("0.7", "1.2")


def test_a_guess_is_measured_as_one():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2, "softmax", kernel_initializer="zeros"))
    model = keras.Model(model.inputs[0], {"classes": model.outputs[0]})
    images = np.zeros((10, 4, 4, 1), "uint8")
    images[0] = 255
    result = zoo.evaluate(model, (images, np.array([0, 1] * 5)), detailed=True)
    assert result["class_accuracy"] == [1.0, 0.0]
    one_class = zoo.evaluate(model, (images, np.zeros(10, int)), detailed=True)
    assert one_class["class_accuracy"] == [1.0, None]
    assert result["calibration_error"] == pytest.approx(0, abs=1e-6)


def test_logits_are_as_calibrated_as_their_probabilities():
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    data = images[:50], labels[:50]
    errors = [
        zoo.evaluate(
            zoo.LeNet5(weights="mnist", classifier_activation=activation),
            data,
            detailed=True,
        )["calibration_error"]
        for activation in ("softmax", None)
    ]
    assert errors[0] == pytest.approx(errors[1], abs=1e-6)


def test_scaled_images_are_refused():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2, "softmax"))
    data = np.ones((10, 4, 4, 1), "float32"), np.array([0, 1] * 5)
    with pytest.raises(ValueError, match=r"pixels in \[0, 255\]. Received: .* up to 1"):
        zoo.evaluate(model, data, detailed=True)
