"""One table for several models."""

import keras
import pytest

import zoo
from zoo.training import measures
from zoo.training.comparison import _interval


def test_models_are_trained_by_one_recipe_or_taken(tmp_path, monkeypatch):
    for name in ("SHIFTS", "ROTATIONS", "SCALES", "NOISES"):
        monkeypatch.setattr(measures, name, getattr(measures, name)[:1])
    layers = [keras.Input((28, 28, 1)), keras.layers.Rescaling(1 / 255)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
    own = keras.Sequential(layers, name="own")
    own.categories = tuple("abcdefghij")  # Training gives it those of the data.
    recipe = zoo.Recipe("shallow_mlp", "mnist", arguments={"hidden_units": 8})
    fit = {"epochs": 1, "verbose": 0}
    folder = {"output_dir": tmp_path}
    report = zoo.train("shallow_mlp", "digits-sample", recipe, **fit, **folder)
    models = ["shallow_mlp", own, report, "lenet5.mnist"]
    with pytest.warns(UserWarning, match="split='validation' for lenet5.mnist"):
        table = zoo.compare(models, "digits-sample", recipe, **fit, detailed=True)
    with pytest.warns(UserWarning, match=f"split='train' for {tmp_path}"):
        zoo.compare([report], "digits-sample", split="train")
    names = [row["model"] for row in table]
    assert names == ["shallow_mlp", "own", "shallow_mlp", "lenet5.mnist"]
    # The same recipe and seed, so the same weights.
    assert table[0]["accuracy"] == table[2]["accuracy"]
    assert table[0]["parameters"] == 8 * 785 + 90
    assert [row["gradients"] for row in table] == ["healthy", "healthy", "", ""]
    low, high = table[3]["interval"]
    assert low < table[3]["accuracy"] < high
    assert table[3]["accuracy"] > 0.98
    assert table[3]["shifted"] > table[0]["shifted"]
    assert "lenet5.mnist" in str(table)
    assert "<td>lenet5.mnist</td>" in table._repr_html_()


def test_what_cannot_be_compared_is_said_before_training(tmp_path):
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    with pytest.raises(ValueError, match="no images to evaluate on: pass `valid"):
        zoo.compare(["lenet5"], (images, labels))
    with pytest.raises(ValueError, match="`models` must be a list"):
        zoo.compare("lenet5", "digits-sample")
    for models in ([], zoo.LeNet5(), [7]):
        with pytest.raises(ValueError, match="a list of at least one model"):
            zoo.compare(models, "digits-sample")
    for models, split in ((["lenet5", "lenet"], "train"), (["lenet5"], "test")):
        with pytest.raises(ValueError, match=r"Did you mean 'lenet5'\?|split='test'"):
            zoo.compare(models, "digits-sample", split=split, output_dir=tmp_path)
        assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"different names.*\['lenet5', 'lenet5'\]"):
        zoo.compare(["lenet5", zoo.LeNet5()], "digits-sample")
    scaled = {"validation_data": (images / 255, labels), "output_dir": tmp_path}
    with pytest.raises(ValueError, match=r"`detailed` distorts .* up to 1"):
        zoo.compare(["lenet5"], "digits-sample", detailed=True, **scaled)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match="has 3 classes"):
        zoo.compare(["lenet5", zoo.ShallowMLP(classes=3)], "digits-sample")
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.EinsumDense("ab,bc->ac", 10)(x)
    own = keras.Model(inputs, keras.layers.Activation("log_softmax")(x), name="own")
    pair = images, labels
    data = {"data": pair, "validation_data": pair, "output_dir": tmp_path}
    options = {"epochs": 1, "verbose": 0, "from_logits": True}
    seen = pytest.warns(UserWarning, match=r"were trained on.*for own\.")
    with seen:
        [row] = zoo.compare([own], **data, **options, gradient_norms=False)
    assert (row["model"], row["flops"]) == ("own", None)
    with seen, pytest.warns(UserWarning, match="seen no gradient"):
        [row] = zoo.compare([own], **data, **options, resume=True)
    assert row["gradients"] == ""  # The finished run had no step left.
    assert (tmp_path / "own" / "trained.keras").is_file()


def test_interval_is_that_of_wilson():
    # Newcombe, 1998: 81 of 263 (method 3).
    assert _interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
