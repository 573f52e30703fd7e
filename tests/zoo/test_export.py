import doctest
import functools
import hashlib
import io
import json
import os
import pathlib
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
from tensorflow_serving.apis import prediction_log_pb2

import zoo
from zoo.export import check_exported, export, load_exported
from zoo.signatures import MAX_IMAGE_PIXELS

SIGNATURES = json.loads(
    pathlib.Path(__file__).with_name("signatures.json").read_text("utf-8")
)
ENVIRONMENT = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def lenet(name="lenet"):
    """A small convolutional classifier of ten classes that ends in softmax."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(10, name="logits", kernel_initializer="random_normal"),
            layers.Activation("softmax", dtype="float32"),
        ],
        name=name,
    )


def logits_of_colour():
    inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(7)(layers.Flatten()(x)))


def vector():
    return keras.Sequential(
        [keras.Input((784,)), layers.Rescaling(1 / 255), layers.Dense(10, "softmax")]
    )


def grey_without_channel():
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(10),
            layers.Softmax(),
        ]
    )


def bytes_as_input():
    inputs = keras.Input((28, 28, 1), dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, layers.Dense(10, "softmax")(x))


def with_random_layers():
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.RandomRotation(0.5),
            layers.RandomTranslation(0.2, 0.2),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.GaussianNoise(0.3),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, "softmax"),
        ]
    )
    normalization = next(
        layer for layer in model.layers if "normalization" in layer.name
    )
    normalization.set_weights([np.full(4, value) for value in (2.0, 0.1, 0.3, 4.0)])
    return model


def mixed_precision():
    inputs = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255, dtype="mixed_float16")(inputs)
    x = layers.Conv2D(6, 5, activation="relu", dtype="mixed_float16")(x)
    x = layers.Dense(10, dtype="mixed_float16")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Activation("softmax", dtype="float32")(x))


def nested():
    inputs = keras.Input((28, 28, 1), name="image")
    return keras.Model({"image": inputs}, {"digits": lenet()(inputs)})


def fully_convolutional():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(10, 5),
            layers.GlobalAveragePooling2D(),
            layers.Activation("linear", dtype="float32"),
        ]
    )


SOFTMAX_MODELS = [
    lenet,
    vector,
    grey_without_channel,
    bytes_as_input,
    with_random_layers,
    mixed_precision,
    nested,
]
LOGITS_MODELS = [logits_of_colour, fully_convolutional]


def random_pixels(model, n=12):
    shape = (n, *model.inputs[0].shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")


def encode(image, format="png", **options):
    file = io.BytesIO()
    Image.fromarray(np.squeeze(image)).save(file, format, **options)
    return file.getvalue()


def png_of_zeros(height, width):
    """A grey PNG of one bit per pixel, some kilobytes for any size."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    compressor = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(compressor.compress(row) for _ in range(height))
    data += compressor.flush()
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


def png_with_texts(count):
    """A PNG with compressed texts, some kilobytes each, of 8 MB each."""
    image = Image.new("L", (28, 28))
    texts = PngImagePlugin.PngInfo()
    for _ in range(count):
        texts.add_text("Comment", "a" * 8_000_000, zip=True)
    return saved(image, "png", pnginfo=texts)


def tree(folder):
    """Contents of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def folders(base):
    """The names of the folders in `base`, hidden ones too."""
    return sorted(path.name for path in base.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def model():
    return lenet()


@pytest.fixture(scope="module")
def pixels(model):
    return random_pixels(model)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    base = tmp_path_factory.mktemp("serving") / "lenet"
    return export(model, base, labels=[f"digit {i} é" for i in range(10)])


@pytest.fixture(scope="module")
def exported(folder):
    return load_exported(folder)


# Answers


@pytest.mark.parametrize("build", SOFTMAX_MODELS + LOGITS_MODELS)
def test_answers_are_those_of_predict(build, tmp_path):
    model = build()
    pixels = random_pixels(model)
    inputs = {"image": pixels} if build is nested else pixels
    [expected] = keras.tree.flatten(model.predict(inputs, verbose=0))
    if build in LOGITS_MODELS:
        expected = softmax(expected)
    assert np.ptp(expected) > 1e-3  # The model tells images and classes apart.

    exported = load_exported(export(model, tmp_path))
    for images in (pixels, pixels.astype("float32"), pixels.tolist()):
        answer = exported.predict(images)
        assert {name: array.dtype.kind for name, array in answer.items()} == {
            "probabilities": "f",
            "class_id": "i",
            "label": "U",
        }
        assert answer["probabilities"].dtype == np.float32
        assert answer["class_id"].dtype == np.int64
        np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)
        np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))
        np.testing.assert_array_equal(answer["label"], answer["class_id"].astype(str))

    if build is not vector:
        answer = exported.predict([encode(image) for image in pixels])
        np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)


def examples(feature, values, kind="bytes_list"):
    return tf.constant(
        [
            tf.train.Example(
                features=tf.train.Features(
                    feature={feature: tf.train.Feature(**{kind: {"value": value}})}
                )
            ).SerializeToString()
            for value in values
        ]
    )


@pytest.mark.parametrize("build", [lenet, vector])
def test_classify(build, tmp_path):
    model = build()
    model.categories = tuple("abcdefghij")
    pixels = random_pixels(model)
    if build is vector:
        inputs = examples("image", pixels.astype("float32"), "float_list")
    else:
        files = [[encode(image)] for image in pixels]
        inputs = examples("image/encoded", files)
    saved_model = tf.saved_model.load(str(export(model, tmp_path)))
    answer = saved_model.signatures["classify"](inputs=inputs)
    expected = model.predict(pixels, verbose=0)
    order = np.argsort(-expected, axis=1, kind="stable")
    np.testing.assert_array_equal(
        answer["classes"].numpy().astype(str), np.array(model.categories)[order]
    )
    np.testing.assert_allclose(
        answer["scores"], np.take_along_axis(expected, order, 1), 0, 1e-6
    )


def test_a_model_of_vectors_takes_no_files(tmp_path):
    folder = export(vector(), tmp_path)
    signatures = json.loads((folder / "export.json").read_text("utf-8"))["signatures"]
    assert sorted(signatures) == ["classify", "serving_default", "serving_uint8"]
    with pytest.raises(ValueError, match="no signature for image files"):
        load_exported(folder).predict([encode(np.zeros((28, 28), "uint8"))])


def test_predict_says_what_is_wrong_with_a_file(exported):
    with pytest.raises(ValueError, match="neither a PNG nor a JPEG file"):
        exported.predict((encode(np.zeros((28, 28), "uint8")), b"text"))


def test_random_layers_are_off(tmp_path):
    model = with_random_layers()
    pixels = random_pixels(model)
    trained = np.asarray(model(pixels, training=True))
    assert np.abs(trained - model.predict(pixels, verbose=0)).max() > 1e-3
    exported = load_exported(export(model, tmp_path))
    first, second = (exported.predict(pixels)["probabilities"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_an_empty_batch_has_an_empty_answer(exported):
    answer = exported.predict(np.zeros((0, 28, 28, 1), "uint8"))
    shapes = {name: array.shape for name, array in answer.items()}
    assert shapes == {"probabilities": (0, 10), "class_id": (0,), "label": (0,)}


def test_the_model_is_unchanged(tmp_path, pixels):
    model = lenet()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(pixels, np.arange(12) % 10, verbose=0)
    variables = [keras.ops.convert_to_numpy(v) for v in model.variables]
    exported = load_exported(export(model, tmp_path))
    for variable, before in zip(model.variables, variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), before)
    # What was exported does not follow the model either.
    before = exported.predict(pixels)["probabilities"]
    model.fit(pixels, np.arange(12) % 10, verbose=0)
    np.testing.assert_array_equal(exported.predict(pixels)["probabilities"], before)


@pytest.mark.parametrize("images", [np.zeros((28, 28, 1)), np.zeros((1, 32, 32, 1))])
def test_predict_refuses_other_shapes(exported, images):
    with pytest.raises(
        ValueError, match=r"shape \(None, 28, 28, 1\)\. Received: .*28|32"
    ):
        exported.predict(images)


# Image files


@functools.cache
def photograph(mode, size):
    """A smooth picture with an edge, of the given Pillow mode and (width, height)."""
    width, height = size
    y, x = np.mgrid[:height, :width] / max(size)
    channels = [128 + 120 * np.sin(9 * x), 255 * y, 255.0 * (x > y / 2), 255 * x]
    image = Image.fromarray(np.stack(channels, -1).round().astype("uint8"), "RGBA")
    return image.convert("RGB").convert(mode)


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    """By number of channels: a function from files to the pixels a model receives.

    The logits of the exported models are their pixels / 255, so that the logarithm of
    the probabilities tells the pixels, up to a constant that a known pixel gives.
    """

    def build(channels):
        model = keras.Sequential(
            [
                keras.Input((8, 8, channels)),
                layers.Rescaling(1 / 255),
                layers.Flatten(),
                layers.Dense(64 * channels, kernel_initializer="identity"),
            ]
        )
        return load_exported(export(model, tmp_path_factory.mktemp("decoder")))

    def pixels(exported, reference, file):
        logits = np.log(exported.predict([file])["probabilities"].astype("float64"))
        values = 255 * logits[0].reshape(reference.shape)
        return values + np.median(reference - values)

    return {channels: functools.partial(pixels, build(channels)) for channels in (1, 3)}


@pytest.mark.parametrize("size", [(8, 8), (31, 20), (300, 7), (5, 5), (1, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_are_decoded_as_pillow_does(decoders, channels, mode, size):
    image = photograph("RGB" if mode == "P" else mode, size)
    if mode == "P":
        image = image.quantize(64)
    colour = image.convert("RGB")
    expected = colour.convert("L") if channels == 1 else colour
    expected = np.array(expected.resize((8, 8), Image.Resampling.BILINEAR), "float64")
    received = decoders[channels](expected, saved(image, "png"))
    assert np.abs(received - expected).max() < (1.1 if size != (8, 8) else 0.6)
    if size == (8, 8) and (channels == 3 or mode in ("L", "1", "LA")):
        assert np.abs(received - expected).max() < 0.01


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_files_are_decoded_as_pillow_does(decoders, channels, mode, options):
    file = saved(photograph(mode, (200, 120)), "jpeg", quality=95, **options)
    colour = Image.open(io.BytesIO(file)).convert("RGB")
    expected = colour.convert("L") if channels == 1 else colour
    expected = np.array(expected.resize((8, 8), Image.Resampling.BILINEAR), "float64")
    received = decoders[channels](expected, file)
    assert np.abs(received - expected).max() < 3  # Decoders of JPEG differ a little.


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_jpeg_files_are_turned_upright(decoders, orientation, endian):
    exif = Image.Exif()
    exif.endian = endian
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Software] = "1.0"
    file = saved(photograph("RGB", (64, 40)), "jpeg", quality=98, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    expected = np.array(upright.resize((8, 8), Image.Resampling.BILINEAR), "float64")
    received = decoders[3](expected, file)
    assert np.abs(received - expected).max() < 6  # An edge is turned by 90 and more.


def test_png_of_16_bits(decoders):
    expected = np.array(photograph("L", (8, 8)))
    deep = tf.io.encode_png(expected[..., None].astype("uint16") * 257).numpy()
    received = decoders[1](expected, deep)
    assert np.abs(received - expected).max() < 0.01


def test_files_of_different_kinds_in_one_batch(model, exported, pixels):
    files = [encode(pixels[0]), encode(np.repeat(pixels[1], 3, -1)), encode(pixels[2])]
    expected = model.predict(pixels[:3], verbose=0)
    received = exported.predict(files)["probabilities"]
    np.testing.assert_allclose(received, expected, 0, 1e-6)


# A process without Keras, with no checks before the graph, as in TF Serving

SERVER = """
import pickle, resource, sys, time
sys.modules["keras"] = None  # Importing it raises ImportError.
import tensorflow as tf
tf.compat.v1.logging.set_verbosity("ERROR")
folder, requests = pickle.load(sys.stdin.buffer)
session = tf.compat.v1.Session(graph=tf.Graph())
with session.graph.as_default():
    meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], folder)

def run(name, batch):
    def tensor(info):
        return session.graph.get_tensor_by_name(info.name)._as_tf_output()
    signature = meta_graph.signature_def[name]
    [argument] = signature.inputs.values()
    outputs = [tensor(info) for info in signature.outputs.values()]
    feed = {tensor(argument): batch}
    answer = session._call_tf_sessionrun(None, feed, outputs, [], None)
    return dict(zip(signature.outputs, answer))

answers = []
for name, batch in requests:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    try:
        answer = run(name, batch)
    except tf.errors.OpError as error:
        answer = f"{type(error).__name__}: {error.message}"
    seconds = time.monotonic() - start
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    answers.append((answer, seconds, growth * 1024))
loaded = tf.saved_model.load(folder).signatures["serving_default"]
answer = loaded(image=tf.constant(requests[0][1]))
answers.append({name: tensor.numpy() for name, tensor in answer.items()})
sys.stdout.buffer.write(pickle.dumps(answers))
"""


def files(*contents):
    return np.array(contents, object)


ANIMATED_GIF = saved(
    photograph("P", (8, 8)),
    "gif",
    save_all=True,
    append_images=[photograph("P", (8, 8)).rotate(90)],
)
NOISE = np.random.default_rng(1).integers(0, 256, (28, 28), dtype="uint8")
GREY_PNG, GREY_JPEG = encode(NOISE), encode(NOISE, "jpeg")
WRONG_SHAPE = r"Shape of tensor .*image.* is not compatible with expected shape \[\?,28"
WRONG_FILE = "image_bytes: neither a PNG nor a JPEG file"
TOO_LARGE = rf"image_bytes: not of sides .* at most {MAX_IMAGE_PIXELS} pixels"
BAD_REQUESTS = {
    "nan": ("serving_default", np.full((1, 28, 28, 1), np.nan, "f"), "image.*NaN"),
    "infinity": ("serving_default", np.full((1, 28, 28, 1), np.inf, "f"), "image.*inf"),
    "no images": ("serving_default", np.zeros((0, 28, 28, 1), "f"), "no images"),
    "no files": ("serving_bytes", np.zeros(0, object), "no images"),
    "one image": ("serving_default", np.zeros((28, 28, 1), "f"), WRONG_SHAPE),
    "scalar": ("serving_default", np.float32(0), WRONG_SHAPE),
    "rank 5": ("serving_default", np.zeros((1, 1, 28, 28, 1), "f"), WRONG_SHAPE),
    "flat": ("serving_default", np.zeros((2, 784), "f"), WRONG_SHAPE),
    "32 x 32": ("serving_uint8", np.zeros((1, 32, 32, 1), "uint8"), WRONG_SHAPE),
    "colour": ("serving_uint8", np.zeros((1, 28, 28, 3), "uint8"), WRONG_SHAPE),
    "uint8 rank 3": ("serving_uint8", np.zeros((28, 28, 1), "uint8"), WRONG_SHAPE),
    "one file": ("serving_bytes", np.array(GREY_PNG, object), r"\[\] is not compat"),
    "files of rank 2": ("serving_bytes", files([GREY_PNG]), r"\[1,1\] is not compat"),
    "empty file": ("serving_bytes", files(b""), WRONG_FILE),
    "text": ("serving_bytes", files(b"seven"), WRONG_FILE),
    "one bad of three": (
        "serving_bytes",
        files(GREY_PNG, b"?", GREY_PNG),
        WRONG_FILE + r"\] \[in files\] \[1\]",
    ),
    "animated": ("serving_bytes", files(ANIMATED_GIF), WRONG_FILE),
    "gif": ("serving_bytes", files(saved(photograph("P", (8, 8)), "gif")), WRONG_FILE),
    "bmp": ("serving_bytes", files(saved(photograph("L", (8, 8)), "bmp")), WRONG_FILE),
    "png header": ("serving_bytes", files(GREY_PNG[:16]), "InvalidArgumentError"),
    "half a png": ("serving_bytes", files(GREY_PNG[:-200]), "Invalid PNG data"),
    "half a jpeg": ("serving_bytes", files(GREY_JPEG[:-200]), "Invalid JPEG data"),
    "jpeg header": ("serving_bytes", files(GREY_JPEG[:20]), "Invalid JPEG data"),
    "bomb": ("serving_bytes", files(png_of_zeros(20000, 20000)), TOO_LARGE),
    "bomb of one row": ("serving_bytes", files(png_of_zeros(1, 2**20)), TOO_LARGE),
    "bombs": ("serving_bytes", files(*17 * [png_of_zeros(4096, 4096)]), "in all"),
    "texts": ("serving_bytes", files(png_with_texts(9)), "too many text chunks"),
    "scans": ("serving_bytes", files(GREY_JPEG + 101 * b"\xff\xda"), "too many scans"),
    "size 0": ("serving_bytes", files(png_of_zeros(0, 0)), TOO_LARGE),
    "negative": (
        "serving_bytes",
        files(GREY_PNG[:16] + b"\xff" * 8 + GREY_PNG[24:]),
        TOO_LARGE,
    ),
}


@pytest.fixture(scope="module")
def server(folder, pixels):
    """Answers of a process that loads the version with TensorFlow alone."""
    good = {
        "floats": ("serving_default", pixels.astype("float32")),
        "bytes": ("serving_uint8", pixels),
        "files": ("serving_bytes", files(*[encode(image) for image in pixels])),
    }
    bad = {name: request[:2] for name, request in BAD_REQUESTS.items()}
    requests = good | bad | {"after all": good["floats"]}
    process = subprocess.run(
        [sys.executable, "-c", SERVER],
        input=pickle.dumps((str(folder), list(requests.values()))),
        capture_output=True,
        env=ENVIRONMENT,
    )
    assert process.returncode == 0, process.stderr.decode()[-2000:]
    *answers, loaded = pickle.loads(process.stdout)
    return dict(zip(requests, answers, strict=True)) | {"loaded": (loaded, 0, 0)}


@pytest.mark.parametrize("name", ["floats", "bytes", "files", "after all", "loaded"])
def test_process_without_keras_answers_as_predict(server, name, model, pixels):
    expected = model.predict(pixels, verbose=0)
    answer = server[name][0]
    assert sorted(answer) == ["class_id", "label", "probabilities"]
    np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)
    np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))
    labels = [f"digit {i} é".encode() for i in expected.argmax(-1)]
    assert answer["label"].tolist() == labels


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_server_refuses_bad_requests(server, name):
    answer, seconds, growth = server[name]
    assert isinstance(answer, str), answer
    assert answer.startswith("InvalidArgumentError")
    assert re.search(BAD_REQUESTS[name][2], answer), answer
    assert seconds < 30
    assert growth < 50e6


# TensorFlow's own command line


SAVED_MODEL_CLI = """
import json, sys
from tensorflow.python.tools import saved_model_cli
for sys.argv in json.loads(sys.argv[1]):
    try:
        saved_model_cli.main()
    except SystemExit as end:
        assert not end.code
"""


@pytest.fixture(scope="module")
def saved_model_cli(folder, pixels, tmp_path_factory):
    """What `show --all` prints, and the folder of what `run` writes, by signature."""
    out = tmp_path_factory.mktemp("saved_model_cli")
    commands = [["show", "--dir", folder, "--all"]]
    pngs = [encode(image) for image in pixels]
    for signature, argument, array in (
        ("serving_default", "image", pixels.astype("float32")),
        ("serving_uint8", "image", pixels),
        ("serving_bytes", "image_bytes", np.array(pngs)),
        ("classify", "inputs", examples("image/encoded", [[x] for x in pngs]).numpy()),
    ):
        file = out / f"{signature}.npy"
        np.save(file, array.astype("S") if array.dtype == object else array)
        command = ["run", "--dir", folder, "--tag_set", "serve"]
        command += ["--signature_def", signature, "--inputs", f"{argument}={file}"]
        commands.append([*command, "--outdir", out / signature])
    argv = [["saved_model_cli", *map(str, command)] for command in commands]
    process = subprocess.run(
        [sys.executable, "-c", SAVED_MODEL_CLI, json.dumps(argv)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.returncode == 0, process.stderr
    return " ".join(process.stdout.split()), out


def test_saved_model_cli_shows_the_signatures(saved_model_cli):
    """Those of the golden file, tests/zoo/signatures.json, and no others."""
    shown, _ = saved_model_cli
    dtypes = {"float32": "DT_FLOAT", "uint8": "DT_UINT8", "int64": "DT_INT64"}
    dtypes["string"] = "DT_STRING"
    sections = re.split(r"signature_def\['(\w+)'\]: ", shown)[1:]
    received = dict(zip(sections[::2], sections[1::2], strict=True))
    assert received.keys() - {"__saved_model_init_op"} == SIGNATURES.keys()
    for name, signature in SIGNATURES.items():
        for kind, tensors in signature.items():
            assert received[name].count(f"{kind}['") == len(tensors)
            for tensor, spec in tensors.items():
                shape = ", ".join(str(size or -1) for size in spec["shape"])
                info = f"dtype: {dtypes[spec['dtype']]} shape: ({shape}) name: "
                assert f"{kind}['{tensor}'] tensor_info: {info}" in received[name]
        assert "Method name is: tensorflow/serving/predict" in received[name]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_saved_model_cli_runs_every_signature(
    saved_model_cli, signature, model, pixels
):
    results = saved_model_cli[1] / signature
    expected = model.predict(pixels, verbose=0)
    if signature == "classify":
        scores = np.load(results / "scores.npy")
        np.testing.assert_allclose(scores, -np.sort(-expected), 0, 1e-6)
        return
    probabilities = np.load(results / "probabilities.npy")
    np.testing.assert_allclose(probabilities, expected, 0, 1e-6)
    class_id = np.load(results / "class_id.npy")
    np.testing.assert_array_equal(class_id, expected.argmax(-1))


# What is written


def test_layout(folder, model):
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
    assert contract["model"] == "lenet"
    assert contract["labels"] == labels
    assert contract["libraries"] == {
        "gradzoo": zoo.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "tensorflow": tf.__version__,
    }
    assert contract["signatures"] == SIGNATURES
    assert contract["format"] == "saved_model"
    assert contract["preprocessing"].keys() == {"image", "image_bytes"}
    assert contract["weights"] is None
    assert sorted(contract["files"]) == sorted(set(tree(folder)) - {"export.json"})


@pytest.mark.parametrize(
    ("name", "dataset"), [(w.model, w.dataset) for w in zoo.list_weights()]
)
def test_files_of_every_published_weight(name, dataset, tmp_path):
    weights = zoo.get_weights(name, dataset)
    model = zoo.create(name, weights=weights)
    pixels = random_pixels(model)
    exported = load_exported(export(model, tmp_path))
    answer = exported.predict([encode(image) for image in pixels])
    expected = model.predict(pixels, verbose=0)
    np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-6)
    labels = [weights.categories[class_id] for class_id in expected.argmax(-1)]
    assert answer["label"].tolist() == labels


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


def test_versions_count_up(tmp_path):
    model = vector()
    base = tmp_path / "a" / "b"
    (base / "notes").mkdir(parents=True)
    assert export(model, base) == base / "1"
    assert export(model, str(base), 9) == base / "9"
    (base / "00011").mkdir()  # TF Serving reads 11.
    assert export(model, base) == base / "12"
    for taken in (1, 9, 11):
        before = tree(base)
        with pytest.raises(FileExistsError, match="version exists: choose another"):
            export(model, base, taken)
        assert tree(base) == before
    assert folders(base) == ["00011", "1", "12", "9", "notes"]
    assert load_exported(base).path == base / "12"


def test_labels(tmp_path):
    model = vector()
    model.categories = tuple("abcdefghij")
    exported = load_exported(export(model, tmp_path))
    assert exported.labels == model.categories
    answer = exported.predict(random_pixels(model))
    assert answer["label"].tolist() == [
        model.categories[class_id] for class_id in answer["class_id"]
    ]
    names = [f"class {i}" for i in range(10)]
    assert load_exported(export(model, tmp_path, labels=names)).labels == tuple(names)


@pytest.mark.parametrize(
    "labels",
    [
        "0123456789",
        ["a", "b"],
        [str(i) for i in range(11)],
        list(range(10)),
        ["two\nlines"] * 10,
        [""] * 10,
        {str(i) for i in range(10)},
        7,
    ],
)
def test_bad_labels(labels, tmp_path):
    with pytest.raises(
        ValueError, match=r"must be a list of 10 str .* Received: labels="
    ):
        export(vector(), tmp_path / "base", labels=labels)
    assert not (tmp_path / "base").exists()


# Models that are no image classifiers


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def two_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], layers.Dense(2)(a + b))


def two_outputs():
    a = keras.Input((4,))
    return keras.Model(a, [layers.Dense(2)(a), layers.Dense(3)(a)])


def ending_in(*last, shape=(28, 28, 1)):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), *last])


def averaged():
    a = keras.Input((4,))
    outputs = [layers.Dense(2, "softmax")(a), layers.Dense(2, "softmax")(a)]
    return keras.Model(a, layers.Average()(outputs))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Subclassed, "takes image classifiers.*with inputs"),
        (keras.Sequential, "takes image classifiers.*with inputs"),
        (two_inputs, r"with inputs \[\(None, 4\), \(None, 4\)\]"),
        (two_outputs, r"outputs \[\(None, 2\), \(None, 3\)\]"),
        (lambda: ending_in(layers.Dense(1)), r"outputs \[\(None, 1\)\]"),
        (lambda: ending_in(layers.Reshape((28, 28))), r"outputs \[\(None, 28, 28\)\]"),
        (
            lambda: keras.Sequential(
                [keras.Input((None, None, 1)), layers.GlobalAveragePooling2D()]
            ),
            r"inputs \[\(None, None, None, 1\)\]",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((4,), batch_size=8), layers.Dense(2)]
            ),
            r"inputs \[\(8, 4\)\]",
        ),
        (
            lambda: ending_in(layers.Dense(10, "sigmoid", name="last")),
            r"must end in a softmax.*'last' \(Dense\), activation sigmoid",
        ),
        (
            lambda: ending_in(layers.Dense(10), layers.LeakyReLU()),
            r"must end in a softmax.*\(LeakyReLU\), activation None",
        ),
        (averaged, r"must end in a softmax.*\(Average\)"),
        (ending_in, r"must end in a softmax.*\(InputLayer\)"),
        (
            lambda: keras.Sequential(
                [
                    keras.Input((1, 28, 28)),
                    layers.MaxPooling2D(2, data_format="channels_first"),
                    layers.Flatten(data_format="channels_first"),
                    layers.Dense(10),
                ]
            ),
            "channels-first",
        ),
    ],
)
def test_models_that_are_no_image_classifiers(build, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(build(), tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("model", [None, "lenet5", layers.Dense(10)], ids=str)
def test_something_else_than_a_model(model, tmp_path):
    with pytest.raises(TypeError, match=r"must be a keras\.Model\. Received: "):
        export(model, tmp_path / "base")
    assert not (tmp_path / "base").exists()


# Versions and folders that cannot be


@pytest.mark.parametrize("version", [0, -1, 1.0, "2", True, 2**63, [1]])
def test_bad_versions(version, tmp_path):
    with pytest.raises(ValueError, match=r"must be an integer from 1, .*version="):
        export(vector(), tmp_path / "base", version)
    assert not (tmp_path / "base").exists()


def test_base_is_a_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError, match=r"Not a folder.*file"):
        export(vector(), tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"Cannot write a version here.*base"):
        export(vector(), tmp_path / "file" / "base")
    assert tree(tmp_path) == {"file": b"kept"}


def test_base_is_a_version_or_no_local_folder(folder):
    before = tree(folder.parent)
    with pytest.raises(ValueError, match=f"Did you mean {str(folder.parent)!r}"):
        export(vector(), folder)
    with pytest.raises(ValueError, match="must be a local folder"):
        export(vector(), "gs://bucket/model")
    assert tree(folder.parent) == before
    assert not pathlib.Path("gs:").exists()


def test_base_is_read_only():
    model = vector()
    user = os.geteuid()
    # pytest's own folders are closed to other users, and root may write anywhere.
    with tempfile.TemporaryDirectory() as temporary:
        os.chmod(temporary, 0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionError, match="Cannot write a version here"):
                export(model, temporary)
        finally:
            if user == 0:
                os.seteuid(user)
        assert os.listdir(temporary) == []
        os.chmod(temporary, 0o755)


def test_full_disk(tmp_path):
    model = keras.Sequential([keras.Input((784,)), layers.Dense(200), layers.Dense(10)])
    export(model, tmp_path)
    before = tree(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match=r"Cannot write a version here.*too large"):
            export(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == before
    assert folders(tmp_path) == ["1"]
    assert export(model, tmp_path) == tmp_path / "2"


# Publication in one step

EXPORTER = """
import os, signal, sys, time
import keras, tensorflow
from zoo.export import export

def model():
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((28, 28, 1)), keras.layers.Flatten(),
        keras.layers.Dense(10, "softmax")])
"""

# Forked exporters, each killed at a random moment of the time that one takes. It is
# corrected after each, so that about one of five ends in time on a busy machine too.
KILLED_EXPORTERS = (
    EXPORTER
    + """
import random

def fork(moment):
    if (child := os.fork()) == 0:
        export(trained, sys.argv[1])
        os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0

trained = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
start = time.monotonic()
export(trained, sys.argv[1])
seconds = time.monotonic() - start
random.seed(0)
for _ in range(200):
    seconds *= 0.8 if fork(random.uniform(0, 1.2 * seconds)) else 1.05
"""
)


@pytest.mark.endurance
def test_killed_exports_leave_no_incomplete_version(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", KILLED_EXPORTERS, tmp_path],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.returncode == 0, process.stderr
    versions = [name for name in folders(tmp_path) if not name.startswith(".")]
    assert 10 < len(versions) < 190
    for version in versions:
        check_exported(tmp_path / version)
    # Each export removes what a killed one has left; so does the next.
    assert len(folders(tmp_path)) <= len(versions) + 2
    last = export(vector(), tmp_path)
    assert int(last.name) == 1 + max(map(int, versions))
    assert folders(tmp_path) == sorted([*versions, last.name])
    assert (tmp_path / "README.md").exists()


@pytest.mark.endurance
def test_two_exports_at_once_get_two_equal_versions(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    start = tmp_path / "start"
    wait = "\nwhile not os.path.exists(sys.argv[2]): time.sleep(0.001)"
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{EXPORTER}\nm = model(){wait}\nprint(export(m, sys.argv[1]))",
                *(base, start),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | {"PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    start.touch()
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert {output.strip() for output, _ in outputs} == {f"{base}/1", f"{base}/2"}
    assert folders(base) == ["1", "2"]
    assert tree(base / "1") == tree(base / "2")


@pytest.mark.parametrize("version", [None, 1])
def test_a_number_taken_in_the_last_moment(version, tmp_path, monkeypatch):
    rename = os.rename

    def rename_after_a_rival(source, target):
        monkeypatch.setattr(os, "rename", rename)
        shutil.copytree(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_after_a_rival)
    if version is None:
        assert export(vector(), tmp_path) == tmp_path / "2"
    else:
        with pytest.raises(FileExistsError, match="version exists"):
            export(vector(), tmp_path, version)
    expected = ["1", "2"] if version is None else ["1"]
    assert folders(tmp_path) == expected
    for name in expected:
        load_exported(tmp_path / name)


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(vector(), tmp_path)
    assert os.listdir(tmp_path) == []


# Loading


def test_load_exported_takes_the_newest_version(tmp_path, model, folder):
    for version in ("9", "10"):
        shutil.copytree(folder, tmp_path / version)
    (tmp_path / ".export-unfinished").mkdir()
    assert load_exported(tmp_path).path == tmp_path / "10"
    assert load_exported(str(tmp_path / "9")).path == tmp_path / "9"


@pytest.mark.parametrize(
    "name",
    [
        "fingerprint.pb",
        "labels.txt",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ],
)
@pytest.mark.parametrize("change", ["flipped", "truncated", "missing"])
def test_altered_files_are_refused(folder, tmp_path, name, change):
    copy = shutil.copytree(folder, tmp_path / "1")
    content = (copy / name).read_bytes()
    if change == "missing":
        (copy / name).unlink()
    elif change == "truncated":
        (copy / name).write_bytes(content[:-1])
    else:
        (copy / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ValueError, match="is not the file that was exported") as error:
        load_exported(tmp_path)
    assert str(copy / name) in str(error.value)
    assert "Expected: sha256 " in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", '{"files": []}', '{"files": {}}'),
        '{"format": "saved_model", "labels": [], "files": {}, '
        '"signatures": {"serving_default": {"inputs": {}}}}',
    ],
)
def test_altered_description_is_refused(folder, tmp_path, content):
    copy = shutil.copytree(folder, tmp_path / "1")
    (copy / "export.json").write_text(content)
    with pytest.raises(ValueError, match=r"export\.json is altered"):
        load_exported(copy)
    assert export(vector(), tmp_path) == tmp_path / "2"  # It bars no other version.


def test_check_exported(folder, tmp_path):
    assert check_exported(folder) == check_exported(folder.parent) == folder
    copy = tmp_path / "1"
    shutil.copytree(folder, copy)
    (copy / "variables" / "more").write_bytes(b"")
    with pytest.raises(ValueError, match=r"were not exported.*variables/more"):
        check_exported(copy)


def request(signature, argument, value):
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs[argument].CopyFrom(tf.make_tensor_proto(value))
    return log.SerializeToString()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"no protocol buffer", "record 1 is damaged"),
        (b"", "record 1 is no Predict or Classify request"),
        (
            request("serving_uint8", "image", np.zeros((1, 2), "uint8")),
            "does not answer a warm-up request of the signature 'serving_uint8'",
        ),
        (
            request("serving_bytes", "image_bytes", [b"text"]),
            "does not answer a warm-up request of the signature 'serving_bytes'",
        ),
        (
            request("missing", "image", [1.0]),
            "does not answer a warm-up request of the signature 'missing'",
        ),
    ],
    ids=["no message", "empty", "wrong shape", "no image", "no signature"],
)
def test_check_exported_finds_a_broken_warm_up(folder, tmp_path, record, message):
    copy = tmp_path / "1"
    shutil.copytree(folder, copy)
    path = copy / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record)
    contract = json.loads((copy / "export.json").read_text("utf-8"))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    contract["files"]["assets.extra/tf_serving_warmup_requests"] = checksum
    (copy / "export.json").write_text(json.dumps(contract))
    with pytest.raises(ValueError, match=message):
        check_exported(copy)


def test_the_card_of_unchanged_weights(tmp_path):
    model = zoo.LeNet5(weights="mnist")
    folder = export(model, tmp_path)
    contract = json.loads((folder / "export.json").read_text("utf-8"))
    card = json.loads(zoo.get_weights("lenet5", "mnist").to_json())
    assert contract["weights"] == card
    assert contract["labels"] == card["categories"]
    bias = model.get_layer("conv1").bias
    bias.assign(bias + 1)
    folder = export(model, tmp_path)
    contract = json.loads((folder / "export.json").read_text("utf-8"))
    assert contract["weights"] is None


def test_nothing_to_load(tmp_path, folder):
    (tmp_path / "3").mkdir()
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "3", folder / "labels.txt"):
        with pytest.raises(FileNotFoundError, match="No version written by"):
            load_exported(path)


# Other backends, and the example


def test_another_backend_exports_in_a_tensorflow_process(
    model, pixels, tmp_path, monkeypatch
):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
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


def test_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(recurse=False)
    [example] = finder.find(export, "export", globs={"np": np, "zoo": zoo})
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
    assert (tmp_path / "serving" / "lenet5" / "1").is_dir()
