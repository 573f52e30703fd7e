"""Loading models by the name of published weights, from a file or from a run."""

import json
import shutil

import keras
import pytest

import zoo
from zoo.training.opening import has_seen, read_run, training_data


@pytest.fixture
def run(tmp_path):
    """The folder of a run of logistic regression."""
    arguments = {"hidden_units": 0}
    recipe = zoo.Recipe("shallow_mlp", "digits-sample", epochs=1, arguments=arguments)
    zoo.train("shallow_mlp", "digits-sample", recipe, output_dir=tmp_path, verbose=0)
    return tmp_path


def test_a_folder_does_not_shadow_the_name_of_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet5.mnist").mkdir()
    assert zoo.load_model("lenet5.mnist").normalization == "mnist"
    assert training_data("lenet5.mnist.v1") == "mnist"
    with pytest.raises(FileNotFoundError):
        zoo.load_model("./lenet5.mnist")


def test_images_that_a_model_was_trained_on_are_known(run):
    for split, seen in (("train", True), ("validation", False), ("all", True)):
        assert has_seen(run, "digits-sample", split) == seen
    for data in ("mnist", "digits-sample"):
        assert has_seen("lenet5.mnist", data, "validation")
        assert not has_seen("lenet5.mnist", data, "test")
    assert has_seen(run, "mnist", "train")
    for data in ("fashion_mnist", ([], [])):
        assert not has_seen("lenet5.mnist", data, "train")


def test_a_run_is_loaded_from_its_folder_or_its_file(run):
    for target in (run, str(run), run / "trained.keras"):
        model = zoo.load_model(target)
        assert model.count_params() == 28 * 28 * 10 + 10
        assert (model.categories[0], model.normalization) == ("0", "mnist")
        assert training_data(target) == "digits-sample"
    assert read_run(run)["data"]["images"] == [4000, 28, 28, 1]
    shutil.copy(run / "trained.keras", run / "other.keras")
    assert read_run(run / "other.keras") == {}


def test_a_whole_model_in_the_legacy_format_has_its_labels(tmp_path):
    published = zoo.LeNet5(weights="mnist")
    published.save(file := tmp_path / "whole.h5")
    model = zoo.load_model(file)
    assert model.categories == published.categories
    assert model.normalization == "mnist"


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_models_without_a_shape_or_with_a_lambda_layer_are_loaded(tmp_path):
    keras.Sequential([keras.layers.Dense(2)]).save(path := tmp_path / "own.keras")
    assert not zoo.load_model(path).built
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)]).save(path)
    with pytest.raises(ValueError, match="safe_mode=False"):
        zoo.load_model(path)
    assert zoo.load_model(path, safe_mode=False).built


def test_mistakes_are_named(run):
    with pytest.raises(ValueError, match="Did you mean 'lenet5'"):
        zoo.load_model("lenet.mnist")
    with pytest.raises(FileNotFoundError, match=r"Received: file='.*missing\.keras'"):
        zoo.load_model("missing.keras")
    zoo.ShallowMLP(0).save_weights(run / "own.weights.h5")
    with pytest.raises(ValueError, match=r"weights, not a model.*own\.weights\.h5'"):
        zoo.load_model(run / "own.weights.h5")
    (run / "trained.keras").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"is damaged.*trained\.keras'"):
        zoo.load_model(run)
    (run / "trained.keras").unlink()
    with pytest.raises(FileNotFoundError, match=r"resume it .*trained\.keras'"):
        zoo.load_model(run)
    for file in ("export.json", "2/export.json"):
        (run / "serving" / file).parent.mkdir(parents=True, exist_ok=True)
        (run / "serving" / file).touch()
        with pytest.raises(ValueError, match=r"an export, not a run.*load_exported"):
            zoo.load_model(run / "serving")
        (run / "serving" / file).unlink()
    (run / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged: .* Received: .*run\.json\.$"):
        read_run(run)
    (run / "run.json").write_text(json.dumps({"recipe": {"dataset": None}}))
    with pytest.raises(ValueError, match="Name the data to evaluate on"):
        training_data(run)
