"""A small server with the interfaces of `tensorflow_model_server`, for tests.

    python server.py NAME BASE_PATH

Serves the newest version of a model over gRPC and REST, run by TensorFlow's C API as in
TF Serving, and prints one line: `ready` and the two ports. It supports the requests of
the client and of an export's README. Answers and error codes follow TF Serving's
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
from typing import Any

import grpc
import numpy as np

if __name__ == "__main__":
    sys.modules["keras"] = None  # Importing it raises ImportError.
import tensorflow as tf
from capi import Session
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_service_pb2_grpc

from zoo.exporting.loading import list_versions
from zoo.exporting.warmup import read_warmup_requests

GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
HTTP_CODES = {tf.errors.INVALID_ARGUMENT: 400, tf.errors.NOT_FOUND: 404}
# The fields of a TensorProto in which TF Serving returns values.
FIELDS = {"float32": "float_val", "int64": "int64_val", "object": "string_val"}


class Model:
    """The newest version of a model."""

    def __init__(self, name: str, base_path: str) -> None:
        versions = list_versions(pathlib.Path(base_path))
        self.name, self.version = name, max(versions)
        self.session = Session(versions[self.version])
        # The server does not start unless it can answer the warm-up requests.
        for signature, inputs in read_warmup_requests(versions[self.version]):
            spec = model_pb2.ModelSpec(name=name, signature_name=signature)
            self.run(spec, inputs)

    def signature(self, spec: Any) -> Any:
        """Returns a signature, or raises an error for another model or version."""
        wanted = spec.version.value if spec.HasField("version") else self.version
        if (spec.name, wanted) != (self.name, self.version):
            message = f"Servable not found for request: {spec.name}, {wanted}"
            raise tf.errors.NotFoundError(None, None, message)
        return self.session.signatures[spec.signature_name]

    def run(self, spec: Any, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        signature = self.signature(spec)
        feeds = {signature.inputs[alias].name: inputs[alias] for alias in inputs}
        fetches = [tensor.name for tensor in signature.outputs.values()]
        arrays = self.session.run(feeds, fetches)
        return dict(zip(signature.outputs, arrays, strict=True))


class GrpcService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers over gRPC."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        inputs = {alias: tf.make_ndarray(x) for alias, x in request.inputs.items()}
        try:
            answer = self.model.run(request.model_spec, inputs)
        except tf.errors.OpError as error:
            context.abort(GRPC_CODES[error.error_code], error.message)
        response = predict_pb2.PredictResponse()
        for alias, array in answer.items():
            tensor = response.outputs[alias]
            tensor.dtype = tf.as_dtype(array.dtype).as_datatype_enum
            tensor.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
            getattr(tensor, FIELDS[array.dtype.name]).extend(array.ravel().tolist())
        return response


class RestHandler(http.server.BaseHTTPRequestHandler):
    """Answers over HTTP."""

    model: Model
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._handle("{}")

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self, body: bytes | str) -> None:
        pattern = r"/v1/models/([^/:]+)(?:/versions/(\d+))?(?::(\w+))?"
        name, version, verb = re.fullmatch(pattern, self.path).groups()
        document = json.loads(body)
        spec = model_pb2.ModelSpec(
            name=name,
            version=version and {"value": int(version)},
            signature_name=document.get("signature_name", "serving_default"),
        )
        methods = {"predict": self._predict, "classify": self._classify}
        try:
            code, result = 200, methods.get(verb, self._status)(spec, document)
        except tf.errors.OpError as error:
            code = HTTP_CODES.get(error.error_code, 500)
            result = {"error": error.message}
        content = json.dumps(result, default=bytes.decode).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _status(self, spec: Any, _: Any) -> Any:
        self.model.signature(spec)
        version = {"version": str(self.model.version), "state": "AVAILABLE"}
        return {"model_version_status": [version]}

    def _predict(self, spec: Any, document: dict[str, Any]) -> Any:
        # All signatures that `zoo.export` writes have one input.
        [(alias, tensor)] = self.model.signature(spec).inputs.items()
        if is_by_column := "inputs" in document:
            images = document["inputs"][alias]
        else:
            images = [row[alias] for row in document["instances"]]
        if tensor.dtype == tf.string.as_datatype_enum:
            array = np.array([*map(decode, images)], object)
        else:
            array = np.array(images, tf.as_dtype(tensor.dtype).as_numpy_dtype)
        answer = self.model.run(spec, {alias: array})
        outputs = {name: array.tolist() for name, array in answer.items()}
        if is_by_column:
            return {"outputs": outputs}
        rows = zip(*outputs.values(), strict=True)
        return {"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]}

    def _classify(self, spec: Any, document: dict[str, Any]) -> Any:
        messages = []
        for values in document["examples"]:
            example = tf.train.Example()
            for name, value in values.items():
                feature = example.features.feature[name]
                feature.bytes_list.value.append(decode(value))
            messages.append(example.SerializeToString())
        answer = self.model.run(spec, {"inputs": np.array(messages, object)})
        pairs = zip(answer["classes"].tolist(), answer["scores"].tolist(), strict=True)
        return {"results": [[*zip(*pair, strict=True)] for pair in pairs]}


def decode(value: dict[str, str]) -> bytes:
    return base64.b64decode(value["b64"], validate=True)


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
