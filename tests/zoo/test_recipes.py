import pytest

import zoo
from zoo.recipes import Recipe, default_recipe
from zoo.weights import PUBLISHED


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*.toml")), ids=lambda p: p.stem)
def test_published_recipes_are_named_for_what_they_make(path):
    recipe = zoo.load_recipe(path)
    assert path.stem == recipe.id
    assert recipe.seed == 0
    assert recipe.model in zoo.list_models()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 'lenet5'", "needs the field 'dataset'"),
        ("model = 'lenet5'\ndataset = 'mnist'\nepoch = 3", "Did you mean 'epochs'"),
        ("model = 'lenet5'\ndataset = 'mnist'\nepochs = 0", "Received: epochs=0"),
        ("model = 'lenet5'\ndataset = 'mnist'\nschedule = 'step'", "'cosine' or"),
        ("model = ", "Invalid value"),
    ],
)
def test_a_bad_recipe_names_the_file_and_the_mistake(text, message, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"bad.toml cannot be read: .*{message}"):
        zoo.load_recipe(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": 5}, "`model` .* a name"),
        ({"epochs": 2.0}, "`epochs` .* integer from 1 on. Received: epochs=2.0"),
        ({"epochs": "10"}, "`epochs` .* integer"),
        ({"batch_size": True}, "`batch_size` .* integer"),
        ({"version": 0}, "`version` .* integer from 1 on"),
        ({"seed": -1}, "`seed` .* integer from 0 on"),
        ({"warmup_epochs": -0.5}, "`warmup_epochs` .* number from 0 on"),
        ({"warmup_epochs": "1"}, "`warmup_epochs` .* number from 0 on"),
        ({"arguments": [10]}, "`arguments` .* table"),
        ({"optimizer": "Adam"}, "`optimizer` .* table"),
        ({"optimizer": {"learning_rate": 0.1}}, "`name` and a positive"),
        ({"optimizer": {"name": "Adam"}}, "positive `learning_rate`"),
        ({"optimizer": {"name": "Adam", "learning_rate": "1e-3"}}, "learning_rate"),
        ({"optimizer": {"name": "Adam", "learning_rate": 0}}, "learning_rate"),
        ({"augmentation": {"rotate": 1}}, "'rotate'. Did you mean 'rotation'"),
        ({"augmentation": {"images": 1}}, "Unknown `augmentation` 'images'"),
    ],
)
def test_fields_of_other_types_or_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({"model": "lenet5", "dataset": "mnist", **fields})


def test_missing_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No recipe file at .*none\.toml"):
        zoo.load_recipe(tmp_path / "none.toml")


def test_default_recipe():
    assert default_recipe("lenet5", "fashion_mnist").id == "lenet5.fashion_mnist.v1"
    assert default_recipe("lenet5", "kmnist").dataset == "kmnist"
    with pytest.raises(ValueError, match="no recipe for 'my_model': pass one"):
        default_recipe("my_model", "mnist")


def test_fields_of_a_recipe_do_not_share_state():
    first, second = Recipe("lenet5", "mnist"), Recipe("lenet5", "mnist")
    assert first.arguments is not second.arguments
