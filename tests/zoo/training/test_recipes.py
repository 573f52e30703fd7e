"""Recipes, and the models that they compile."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import zoo
from zoo.training.recipes import Recipe, compile_model, default_recipe

ADAM = {"name": "Adam", "learning_rate": 1e-3}
RECIPE = Recipe(
    "shallow_mlp",
    "digits-sample",
    epochs=1,
    optimizer={"name": "AdamW", "learning_rate": 2e-3, "weight_decay": 1e-2},
    warmup_epochs=0.5,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", r"Invalid value.*\.$"),
        ("model = 'lenet5'", r"needs \['dataset'\]\. Received: \['model'\]\.$"),
        ("model = 'lenet5'\ndataset = 'mnist'\nepoch = 3", "Did you mean 'epochs'"),
        ("model = 'lenet5'\ndataset = 'mnist'\nepochs = 0", r"Received: epochs=0\.$"),
    ],
)
def test_a_bad_recipe_names_the_file_and_the_mistake(text, message, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"bad.toml is not valid: .*{message}"):
        zoo.load_recipe(path)
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        zoo.load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", 5, "a name"),
        ("dataset", 5, "a name"),
        ("version", 0, "integer of at least 1"),
        ("seed", -1, "integer of at least 0"),
        ("epochs", 2.0, r"an integer of at least 1\. Received: epochs=2\.0\."),
        ("batch_size", True, "integer of at least 1"),
        ("seed", np.True_, r"Received: seed=True\."),
        ("arguments", [10], "table"),
        ("optimizer", "Adam", "table"),
        ("optimizer", {"learning_rate": 0.1}, "`name` and a positive"),
        ("optimizer", {"name": "Adam"}, "positive `learning_rate`"),
        ("optimizer", {**ADAM, "learning_rate": "1e-3"}, "positive `learning_rate`"),
        ("optimizer", {**ADAM, "learning_rate": 0}, "positive `learning_rate`"),
        ("schedule", "step", "'cosine' or 'constant'"),
        ("warmup_epochs", -0.5, "number of at least 0"),
        ("warmup_epochs", "1", "number of at least 0"),
        ("label_smoothing", 1, "from 0 to less than 1"),
        ("teacher", 5, "a name"),
        ("teacher_weight", 0, "above 0 and at most 1"),
        ("teacher_weight", "1", "above 0 and at most 1"),
        ("ema_momentum", -0.1, "from 0 to less than 1"),
        ("augmentation", {"rotate": 1}, "Did you mean 'rotation'.*: 'rotate'"),
        ("augmentation", {"images": 1}, "Available: 'rotation'.*: 'images'"),
        ("augmentation", {"rotation": "ten"}, "be a number.*rotation='ten'"),
        ("augmentation", {"shift": float("nan")}, "be a number.*shift=nan"),
        ("augmentation", {"flip": "no"}, "be a boolean.*flip='no'"),
        ("augmentation", {"erase": 2}, "be a number from 0 to 1.*erase=2"),
        ("augmentation", {"elastic_sigma": 0}, "be a positive number.*sigma=0"),
    ],
)
def test_fields_of_other_types_or_out_of_range(field, value, message):
    with pytest.raises(ValueError, match=rf"`{field}[.\w]*` .*{message}"):
        dataclasses.replace(RECIPE, **{field: value})


def test_numbers_of_numpy_become_those_of_python():
    arguments = {"hidden_units": [np.int32(4)]}
    values = {"seed": np.int64(3), "warmup_epochs": np.float32(0.5)}
    recipe = dataclasses.replace(RECIPE, arguments=arguments, **values)
    fields = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert (fields["seed"], fields["warmup_epochs"]) == (3, 0.5)
    assert fields["arguments"] == {"hidden_units": [4]}


def test_default_recipe():
    assert default_recipe("lenet5", "fashion_mnist").id == "lenet5.fashion_mnist.v1"
    assert default_recipe("lenet5", "kmnist").dataset == "kmnist"
    assert default_recipe("my_model", "mnist") == Recipe("my_model", "mnist")


def test_a_teacher_is_for_its_own_dataset(monkeypatch, tmp_path):
    monkeypatch.setattr("zoo.training.recipes.PUBLISHED", tmp_path)
    text = "model = 'lenet5'\ndataset = 'mnist'\nteacher = 'convnet.mnist'"
    (tmp_path / "lenet5.mnist.v1.toml").write_text(text)
    assert default_recipe("lenet5", "mnist").teacher == "convnet.mnist"
    assert default_recipe("lenet5", "kmnist").teacher is None
    unnamed = default_recipe("lenet5", None)
    assert (unnamed.dataset, unnamed.teacher) == ("mnist", None)


def test_a_recipe_is_found_by_the_name_of_its_weights():
    expected = Recipe.from_dict(zoo.get_weights("lenet5.mnist").recipe)
    assert zoo.load_recipe("lenet5.mnist") == expected
    with pytest.raises(ValueError, match="Did you mean 'mnist'"):
        zoo.load_recipe("lenet5.mnits")


def test_the_fast_recipe():
    recipe = zoo.load_recipe("fast")
    assert zoo.create(recipe.model, **recipe.arguments).count_params() < 60_000


def compiled(activation="softmax", **changes):
    model = zoo.ShallowMLP(8, classifier_activation=activation)
    compile_model(model, dataclasses.replace(RECIPE, **changes), steps_per_epoch=40)
    return model


def learning_rates(**changes):
    """Returns the learning rate at five steps of the epoch."""
    schedule = compiled(**changes).optimizer._learning_rate
    return [float(schedule(step)) for step in (0, 10, 20, 30, 40)]


def test_schedules():
    cosine = pytest.approx([0, 1e-3, 2e-3, 1e-3, 0], rel=1e-3, abs=1e-8)
    assert learning_rates() == cosine
    # A run that is shorter than its warm-up warms up for half of its steps.
    assert learning_rates(warmup_epochs=5) == cosine
    warmed_up = pytest.approx([0, 1e-3, 2e-3, 2e-3, 2e-3])
    assert learning_rates(schedule="constant") == warmed_up
    optimizer = compiled(schedule="constant", warmup_epochs=0).optimizer
    assert float(optimizer.learning_rate) == pytest.approx(2e-3)


def test_optimizer_and_loss():
    optimizer = compiled().optimizer
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert optimizer.weight_decay == pytest.approx(1e-2)
    assert not compiled().loss.from_logits
    assert compiled(activation=None).loss.from_logits
    message = r"Did you mean 'adamw'.*Received: optimizer='AdmW'\."
    with pytest.raises(ValueError, match=message):
        compiled(optimizer={**ADAM, "name": "AdmW"})
