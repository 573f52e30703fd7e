"""The published weights and their cards, and what `weights=` does with them."""

import dataclasses
import json
import os
import pathlib
import shutil
import zipfile

import jsonschema
import keras
import numpy as np
import pytest

import zoo
from zoo import weights as weights_lib
from zoo.publishing import golden_images
from zoo.recipes import load_recipe

ALL = zoo.list_weights()
SCHEMA = json.loads(
    pathlib.Path(__file__).with_name("card.schema.json").read_text("utf-8")
)
MNIST = {card.model: card for card in ALL if card.dataset == "mnist"}

each_card = pytest.mark.parametrize("card", ALL, ids=lambda card: card.id)


def test_published_weights():
    assert [card.id for card in ALL] == [
        f"{model}.{dataset}.v1"
        for model in ("shallow_mlp", "deep_mlp", "lenet5", "convnet")
        for dataset in ("fashion_mnist", "mnist")
    ]


@each_card
def test_card_follows_the_schema(card):
    path = weights_lib.PUBLISHED / f"{card.id}.json"
    jsonschema.validate(json.loads(path.read_text("utf-8")), SCHEMA)
    assert path.read_text("utf-8") == card.to_json()


@each_card
def test_card_holds_the_recipe_beside_it(card):
    recipe = load_recipe(weights_lib.PUBLISHED / f"{card.id}.toml")
    assert json.loads(json.dumps(dataclasses.asdict(recipe))) == card.recipe
    assert card.arguments == recipe.arguments
    assert card.metrics["seed"] == recipe.seed == card.metrics["seeds"][0]


@each_card
def test_card_states_size_and_cost(card):
    card.verify()
    assert card.path.stat().st_size == card.bytes
    model = zoo.create(card.model, weights=card)
    assert model.count_params() == card.parameters
    assert zoo.count_flops(model) == card.flops
    assert model.name == card.model
    assert model.output.shape[-1] == len(card.categories)


@each_card
def test_golden_outputs(card):
    model = zoo.create(card.model, weights=card)
    images = golden_images(card.input_shape, card.golden["seed"])
    outputs = model.predict(images, verbose=0)
    np.testing.assert_allclose(outputs, card.golden["probabilities"], atol=2e-4)


@each_card
def test_accuracy_reaches_the_bar(card):
    bar = {
        "shallow_mlp.mnist": 0.984,
        "deep_mlp.mnist": 0.986,
        "lenet5.mnist": 0.991,
        "convnet.mnist": 0.995,
        "shallow_mlp.fashion_mnist": 0.895,
        "deep_mlp.fashion_mnist": 0.90,
        "lenet5.fashion_mnist": 0.905,
        "convnet.fashion_mnist": 0.93,
    }
    assert card.metrics["accuracy"] >= bar[f"{card.model}.{card.dataset}"]


@each_card
def test_accuracy_on_the_test_images_is_the_cards(card, prepared_data_dir):
    model = zoo.create(card.model, weights=card)
    scores = zoo.evaluate(model, card.dataset, data_dir=prepared_data_dir)
    # A prediction on the edge may fall to the other side on another machine.
    assert scores["accuracy"] == pytest.approx(card.metrics["accuracy"], abs=2e-4)
    assert scores["loss"] == pytest.approx(card.metrics["loss"], rel=1e-3)


def test_all_weights_fit_in_a_small_wheel():
    assert sum(card.bytes for card in ALL) < 11e6


@pytest.mark.parametrize("model", MNIST)
def test_names_that_mean_the_same_weights(model):
    expected = zoo.create(model, weights="mnist").get_weights()
    card = zoo.get_weights(model, "mnist")
    for name in ("mnist.v1", f"{model}.mnist", f"{model}.mnist.v1", card):
        for a, b in zip(
            zoo.create(model, weights=name).get_weights(), expected, strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_registry():
    assert zoo.list_models(weights="mnist") == zoo.list_models()
    assert zoo.list_models(weights="cifar10") == []
    assert zoo.list_models("*net*") == ["lenet5", "convnet"]
    assert zoo.get_weights("lenet5.mnist") == zoo.get_weights("lenet5", "mnist")
    assert {card.model for card in zoo.list_weights("*mlp", "mnist")} == {
        "shallow_mlp",
        "deep_mlp",
    }
    with pytest.raises(ValueError, match="Unknown model"):
        zoo.get_weights("lenet", "mnist")
    with pytest.raises(ValueError, match="Unknown weights"):
        zoo.get_weights("lenet5", "cifar10")


@pytest.mark.parametrize("name", ["minst", "MNIST", "mnist.v9", "mnist.v"])
def test_mistyped_name(name):
    with pytest.raises(ValueError, match=r"Did you mean 'mnist'\? .*'fashion_mnist'"):
        zoo.LeNet5(weights=name)


def test_a_file_in_the_working_directory_never_shadows_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("mnist").write_text("not weights")
    assert zoo.LeNet5(weights="mnist").count_params() == 61_706
    with pytest.raises(ValueError, match="Not a whole Keras weights file"):
        zoo.LeNet5(weights=pathlib.Path("mnist"))
    with pytest.raises(ValueError, match="Not a whole Keras weights file"):
        zoo.LeNet5(weights=f".{os.sep}mnist")


def test_weights_of_another_model():
    foreign = zoo.get_weights("deep_mlp", "mnist")
    for weights in (foreign, "deep_mlp.mnist", "deep_mlp.mnist.v1"):
        with pytest.raises(
            ValueError, match=r"zoo.create\('deep_mlp', weights='mnist'\)"
        ):
            zoo.LeNet5(weights=weights)


def test_arguments_come_from_the_card_and_may_not_contradict_it():
    card = MNIST["deep_mlp"]
    assert zoo.DeepMLP(weights="mnist").count_params() == card.parameters
    same = zoo.DeepMLP(
        weights="mnist", activation=keras.activations.relu, residual=True
    )
    assert same.count_params() == card.parameters
    own = keras.initializers.HeNormal()
    assert zoo.DeepMLP(weights="mnist", kernel_initializer=own).name == "deep_mlp"
    units = tuple(card.arguments["hidden_units"])
    assert zoo.DeepMLP(units, weights="mnist").count_params() == card.parameters
    for other in ({"activation": "tanh"}, {"residual": False}, {"hidden_units": [9]}):
        (name,) = other
        with pytest.raises(
            ValueError, match=rf"trained with {name}=.*Received: {name}="
        ):
            zoo.DeepMLP(**other, weights="mnist")


def test_number_of_classes():
    kept = zoo.LeNet5(weights="mnist", classes=10)
    assert kept.categories == MNIST["lenet5"].categories
    with pytest.warns(UserWarning, match="'logits' is untrained: it has 3") as warned:
        fresh = zoo.LeNet5(weights="mnist", classes=3)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert fresh.output.shape == (None, 3)
    assert not hasattr(fresh, "categories")
    for layer in kept.layers:
        if layer.name != "logits":
            for a, b in zip(
                layer.get_weights(),
                fresh.get_layer(layer.name).get_weights(),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("model", MNIST)
def test_feature_extractor_has_the_trained_layers(model):
    whole = zoo.create(model, weights="mnist")
    extractor = zoo.create(model, weights="mnist", include_top=False)
    images = golden_images((28, 28, 1))
    expected = zoo.features(whole, [extractor.layers[-1].name]).predict(
        images, verbose=0
    )
    np.testing.assert_allclose(
        extractor.predict(images, verbose=0),
        expected[extractor.layers[-1].name],
        atol=1e-5,
    )


def test_logits_of_trained_weights():
    images = golden_images((28, 28, 1))
    logits = zoo.LeNet5(weights="mnist", classifier_activation=None)
    exponentials = np.exp(logits.predict(images, verbose=0))
    np.testing.assert_allclose(
        exponentials / exponentials.sum(-1, keepdims=True),
        zoo.LeNet5(weights="mnist").predict(images, verbose=0),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="Received: 'sigmoid'"):
        zoo.LeNet5(weights="mnist", classifier_activation="sigmoid")


@pytest.mark.parametrize("shape", [(32, 32, 1), (28, 28, 3)])
def test_input_shape_that_does_not_fit(shape):
    message = r"expected input_shape=\(28, 28, 1\).*Received: input_shape="
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        zoo.LeNet5(weights="mnist", input_shape=shape)


def test_convolutions_fit_images_of_any_size():
    extractor = zoo.LeNet5(
        weights="mnist", include_top=False, input_shape=(None, None, 1)
    )
    assert extractor.predict(np.zeros((1, 64, 40, 1)), verbose=0).shape[1:3] == (14, 8)


def test_weights_behind_layers_of_ones_own():
    inputs = keras.Input((28, 28, 1))
    adapter = keras.layers.Conv2D(1, 1, kernel_initializer="ones", name="adapter")
    model = zoo.LeNet5(weights="mnist", input_tensor=adapter(inputs))
    assert model.get_layer("adapter").count_params() == 2
    images = golden_images((28, 28, 1))
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        zoo.LeNet5(weights="mnist").predict(images, verbose=0),
        atol=1e-6,
    )


@pytest.mark.parametrize("shape", [(56, 14, 1), (14, 14, 4)])
def test_mlp_weights_refuse_images_of_other_shape_and_equal_size(shape):
    message = r"expected input_shape=\(28, 28, 1\).*Received: input_shape="
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        zoo.ShallowMLP(weights="mnist", input_shape=shape)


def test_mlp_weights_fit_vectors():
    images = golden_images((28, 28, 1))
    flat = zoo.ShallowMLP(weights="mnist", input_shape=(784,))
    np.testing.assert_allclose(
        flat.predict(images.reshape(2, 784), verbose=0),
        zoo.ShallowMLP(weights="mnist").predict(images, verbose=0),
        atol=1e-6,
    )


@pytest.fixture
def copied_zoo(tmp_path, monkeypatch):
    """The published weights in a folder where a test may damage them."""
    shutil.copytree(weights_lib.PUBLISHED, tmp_path / "published")
    monkeypatch.setattr(weights_lib, "PUBLISHED", tmp_path / "published")
    return tmp_path / "published"


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_damaged_file_is_refused_with_both_checksums(damage, copied_zoo):
    path = copied_zoo / "lenet5.mnist.v1.weights.h5"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-1]
    elif damage == "altered":
        content[len(content) // 2] ^= 1
    else:
        content = b""
    path.write_bytes(content)
    card = zoo.get_weights("lenet5", "mnist")
    with pytest.raises(
        ValueError, match=rf"expected {card.bytes} bytes with sha256 {card.sha256}"
    ) as raised:
        zoo.LeNet5(weights="mnist")
    assert f"Received: {len(content)} bytes with sha256" in str(raised.value)
    assert zoo.ShallowMLP(weights="mnist")


def test_published_files_are_ordinary_keras_weights():
    model = zoo.LeNet5()
    model.load_weights(MNIST["lenet5"].path)
    for a, b in zip(
        model.get_weights(), zoo.LeNet5(weights="mnist").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_keras_archive_without_weights_is_refused(tmp_path):
    path = tmp_path / "own.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match="Not a whole Keras weights file"):
        zoo.LeNet5(weights=path)


def test_decode_predictions():
    card = zoo.get_weights("lenet5", "fashion_mnist")
    probabilities = np.zeros((2, 10))
    probabilities[0, [1, 9]] = 0.25, 0.75
    probabilities[1] = 0.1
    decoded = zoo.decode_predictions(probabilities, card, top=2)
    assert decoded[0] == [("Ankle boot", 0.75), ("Trouser", 0.25)]
    assert decoded[1] == [("T-shirt/top", 0.1), ("Trouser", 0.1)]
    with pytest.raises(ValueError, match=r"shape \[n, 10\].*Received: shape \[10\]"):
        zoo.decode_predictions(probabilities[0], card)
