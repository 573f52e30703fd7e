"""The published weights and their cards, and the names that refer to them."""

import dataclasses
import json
import os
import pathlib
import shutil

import jsonschema
import numpy as np
import pytest

import zoo
from zoo.models import weights as weights_lib
from zoo.training.publishing import golden_images
from zoo.training.recipes import load_recipe

SCHEMA_FILE = pathlib.Path(__file__).with_name("card.schema.json")
SCHEMA = json.loads(SCHEMA_FILE.read_text("utf-8"))

each_card = pytest.mark.parametrize("card", zoo.list_weights(), ids=lambda x: x.id)


@each_card
def test_card_follows_the_schema(card):
    text = (weights_lib.PUBLISHED / f"{card.id}.json").read_text("utf-8")
    jsonschema.validate(json.loads(text), SCHEMA)
    assert text == card.to_json()


@each_card
def test_card_holds_the_recipe_beside_it(card):
    recipe = load_recipe(weights_lib.PUBLISHED / f"{card.id}.toml")
    assert json.loads(json.dumps(dataclasses.asdict(recipe))) == card.recipe
    assert recipe.id == card.id
    assert card.metrics["seed"] == recipe.seed == card.metrics["seeds"][0] == 0


@each_card
def test_card_states_size_cost_and_golden_outputs(card):
    card.verify()
    assert card.path.stat().st_size == card.bytes
    model = zoo.create(card.model, weights=card)
    assert model.count_params() == card.parameters
    assert zoo.count_flops(model) == card.flops
    assert model.name == card.model
    assert model.output.shape[-1] == len(card.categories)
    images = golden_images(card.input_shape, card.golden["seed"])
    loaded_by_keras = zoo.create(card.model)
    loaded_by_keras.load_weights(card.path)
    for each in (model, loaded_by_keras):
        outputs = each.predict(images, verbose=0)
        np.testing.assert_allclose(outputs, card.golden["probabilities"], atol=2e-4)
    assert weights_lib.card_of(model) == card
    kernel = model.get_layer("logits").kernel
    kernel.assign(kernel + 2**-20)
    assert weights_lib.card_of(model) is None


# ConvNet takes as long as all others.
SLOW = {"convnet": [pytest.mark.endurance]}


@pytest.mark.parametrize(
    "card",
    [pytest.param(x, id=x.id, marks=SLOW.get(x.model, [])) for x in zoo.list_weights()],
)
def test_accuracy_on_the_test_images_is_the_cards(card, prepared_data_dir):
    model = zoo.create(card.model, weights=card)
    scores = zoo.evaluate(model, card.dataset, data_dir=prepared_data_dir)
    # Another machine may decide a close prediction differently.
    assert scores["accuracy"] == pytest.approx(card.metrics["accuracy"], abs=2e-4)
    assert scores["loss"] == pytest.approx(card.metrics["loss"], rel=1e-3)


@pytest.mark.parametrize("name", ["minst", "MNIST", "mnist.v9", "mnist.v"])
def test_mistyped_name(name):
    with pytest.raises(ValueError, match=r"Did you mean 'mnist'\? .*'fashion_mnist'"):
        zoo.LeNet5(weights=name)


def test_a_file_in_the_working_directory_never_shadows_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("mnist").write_text("not weights")
    assert zoo.LeNet5(weights="mnist").count_params() == 61_706
    for path in (pathlib.Path("mnist"), f".{os.sep}mnist"):
        with pytest.raises(ValueError, match="not a Keras weights file"):
            zoo.LeNet5(weights=path)


def test_weights_of_another_model():
    foreign = zoo.get_weights("deep_mlp", "mnist")
    for weights in (foreign, "deep_mlp.mnist", "deep_mlp.mnist.v1"):
        message = r"zoo.create\('deep_mlp', weights='mnist'\)"
        with pytest.raises(ValueError, match=message):
            zoo.LeNet5(weights=weights)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("", ValueError, "Unknown weights"),
        (True, TypeError, "must be None, a name"),
        (1, TypeError, "must be None, a name"),
        (["mnist"], TypeError, "must be None, a name"),
        ({}, TypeError, "must be None, a name"),
        ("missing.h5", FileNotFoundError, "missing.h5"),
        ("a/missing", FileNotFoundError, "missing"),
        (pathlib.Path("mnist"), FileNotFoundError, repr(os.path.abspath("mnist"))),
    ],
)
def test_weights_argument_that_is_not_weights(weights, error, message):
    with pytest.raises(error) as raised:
        zoo.LeNet5(weights=weights)
    assert message in str(raised.value)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_damaged_file_is_refused_with_both_checksums(damage, tmp_path, monkeypatch):
    folder = tmp_path / "published"
    shutil.copytree(weights_lib.PUBLISHED, folder)
    monkeypatch.setattr(weights_lib, "PUBLISHED", folder)
    path = folder / "lenet5.mnist.v1.weights.h5"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-1]
    elif damage == "altered":
        content[len(content) // 2] ^= 1
    else:
        content = b""
    path.write_bytes(content)
    card = zoo.get_weights("lenet5", "mnist")
    message = rf"Expected: {card.bytes} bytes with sha256 {card.sha256}"
    with pytest.raises(ValueError, match=message) as raised:
        zoo.LeNet5(weights="mnist")
    assert f"Received: {len(content)} bytes with sha256" in str(raised.value)
    assert zoo.ShallowMLP(weights="mnist")
