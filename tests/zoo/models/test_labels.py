"""Labels and the form of images stay with a model."""

import copy
import pickle
import warnings

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


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_copies_of_a_trained_model_have_its_labels(duplicate, tmp_path):
    model = zoo.LeNet5(weights="mnist")
    model.layers[-2].set_weights([w + 1 for w in model.layers[-2].get_weights()])
    model.categories = [f"digit {i}" for i in range(10)]
    twin = duplicate(duplicate(model))
    assert find_data(twin) == (tuple(model.categories), "mnist")
    model.save(tmp_path / "own.keras")
    assert find_data(zoo.load_model(tmp_path / "own.keras")) == find_data(twin)


def test_labels_set_on_a_model_travel_with_its_file(tmp_path):
    path = tmp_path / "own.keras"
    model = zoo.LeNet5(classes=2)
    model.categories, model.normalization = ["cat", "dog"], "mnist"
    keras.Sequential([keras.Input((28, 28, 1)), model]).save(tmp_path / "wrapped.keras")
    model.save(path)
    expected = (("cat", "dog"), "mnist")
    assert find_data(copy.deepcopy(model)) == expected
    assert find_data(zoo.load_model(path)) == expected
    wrapped = find_data(zoo.load_model(tmp_path / "wrapped.keras"))
    assert wrapped == expected
    assert find_data(zoo.LeNet5(weights=path)) == expected
    assert find_data(zoo.LeNet5(weights=path, include_top=False)) == (None, "mnist")
    image = keras.Input((28, 28, 1))
    negated = zoo.LeNet5(weights=path, input_tensor=255 - image)
    assert find_data(negated) == (("cat", "dog"), None)
    model = zoo.LeNet5(weights="mnist")
    model.categories = list("abcdefghij")
    model.save(path)
    assert find_data(zoo.LeNet5(weights=path)) == (tuple("abcdefghij"), "mnist")


@keras.saving.register_keras_serializable()
class WithLayer(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.normalization = keras.layers.BatchNormalization()


def test_a_layer_called_normalization_is_not_a_form():
    base = zoo.LeNet5()
    model = WithLayer(base.inputs, base.outputs)
    describe_data(model, CLOTHES, "fashion_mnist")
    assert isinstance(model.normalization, keras.layers.BatchNormalization)
    assert find_data(model) == (CLOTHES, None)


def test_the_form_of_the_images_stays_where_it_holds():
    for options in ({"classes": 3}, {"include_top": False}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert find_data(zoo.LeNet5(weights="mnist", **options)) == (None, "mnist")
    base, image = zoo.LeNet5(weights="mnist"), keras.Input((28, 28, 1))
    digits = tuple("0123456789")
    unscaled = zoo.LeNet5(weights="mnist", include_preprocessing=False)
    assert find_data(unscaled) == (digits, None)
    copy_of_it = keras.models.clone_model(unscaled)
    copy_of_it.set_weights(unscaled.get_weights())
    assert find_data(copy_of_it) == (digits, None)
    unscaled = zoo.LeNet5(weights="mnist", input_tensor=255 - image)
    assert find_data(unscaled) == (digits, None)
    assert find_data(keras.Model(base.input, base.output[:, ::-1])) == (None, "mnist")
    assert find_data(keras.Model(image, base(image)[:, ::-1])) == (None, "mnist")
    own = zoo.LeNet5(classes=2)
    own.categories = np.array(["cat", "dog"])
    assert find_data(own) == (("cat", "dog"), None)
    wrapped = keras.Sequential([keras.Input((28, 28, 1)), zoo.LeNet5(weights="mnist")])
    assert find_data(wrapped) == (tuple("0123456789"), "mnist")
    larger = zoo.LeNet5(input_shape=(29, 29, 1))  # Its weights have the same shapes.
    larger.set_weights(base.get_weights())
    assert find_data(larger) == (digits, None)
    image = keras.Input((64, 64, 1))
    small = keras.layers.Resizing(28, 28)(image)
    resized = zoo.LeNet5(weights="mnist", input_tensor=small)
    assert find_data(resized) == (tuple("0123456789"), None)


def test_wrong_arguments_of_read_images(tmp_path):
    model, file = zoo.LeNet5(weights="mnist"), tmp_path / "x.png"
    Image.new("L", (50, 40), 200).save(file)
    unknown = keras.models.clone_model(model)
    with pytest.warns(UserWarning, match="form of the images of .* is unknown"):
        zoo.read_images([file], unknown)
    zoo.read_images([file], unknown, as_is=True)
    for arguments in ((file, model), ("x.png", model), ([file], "lenet5.mnist")):
        with pytest.raises(TypeError, match="takes a list of files and a Keras model"):
            zoo.read_images(*arguments)
    pair = [keras.Input((28, 28, 1)) for _ in range(2)]
    with pytest.raises(ValueError, match=r"Received: model\.input_shape="):
        zoo.read_images([file], keras.Model(pair, keras.layers.Add()(pair)))
    for shape in ((784,), (28, 28, 4), (None, None, 1)):
        other = keras.Sequential([keras.Input(shape), keras.layers.Activation("relu")])
        with pytest.raises(ValueError, match=r"Received: model\.input_shape="):
            zoo.read_images([file], other)
    other = keras.Sequential([keras.Input((32, 32)), keras.layers.Activation("relu")])
    other.normalization = "mnist"
    with pytest.raises(ValueError, match=r"Received: normalization='mnist' .*32, 32"):
        zoo.read_images([file], other)
    with pytest.raises(ValueError, match="at least one file"):
        zoo.read_images([], model)


def test_images_are_read_for_the_model(tmp_path):
    Image.new("L", (50, 40), 200).save(tmp_path / "x.png")
    files = [tmp_path / "x.png", str(tmp_path / "x.png")]
    colored = zoo.LeNet5(input_shape=(32, 32, 3))
    assert zoo.read_images(files, colored, as_is=True).max() == 200
    published = zoo.LeNet5(weights="mnist")
    with pytest.warns(UserWarning, match=r"No ink was found.*file='.*x.png'"):
        blank = zoo.read_images(files, published)
    assert blank.shape == (2, 28, 28, 1)
    assert blank.max() == 0
    assert zoo.read_images(files, published, as_is=True).min() == 200
    (tmp_path / "text.png").write_text("no image", "utf-8")
    with pytest.raises(OSError, match=r"cannot identify.*Received: file='.*text.png'"):
        zoo.read_images([tmp_path / "text.png", *files], published)
