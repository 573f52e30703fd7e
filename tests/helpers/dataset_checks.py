"""Helpers for the tests of datasets."""

import gzip
import hashlib

import numpy as np
from paths import HELPERS
from worker_processes import start


def in_new_process(program, *arguments, **environment):
    """Starts a process that runs `program`, a few lines that can import helpers."""
    lines = f"import sys; sys.path.insert(0, {str(HELPERS)!r})\n{program}"
    return start("-c", lines, *arguments, **environment)


def read_idx(folder, prefix):
    """Reads images and labels from two official files."""
    images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1),
        np.frombuffer(labels, np.uint8, offset=8).astype("int64"),
    )


def sorted_hashes(images, labels):
    return sorted(
        hashlib.sha256(image.tobytes() + bytes([label])).digest()
        for image, label in zip(images, labels, strict=True)
    )


def equal(examples, others):
    return all(map(np.array_equal, examples, others))
