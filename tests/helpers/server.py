"""A small server with the interfaces of `tensorflow_model_server`, for tests.

    python server.py NAME BASE_PATH

Serves the newest version of a model over gRPC and REST, loaded by TensorFlow's C API as
in TF Serving, and prints one line: `ready` and the two ports. It supports the requests
of the client and of an export's README. Answers and error codes follow TF Serving's
`predict_util.cc`, `classifier.cc`, `json_tensor.cc` and `http_rest_api_handler.cc`.
"""

import base64
import http.server
import json
import pathlib
import re
import sys
import threading
from concurrent import futures
from typing import Any, NoReturn

import grpc
import numpy as np
import tensorflow as tf
from capi import Session
from tensorflow_serving.apis import (
    classification_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
HTTP_CODES = {tf.errors.INVALID_ARGUMENT: 400, tf.errors.NOT_FOUND: 404}
# The fields of a TensorProto in which TF Serving returns values.
FIELDS = {"float32": "float_val", "int64": "int64_val", "object": "string_val"}


def fail(message: str) -> NoReturn:
    raise tf.errors.InvalidArgumentError(None, None, message)


class Model:
    """The newest version of a model, which answers the requests of gRPC."""

    def __init__(self, name: str, base_path: str) -> None:
        paths = pathlib.Path(base_path).iterdir()
        versions = {int(path.name): path for path in paths if path.name.isdecimal()}
        self.name, self.version = name, max(versions)
        folder = versions[self.version]
        self.session = Session(folder)
        # The server does not start unless it can answer the warm-up requests.
        path = folder / "assets.extra" / "tf_serving_warmup_requests"
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.HasField("classify_log"):
                self.classify(log.classify_log.request)
            else:
                self.predict(log.predict_log.request)

    def check(self, spec: Any) -> None:
        """Raises an error if the request is for another model or version."""
        wanted = spec.version.value if spec.HasField("version") else self.version
        if (spec.name, wanted) != (self.name, self.version):
            message = f"Servable not found for request: {spec.name}, {wanted}"
            raise tf.errors.NotFoundError(None, None, message)

    def signature(self, spec: Any) -> tuple[str, Any]:
        name = spec.signature_name or "serving_default"
        if name not in self.session.signatures:
            fail(f'Serving signature key "{name}" not found.')
        return name, self.session.signatures[name]

    def run(self, signature: Any, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        if inputs.keys() != signature.inputs.keys():
            fail(f"inputs are not those of the signature: {sorted(signature.inputs)}")
        feeds = {signature.inputs[alias].name: inputs[alias] for alias in inputs}
        fetches = [tensor.name for tensor in signature.outputs.values()]
        arrays = self.session.run(feeds, fetches)
        return dict(zip(signature.outputs, arrays, strict=True))

    def predict(self, request: Any) -> Any:
        name, signature = self.signature(request.model_spec)
        inputs = {alias: tf.make_ndarray(x) for alias, x in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        self._fill_spec(response.model_spec, name)
        for alias, array in self.run(signature, inputs).items():
            tensor = response.outputs[alias]
            tensor.dtype = signature.outputs[alias].dtype
            tensor.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
            getattr(tensor, FIELDS[array.dtype.name]).extend(array.ravel().tolist())
        return response

    def classify(self, request: Any) -> Any:
        name, signature = self.signature(request.model_spec)
        examples = request.input.example_list.examples
        strings = np.array([x.SerializeToString() for x in examples], object)
        answer = self.run(signature, {"inputs": strings})
        response = classification_pb2.ClassificationResponse()
        self._fill_spec(response.model_spec, name)
        for labels, scores in zip(answer["classes"], answer["scores"], strict=True):
            classes = response.result.classifications.add().classes
            for label, score in zip(labels, scores, strict=True):
                classes.add(label=label, score=score)
        return response

    def _fill_spec(self, spec: Any, signature: str) -> None:
        spec.name, spec.signature_name = self.name, signature
        spec.version.value = self.version


class GrpcService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers with the methods of a model."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer(self.model.predict, request, context)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer(self.model.classify, request, context)

    def _answer(self, method: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            self.model.check(request.model_spec)
            return method(request)
        except tf.errors.OpError as error:
            context.abort(GRPC_CODES[error.error_code], error.message)


class RestHandler(http.server.BaseHTTPRequestHandler):
    """Turns JSON into the requests of gRPC, and their answers into JSON."""

    model: Model
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._handle({None: self._status}, "{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._handle({"predict": self._predict, "classify": self._classify}, body)

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self, methods: dict[str | None, Any], body: bytes | str) -> None:
        try:
            code, result = 200, self._answer(methods, body)
        except tf.errors.OpError as error:
            code = HTTP_CODES.get(error.error_code, 500)
            result = {"error": error.message}
        content = json.dumps(result, default=bytes.decode).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, methods: dict[str | None, Any], body: bytes | str) -> Any:
        pattern = r"/v1/models/([^/:]+)(?:/versions/(\d+))?(?:[:/](\w+))?"
        match = re.fullmatch(pattern, self.path)
        if match is None or match[3] not in methods:
            fail(f"Malformed request: {self.command} {self.path}")
        document = json.loads(body)
        spec = model_pb2.ModelSpec(
            name=match[1],
            version=match[2] and {"value": int(match[2])},
            signature_name=document.get("signature_name"),
        )
        self.model.check(spec)
        return methods[match[3]](spec, document)

    def _status(self, spec: Any, _: Any) -> Any:
        version = {"version": str(self.model.version), "state": "AVAILABLE"}
        return {"model_version_status": [version]}

    def _predict(self, spec: Any, document: dict[str, Any]) -> Any:
        _, signature = self.model.signature(spec)
        # All signatures that `zoo.export` writes have one input.
        [(alias, tensor)] = signature.inputs.items()
        by_row = "instances" in document
        images = document["instances" if by_row else "inputs"]
        if by_row and is_named(images[0]):
            images = [row[alias] for row in images]
        elif not by_row and is_named(images):
            images = images[alias]
        array = json_to_array(images, tf.as_dtype(tensor.dtype))
        outputs = {
            name: array.tolist()
            for name, array in self.model.run(signature, {alias: array}).items()
        }
        if not by_row:
            return {"outputs": outputs}
        rows = zip(*outputs.values(), strict=True)
        return {"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]}

    def _classify(self, spec: Any, document: dict[str, Any]) -> Any:
        request = classification_pb2.ClassificationRequest(model_spec=spec)
        for example in document["examples"]:
            features = request.input.example_list.examples.add().features.feature
            for name, value in example.items():
                features[name].bytes_list.value.append(json_to_bytes(value))
        result = self.model.classify(request).result
        return {
            "results": [
                [[one.label, one.score] for one in classification.classes]
                for classification in result.classifications
            ]
        }


def is_named(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() != {"b64"}


def json_to_bytes(value: Any) -> bytes:
    return base64.b64decode(value["b64"], validate=True)


def json_to_array(value: Any, dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        return np.array([json_to_bytes(element) for element in value], object)
    array = np.array(value)
    if array.dtype.kind not in ("if" if dtype.is_floating else "i"):
        fail(f"JSON Value: is not of expected type: {dtype.name}")
    return array.astype(dtype.as_numpy_dtype)


def main() -> None:
    model = Model(*sys.argv[1:])
    unlimited = ("grpc.max_receive_message_length", -1)
    grpc_server = grpc.server(futures.ThreadPoolExecutor(4), options=[unlimited])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        GrpcService(model), grpc_server
    )
    grpc_port = grpc_server.add_insecure_port("127.0.0.1:0")
    RestHandler.model = model
    rest_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RestHandler)
    grpc_server.start()
    threading.Thread(target=rest_server.serve_forever, daemon=True).start()
    print("ready", grpc_port, rest_server.server_port, flush=True)
    grpc_server.wait_for_termination()


if __name__ == "__main__":
    main()
