"""Exported models in TensorFlow's C API, by a C program, without XLA."""

import json
import pathlib
import shutil
import struct
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import zoo

SOURCE = pathlib.Path(__file__).with_name("load_saved_model.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """load_saved_model.c, built against the library in TensorFlow's wheel."""
    path = tmp_path_factory.mktemp("c") / "load_saved_model"
    libraries = pathlib.Path(tf.sysconfig.get_lib())
    # The library is of a gigabyte, of which this linker reads what it needs.
    linker = ["-fuse-ld=gold"] if shutil.which("ld.gold") else []
    command = [
        *("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", *linker),
        *("-isystem", tf.sysconfig.get_include(), SOURCE, "-o", path),
        libraries / "libtensorflow_cc.so.2",
        libraries / "libtensorflow_framework.so.2",
        f"-Wl,-rpath,{libraries}",
    ]
    subprocess.run(command, check=True)
    return path


def run(program, folder, signature, images, *options):
    """The outputs of a signature by name, and what the program prints."""
    saved_model = saved_model_pb2.SavedModel.FromString(
        (folder / "saved_model.pb").read_bytes()
    )
    definition = saved_model.meta_graphs[0].signature_def[signature]
    [feed] = definition.inputs.values()
    temporary = folder.parent / "tensors"
    temporary.mkdir(exist_ok=True)
    if signature == "serving_bytes":
        shape, dtype = (len(images),), "string"
        content = b"".join(struct.pack("=Q", len(x)) + x for x in images)
    else:
        shape, dtype, content = images.shape, images.dtype.name, images.tobytes()
    (temporary / "input").write_bytes(content)
    outputs = {
        name: (tensor.name, temporary / name)
        for name, tensor in definition.outputs.items()
    }
    process = subprocess.run(
        [
            *(program, *options, folder, feed.name, dtype, ",".join(map(str, shape))),
            temporary / "input",
            *(word for pair in outputs.values() for word in pair),
        ],
        capture_output=True,
        text=True,
    )
    if process.returncode:
        return process.returncode, process.stderr
    content = {name: path.read_bytes() for name, (_, path) in outputs.items()}
    return {
        "probabilities": np.frombuffer(content["probabilities"], "f4").reshape(-1, 10),
        "class_id": np.frombuffer(content["class_id"], "i8"),
        "label": strings(content["label"]),
    }, process.stdout


def strings(content):
    result = []
    while content:
        [length] = struct.unpack_from("=Q", content)
        result.append(content[8 : 8 + length].decode())
        content = content[8 + length :]
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return zoo.export(zoo.LeNet5(), tmp_path_factory.mktemp("export"))


@pytest.mark.parametrize(
    ("name", "weights"), [("lenet5", "mnist"), ("convnet", "fashion_mnist")]
)
def test_answers_are_those_of_predict_to_the_bit(program, name, weights, tmp_path):
    model = zoo.create(name, weights=weights)
    folder = zoo.export(model, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), "uint8")
    # XLA rounds otherwise, in the seventh digit, and TF Serving runs without it.
    model.compile(jit_compile=False)
    # So do TensorFlow's kernels on some CPUs for a batch of another size.
    expected = model.predict(pixels, batch_size=len(pixels), verbose=0)
    in_batches = model.predict(pixels, verbose=0)
    labels = [model.categories[class_id] for class_id in expected.argmax(-1)]
    assert len(set(labels)) > 1

    files = [tf.io.encode_png(image).numpy() for image in pixels]
    for signature, images in {
        "serving_default": pixels.astype("float32"),
        "serving_uint8": pixels,
        "serving_bytes": files,
    }.items():
        answer, output = run(program, folder, signature, images)
        np.testing.assert_array_equal(answer["probabilities"], expected)
        np.testing.assert_allclose(answer["probabilities"], in_batches, 0, 1e-5)
        np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))
        assert answer["label"] == labels
        assert output == ""


def test_times(program, folder):
    image = np.zeros((1, 28, 28, 1), "uint8")
    options = ("--time", "100", "--threads", "1")
    _, output = run(program, folder, "serving_uint8", image, *options)
    times = json.loads(output)
    assert list(times) == ["load_us", "first_us", "median_us"]
    assert min(times.values()) > 0


def test_refusals(program, folder, tmp_path):
    code, message = run(program, folder, "serving_uint8", np.zeros((1, 28), "uint8"))
    assert code == tf.errors.INVALID_ARGUMENT
    assert "[1,28] is not compatible with expected shape [?,28,28,1]" in message
    code, message = run(program, folder, "serving_bytes", [b"text"])
    assert code == tf.errors.INVALID_ARGUMENT
    assert "neither a PNG nor a JPEG" in message
    process = subprocess.run(
        [program, tmp_path, "a:0", "uint8", "1", "/dev/null", "b:0", "/dev/null"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == tf.errors.NOT_FOUND
    assert "Could not find SavedModel" in process.stderr


def test_xla_is_disabled(program, tmp_path):
    """A graph that XLA must compile does not run, as it would not in TF Serving."""
    module = tf.Module()
    module.add = tf.function(lambda image: {"label": image + 1}, jit_compile=True)
    spec = tf.TensorSpec((None,), tf.float32, "image")
    signatures = {"serving_default": module.add.get_concrete_function(spec)}
    tf.saved_model.save(module, str(tmp_path / "1"), signatures)
    three = np.zeros(3, "float32")
    code, message = run(program, tmp_path / "1", "serving_default", three)
    assert code == tf.errors.INTERNAL
    assert "XLA compilation disabled" in message
