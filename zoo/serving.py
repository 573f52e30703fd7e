"""Client of TF Serving, for models that `zoo.export` published.

Imports neither Keras nor TensorFlow. REST takes NumPy and requests alone. gRPC takes
grpcio, tensorflow-serving-api and the messages in TensorFlow's wheel; what else is in
the wheel is not loaded.
"""

import base64
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import random
import sys
import time
import types
import urllib.parse
from collections.abc import Callable
from typing import Any

import numpy as np
import requests

INPUTS = {
    "serving_default": "image",
    "serving_uint8": "image",
    "serving_bytes": "image_bytes",
}
OUTPUTS = {"probabilities": np.float32, "class_id": np.int64, "label": np.str_}

# The built-in exception for each status of a server, by its gRPC and its HTTP code.
# Others are a RuntimeError.
EXCEPTIONS: dict[str | int, type[Exception]] = {
    "INVALID_ARGUMENT": ValueError,
    "FAILED_PRECONDITION": ValueError,
    400: ValueError,
    "NOT_FOUND": LookupError,
    404: LookupError,
    "RESOURCE_EXHAUSTED": ConnectionError,
    429: ConnectionError,
    "UNAVAILABLE": ConnectionError,
    502: ConnectionError,
    503: ConnectionError,
    "DEADLINE_EXCEEDED": TimeoutError,
    504: TimeoutError,
}


class Client:
    """A model on a server of TF Serving.

    A request that the server has no capacity for, or that does not reach it, is sent
    again after a random pause whose bound doubles each time. One that times out is not.

    Reference: [RESTful API](https://www.tensorflow.org/tfx/serving/api_rest)

    Args:
        url: `"http://host:8501"` or `"https://..."` for REST; `"grpc://host:8500"` or
            `"grpcs://..."` for gRPC, which is faster.
        model: Name of the model on the server.
        version: Integer. Default: the version that the server takes for the newest.
        batch_size: Images per request.
        timeout: Seconds that one request may wait for its answer; over REST, for each
            part of it.
        deadline: Seconds that a method may take in all.
        retries: How often one request may be sent again.

    Raises:
        ValueError: `url` has another form, or `batch_size` is not positive.
        ImportError: a package that gRPC takes is missing.

    Example:

    >>> client = zoo.serving.Client("http://localhost:8501", "lenet5")  # doctest: +SKIP
    >>> client.predict(["seven.png", "two.jpeg"])["label"]  # doctest: +SKIP
    array(['7', '2'], dtype='<U1')
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: int | None = None,
        *,
        batch_size: int = 64,
        timeout: float = 10.0,
        deadline: float = 60.0,
        retries: int = 3,
    ) -> None:
        connections: dict[str, type[_Rest] | type[_Grpc]] = {
            "http": _Rest,
            "https": _Rest,
            "grpc": _Grpc,
            "grpcs": _Grpc,
        }
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in connections or not parts.netloc:
            raise ValueError(
                "`url` must be http://HOST:PORT or https://... for REST, "
                f"grpc://HOST:PORT or grpcs://... for gRPC. Received: url={url!r}"
            )
        if batch_size < 1:
            raise ValueError(
                f"`batch_size` must be at least 1. Received: batch_size={batch_size}"
            )
        self.batch_size = batch_size
        self.timeout = timeout
        self.deadline = deadline
        self.retries = retries
        # Without a password, which the URL may hold.
        host = parts.netloc.rpartition("@")[2]
        self._name = f"{model!r} at {parts.scheme}://{host}"
        self._connection = connections[parts.scheme](parts, model, version)

    def predict(self, images: Any) -> dict[str, np.ndarray]:
        """Classifies images, `batch_size` at a time.

        Args:
            images: Array of n images as the model takes them, which goes to
                `serving_uint8` if it is uint8 and else, as float32, to
                `serving_default`; or a list of n PNG or JPEG files, as paths or as
                `bytes`, which goes to `serving_bytes`.

        Returns:
            `probabilities` (float32, `(n, classes)`), `class_id` (int64, `(n,)`) and
            `label` (str, `(n,)`).

        Raises:
            TypeError: `images` are no numbers and no files.
            ValueError: `images` is an empty list, or the server refuses a batch.
            OSError: a file cannot be read.
            LookupError: the server has no such model or version.
            ConnectionError: the server cannot be reached or has no capacity.
            TimeoutError: the `timeout` or the `deadline` is over.
            RuntimeError: the server fails, or the model is not from `zoo.export`.
        """
        end = time.monotonic() + self.deadline
        signature, batch = _to_batch(images)
        answers = []
        # Whether an empty array has an answer, the server knows.
        for start in range(0, max(len(batch), 1), self.batch_size):
            part = batch[start : start + self.batch_size]
            if signature == "serving_bytes":
                part = [_read(file) for file in part]
            answer = self._send(
                functools.partial(self._connection.predict, signature, part),
                f"for images[{start}:{start + len(part)}]",
                end,
            )
            if not isinstance(answer, dict) or not answer.keys() >= OUTPUTS.keys():
                raise RuntimeError(
                    f"{self._name} is no model from `zoo.export`, which answers with "
                    f"{', '.join(OUTPUTS)}. Received: {str(answer)[:500]}"
                )
            answers.append(answer)
        return {
            name: np.concatenate(
                [np.asarray(answer[name], dtype) for answer in answers]
            )
            for name, dtype in OUTPUTS.items()
        }

    def status(self) -> dict[int, str]:
        """Asks for the state of every version that the server knows.

        Returns:
            `"START"`, `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"` by version;
            with the server's reason, if it could not load the version.

        Raises:
            LookupError: the server has no such model or version.
            ConnectionError: the server cannot be reached or has no capacity.
            TimeoutError: the `timeout` or the `deadline` is over.
            RuntimeError: the server fails.
        """
        end = time.monotonic() + self.deadline
        states = {}
        for version in self._send(self._connection.status, "for its status", end):
            reason = version.get("status", {}).get("error_message")
            state = version["state"]
            states[int(version["version"])] = f"{state}: {reason}" if reason else state
        return states

    def metadata(self) -> dict[str, Any]:
        """Asks for the signatures, in the form that `export.json` has.

        Returns:
            `{signature: {"inputs": {name: {"dtype": ..., "shape": [...]}}, "outputs":
            {...}}}`, where None is any length.

        Raises:
            LookupError: the server has no such model or version.
            ConnectionError: the server cannot be reached or has no capacity.
            TimeoutError: the `timeout` or the `deadline` is over.
            RuntimeError: the server fails.
        """
        end = time.monotonic() + self.deadline
        answer = self._send(self._connection.metadata, "for its metadata", end)
        return {
            name: {
                side: {
                    key: _describe(tensor) for key, tensor in signature[side].items()
                }
                for side in ("inputs", "outputs")
            }
            for name, signature in answer.items()
            if not name.startswith("__")  # TensorFlow's own
        }

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, request: Callable[[float], Any], what: str, end: float) -> Any:
        # The retries of urllib3 know no deadline for all of them together, and gRPC
        # makes four at most.
        attempt = 0
        while (remaining := end - time.monotonic()) > 0:
            try:
                return request(min(self.timeout, remaining))
            except _RequestError as error:
                exception = EXCEPTIONS.get(error.code, RuntimeError)
                pause = random.uniform(0, 0.1 * 2**attempt)
                if (
                    exception is not ConnectionError
                    or attempt >= self.retries
                    or pause >= end - time.monotonic()
                ):
                    # The message says it all; what gRPC and requests raise is long.
                    raise exception(
                        f"{self._name}, asked {what}: {error.code}, {error}"
                    ) from None
            attempt += 1
            time.sleep(pause)
        raise TimeoutError(
            f"{self._name}, asked {what}: the deadline of {self.deadline} s is over"
        )


class _RequestError(Exception):
    """A request without an answer: the server's code, gRPC's or HTTP's, and message."""

    def __init__(self, code: str | int, message: object) -> None:
        super().__init__(message)
        self.code = code


class _Rest:
    """The model over HTTP; every method takes its time-out in seconds."""

    def __init__(
        self, url: urllib.parse.SplitResult, model: str, version: int | None
    ) -> None:
        self._url = (
            f"{url.geturl().rstrip('/')}/v1/models/{urllib.parse.quote(model, safe='')}"
        )
        if version is not None:
            self._url += f"/versions/{version}"
        self._session = requests.Session()
        self.close = self._session.close

    def predict(self, signature: str, batch: Any, timeout: float) -> Any:
        if signature == "serving_bytes":
            inputs = [{"b64": base64.b64encode(file).decode()} for file in batch]
        else:
            inputs = batch.tolist()
        body = {"signature_name": signature, "inputs": {INPUTS[signature]: inputs}}
        return self._send("POST", ":predict", timeout, "outputs", json.dumps(body))

    def status(self, timeout: float) -> Any:
        return self._send("GET", "", timeout, "model_version_status")

    def metadata(self, timeout: float) -> Any:
        metadata = self._send("GET", "/metadata", timeout, "metadata")
        return metadata["signature_def"]["signature_def"]

    def _send(
        self, method: str, path: str, timeout: float, key: str, body: str | None = None
    ) -> Any:
        try:
            response = self._session.request(
                method,
                self._url + path,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=timeout,
            )
        except requests.Timeout as error:
            raise _RequestError("DEADLINE_EXCEEDED", error) from error
        except requests.RequestException as error:
            raise _RequestError("UNAVAILABLE", error) from error
        try:
            answer = response.json()
            if response.ok:
                return answer[key]
            message = answer["error"]
        except (ValueError, TypeError, KeyError):
            # A proxy's page; or TF Serving's message with an apostrophe, which it
            # escapes as C does and JSON does not.
            message = response.text[:2000]
        raise _RequestError(response.status_code, message)


class _Grpc:
    """The model over gRPC; every method takes its time-out in seconds."""

    def __init__(
        self, url: urllib.parse.SplitResult, model: str, version: int | None
    ) -> None:
        self._apis = apis = _import_apis()
        self._spec: dict[str, Any] = {"name": model}
        if version is not None:
            self._spec["version"] = {"value": version}
        options = [
            # By default gRPC takes 4 MB, less than a batch of photographs.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # `Client` sends again itself, and 1 s is too long to wait for a connection.
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
        ]
        if url.scheme == "grpc":
            channel = apis.grpc.insecure_channel(url.netloc, options)
        else:
            credentials = apis.grpc.ssl_channel_credentials()
            channel = apis.grpc.secure_channel(url.netloc, credentials, options)
        self.close = channel.close
        self._models = apis.model_service_pb2_grpc.ModelServiceStub(channel)
        self._predictions = apis.prediction_service_pb2_grpc.PredictionServiceStub(
            channel
        )

    def predict(self, signature: str, batch: Any, timeout: float) -> Any:
        if signature == "serving_bytes":
            content = {"dtype": "DT_STRING", "string_val": batch}
            shape: tuple[int, ...] = (len(batch),)
        else:
            dtype = "DT_UINT8" if batch.dtype == np.uint8 else "DT_FLOAT"
            content = {"dtype": dtype, "tensor_content": batch.tobytes()}
            shape = batch.shape
        tensor = self._apis.tensor_pb2.TensorProto(
            tensor_shape={"dim": [{"size": length} for length in shape]}, **content
        )
        request = self._apis.predict_pb2.PredictRequest(
            model_spec=self._spec | {"signature_name": signature},
            inputs={INPUTS[signature]: tensor},
        )
        answer = self._send(self._predictions.Predict, request, timeout)
        return {
            name: _to_array(answer.outputs[name], dtype)
            for name, dtype in OUTPUTS.items()
            if name in answer.outputs
        }

    def status(self, timeout: float) -> Any:
        request = self._apis.get_model_status_pb2.GetModelStatusRequest(
            model_spec=self._spec
        )
        answer = self._send(self._models.GetModelStatus, request, timeout)
        return self._to_dict(answer)["model_version_status"]

    def metadata(self, timeout: float) -> Any:
        messages = self._apis.get_model_metadata_pb2
        request = messages.GetModelMetadataRequest(
            model_spec=self._spec, metadata_field=["signature_def"]
        )
        answer = self._send(self._predictions.GetModelMetadata, request, timeout)
        signatures = messages.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        return self._to_dict(signatures)["signature_def"]

    def _send(self, method: Any, request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except self._apis.grpc.RpcError as error:
            raise _RequestError(error.code().name, error.details()) from error

    def _to_dict(self, message: Any) -> Any:
        """A message in the form that it has over REST."""
        return self._apis.json_format.MessageToDict(
            message, preserving_proto_field_name=True
        )


def _import_apis() -> types.SimpleNamespace:
    """Imports gRPC and TF Serving's messages and stubs, but not TensorFlow.

    They import the messages in `tensorflow.core`. Python would first run the package
    `tensorflow`, which takes seconds and half a gigabyte; a module that has its name
    and folder, and is not run, takes its place meanwhile.
    """
    modules = {
        "grpc": "grpc",
        "json_format": "google.protobuf.json_format",
        "tensor_pb2": "tensorflow.core.framework.tensor_pb2",
    } | {
        name: f"tensorflow_serving.apis.{name}"
        for name in (
            "get_model_metadata_pb2",
            "get_model_status_pb2",
            "model_service_pb2_grpc",
            "predict_pb2",
            "prediction_service_pb2_grpc",
        )
    }
    stands_in = False
    try:
        spec = importlib.util.find_spec("tensorflow")
        if spec is not None and "tensorflow" not in sys.modules:
            sys.modules["tensorflow"] = importlib.util.module_from_spec(spec)
            stands_in = True
        return types.SimpleNamespace(
            **{name: importlib.import_module(path) for name, path in modules.items()}
        )
    except ImportError as error:
        raise ImportError(
            "gRPC takes grpcio, tensorflow-serving-api and the messages in "
            "TensorFlow's wheel; `pip install tensorflow-serving-api` installs them. "
            f"REST (http://...) takes none. Received: {error}"
        ) from error
    finally:
        if stands_in:
            del sys.modules["tensorflow"]


def _to_batch(images: Any) -> tuple[str, Any]:
    """The signature that takes the images, and the images as a list or an array."""
    file = (str, bytes, os.PathLike)
    if isinstance(images, list | tuple):
        if not images:
            raise ValueError("`images` must not be empty. Received: images=[]")
        if all(isinstance(image, file) for image in images):
            return "serving_bytes", images
        if any(isinstance(image, file) for image in images):
            raise TypeError(
                "`images` must be files alone or numbers alone. Received: "
                + " and ".join(sorted({type(image).__name__ for image in images}))
            )
    array = np.asarray(images)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise TypeError(
            "`images` must be an array of numbers or a list of PNG or JPEG files, as "
            f"paths or bytes. Received: images={repr(images)[:200]}"
        )
    if array.dtype == np.uint8:
        return "serving_uint8", array
    return "serving_default", array.astype(np.float32)


def _read(file: str | bytes | os.PathLike[str]) -> bytes:
    return file if isinstance(file, bytes) else pathlib.Path(file).read_bytes()


def _to_array(tensor: Any, dtype: type) -> np.ndarray:
    """A `TensorProto`, which holds its values as bytes or in a field for their type."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    strings = [string.decode() for string in tensor.string_val]
    values = tensor.float_val or tensor.int64_val or strings
    return np.array(values, dtype).reshape(shape)


def _describe(tensor: dict[str, Any]) -> dict[str, Any]:
    """The dtype and shape of a `TensorInfo`."""
    dtype = tensor["dtype"].removeprefix("DT_").lower()
    shape = [int(dim["size"]) for dim in tensor["tensor_shape"]["dim"]]
    return {
        "dtype": "float32" if dtype == "float" else dtype,
        "shape": [None if length == -1 else length for length in shape],
    }
