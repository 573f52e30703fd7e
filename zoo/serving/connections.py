"""Connections to TF Serving. Responses have the same form over gRPC and REST."""

import base64
import contextlib
import json
import sys
import types
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any
from urllib.parse import SplitResult, quote

import numpy as np
import requests

from zoo.errors import require

OUTPUTS = {"probabilities": np.float32, "class_id": np.int64, "label": np.str_}

GRPC_MODULES = (
    "grpc",
    "tensorflow.core.framework.tensor_pb2",
    "tensorflow_serving.apis.predict_pb2",
    "tensorflow_serving.apis.prediction_service_pb2_grpc",
)


class RequestError(Exception):
    """Failure of a request: the status (gRPC's name or HTTP's number), the message."""


class Rest:
    """Connection over HTTP."""

    def __init__(self, url: SplitResult, model: str, version: int | None) -> None:
        self._url = f"{url.geturl().rstrip('/')}/v1/models/{quote(model, safe='')}"
        if version is not None:
            self._url += f"/versions/{version}"
        self._url += ":predict"
        self._session = requests.Session()
        self._session.headers["Content-Type"] = "application/json"
        self.close = self._session.close

    def predict(self, signature: str, name: str, batch: Any, timeout: float) -> Any:
        inputs = batch.tolist()
        if signature == "serving_bytes":
            inputs = [{"b64": base64.b64encode(file).decode()} for file in inputs]
        body = json.dumps({"signature_name": signature, "inputs": {name: inputs}})
        try:
            response = self._session.post(self._url, data=body, timeout=timeout)
        except requests.Timeout as error:
            raise RequestError("DEADLINE_EXCEEDED", error) from error
        except requests.RequestException as error:
            raise RequestError("UNAVAILABLE", error) from error
        with contextlib.suppress(ValueError, TypeError, KeyError):  # A proxy's page.
            if response.ok:
                return response.json()["outputs"]
        raise RequestError(response.status_code, " ".join(response.text[:2000].split()))


class Grpc:
    """Connection over gRPC."""

    def __init__(self, url: SplitResult, model: str, version: int | None) -> None:
        self._apis = apis = _import_apis()
        number = None if version is None else {"value": version}
        self._spec = {"name": model, "version": number}
        options = [
            # The default limit is 4 MB, less than a batch of photographs.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # The default is 1 s, but `Client` retries earlier.
            ("grpc.initial_reconnect_backoff_ms", 100),
        ]
        if url.scheme == "grpcs":
            credentials = apis.grpc.ssl_channel_credentials()
            channel = apis.grpc.secure_channel(url.netloc, credentials, options)
        else:
            channel = apis.grpc.insecure_channel(url.netloc, options)
        self.close = channel.close
        service = apis.prediction_service_pb2_grpc
        self._predict = service.PredictionServiceStub(channel).Predict

    def predict(self, signature: str, name: str, batch: Any, timeout: float) -> Any:
        dtypes = {"O": "DT_STRING", "u": "DT_UINT8", "f": "DT_FLOAT"}
        is_bytes = batch.dtype == object
        tensor = self._apis.tensor_pb2.TensorProto(
            dtype=dtypes[batch.dtype.kind],
            tensor_shape={"dim": [{"size": length} for length in batch.shape]},
            string_val=batch if is_bytes else None,
            tensor_content=None if is_bytes else batch.tobytes(),
        )
        spec = self._spec | {"signature_name": signature}
        messages = self._apis.predict_pb2
        request = messages.PredictRequest(model_spec=spec, inputs={name: tensor})
        try:
            answer = self._predict(request, timeout=timeout)
        except self._apis.grpc.RpcError as error:
            raise RequestError(error.code().name, error.details()) from error
        found = answer.outputs
        return {x: _to_array(found[x], OUTPUTS[x]) for x in OUTPUTS if x in found}


CONNECTIONS: dict[str, type[Rest] | type[Grpc]]
CONNECTIONS = {"http": Rest, "https": Rest, "grpc": Grpc, "grpcs": Grpc}


def _to_array(tensor: Any, dtype: type) -> np.ndarray:
    """Converts a `TensorProto`, whose values are in bytes or in a field per type."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    strings = [string.decode() for string in tensor.string_val]
    values = tensor.float_val or tensor.int64_val or strings
    return np.array(values, dtype).reshape(shape)


def _import_apis() -> types.SimpleNamespace:
    """Imports TF Serving's stubs with TensorFlow's messages but without TensorFlow.

    TensorFlow takes seconds and half a gigabyte, so an empty module with its name and
    folder replaces it during the import. A later `import tensorflow` works as usual.
    """
    for package in ("grpc", "tensorflow", "tensorflow_serving"):
        require(package, "tensorflow-serving-api", "A client over gRPC")
    placeholder = None
    if "tensorflow" not in sys.modules and (spec := find_spec("tensorflow")):
        placeholder = sys.modules["tensorflow"] = module_from_spec(spec)
    try:
        return types.SimpleNamespace(
            **{path.rpartition(".")[2]: import_module(path) for path in GRPC_MODULES}
        )
    finally:
        if placeholder:
            del sys.modules["tensorflow"]
