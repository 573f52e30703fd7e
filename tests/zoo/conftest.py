import os
import pathlib
import subprocess
import sys

import keras
import pytest
from paths import ROOT
from served import serving  # noqa: F401  a fixture

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
