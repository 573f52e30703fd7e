import os
import pathlib
import subprocess
import sys
import types
import urllib.parse

import keras
import pytest
from exports import ENVIRONMENT
from paths import HELPERS, ROOT

import zoo

# Tests of the JAX backend alone.
of_jax = ["training/test_distributed_jax.py"]
collect_ignore = [] if keras.backend.backend() == "jax" else of_jax


@pytest.fixture(scope="session")
def official_files() -> pathlib.Path:
    """The folder with the official files, as mnist/*.gz and fashion_mnist/*.gz."""
    folder = pathlib.Path(os.environ.get("GRADZOO_DATA", ROOT.parent / "shared/data"))
    if not folder.is_dir():
        pytest.skip(
            "tests with the full official data did not run: GRADZOO_DATA names no "
            f"folder that exists ({folder})"
        )
    return folder


@pytest.fixture(scope="session")
def prepared_data_dir(
    official_files: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A data_dir in which MNIST and Fashion-MNIST are prepared, at the same time.

    The processes of pytest-xdist share it: the second one to ask for it finds the
    datasets prepared.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    data_dir = folder / "tensorflow_datasets"
    program = (
        "import sys; from zoo.data.datasets import prepare_dataset;"
        "prepare_dataset(sys.argv[1], source_dir=sys.argv[2], data_dir=sys.argv[3])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, name, official_files / name, data_dir],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("mnist", "fashion_mnist")
    ]
    for process in processes:
        output, errors = process.communicate(timeout=1200)
        assert process.returncode == 0, errors
        assert output == ""
    return data_dir


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
