"""A model on a server, for all tests of serving."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator

import pytest
from paths import HELPERS

import zoo

SERVER = HELPERS / "server.py"
# One thread and no accelerator, which is fastest for small models.
ENVIRONMENT = os.environ | {
    "CUDA_VISIBLE_DEVICES": "-1",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Serving:
    """A served model."""

    rest_url: str  # http://host:port
    grpc_url: str  # host:port
    model: str  # The name on the server.
    base: pathlib.Path  # The folder that `zoo.export` wrote.


@contextlib.contextmanager
def running_server(name: str, base: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Runs server.py; yields the ports of gRPC and REST."""
    command = [sys.executable, SERVER, name, base]
    options = {"stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    with subprocess.Popen(command, **options) as process:
        try:
            ready, *ports = process.stdout.readline().split() or ["ended"]
            assert ready == "ready"
            grpc_port, rest_port = map(int, ports)
            yield grpc_port, rest_port
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """LeNet5 with the weights for MNIST, exported and served as `lenet5`.

    If TF_SERVING_URL (`http://host:8501`) is set, that server is used instead of
    server.py. Its gRPC address is port 8500, or TF_SERVING_GRPC (`host:port`).
    """
    base = tmp_path_factory.mktemp("serving") / "lenet5"
    zoo.export(zoo.LeNet5(weights="mnist"), base)
    if url := os.environ.get("TF_SERVING_URL"):
        host = urllib.parse.urlsplit(url).hostname
        target = os.environ.get("TF_SERVING_GRPC", f"{host}:8500")
        yield Serving(url.rstrip("/"), target, base.name, base)
        return
    with running_server(base.name, base) as (grpc_port, rest_port):
        rest, target = f"http://127.0.0.1:{rest_port}", f"127.0.0.1:{grpc_port}"
        yield Serving(rest, target, base.name, base)
