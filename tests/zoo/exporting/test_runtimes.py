"""Run with the extras `onnx`, `litert` and `openvino`, as `make test-all` does."""

import json
import os
import sys
from concurrent import futures

import keras
import numpy as np
import pytest
from exports import (
    color_logits,
    gray_without_channel,
    lenet,
    mixed_precision,
    random_layers,
    random_pixels,
    vector,
)
from keras import layers
from noise import softmax
from paths import run_python

import zoo
from zoo.exporting import runtimes
from zoo.exporting.loading import read_contract
from zoo.exporting.writing import in_float32

pytestmark = pytest.mark.runtimes

LABELS = [f"ζ {i}" for i in range(10)]
FILES = {
    "onnx": ["model.onnx"],
    "litert": ["model.tflite"],
    "openvino": ["model.bin", "model.xml"],
}
MODULES = {
    "onnx": ["tf2onnx", "onnxruntime"],
    "litert": ["ai_edge_litert"],
    "openvino": ["openvino"],
}


@pytest.fixture(params=runtimes.FORMATS)
def format(request):
    return request.param


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A version in each format, and the model."""
    model = lenet()
    bases = {name: tmp_path_factory.mktemp(name) for name in runtimes.FORMATS}
    return {
        name: zoo.export(model, base, labels=LABELS, format=name)
        for name, base in bases.items()
    }, model


# Answers


def published():
    return zoo.LeNet5(weights="mnist")


@pytest.mark.parametrize(
    "build", [published, color_logits, vector, gray_without_channel, random_layers]
)
def test_models_answer_as_predict(format, build, tmp_path):
    model = build()
    images = random_pixels(model)
    expected = model.predict(images, verbose=0)
    if build is color_logits:
        expected = softmax(expected)
    assert np.ptp(expected) > 1e-3
    folder = zoo.export(model, tmp_path, format=format)
    answer = zoo.load_exported(folder).predict(images)
    np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-5)
    np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))


def test_half_precision_becomes_single(format, tmp_path):
    model = mixed_precision()
    images = random_pixels(model)
    expected = model.predict(images, verbose=0)
    folder = zoo.export(model, tmp_path, format=format)
    answer = zoo.load_exported(folder).predict(images)
    np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-3)
    # In single precision the model is more exact than before.
    assert np.abs(answer["probabilities"] - expected).max() > 1e-5
    kernel = model.layers[-2].kernel
    assert (kernel.dtype, model.layers[-2].compute_dtype) == ("float32", "float16")


def test_in_float32():
    model = vector()
    assert in_float32(model) is model

    images = random_pixels(zoo.LeNet5(weights="mnist"))
    expected = zoo.LeNet5(weights="mnist").predict(images, verbose=0)
    keras.config.set_dtype_policy("mixed_float16")
    model = zoo.LeNet5(weights="mnist")
    assert np.abs(model.predict(images, verbose=0) - expected).max() > 1e-5
    copy = in_float32(model)
    np.testing.assert_allclose(copy.predict(images, verbose=0), expected, 0, 1e-6)
    adapted = layers.Normalization()
    adapted.adapt(images)
    model = keras.Sequential([keras.Input((28, 28, 1)), adapted])
    received = in_float32(model).predict(images, verbose=0)
    np.testing.assert_allclose(received, model.predict(images, verbose=0), 0, 0.01)


def test_recurrent_layers(format, tmp_path):
    scaled = [keras.Input((28, 28)), layers.Rescaling(1 / 255)]
    model = keras.Sequential([*scaled, layers.GRU(8), layers.Dense(10, "softmax")])
    if format == "litert":
        with pytest.raises(RuntimeError, match="cannot be converted to the format"):
            zoo.export(model, tmp_path, format=format)
        assert os.listdir(tmp_path) == [".lock"]
    else:
        exported = zoo.load_exported(zoo.export(model, tmp_path, format=format))
        for n in (1, 5):
            images = random_pixels(model, n)
            expected = model.predict(images, verbose=0)
            received = exported.predict(images)["probabilities"]
            np.testing.assert_allclose(received, expected, 0, 1e-5)


def test_any_number_of_images(format, small):
    folders, model = small
    exported = zoo.load_exported(folders[format])
    first = exported.predict(random_pixels(model, 1))["probabilities"]
    before = first.copy()
    for n in (1, 7, 1000, 0, 3):
        images = np.asfortranarray(random_pixels(model, n, seed=n))
        answer = exported.predict(images)
        shapes = {name: array.shape for name, array in answer.items()}
        assert shapes == {"probabilities": (n, 10), "class_id": (n,), "label": (n,)}
        assert answer["probabilities"].dtype == np.float32
        assert answer["class_id"].dtype == np.int64
        assert answer["label"].tolist() == [LABELS[i] for i in answer["class_id"]]
        if n:
            expected = model.predict(images, verbose=0)
            np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-5)
            np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))
    np.testing.assert_array_equal(first, before)  # No answer changes later.


def test_threads(format, small):
    folders, model = small
    run = runtimes.load(format, folders[format])
    batches = [random_pixels(model, n, seed=n) for n in (1, 2, 30, 40)]
    expected = [model.predict(images, verbose=0) for images in batches]

    def work(images, expected):
        answers = (run(images)["probabilities"] for _ in range(50))
        return max(np.abs(answer - expected).max() for answer in answers)

    with futures.ThreadPoolExecutor(len(batches)) as pool:
        worst = list(pool.map(work, batches, expected))
    assert max(worst) <= 1e-5


# The files


def test_names_and_shapes_of_onnx(small):
    import onnx

    model = onnx.load(small[0]["onnx"] / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    tensors = {
        tensor.name: [
            dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim
        ]
        for tensor in (*model.graph.input, *model.graph.output)
    }
    assert tensors == {
        "image": ["n", 28, 28, 1],
        "probabilities": ["n", 10],
        "class_id": ["n"],
        "label": ["n"],
    }


def test_layout(format, small):
    folder = small[0][format]
    assert os.listdir(folder.parent) in (["1", ".lock"], [".lock", "1"])
    files = sorted(["export.json", "labels.txt", *FILES[format]])
    assert sorted(os.listdir(folder)) == files
    contract = read_contract(folder)
    assert contract["format"] == format
    assert list(contract["signatures"]) == ["serving_default"]
    outputs = {"probabilities", "class_id", "label"}
    if format == "openvino":
        outputs.remove("label")
    assert contract["signatures"]["serving_default"]["outputs"].keys() == outputs
    assert runtimes.load(format, folder)(np.zeros((1, 28, 28, 1))).keys() == outputs
    packages = {module.replace("_", "-") for module in MODULES[format]}
    assert packages <= contract["libraries"].keys()
    assert str(folder.parent) not in json.dumps(contract)


def test_loading_takes_no_tensorflow(format, small):
    program = (
        "import sys, numpy as np\n"
        "sys.modules['keras'] = sys.modules['tensorflow'] = None\n"
        "from zoo.exporting.loading import load_exported\n"
        "print(load_exported(sys.argv[1])(np.zeros((2, 28, 28, 1)))['label'].shape)\n"
    )
    assert run_python("-c", program, small[0][format]) == "(2,)\n"


# Errors


def test_missing_packages(format, tmp_path, small, monkeypatch):
    runtimes.check_installed(format)
    for module in MODULES[format]:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            message = rf'`pip install "gradzoo\[{format}\]"`.*package=.{module}'
            with pytest.raises(ModuleNotFoundError, match=message):
                zoo.export(vector(), tmp_path / "base", format=format)
            runtimes.check_installed("saved_model")
            if module != "tf2onnx":
                with pytest.raises(ModuleNotFoundError, match=message):
                    zoo.load_exported(small[0][format])
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("output", "added", "message"),
    [
        ("probabilities", 3e-4, r"Received: a difference of 0\.0003\."),
        ("probabilities", np.nan, r"Received: a difference of nan\."),
        ("class_id", 1, r"Received: class_id=\[.*, not \["),
    ],
)
def test_wrong_answers_are_not_published(
    format, output, added, message, tmp_path, monkeypatch
):
    load = runtimes.load

    def load_wrong(format, folder):
        run = load(format, folder)

        def wrong(images):
            answer = run(images)
            return answer | {output: answer[output] + added}

        return wrong

    monkeypatch.setattr(runtimes, "load", load_wrong)
    with pytest.raises(RuntimeError, match=f"(?s)format '{format}'.*{message}"):
        zoo.export(vector(), tmp_path, format=format)
    assert os.listdir(tmp_path) == [".lock"]
