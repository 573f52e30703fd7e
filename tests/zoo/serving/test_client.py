"""The client, with a served model and with a server that fails as scripted."""

import http.server
import itertools
import json
import pathlib
import re
import socket
import threading
import types
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from exports import ENVIRONMENT, encode, in_form
from paths import run_python
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import zoo
from zoo.serving import Client
from zoo.serving import client as client_module

NOISE = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), "uint8")
PIXELS = in_form(NOISE, "mnist")
FILES = [encode(image) for image in PIXELS]

# A served model


@pytest.fixture(scope="session")
def expected(serving):
    """Answer of the exported model to `PIXELS`, without a server."""
    return zoo.load_exported(serving.base).predict(PIXELS)


def check_answer(answer, expected, rows=slice(None)):
    """Compares up to the last bits, which depend on the processor."""
    assert answer.keys() == expected.keys()
    for name, values in expected.items():
        if name == "probabilities":
            np.testing.assert_allclose(answer[name], values[rows], 0, 1e-6)
        else:
            np.testing.assert_array_equal(answer[name], values[rows])


@pytest.fixture(params=["rest", "grpc"])
def url(request, serving):
    return getattr(serving, request.param)


@pytest.fixture
def client(url, serving):
    with Client(url, serving.model, batch_size=7, timeout=60) as client:
        yield client


def test_predict(client, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [tmp_path / f"{number}.png" for number in range(len(FILES))]
    for path, file in zip(paths, FILES, strict=True):
        path.write_bytes(file)
    arrays = PIXELS, PIXELS.astype("float64"), PIXELS.astype("float32").tolist()
    files = FILES, paths, tuple(map(str, paths)), [f"~/{path.name}" for path in paths]
    for images in (*arrays, *files):
        answer = client.predict(images)
        check_answer(answer, expected)
        assert answer["probabilities"].dtype == np.float32
        assert answer["class_id"].dtype == np.int64
        assert answer["label"].dtype.kind == "U"
    check_answer(client.predict(PIXELS[:1]), expected, slice(1))
    with pytest.warns(UserWarning, match="raw pixels"):
        client.predict(PIXELS / 255)
    with pytest.warns(UserWarning, match="raw pixels"):
        client.predict(PIXELS // 255)


def test_rejected_requests(client, tmp_path):
    path = tmp_path / "bad.png"
    for bad, message in {b"text": "neither a PNG", FILES[9][:-20]: "PNG data"}.items():
        path.write_bytes(bad)
        for file, name in (path, rf" \({path}\)"), (bad, ""):
            with pytest.raises(
                ValueError, match=rf"images\[9\]{name} to .*{message}"
            ) as error:
                client.predict([*FILES[:9], file, *FILES[10:]])
            assert not re.search(r"assertion|\[0\]|\[\[|files\]", str(error.value))
    with pytest.raises(ValueError, match=r"images\[0:7\].*\[7,28,28\] is not compat"):
        client.predict(PIXELS[..., 0])
    with pytest.raises(ValueError, match=r"images\[0:0\]"):
        client.predict([])


def test_models_and_versions(url, serving, expected):
    for version in (1, np.int64(1)):
        with Client(url, serving.model, version) as client:
            check_answer(client.predict(PIXELS), expected)
    for model, version in (("lenet6", None), (serving.model, 7)):
        message = rf"'{model}' at .* (NOT_FOUND|404)"
        with (
            Client(url, model, version) as client,
            pytest.raises(LookupError, match=message),
        ):
            client.predict(PIXELS)


NEITHER_KERAS_NOR_TENSORFLOW = """
import sys
import numpy as np
from zoo.serving import Client
rest, grpc, model = sys.argv[1:]
images = np.zeros((3, 28, 28, 1), "uint8")
answer = Client(rest, model).predict(images)
assert not {name.split(".")[0] for name in sys.modules} & {
    "grpc", "google", "keras", "tensorflow", "tensorflow_serving"}
same = Client(grpc, model).predict(images)
np.testing.assert_array_equal(answer["probabilities"], same["probabilities"])
assert "keras" not in sys.modules and "tensorflow" not in sys.modules
assert not any(name.startswith("tensorflow.python") for name in sys.modules)

import tensorflow as tf  # Works as usual, with the same message classes.
from tensorflow_serving.apis import predict_pb2
predict_pb2.PredictRequest().inputs["image"].CopyFrom(tf.make_tensor_proto(images))
Client(grpc, model).predict(images)
"""


def test_imports_neither_keras_nor_tensorflow(serving):
    arguments = [serving.rest, serving.grpc, serving.model]
    run_python("-c", NEITHER_KERAS_NOR_TENSORFLOW, *arguments, env=ENVIRONMENT)


# Arguments


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ("seven.png", TypeError, "or a list of PNG or JPEG files.*'seven.png'"),
        (pathlib.Path("seven.png"), TypeError, "Received: images=.*seven.png"),
        (FILES[0], TypeError, r"Received: images=b'\\x89PNG"),
        ([FILES[0], PIXELS[0]], TypeError, "not ndarray"),
        ([None], TypeError, r"Received: images=\[None\]"),
        (3.0, TypeError, "Received: images=3.0"),
        (["missing.png"], FileNotFoundError, "missing.png"),
        (["/"], IsADirectoryError, "'/'"),
        ([[1], [2, 3]], ValueError, r"same shape.*\[\[1\], \[2, 3\]\]"),
    ],
)
def test_bad_images(images, error, message):
    with pytest.raises(error, match=message):
        Client("http://127.0.0.1:1", "lenet5").predict(images)


def test_bad_arguments():
    for url in ("host:8501", "ftp://host", "http://", "grpc:host"):
        with pytest.raises(ValueError, match=r"http://HOST:PORT .* Received: url="):
            Client(url, "lenet5")


@pytest.mark.parametrize("url", ["http://localhost:8501", "grpc://localhost:8500"])
@pytest.mark.parametrize("name", ["version", "batch_size"])
@pytest.mark.parametrize("value", ["1", 0, 1.0, True, 2**63], ids=repr)
def test_numbers_are_integers(url, name, value):
    with pytest.raises(ValueError, match=rf"at least 1\. Received: {name}={value!r}\."):
        Client(url, "lenet5", **{name: value})


# Servers that fail

HTTP_CODES = {"INTERNAL": 500, "INVALID_ARGUMENT": 400}
HTTP_CODES |= {"RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503}
ANSWER = {"probabilities": [[0.5, 0.5]], "class_id": [1], "label": ["one"]}


@pytest.fixture
def clock(monkeypatch):
    """Replaces `time` and `random` in the client: pauses are maximal and not real."""
    pauses = []
    clock = types.SimpleNamespace(pauses=pauses, sleep=pauses.append)
    clock.uniform = lambda _, high: high
    monkeypatch.setattr(client_module, "time", clock)
    monkeypatch.setattr(client_module, "random", clock)
    return clock


class ScriptedServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers requests over HTTP and gRPC according to `script`.

    A step of the script is the status of a refusal, or a function that is called before
    the answer.
    """

    def __init__(self):
        self.script = iter(())
        self.answer = ANSWER
        self.requests = 0

    def next_status(self):
        self.requests += 1
        step = next(self.script)
        return step if isinstance(step, str) else step()

    def Predict(self, request, context):
        if status := self.next_status():
            context.abort(grpc.StatusCode[status], "it's scripted")
        response = predict_pb2.PredictResponse()
        for name, values in self.answer.items():
            dtype = "float32" if isinstance(values[0], list) else None
            tensor = tf.make_tensor_proto(np.array(values, dtype))
            response.outputs[name].CopyFrom(tensor)
        return response

    def respond(self, handler):
        handler.rfile.read(int(handler.headers["Content-Length"]))
        if status := self.next_status():  # TF Serving escapes the apostrophe like this.
            code, body = HTTP_CODES[status], r'{ "error": "it\'s scripted" }'
        else:
            code, body = 200, json.dumps({"outputs": self.answer})
        handler.send_response(code)
        handler.end_headers()
        handler.wfile.write(body.encode())


def answer():
    """A step of a script: answers at once."""


@pytest.fixture
def servers():
    """A ScriptedServer and its URL for each scheme."""
    server = ScriptedServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            server.respond(self)

        def log_message(self, *_):
            pass

    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    rest.handle_error = lambda *_: None  # Clients hang up when they time out.
    threading.Thread(target=rest.serve_forever, args=(0.05,)).start()
    rpc = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(server, rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    rest_url = f"http://127.0.0.1:{rest.server_port}"
    yield server, {"http": rest_url, "grpc": f"grpc://127.0.0.1:{port}"}
    rpc.stop(None)
    rest.shutdown()
    rest.server_close()


@pytest.fixture(params=["http", "grpc"])
def scripted(request, servers):
    """A ScriptedServer and its URL, over each protocol."""
    server, urls = servers
    return server, urls[request.param]


def test_retries(scripted, clock):
    server, url = scripted
    steps = ["UNAVAILABLE", answer, "RESOURCE_EXHAUSTED", "UNAVAILABLE", answer]
    server.script = iter(steps)
    answers = Client(url, "model", batch_size=1, timeout=60).predict(PIXELS[:2])
    assert server.requests == 5
    assert clock.pauses == [0.1, 0.1, 0.2]
    assert answers["label"].tolist() == ["one", "one"]
    assert answers["probabilities"].shape == (2, 2)


def test_large_answers_are_received(servers):
    server, urls = servers
    server.script = itertools.repeat(answer)
    server.answer = ANSWER | {"maps": [[0.5] * 1_500_000]}
    answers = Client(urls["grpc"], "model", batch_size=1).predict(PIXELS[:1])
    assert answers["label"].tolist() == ["one"]


@pytest.mark.parametrize(
    ("status", "error", "requests"),
    [
        ("INVALID_ARGUMENT", ValueError, 1),
        ("INTERNAL", RuntimeError, 1),
        ("UNAVAILABLE", ConnectionError, 2),
    ],
)
def test_errors_that_may_pass_are_retried(scripted, clock, status, error, requests):
    server, url = scripted
    server.script = itertools.repeat(status)
    with pytest.raises(error, match=r"it.{1,2}s scripted"):
        Client(url, "model", retries=1).predict(PIXELS)
    assert server.requests == requests


def test_a_timeout_is_not_retried(scripted, clock):
    server, url = scripted
    hang = threading.Event()
    server.script = itertools.repeat(hang.wait)
    try:
        with pytest.raises(TimeoutError, match=r"images\[0:20\].*DEADLINE_EXCEEDED"):
            Client(url, "model", timeout=0.2).predict(PIXELS)
        assert clock.pauses == []
    finally:
        hang.set()


@pytest.mark.parametrize("prefix", ["http://user:secret@", "grpc://"])
def test_no_server(prefix, clock):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = Client(f"{prefix}127.0.0.1:{port}", "lenet5")
    message = r"images\[0:20\].*UNAVAILABLE.*refused"
    with pytest.raises(ConnectionError, match=message) as error:
        client.predict(PIXELS)
    assert "secret" not in str(error.value)
    assert clock.pauses == [0.1, 0.2, 0.4]


def test_a_model_from_elsewhere(scripted):
    server, url = scripted
    server.script = itertools.repeat(answer)
    server.answer = {"output_0": [[0.5, 0.5]]}
    with pytest.raises(RuntimeError, match=r"one that `zoo\.export` wrote"):
        Client(url, "model").predict(PIXELS)


def test_an_answer_that_is_not_json(servers, monkeypatch):
    server, urls = servers
    server.script = iter([answer])
    monkeypatch.setattr(json, "dumps", lambda _: "<html>It works!</html>")
    with pytest.raises(RuntimeError, match="200, <html>It works!"):
        Client(urls["http"], "model").predict(PIXELS)
