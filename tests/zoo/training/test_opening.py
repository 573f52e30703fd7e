"""Opening models by the name of published weights or by a weights file."""

import json

import pytest

import zoo
from zoo.training.opening import open_model, read_run


@pytest.fixture
def run(tmp_path):
    """The folder of a run of logistic regression that no step has trained."""
    zoo.ShallowMLP(0).save_weights(tmp_path / "trained.weights.h5")
    recipe = {"model": "shallow_mlp", "dataset": "fashion_mnist"}
    recipe["arguments"] = {"hidden_units": 0}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": recipe}))
    return tmp_path


def test_published_weights_are_opened_by_name():
    model, dataset = open_model("lenet5.mnist.v1")
    assert (model.name, dataset) == ("lenet5", "mnist")
    assert model.categories == zoo.get_weights("lenet5.mnist").categories
    expected = zoo.LeNet5(weights="mnist").get_weights()
    assert [w.tobytes() for w in model.get_weights()] == [w.tobytes() for w in expected]
    assert open_model("lenet5.mnist", dataset="digits-sample")[1] == "digits-sample"


def test_a_weights_file_is_opened_as_its_run_describes_it(run):
    file = run / "trained.weights.h5"
    model, dataset = open_model(str(file))
    assert dataset == "fashion_mnist"
    assert model.count_params() == 28 * 28 * 10 + 10
    assert model.categories[0] == "T-shirt/top"
    # The labels are those of the training data, whatever the model is used for.
    model, dataset = open_model(file, dataset="mnist")
    assert (model.categories[0], dataset) == ("T-shirt/top", "mnist")


def test_a_file_without_a_description_is_refused(run):
    (run / "run.json").unlink()
    file = run / "trained.weights.h5"
    assert read_run(file) == {}
    for dataset in (None, "mnist"):
        with pytest.raises(FileNotFoundError, match=r"No run\.json .*Received: file="):
            open_model(file, dataset)


def test_mistakes_are_named(run):
    file = run / "trained.weights.h5"
    with pytest.raises(ValueError, match="Did you mean 'lenet5'"):
        open_model("lenet.mnist")
    with pytest.raises(FileNotFoundError, match=r"missing\.weights\.h5"):
        open_model("missing.weights.h5")
    (run / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged: .* Received: .*run\.json\.$"):
        open_model(str(file))
