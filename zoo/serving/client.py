"""Client of TF Serving for models that `zoo.export` wrote."""

import itertools
import random
import time
import urllib.parse
from typing import Any

import numpy as np

from zoo.errors import (
    check_argument,
    clean_message,
    holds_files,
    is_size,
    name_image,
    warn_if_scaled,
)
from zoo.files import read_bytes
from zoo.serving.connections import CONNECTIONS, OUTPUTS, RequestError

# The statuses of gRPC and HTTP for each exception. Any other is a RuntimeError.
STATUSES: dict[type[Exception], set[str | int]] = {
    ValueError: {"INVALID_ARGUMENT", "FAILED_PRECONDITION", 400},
    LookupError: {"NOT_FOUND", 404},
    ConnectionError: {"RESOURCE_EXHAUSTED", "UNAVAILABLE", 429, 502, 503},
    TimeoutError: {"DEADLINE_EXCEEDED", 504},
}
ADVICE: dict[type[Exception], str] = {
    ValueError: "Compare the images with the signature in `export.json`.",
    LookupError: "Check `model` and `version`.",
    ConnectionError: "Check that the server is running and not overloaded.",
    TimeoutError: "Increase `timeout` or decrease `batch_size`.",
    RuntimeError: "See the log of the server.",
}


class Client:
    """Sends requests to a model on a TF Serving server.

    Requests are retried, with random exponential backoff, if the server is overloaded
    or cannot be reached. A request that times out is not retried.

    Args:
        url: String. `"http://host:8501"` or `"https://..."` for REST,
            `"grpc://host:8500"` or `"grpcs://..."` for gRPC.
        model: String. Name of the model on the server.
        version: Integer. Defaults to the newest version on the server.
        batch_size: Integer. Images per request. Defaults to 64.
        timeout: Float. Seconds to wait for a response (REST: per read). Defaults to 10.
        retries: Integer. Maximum number of retries per request. Defaults to 3.

    Raises:
        ValueError: If `url`, `version` or `batch_size` is invalid.
        ImportError: If a package that gRPC needs is missing.

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
        retries: int = 3,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        connect = CONNECTIONS.get(parts.scheme)
        if connect is None or not parts.netloc:
            raise ValueError(
                "`url` must be http://HOST:PORT or https://... for REST, "
                f"grpc://HOST:PORT or grpcs://... for gRPC. Received: url={url!r}."
            )
        numbers = {"version": 1 if version is None else version}
        for name, value in (numbers | {"batch_size": batch_size}).items():
            check_argument(is_size(value), name, value, "an integer of at least 1")
        self.batch_size, self.timeout, self.retries = batch_size, timeout, retries
        # The URL may contain a password, which error messages must not show.
        host = parts.netloc.rpartition("@")[2]
        self._name = f"{model!r} at {parts.scheme}://{host}"
        self._connection = connect(parts, model, version)

    def predict(self, images: Any) -> dict[str, np.ndarray]:
        """Classifies images in batches of `batch_size`.

        Args:
            images: Array of `n` images in the model's input shape: uint8 is sent to
                `serving_uint8`, other numbers to `serving_default` as float32. Or a
                list of `n` PNG or JPEG files, as paths or bytes, for `serving_bytes`.

        Returns:
            A dict with `probabilities` (float32, `(n, classes)`), `class_id` (int64,
            `(n,)`) and `label` (string, `(n,)`).

        Raises:
            TypeError: If `images` contains neither numbers nor files.
            ValueError: If the server rejects a batch, e.g. for its shape, or a file.
                The files of a batch that is rejected are sent one by one.
            OSError: If a file cannot be read.
            LookupError: If the server does not have the model or the version.
            ConnectionError: If the server is overloaded or cannot be reached.
            TimeoutError: If `timeout` has passed.
            RuntimeError: If the server fails or the model is not from `zoo.export`.
        """
        signature, name, batch = _to_batch(images)
        if signature != "serving_bytes":
            warn_if_scaled(images)
        answers = []
        # An empty array is sent, too: the server decides how to respond.
        for start in range(0, max(len(batch), 1), self.batch_size):
            part = batch[start : start + self.batch_size]
            if signature == "serving_bytes":
                part = np.array([read_bytes(file) for file in part], object)
            what = f"images[{start}:{start + len(part)}]"
            try:
                answers.append(self._send(what, signature, name, part))
            except ValueError:
                if signature != "serving_bytes" or not len(part):
                    raise
                # One file is at fault, or all are too large together.
                for i in range(len(part)):
                    what = name_image(batch, start + i)
                    answers.append(self._send(what, signature, name, part[i : i + 1]))
        for answer in answers:
            if not isinstance(answer, dict) or not answer.keys() >= OUTPUTS.keys():
                raise RuntimeError(
                    f"The model {self._name} must be one that `zoo.export` wrote. "
                    f"Received: answer={str(answer)[:500]}."
                )
        return {
            output: np.concatenate([np.asarray(x[output], dtype) for x in answers])
            for output, dtype in OUTPUTS.items()
        }

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, what: str, signature: str, name: str, batch: Any) -> Any:
        for attempt in itertools.count():
            try:
                return self._connection.predict(signature, name, batch, self.timeout)
            except RequestError as error:
                status, message = error.args[0], clean_message(str(error.args[1]))
            kinds = (kind for kind in STATUSES if status in STATUSES[kind])
            exception = next(kinds, RuntimeError)
            if exception is not ConnectionError or attempt >= self.retries:
                raise exception(
                    f"The request for {what} to {self._name} failed. "
                    f"{ADVICE[exception]} Received: {status}, {message}."
                )
            time.sleep(random.uniform(0, 0.1 * 2**attempt))


def _to_batch(images: Any) -> tuple[str, str, Any]:
    """Returns the signature, the name of its input and the images to send."""
    if holds_files(images):
        return "serving_bytes", "image_bytes", images
    array = np.asarray(images)
    if array.dtype == np.uint8:
        return "serving_uint8", "image", array
    return "serving_default", "image", array.astype(np.float32)
