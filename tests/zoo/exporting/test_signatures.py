"""The graph, called as TF Serving calls it: without Keras and without other checks."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from exports import (
    answer_requests,
    color_logits,
    encode,
    examples,
    gray_without_channel,
    in_form,
    lenet,
    mixed_precision,
    photograph,
    png_of_size,
    png_with_texts,
    random_layers,
    random_pixels,
    saved,
    vector,
)
from noise import softmax
from tensorflow.core.protobuf import saved_model_pb2

import zoo
from zoo.exporting.decoding import MAX_IMAGE_PIXELS
from zoo.exporting.loading import load_exported, read_contract
from zoo.exporting.versions import export

GOLDEN_FILE = pathlib.Path(__file__).with_name("signatures.json")
SIGNATURES = json.loads(GOLDEN_FILE.read_text("utf-8"))


def nested():
    """Takes and returns a dict."""
    inputs = keras.Input((28, 28, 1), name="image")
    return keras.Model({"image": inputs}, {"digits": lenet()(inputs)})


SOFTMAX_MODELS = [
    *(vector, gray_without_channel, random_layers, mixed_precision, nested)
]


@pytest.mark.parametrize("build", [*SOFTMAX_MODELS, color_logits])
def test_answers_are_those_of_predict(build, tmp_path):
    model = build()
    pixels = random_pixels(model)
    inputs = {"image": pixels} if build is nested else pixels
    trained = model(inputs, training=True)  # Changes the batch normalization.
    [expected] = keras.tree.flatten(model.predict(inputs, verbose=0))
    if build is random_layers:
        assert np.abs(expected - trained).max() > 1e-3
    if build is color_logits:
        expected = softmax(expected)
    assert np.ptp(expected) > 1e-3  # The model tells images and classes apart.

    exported = load_exported(export(model, tmp_path))
    for images in (pixels, pixels.astype("float32"), pixels.tolist()):
        answer = exported.predict(images)
        assert answer["probabilities"].dtype == np.float32
        assert answer["class_id"].dtype == np.int64
        assert answer["label"].dtype.kind == "U"
        np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)
        np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))
        np.testing.assert_array_equal(answer["label"], answer["class_id"].astype(str))

    if build is not vector:
        answer = exported.predict([encode(image) for image in pixels])
        np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)


def described(tensors):
    return {
        name: {
            "dtype": tf.as_dtype(tensor.dtype).name,
            "shape": tf.TensorShape(tensor.tensor_shape).as_list(),
        }
        for name, tensor in tensors.items()
    }


def test_the_signatures_are_those_of_the_golden_file(folder):
    content = (folder / "saved_model.pb").read_bytes()
    [graph] = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    signatures = dict(graph.signature_def)
    signatures.pop("__saved_model_init_op", None)
    assert {
        name: {"inputs": described(x.inputs), "outputs": described(x.outputs)}
        for name, x in signatures.items()
    } == SIGNATURES
    assert read_contract(folder)["signatures"] == SIGNATURES
    methods = {signature.method_name for signature in signatures.values()}
    assert methods == {"tensorflow/serving/predict"}


def test_a_model_of_vectors_takes_no_files(tmp_path):
    model = vector()
    model.categories = tuple("abcdefghij")
    folder = export(model, tmp_path)
    signatures = read_contract(folder)["signatures"]
    assert sorted(signatures) == ["classify", "serving_default", "serving_uint8"]
    pixels = random_pixels(model).astype("float32")
    batch = np.array(examples("image", pixels, "float_list"), object)
    answer = load_exported(folder)._run("classify", {"inputs": batch})
    check_scores(answer, model.predict(pixels, verbose=0), model.categories)


def check_scores(answer, expected, labels):
    """Compares the answer of `classify`."""
    order = np.argsort(-expected, axis=1, kind="stable")
    classes = [[label.decode() for label in row] for row in answer["classes"]]
    assert classes == np.array(labels)[order].tolist()
    scores = np.take_along_axis(expected, order, 1)
    np.testing.assert_allclose(answer["scores"], scores, 0, 1e-6)


# Requests that the graph must reject


def files(*contents):
    return np.array(contents, object)


NOISE = np.random.default_rng(1).integers(0, 256, (28, 28), dtype="uint8")
GRAY_PNG, GRAY_JPEG = encode(NOISE), encode(NOISE, "jpeg")
WRONG_SHAPE = r"Shape of tensor .*image.* is not compatible with expected shape \[\?,28"
WRONG_FILE = "`image_bytes` holds a file that is neither a PNG nor a JPEG file"
TOO_LARGE = f"does not have 1 to {MAX_IMAGE_PIXELS} pixels, at most 16384 per side"
NOT_FINITE = "`image` holds NaN or infinity"
BAD_REQUESTS = {
    "nan": ("serving_default", np.full((1, 28, 28, 1), np.nan, "f"), NOT_FINITE),
    "infinity": ("serving_default", np.full((1, 28, 28, 1), np.inf, "f"), NOT_FINITE),
    "no images": ("serving_default", np.zeros((0, 28, 28, 1), "f"), "holds no images"),
    "no files": ("serving_bytes", np.zeros(0, object), "holds no images"),
    "one image": ("serving_default", np.zeros((28, 28, 1), "f"), WRONG_SHAPE),
    "scalar": ("serving_default", np.zeros((), "f"), WRONG_SHAPE),
    "rank 5": ("serving_default", np.zeros((1, 1, 28, 28, 1), "f"), WRONG_SHAPE),
    "flat": ("serving_default", np.zeros((2, 784), "f"), WRONG_SHAPE),
    "32 x 32": ("serving_uint8", np.zeros((1, 32, 32, 1), "uint8"), WRONG_SHAPE),
    "color": ("serving_uint8", np.zeros((1, 28, 28, 3), "uint8"), WRONG_SHAPE),
    "dtype": ("serving_uint8", np.zeros((1, 28, 28, 1)), "double.*uint8|uint8.*double"),
    "one file": ("serving_bytes", np.array(GRAY_PNG, object), r"\[\] is not compat"),
    "files of rank 2": ("serving_bytes", files([GRAY_PNG]), r"\[1,1\] is not compat"),
    "empty file": ("serving_bytes", files(b""), WRONG_FILE),
    "text": ("serving_bytes", files(b"seven"), WRONG_FILE),
    "one bad of three": (
        "serving_bytes",
        files(GRAY_PNG, b"?", GRAY_PNG),
        WRONG_FILE + r"\. Received: files\] \[1\]",
    ),
    "gif": ("serving_bytes", files(saved(photograph("P", (8, 8)), "gif")), WRONG_FILE),
    "bmp": ("serving_bytes", files(saved(photograph("L", (8, 8)), "bmp")), WRONG_FILE),
    "half a png": ("serving_bytes", files(GRAY_PNG[:-200]), "Invalid PNG data"),
    "half a jpeg": ("serving_bytes", files(GRAY_JPEG[:-200]), "Invalid JPEG data"),
    "jpeg header": ("serving_bytes", files(GRAY_JPEG[:20]), "Invalid JPEG data"),
    "bomb": ("serving_bytes", files(png_of_size(4097, 4097)), TOO_LARGE),
    "bomb of one row": ("serving_bytes", files(png_of_size(2**20, 1)), TOO_LARGE),
    "bombs": ("serving_bytes", files(*17 * [png_of_size(4096, 4096)]), "in all"),
    "largest": ("serving_bytes", files(png_of_size(4096, 4096)), "Invalid PNG"),
    "texts": ("serving_bytes", files(png_with_texts(9)), "too many text chunks"),
    "scans": ("serving_bytes", files(GRAY_JPEG + 101 * b"\xff\xda"), "too many scans"),
    "png header": ("serving_bytes", files(GRAY_PNG[:16]), TOO_LARGE),
    "size 0": ("serving_bytes", files(png_of_size(0, 0)), TOO_LARGE),
    "negative": ("serving_bytes", files(png_of_size(2**32 - 1, 2**32 - 1)), TOO_LARGE),
}


@pytest.fixture(scope="module")
def server(folder, pixels):
    """The answers of a process without Keras, and the growth of its peak memory."""
    pngs = [encode(image) for image in pixels]
    classify = np.array(examples("image/encoded", [[x] for x in pngs]), object)
    good = {
        "serving_default": ("serving_default", pixels.astype("float32")),
        "serving_uint8": ("serving_uint8", pixels),
        "serving_bytes": ("serving_bytes", files(*pngs)),
        "classify": ("classify", classify),
    }
    bad = {name: request[:2] for name, request in BAD_REQUESTS.items()}
    requests = good | bad | {"after all": good["serving_default"]}
    answers, peaks = zip(*answer_requests(folder, requests.values()), strict=True)
    growth = np.diff(peaks, prepend=peaks[0])
    return dict(zip(requests, zip(answers, growth, strict=True), strict=True))


@pytest.mark.parametrize("name", [*SIGNATURES, "after all"])
def test_a_process_without_keras_answers_as_predict(server, name, model, pixels):
    expected = model.predict(pixels, verbose=0)
    answer, _ = server[name]
    labels = [f"digit {i} é" for i in range(10)]
    if name == "classify":
        check_scores(answer, expected, labels)
        return
    assert sorted(answer) == ["class_id", "label", "probabilities"]
    np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)
    np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))
    received = [label.decode() for label in answer["label"]]
    assert received == [labels[class_id] for class_id in expected.argmax(-1)]


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests_are_rejected(server, name):
    answer, growth = server[name]
    assert isinstance(answer, tuple), answer
    code, message = answer
    assert code == tf.errors.INVALID_ARGUMENT
    assert re.search(BAD_REQUESTS[name][2], message), message
    assert growth < 50e6


# Without XLA, as in TF Serving


# An MLP and a ConvNet, and each dataset, whose images are normalized in another way.
@pytest.mark.parametrize("name", ["deep_mlp.mnist", "convnet.fashion_mnist"])
def test_answers_are_those_of_predict_to_the_bit(name, tmp_path):
    model, dataset = zoo.create(name), name.partition(".")[2]
    folder = export(model, tmp_path)
    blocks = np.random.default_rng(0).integers(0, 256, (200, 7, 7, 1), "uint8")
    pixels = in_form(blocks.repeat(4, 1).repeat(4, 2), dataset)
    # XLA rounds differently, in the seventh digit, and TF Serving runs without it.
    model.compile(jit_compile=False)
    # So do TensorFlow's kernels on some CPUs for a batch of another size.
    expected = model.predict(pixels, batch_size=len(pixels), verbose=0)
    in_batches = model.predict(pixels, verbose=0)
    labels = [model.categories[class_id] for class_id in expected.argmax(-1)]
    assert len(set(labels)) > 1

    requests = [
        ("serving_default", pixels.astype("float32")),
        ("serving_uint8", pixels),
        ("serving_bytes", files(*map(encode, pixels))),
    ]
    for answer, _ in answer_requests(folder, requests):
        np.testing.assert_array_equal(answer["probabilities"], expected)
        np.testing.assert_allclose(answer["probabilities"], in_batches, 0, 1e-5)
        np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))
        assert [label.decode() for label in answer["label"]] == labels


@pytest.mark.endurance
def test_xla_is_disabled(tmp_path):
    """A graph that XLA must compile does not run, as it would not in TF Serving."""
    module = tf.Module()
    module.add = tf.function(lambda image: {"label": image + 1}, jit_compile=True)
    spec = tf.TensorSpec((None,), tf.float32, "image")
    signatures = {"serving_default": module.add.get_concrete_function(spec)}
    tf.saved_model.save(module, str(tmp_path / "1"), signatures)
    request = ("serving_default", np.zeros(3, "float32"))
    [((code, message), _)] = answer_requests(tmp_path / "1", [request])
    assert code == tf.errors.INTERNAL
    assert "XLA compilation disabled" in message
