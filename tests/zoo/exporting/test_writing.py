import json
import os
import re
import resource
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from exports import folders, random_pixels, tree
from keras import layers

import zoo
from zoo.exporting import writing
from zoo.exporting.loading import load_exported, read_contract
from zoo.exporting.versions import export


def test_layout(folder):
    assert folder.name == "1"
    assert sorted(tree(folder)) == [
        "assets.extra/tf_serving_warmup_requests",
        "export.json",
        "fingerprint.pb",
        "labels.txt",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert folders(folder.parent) == ["1"]
    labels = [f"digit {i} é" for i in range(10)]
    assert (folder / "labels.txt").read_text("utf-8").splitlines() == labels

    contract = json.loads((folder / "export.json").read_text("utf-8"))
    assert contract == read_contract(folder)
    assert contract["model"] == "lenet"
    assert contract["labels"] == labels
    assert contract["libraries"] == {
        "gradzoo": zoo.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "tensorflow": tf.__version__,
    }
    assert contract["format"] == "saved_model"
    assert contract["preprocessing"].keys() == {"image", "image_bytes"}
    assert contract["weights"] is None
    assert sorted(contract["files"]) == sorted(set(tree(folder)) - {"export.json"})


def test_the_card_of_unchanged_weights(tmp_path):
    model = zoo.LeNet5(weights="mnist")
    contract = read_contract(export(model, tmp_path))
    card = json.loads(zoo.get_weights("lenet5", "mnist").to_json())
    assert contract["weights"] == card
    assert contract["labels"] == card["categories"]
    bias = model.get_layer("conv1").bias
    bias.assign(bias + 1)
    assert read_contract(export(model, tmp_path))["weights"] is None


def test_weights_are_stored_once(tmp_path):
    model = keras.Sequential(
        [keras.Input((784,)), layers.Dense(500, "relu"), layers.Dense(10, "softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(random_pixels(model), np.zeros(12), verbose=0)  # Adam doubles the state.
    folder = export(model, tmp_path)
    stored = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    parameters = 4 * model.count_params()
    assert parameters <= stored <= 1.01 * parameters + 1024
    assert (folder / "saved_model.pb").stat().st_size < 200_000


PROGRAM = """
import numpy as np, sys, zoo
assert zoo.load_model(sys.argv[1] + "/mine.keras").name == "mine"
import keras
images, labels = np.zeros((3, 784)), np.zeros(3, int)
for _ in range(6):  # TensorFlow warns after five.
    model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(2, "softmax")])
    model.categories = "no", "yes"
    zoo.load_exported(zoo.export(model, sys.argv[1] + "/own")).predict(images)
    zoo.features(model)(images)
    zoo.evaluate(model, (images, labels))
"""


def test_python_is_quiet(tmp_path):
    """In an interactive session, too, where TensorFlow reports more."""
    zoo.LeNet1998(name="mine").save(tmp_path / "mine.keras")  # with registered layers
    process = subprocess.run(
        [sys.executable, "-i", "-c", PROGRAM, tmp_path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert process.stdout == ""
    # The other lines are those of TensorFlow's C++ code.
    words = r"tensorflow:|Warning|Error|retracing|unfinished-"
    assert not re.search(words, process.stderr), process.stderr


def test_lookup_tables_are_stored(tmp_path):
    inputs = keras.Input((4,), dtype="int64")
    x = layers.IntegerLookup(vocabulary=[0, 1, 2], output_mode="multi_hot")(inputs)
    model = keras.Model(inputs, layers.Dense(3, "softmax")(x))
    pixels = np.array([[0, 1, 1, 9], [2, 2, 2, 2]], "float32")
    answer = load_exported(export(model, tmp_path)).predict(pixels)
    expected = model.predict(pixels.astype("int64"), verbose=0)
    np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)


def test_random_numbers_may_be_drawn_for_a_prediction(tmp_path):
    class MonteCarloDropout(layers.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    dense = layers.Dense(3, "softmax")
    model = keras.Sequential([keras.Input((64,)), MonteCarloDropout(0.5), dense])
    predict = load_exported(export(model, tmp_path)).predict
    pixels = np.full((1, 64), 100, "float32")
    one, other = (predict(pixels)["probabilities"] for _ in range(2))
    assert not np.allclose(one, other)


def test_full_disk(tmp_path):
    model = keras.Sequential([keras.Input((784,)), layers.Dense(200), layers.Dense(10)])
    export(model, tmp_path)
    before = tree(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot be written: .*too large"):
            export(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == before
    assert folders(tmp_path) == ["1"]
    assert export(model, tmp_path) == tmp_path / "2"


def test_another_backend_exports_in_a_second_process(
    model, pixels, tmp_path, monkeypatch
):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    monkeypatch.setattr(writing, "write_version", None)
    labels = [f"-é {i}" for i in range(10)]
    exported = load_exported(export(model, tmp_path, labels=labels))
    answer = exported.predict(pixels)
    expected = model.predict(pixels, verbose=0)
    np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)
    assert exported.labels == tuple(labels)

    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="under KERAS_BACKEND=tensorflow"):
        export(model, tmp_path)
    assert folders(tmp_path) == ["1"]
