"""What a served model answers: to TF Serving's own stubs, to JSON, and to the client.

Runs against server.py; or, where TF_SERVING_URL is set, against the real server there,
which must serve `zoo.export(zoo.LeNet5(weights="mnist"), ".../lenet5")` as `lenet5`.
"""

import base64
import http.server
import itertools
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

import zoo
from zoo.serving import Client

ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), "uint8")
FILES = [tf.io.encode_png(image).numpy() for image in PIXELS]
IMAGES = {
    "serving_default": ("image", PIXELS.astype("float32")),
    "serving_uint8": ("image", PIXELS),
    "serving_bytes": ("image_bytes", np.array(FILES, object)),
}


@pytest.fixture(scope="module")
def expected(serving):
    return zoo.load_exported(serving.base).predict(PIXELS)


def check(answer, expected, rows=slice(None)):
    """Compares all but the last bits, which another processor may round otherwise."""
    assert answer.keys() == expected.keys()
    np.testing.assert_allclose(
        answer["probabilities"], expected["probabilities"][rows], 0, 1e-6
    )
    np.testing.assert_array_equal(answer["class_id"], expected["class_id"][rows])
    np.testing.assert_array_equal(answer["label"], expected["label"][rows])


# gRPC, by TF Serving's stubs


@pytest.fixture(scope="module")
def predictions(serving):
    with grpc.insecure_channel(serving.grpc_url) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(serving):
    with grpc.insecure_channel(serving.grpc_url) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def spec(serving, signature="", version=None):
    values = {"name": serving.model, "signature_name": signature}
    return values if version is None else values | {"version": {"value": version}}


def arrays(response):
    outputs = {name: tf.make_ndarray(x) for name, x in response.outputs.items()}
    outputs["label"] = np.array([label.decode() for label in outputs["label"]])
    return outputs


@pytest.mark.parametrize("signature", IMAGES)
def test_grpc_predict(serving, predictions, expected, signature):
    argument, images = IMAGES[signature]
    request = predict_pb2.PredictRequest(model_spec=spec(serving, signature))
    request.inputs[argument].CopyFrom(tf.make_tensor_proto(images))
    response = predictions.Predict(request)
    assert response.model_spec.name == serving.model
    assert response.model_spec.signature_name == signature
    check(arrays(response), expected)
    dtypes = {name: tensor.dtype for name, tensor in response.outputs.items()}
    assert dtypes == {
        "probabilities": tf.float32.as_datatype_enum,
        "class_id": tf.int64.as_datatype_enum,
        "label": tf.string.as_datatype_enum,
    }


def test_grpc_predict_by_default_and_filtered(serving, predictions, expected):
    request = predict_pb2.PredictRequest(
        model_spec=spec(serving), output_filter=["class_id"]
    )
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(PIXELS.astype("float32")))
    [(name, tensor)] = predictions.Predict(request).outputs.items()
    assert name == "class_id"
    np.testing.assert_array_equal(tf.make_ndarray(tensor), expected["class_id"])


def test_grpc_classify(serving, predictions, expected):
    request = classification_pb2.ClassificationRequest(
        model_spec=spec(serving, "classify")
    )
    for file in FILES:
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(file)
    result = predictions.Classify(request).result
    check_classes(
        [[[x.label, x.score] for x in one.classes] for one in result.classifications],
        expected,
    )


def check_classes(classifications, expected):
    """Every class of each image, the most probable first."""
    assert len(classifications) == len(PIXELS)
    for classes, probabilities in zip(
        classifications, expected["probabilities"], strict=True
    ):
        labels, scores = zip(*classes, strict=True)
        assert labels[0] == str(probabilities.argmax())
        assert sorted(labels) == [str(label) for label in range(10)]
        np.testing.assert_allclose(scores, np.sort(probabilities)[::-1], 0, 1e-6)
        by_label = [probabilities[int(label)] for label in labels]
        np.testing.assert_allclose(scores, by_label, 0, 1e-6)


def test_grpc_metadata(serving, predictions):
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=spec(serving), metadata_field=["signature_def"]
    )
    response = predictions.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    [feed] = signatures.signature_def["serving_bytes"].inputs.values()
    assert feed.dtype == tf.string.as_datatype_enum
    assert [dim.size for dim in feed.tensor_shape.dim] == [-1]


def test_grpc_status(serving, models):
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec(serving))
    [version] = models.GetModelStatus(request).model_version_status
    assert (version.version, version.state) == (1, version.AVAILABLE)
    assert version.status.error_code == 0


# REST, by JSON


def post(serving, body, verb="predict", version=""):
    url = f"{serving.rest_url}/v1/models/{serving.model}{version}:{verb}"
    return requests.post(url, json=body, timeout=20)


def b64(file):
    return {"b64": base64.b64encode(file).decode()}


REST_IMAGES = {
    "serving_default": PIXELS.astype("float32").tolist(),
    "serving_uint8": PIXELS.tolist(),
    "serving_bytes": [b64(file) for file in FILES],
}


@pytest.mark.parametrize("named", [False, True], ids=["plain", "named"])
@pytest.mark.parametrize("signature", IMAGES)
def test_rest_rows(serving, expected, signature, named):
    argument, _ = IMAGES[signature]
    images = REST_IMAGES[signature]
    instances = [{argument: image} for image in images] if named else images
    body = {"signature_name": signature, "instances": instances}
    response = post(serving, body, version="/versions/1")
    assert response.status_code == 200, response.text
    rows = response.json()["predictions"]
    check({name: np.array([row[name] for row in rows]) for name in rows[0]}, expected)


@pytest.mark.parametrize("named", [False, True], ids=["plain", "named"])
@pytest.mark.parametrize("signature", IMAGES)
def test_rest_columns(serving, expected, signature, named):
    argument, _ = IMAGES[signature]
    images = REST_IMAGES[signature]
    body = {"signature_name": signature, "inputs": images}
    response = post(serving, body | ({"inputs": {argument: images}} if named else {}))
    assert response.status_code == 200, response.text
    check(
        {name: np.array(x) for name, x in response.json()["outputs"].items()}, expected
    )


def test_rest_classify(serving, expected):
    examples = [{"image/encoded": b64(file)} for file in FILES]
    body = {"signature_name": "classify", "examples": examples}
    response = post(serving, body, "classify")
    assert response.status_code == 200, response.text
    check_classes(response.json()["results"], expected)


def test_rest_status_and_metadata(serving):
    url = f"{serving.rest_url}/v1/models/{serving.model}"
    [version] = requests.get(url, timeout=20).json()["model_version_status"]
    assert version == {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    metadata = requests.get(f"{url}/versions/1/metadata", timeout=20).json()
    assert metadata["model_spec"]["name"] == serving.model
    definition = metadata["metadata"]["signature_def"]["signature_def"]
    feed = definition["serving_uint8"]["inputs"]["image"]
    assert feed["dtype"] == "DT_UINT8"
    sizes = [dim["size"] for dim in feed["tensor_shape"]["dim"]]
    assert sizes == ["-1", "28", "28", "1"]


# Errors, which both protocols tell alike

ZEROS = np.zeros((2, 28, 28, 1), "uint8")
NO_IMAGE = np.array([FILES[0], b"text"], object)
CUT = np.array([FILES[0][:60]], object)
BAD_REQUESTS = {
    "rank": ("serving_uint8", ZEROS[0], "[28,28,1] is not compatible with expected"),
    "size": ("serving_uint8", ZEROS[:, 1:], "[2,27,28,1] is not compatible with"),
    "no image": ("serving_bytes", NO_IMAGE, "neither a PNG nor a JPEG file"),
    "cut": ("serving_bytes", CUT, "PNG"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(serving, predictions, case):
    signature, images, message = BAD_REQUESTS[case]
    argument, _ = IMAGES[signature]
    request = predict_pb2.PredictRequest(model_spec=spec(serving, signature))
    request.inputs[argument].CopyFrom(tf.make_tensor_proto(images))
    with pytest.raises(grpc.RpcError, match=re.escape(message)) as error:
        predictions.Predict(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    values = [b64(x) for x in images] if images.dtype == object else images.tolist()
    response = post(serving, {"signature_name": signature, "inputs": values})
    assert response.status_code == 400
    assert message in response.text


def test_a_wrong_dtype(serving, predictions):
    request = predict_pb2.PredictRequest(model_spec=spec(serving, "serving_uint8"))
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 28, 28, 1))))
    with pytest.raises(grpc.RpcError, match=r"uint8.*double|double.*uint8") as error:
        predictions.Predict(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    body = {"signature_name": "serving_uint8", "inputs": [[0.5]]}
    response = post(serving, body)
    assert response.status_code == 400
    assert "is not of expected type: uint8" in response.text


def test_what_is_not_there(serving, predictions, models):
    def predict(model_spec, argument):
        request = predict_pb2.PredictRequest(model_spec=model_spec)
        request.inputs[argument].CopyFrom(tf.make_tensor_proto(np.float32(0)))
        with pytest.raises(grpc.RpcError) as error:
            predictions.Predict(request)
        return error.value.code().name

    assert predict({"name": "other"}, "image") == "NOT_FOUND"
    assert predict(spec(serving, version=7), "image") == "NOT_FOUND"
    assert predict(spec(serving, "other"), "image") == "FAILED_PRECONDITION"
    assert predict(spec(serving), "other") == "INVALID_ARGUMENT"
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "other"})
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        models.GetModelStatus(request)

    images = {"inputs": REST_IMAGES["serving_default"]}
    assert post(serving, images, version="/versions/7").status_code == 404
    assert post(serving, images | {"signature_name": "other"}).status_code == 400
    assert post(serving, images | {"instances": [1]}).status_code == 400
    assert post(serving, {"inputs": {"other": 1}}).status_code == 400
    assert post(serving, {"instances": []}).status_code == 400
    assert post(serving, [1]).status_code == 400
    assert post(serving, images, verb="guess").status_code == 400


# Warm-up

LOADER = """
import sys
import capi, server
for base in sys.argv[1:]:
    try:
        print(server.Model("model", base).warmup_records)
    except capi.TensorFlowError as error:
        print(error.code, error.message.splitlines()[0])
"""


def test_a_broken_warmup_record_fails_the_load(serving, tmp_path):
    file = "assets.extra/tf_serving_warmup_requests"
    records = (serving.base / "1" / file).read_bytes()
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(
            str(serving.base / "1" / file)
        ).as_numpy_iterator()
    ]
    wrong_shape = prediction_log_pb2.PredictionLog()
    request = wrong_shape.predict_log.request
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(np.zeros(3, "float32")))
    unsupported = prediction_log_pb2.PredictionLog()
    unsupported.regress_log.SetInParent()

    def base(name, content):
        shutil.copytree(serving.base / "1", tmp_path / name / "1")
        path = tmp_path / name / "1" / file
        if isinstance(content, Message):
            with tf.io.TFRecordWriter(str(path)) as writer:
                writer.write(content.SerializeToString())
        else:
            path.write_bytes(content)
        return tmp_path / name

    process = subprocess.run(
        [
            *(sys.executable, "-c", LOADER, serving.base),
            base("wrong shape", wrong_shape),
            base("unsupported", unsupported),
            base("cut", records[:-1]),
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"PYTHONPATH": str(pathlib.Path(__file__).parent)},
    )
    good, *refused = process.stdout.splitlines()
    assert process.returncode == 0, process.stderr
    assert int(good) == len(logs)
    kinds = {log.WhichOneof("log_type") for log in logs}
    assert kinds == {"predict_log", "classify_log"}
    assert [line.split()[0] for line in refused] == ["3", "12", "15"]
    assert "[3] is not compatible with expected shape" in refused[0]


# The client


@pytest.fixture(params=["rest", "grpc"])
def url(request, serving):
    return {"rest": serving.rest_url, "grpc": f"grpc://{serving.grpc_url}"}[
        request.param
    ]


@pytest.fixture
def client(url, serving):
    with Client(url, serving.model, batch_size=7) as client:
        yield client


def test_client_predict(client, expected, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(len(FILES))]
    for path, file in zip(paths, FILES, strict=True):
        path.write_bytes(file)
    for images in (
        PIXELS,
        PIXELS.astype("float64"),
        PIXELS.astype("float32").tolist(),
        FILES,
        paths,
        tuple(map(str, paths)),
    ):
        answer = client.predict(images)
        check(answer, expected)
        assert answer["probabilities"].dtype == np.float32
        assert answer["class_id"].dtype == np.int64
        assert answer["label"].dtype.kind == "U"
    check(client.predict(PIXELS[:1]), expected, slice(1))


def test_client_version_status_and_metadata(url, serving, expected):
    with Client(url, serving.model, 1) as client:
        check(client.predict(PIXELS), expected)
        assert client.status() == {1: "AVAILABLE"}
        contract = json.loads((serving.base / "1" / "export.json").read_text("utf-8"))
        assert client.metadata() == contract["signatures"]


def test_client_is_refused(client, url, serving):
    with pytest.raises(ValueError, match=r"images\[7:14\].*neither a PNG nor a JPEG"):
        client.predict([*FILES[:9], b"text", *FILES[10:]])
    with pytest.raises(ValueError, match=r"images\[0:7\].*\[7,28,28\] is not compat"):
        client.predict(PIXELS[..., 0])
    with Client(url, "lenet6") as other:
        for method in (lambda: other.predict(PIXELS), other.status, other.metadata):
            with pytest.raises(LookupError, match=r"'lenet6' at .* (NOT_FOUND|404)"):
                method()
    with Client(url, serving.model, 7) as other, pytest.raises(LookupError):
        other.predict(PIXELS)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, r"must not be empty. Received: images=\[\]"),
        ("seven.png", TypeError, "or a list of PNG or JPEG files.*'seven.png'"),
        (["a.png", PIXELS[0]], TypeError, "Received: ndarray and str"),
        ([None], TypeError, r"Received: images=\[None\]"),
        (3.0, TypeError, "Received: images=3.0"),
        (["missing.png"], FileNotFoundError, "missing.png"),
        (["/"], IsADirectoryError, "'/'"),
        ([[1], [2, 3]], ValueError, "inhomogeneous"),
    ],
)
def test_images_that_are_none(images, error, message):
    with pytest.raises(error, match=message):
        Client("http://127.0.0.1:1", "lenet5").predict(images)


@pytest.mark.parametrize(
    "url", ["localhost:8501", "ftp://host", "http://", "grpc:host"]
)
def test_bad_urls(url):
    with pytest.raises(ValueError, match=r"http://HOST:PORT .* Received: url="):
        Client(url, "lenet5")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_server(scheme):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = Client(f"{scheme}://127.0.0.1:{port}", "lenet5")
    with pytest.raises(ConnectionError, match=r"images\[0:20\].*UNAVAILABLE.*refused"):
        client.predict(PIXELS)


# Servers that fail


HTTP_CODES = {
    "INTERNAL": 500,
    "INVALID_ARGUMENT": 400,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}
ANSWER = {"probabilities": [[0.5, 0.5]], "class_id": [1], "label": ["one"]}


class ScriptedServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers requests over HTTP and gRPC as its script says, and counts them.

    Attributes:
        script: For each request the name of the status that refuses it, or the seconds
            after which it is answered.
        answer: The outputs.
        requests: The number of requests.
        ended: When set, no answer is waited for any more.
    """

    def __init__(self):
        self.script = iter(())
        self.answer = ANSWER
        self.requests = 0
        self.ended = threading.Event()

    def next(self):
        self.requests += 1
        step = next(self.script)
        return step if isinstance(step, str) else self.ended.wait(step) or None

    def Predict(self, request, context):
        if code := self.next():
            context.abort(grpc.StatusCode[code], "it's scripted")
        response = predict_pb2.PredictResponse()
        for name, values in self.answer.items():
            dtype = "float32" if isinstance(values[0], list) else None
            tensor = tf.make_tensor_proto(np.array(values, dtype))
            response.outputs[name].CopyFrom(tensor)
        return response

    def respond(self, handler):
        handler.rfile.read(int(handler.headers["Content-Length"]))
        if code := self.next():  # The apostrophe is escaped as TF Serving does it.
            status, body = HTTP_CODES[code], r'{ "error": "it\'s scripted" }'
        else:
            status, body = 200, json.dumps({"outputs": self.answer})
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(body.encode())


@pytest.fixture
def scripted():
    """A ScriptedServer, and its URL by scheme."""
    server = ScriptedServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            server.respond(self)

        def log_message(self, *_):
            pass

    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    rest.handle_error = lambda *_: None  # Clients that time out hang up.
    threading.Thread(target=rest.serve_forever, args=(0.05,)).start()
    rpc = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(server, rpc)
    rpc_port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    yield (
        server,
        {
            "http": f"http://127.0.0.1:{rest.server_port}",
            "grpc": f"grpc://127.0.0.1:{rpc_port}",
        },
    )
    server.ended.set()
    rpc.stop(None)
    rest.shutdown()
    rest.server_close()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_retries(scripted, scheme):
    server, urls = scripted
    server.script = iter(["UNAVAILABLE", 0, "RESOURCE_EXHAUSTED", "UNAVAILABLE", 0])
    client = Client(urls[scheme], "model", batch_size=1)
    answer = client.predict(PIXELS[:2])
    assert server.requests == 5
    assert answer["label"].tolist() == ["one", "one"]
    assert answer["probabilities"].shape == (2, 2)

    server.script = itertools.repeat("UNAVAILABLE")
    with pytest.raises(ConnectionError, match=r"it.{1,2}s scripted"):
        Client(urls[scheme], "model", retries=1).predict(PIXELS)
    assert server.requests == 5 + 2


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize(
    ("code", "error"), [("INVALID_ARGUMENT", ValueError), ("INTERNAL", RuntimeError)]
)
def test_no_retries_of_what_fails_again(scripted, scheme, code, error):
    server, urls = scripted
    server.script = iter([code])
    with pytest.raises(error, match=r"it.{1,2}s scripted"):
        Client(urls[scheme], "model").predict(PIXELS)
    assert server.requests == 1


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_time_outs(scripted, scheme):
    server, urls = scripted
    server.script = iter([600])
    with pytest.raises(TimeoutError, match=r"images\[0:20\].*DEADLINE_EXCEEDED"):
        Client(urls[scheme], "model", timeout=2).predict(PIXELS)
    assert server.requests == 1
    # Each answer comes in time, but not all of them.
    server.script = itertools.repeat(0.4)
    client = Client(urls[scheme], "model", deadline=2, batch_size=1)
    with pytest.raises(TimeoutError, match=r"images\[\d:\d\]"):
        client.predict(PIXELS)
    assert 2 <= server.requests <= 6
    # A hundred times again would take years.
    server.script = itertools.repeat("UNAVAILABLE")
    client = Client(urls[scheme], "model", deadline=0.3, retries=100)
    with pytest.raises((ConnectionError, TimeoutError)):
        client.predict(PIXELS)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_model_from_elsewhere(scripted, scheme):
    server, urls = scripted
    server.script = itertools.repeat(0)
    server.answer = {"output_0": [[0.5, 0.5]]}
    with pytest.raises(RuntimeError, match=r"no model from `zoo\.export`"):
        Client(urls[scheme], "model").predict(PIXELS)


def test_an_answer_that_is_no_json(scripted, monkeypatch):
    server, urls = scripted
    server.script = iter([0])
    monkeypatch.setattr(json, "dumps", lambda _: "<html>It works!</html>")
    with pytest.raises(RuntimeError, match="200, <html>It works!"):
        Client(urls["http"], "model").predict(PIXELS)


# What the client needs

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

import tensorflow as tf  # It still can be imported, and shares the messages.
from tensorflow_serving.apis import predict_pb2
predict_pb2.PredictRequest().inputs["image"].CopyFrom(tf.make_tensor_proto(images))
Client(grpc, model).predict(images)
"""


def test_client_imports_neither_keras_nor_tensorflow(serving):
    process = subprocess.run(
        [
            *(sys.executable, "-c", NEITHER_KERAS_NOR_TENSORFLOW),
            *(serving.rest_url, f"grpc://{serving.grpc_url}", serving.model),
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("package", ["grpc", "tensorflow_serving.apis.predict_pb2"])
def test_grpc_without_its_packages(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install .* Received: .*{package}"):
        Client("grpc://127.0.0.1:1", "lenet5")
    Client("http://127.0.0.1:1", "lenet5")
