import os
import pathlib

import keras
import numpy as np
import pytest
from dataset_checks import read_idx
from paths import ROOT
from served import serving  # noqa: F401  a fixture

from zoo.data.datasets import dataset_info
from zoo.data.preparation import decoded_file

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
    """A data_dir with MNIST and Fashion-MNIST, written without TFDS to save time."""
    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    for name in ("mnist", "fashion_mnist"):
        info, arrays = dataset_info(name), {}
        x, y = read_idx(official_files / name, "train")
        end = info.splits["train"]
        splits = {"train": (x[:end], y[:end]), "validation": (x[end:], y[end:])}
        splits["test"] = read_idx(official_files / name, "t10k")
        for split, (images, labels) in splits.items():
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        file = decoded_file(info, data_dir)
        file.parent.mkdir()
        np.savez(file, **arrays)
    return data_dir
