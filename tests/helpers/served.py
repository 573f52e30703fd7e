"""A fixture: LeNet5 on a server."""

import os
import subprocess
import sys
import types
import urllib.parse

import pytest
from exports import ENVIRONMENT
from paths import HELPERS

import zoo


@pytest.fixture(scope="session")
def serving(tmp_path_factory):
    """LeNet5 with the weights for MNIST, exported to `base` and served as `model`.

    If TF_SERVING_URL (`http://host:8501`) is set, that server is used instead of
    server.py. Its gRPC address is port 8500, or TF_SERVING_GRPC (`host:port`).
    """
    base = tmp_path_factory.mktemp("serving") / "lenet5"
    zoo.export(zoo.LeNet5(weights="mnist"), base)
    served = types.SimpleNamespace(model=base.name, base=base)
    if url := os.environ.get("TF_SERVING_URL"):
        host = urllib.parse.urlsplit(url).hostname
        served.rest = url.rstrip("/")
        served.grpc = f"grpc://{os.environ.get('TF_SERVING_GRPC', f'{host}:8500')}"
        yield served
        return
    command = [sys.executable, HELPERS / "server.py", base.name, base]
    # One thread is fastest for small models.
    options = {"text": True, "env": ENVIRONMENT | {"OMP_NUM_THREADS": "1"}}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        try:
            ready, grpc, rest = process.stdout.readline().split() or ["ended"] * 3
            assert ready == "ready"
            served.rest = f"http://127.0.0.1:{rest}"
            served.grpc = f"grpc://127.0.0.1:{grpc}"
            yield served
        finally:
            process.terminate()
