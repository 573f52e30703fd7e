"""Requests that nobody should send, to a server that has no checks but the graph's."""

import collections
import io
import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image
from tensorflow.core.protobuf import saved_model_pb2

import zoo

pytestmark = pytest.mark.endurance

# Sends mutated requests to a session like TF Serving's and prints what came of each:
# [signature, code (0 for an answer), message, seconds, resident bytes].
MUTATIONS = """
import json, os, pickle, sys, time
import numpy as np
sys.path.insert(0, sys.argv[2])
import capi

generator = np.random.default_rng(0)
choose = lambda *options: options[generator.integers(len(options))]
tensors, valid = pickle.load(sys.stdin.buffer)
session = capi.Session(sys.argv[1])

def mutated(content):
    content = bytearray(content)
    for _ in range(generator.integers(1, 6)):
        place = int(generator.integers(len(content) + 1))
        size = int(generator.integers(1, 20))
        kind = generator.integers(5)
        if kind == 0:
            del content[place:]
        elif kind == 1:
            content[place : place + size] = generator.bytes(size)
        elif kind == 2:
            content[place:place] = content[: size * 10]
        elif kind == 3:
            del content[place : place + size]
        elif place < len(content):
            content[place] ^= 1 << int(generator.integers(8))
    return bytes(content)

def request(signature):
    if signature in valid:
        files = [choose(*valid[signature]) for _ in range(generator.integers(4))]
        hit = int(generator.integers(4))
        files = [mutated(f) if i == hit else f for i, f in enumerate(files)]
        batch = np.empty(len(files), object)
        batch[:] = files
        return batch.reshape(choose((-1,), (-1,), (-1,), (1, -1)))
    shape = [int(generator.integers(4)), 28, 28, 1]
    for _ in range(generator.integers(3)):
        place = int(generator.integers(len(shape) + 1))
        shape[place : place + generator.integers(2)] = choose([], [1], [2, 1], [27])
    dtype = choose("float32", "uint8", choose("float64", "int32", "bool"))
    values = choose(0, 1e30, -1, np.nan, np.inf) if dtype[:5] == "float" else 1
    return np.full(shape, values, dtype)

for _ in range(int(sys.argv[3])):
    signature = choose(*tensors)
    name, outputs = tensors[signature]
    feed = request(signature)
    start = time.monotonic()
    code, message = 0, ""
    try:
        answer = dict(zip(outputs, session.run({name: feed}, list(outputs.values()))))
        scores = answer.get("probabilities", answer.get("scores"))
        assert scores.shape == (len(feed), 10) and scores.dtype == np.float32
        if signature in valid:
            assert np.allclose(scores.sum(1), 1, atol=1e-5)
    except capi.TensorFlowError as error:
        code, message = error.code, error.message
    seconds = time.monotonic() - start
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    print(json.dumps([signature, code, message[:300], seconds, resident]))
"""


def picture(format, mode, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4), "uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = zoo.export(zoo.LeNet5(weights="mnist"), tmp_path_factory.mktemp("export"))
    content = (folder / "saved_model.pb").read_bytes()
    [graph] = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    tensors = {}
    for name in ("serving_default", "serving_uint8", "serving_bytes", "classify"):
        [argument] = graph.signature_def[name].inputs.values()
        outputs = graph.signature_def[name].outputs.items()
        tensors[name] = (argument.name, {key: info.name for key, info in outputs})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    files = [
        picture("png", "L"),
        picture("png", "RGBA"),
        picture("png", "P"),
        picture("jpeg", "RGB"),
        picture("jpeg", "L", exif=exif),
        picture("jpeg", "CMYK", progressive=True),
    ]
    examples = []
    for file in files:
        example = tf.train.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(file)
        examples.append(example.SerializeToString())
    valid = {"serving_bytes": files, "classify": examples}
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            MUTATIONS,
            folder,
            pathlib.Path(__file__).parent,
            "10000",
        ],
        input=pickle.dumps((tensors, valid)),
        capture_output=True,
        timeout=1200,
    )
    assert process.returncode == 0, process.stderr.decode()[-2000:]
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_each_is_answered_or_refused(outcomes):
    assert len(outcomes) == 10_000
    counts = collections.Counter((name, code) for name, code, *_ in outcomes)
    assert {code for _, code in counts} == {0, tf.errors.INVALID_ARGUMENT}
    assert len(counts) == 8
    assert min(counts.values()) > 100
    assert all(message for _, code, message, *_ in outcomes if code)


def test_none_hangs_or_leaks(outcomes):
    *_, seconds, resident = zip(*outcomes, strict=True)
    assert max(seconds) < 60
    assert resident[-1] - resident[1000] < 50e6
