"""One table for several models."""

import keras
import pytest

import zoo
from zoo.training.comparison import _interval


def test_models_are_trained_by_one_recipe_or_taken(tmp_path):
    scaled = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    own = keras.Sequential([*scaled, keras.layers.Dense(10)], name="own")
    recipe = zoo.Recipe("shallow_mlp", "mnist", arguments={"hidden_units": 8})
    report = zoo.train("shallow_mlp", "digits-sample", recipe, epochs=1, verbose=0)
    models = ["shallow_mlp", own, report, "lenet5.mnist"]
    table = zoo.compare(models, "digits-sample", recipe, epochs=1, verbose=0)
    names = [row["model"] for row in table]
    assert names == ["shallow_mlp", "own", "shallow_mlp", "lenet5.mnist"]
    # The same recipe and seed, so the same weights.
    assert table[0]["accuracy"] == table[2]["accuracy"]
    assert table[0]["parameters"] == 8 * 785 + 90
    assert [row["gradients"] for row in table] == ["healthy", "healthy", "", ""]
    low, high = table[3]["interval"]
    assert low < table[3]["accuracy"] < high
    assert table[3]["accuracy"] > 0.98
    assert "lenet5.mnist" in str(table)
    assert "<td>lenet5.mnist</td>" in table._repr_html_()


def test_interval_is_that_of_wilson():
    # Newcombe, 1998: 81 of 263 (method 3).
    assert _interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
