"""Labels and the form of images stay with a model."""

import copy

import keras
import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.models.labels import describe_data, find_data

CLOTHES = zoo.get_weights("lenet5", "fashion_mnist").categories


@pytest.mark.parametrize("duplicate", ["save", "deepcopy", "clone"])
def test_copies_of_published_models_have_their_labels(duplicate, tmp_path):
    model = zoo.LeNet5(weights="fashion_mnist")
    if duplicate == "save":
        model.save(tmp_path / "f.keras")
        twin = keras.saving.load_model(tmp_path / "f.keras", compile=False)
    elif duplicate == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        twin = keras.models.clone_model(model)
        assert find_data(twin) == (None, None)
        twin.set_weights(model.get_weights())
    assert find_data(twin) == (CLOTHES, "fashion_mnist")


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_a_keras_file_keeps_the_labels_of_any_model(kind, tmp_path):
    if kind == "functional":
        model = zoo.LeNet5(classes=2)
    else:
        layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
        model = keras.Sequential(layers)
    describe_data(model, ("cat", "dog"))
    model.save(tmp_path / "f.keras")
    loaded = zoo.load_model(tmp_path / "f.keras")
    assert find_data(loaded) == (("cat", "dog"), None)
    x = np.zeros((1, *model.input_shape[1:]))
    plain = keras.saving.load_model(tmp_path / "f.keras")
    for twin in (loaded, plain):
        np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    assert find_data(plain) == (None, None)


def test_images_are_read_for_the_model(tmp_path):
    Image.new("L", (50, 40), 200).save(tmp_path / "x.png")
    files = [tmp_path / "x.png", str(tmp_path / "x.png")]
    assert zoo.read_images(files, zoo.LeNet5(input_shape=(32, 32, 3))).max() == 200
    published = zoo.LeNet5(weights="mnist")
    assert zoo.read_images(files, published).shape == (2, 28, 28, 1)
    assert zoo.read_images(files, published).max() == 0  # blank paper
    assert zoo.read_images(files, published, as_is=True).min() == 200
    (tmp_path / "text.png").write_text("no image", "utf-8")
    with pytest.raises(OSError, match=r"cannot identify.*Received: file='.*text.png'"):
        zoo.read_images([*files, tmp_path / "text.png"], published)
