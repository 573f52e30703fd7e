"""Models and weights by name."""

import inspect
import json

import keras
import pytest

import zoo
from zoo.models import registry


def test_listing():
    assert zoo.list_models() == ["shallow_mlp", "deep_mlp", "lenet5", "convnet"]
    assert zoo.list_models(weights="mnist") == zoo.list_models()
    assert zoo.list_models(weights="cifar10") == []
    assert zoo.list_models("*net*") == ["lenet5", "convnet"]
    assert [card.id for card in zoo.list_weights()] == [
        f"{model}.{dataset}.v1"
        for model in zoo.list_models()
        for dataset in ("fashion_mnist", "mnist")
    ]
    of_mlps = {card.model for card in zoo.list_weights("*mlp", "mnist")}
    assert of_mlps == {"shallow_mlp", "deep_mlp"}


def test_every_builder_is_public():
    """The registry and the stub name the same functions."""
    for name in registry.BUILDERS:
        builder = registry.builder(name)
        assert getattr(zoo, builder.__name__) is builder
        assert inspect.signature(builder).parameters["name"].default == name
    public = {
        value
        for value in (getattr(zoo, name) for name in dir(zoo))
        if inspect.isfunction(value)
        and inspect.signature(value).return_annotation is keras.Model
        and "weights" in inspect.signature(value).parameters
    }
    assert public == {registry.builder(name) for name in registry.BUILDERS}


def test_names():
    assert zoo.get_weights("lenet5.mnist") == zoo.get_weights("lenet5", "mnist")
    assert zoo.create("lenet5", classes=3).output.shape == (None, 3)
    trained = zoo.create("lenet5.mnist", name="trained")
    assert (trained.name, trained.categories) == ("trained", tuple("0123456789"))
    with pytest.raises(ValueError, match=r"Leave out `weights`.*weights='mnist'"):
        zoo.create("lenet5.mnist", weights="mnist")
    for name in ("lenet5.", "lenet5.minst"):
        with pytest.raises(ValueError, match="Unknown weights for 'lenet5'"):
            zoo.create(name)
    message = r"Did you mean 'lenet5'\?.*Received: name='lenet'"
    with pytest.raises(ValueError, match=message):
        zoo.create("lenet")
    with pytest.raises(ValueError, match="Unknown model"):
        zoo.get_weights("lenet", "mnist")
    with pytest.raises(ValueError, match="Unknown weights"):
        zoo.get_weights("lenet5", "cifar10")


@pytest.mark.parametrize("card", zoo.list_weights(), ids=lambda card: card.id)
def test_the_defaults_of_a_builder_are_the_architecture_of_its_weights(card):
    defaults = registry.default_arguments(card.model)
    assert json.loads(json.dumps(defaults)) == card.arguments
    assert set(card.recipe["arguments"]) <= set(registry.TRAINING_ARGUMENTS)

    def layers(model):
        dropout = keras.layers.Dropout
        kept = [layer for layer in model.layers if not isinstance(layer, dropout)]
        return [layer.get_config() for layer in kept]

    builder = registry.builder(card.model)
    assert layers(builder(weights=card)) == layers(builder())
