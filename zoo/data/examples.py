"""Images and their labels, in all forms in which users have them."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.data.catalog import DESCRIBED
from zoo.data.datasets import dataset_info, load_dataset
from zoo.data.images import find_images, is_file_shape, read_image
from zoo.errors import check_argument
from zoo.files import PathLike, expand

ArrayPair = tuple[np.ndarray, np.ndarray]  # `(images, labels)`
Data = Any  # the argument `data`, which `zoo.train` describes

# The splits, and the names of their folders and arrays.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
ALL = "all"  # The split of data that have none.


class MissingSplitError(ValueError):
    """Raised when data lack a requested split."""


class LabeledImages(NamedTuple):
    """Images `(n, ...)` and their labels `(n,)`, indices of `categories` if known."""

    images: np.ndarray
    labels: np.ndarray
    categories: tuple[str, ...] | None = None
    normalization: str | None = None

    def labels_in(self, categories: Sequence[str] | None) -> np.ndarray:
        """Returns the labels as indices of the categories of a model."""
        if not self.categories or not categories:
            return self.labels
        if unknown := sorted(set(self.categories) - set(categories)):
            raise ValueError(
                "The data have labels that the model does not know. Expected: "
                f"{list(categories)}. Received: {unknown}."
            )
        order = [categories.index(category) for category in self.categories]
        return np.take(order, self.labels)


def load_examples(
    data: Data,
    split: str,
    *,
    data_dir: PathLike | None = None,
    shape: tuple[int, ...] = (28, 28, 1),
    form: str | None = None,
) -> LabeledImages:
    """Loads a split of `data` (see `zoo.train`) into memory.

    The files of a folder become pixels of `shape` in the normalization `form`.
    """
    path = find_path(data)
    if isinstance(data, str) and path is None:
        info = dataset_info(data)
        images, labels = load_dataset(data, split, as_="numpy", data_dir=data_dir)
        return LabeledImages(images, labels, info.classes, info.normalization)
    _check_split(split)
    if path is not None and path.is_dir():
        examples = _read_folder(path, split, shape, form)
    elif path is not None:
        examples = _read_npz(path, split)
    else:
        arrays = data if isinstance(data, tuple | list) else _collect(data)
        examples = _name_classes(*check_examples(arrays), _find_names(data))
    if examples.images.ndim == 3 == len(shape):  # Gray images without their channel.
        return examples._replace(images=examples.images[..., None])
    return examples


def load_training_data(
    data: Data,
    split: str,
    validation_data: Data,
    *,
    known: Sequence[str] | None = None,
    **options: Any,
) -> tuple[LabeledImages, ArrayPair | None]:
    """Loads images to train on, and those to validate on or `None`.

    If the model knows the labels, they keep their indices in `known`. Arrays
    are assumed to be normalized as the model expects.
    """
    if split not in ("train", "train+validation"):
        raise ValueError(
            "`split` must be 'train' or 'train+validation': test images are not used "
            f"for training. Received: split={split!r}."
        )
    examples, validation = load_examples(data, split, **options), None
    form = examples.normalization or options.get("form")
    examples = examples._replace(normalization=form)
    if known and set(examples.categories or ()) <= set(known):
        labels = examples.labels_in(known)
        examples = examples._replace(labels=labels, categories=tuple(known))
    if validation_data is not None:
        part = choose_split(validation_data, "validation")
        validation = load_examples(validation_data, part, **options)
    elif split == "train" and isinstance(data, str | os.PathLike):
        with contextlib.suppress(MissingSplitError):
            validation = load_examples(data, "validation", **options)
    if validation is None:
        return examples, None
    names, highest = validation.categories, examples.labels.max()
    if names and not examples.categories and len(names) <= highest:
        raise ValueError(
            "The classes of the validation data cannot be matched with labels up to "
            f"{highest}. Pass arrays, too. Received: validation data with {names}."
        )
    return examples, (validation.images, validation.labels_in(examples.categories))


def has_splits(data: Data) -> bool:
    """Returns `True` if data are a dataset, folder or file with several splits."""
    path = find_path(data)
    if path is None:
        return isinstance(data, str)
    if path.is_dir():
        return bool(_find_splits(path))
    with _open(path) as file:
        return bool(_find_arrays(file.files))


def choose_split(data: Data, split: str) -> str:
    """Returns a split, or `ALL` for data without splits."""
    _check_split(split)
    return split if has_splits(data) else ALL


def _check_split(split: str) -> None:
    is_split = split == ALL or set(split.split("+")) <= SPLITS.keys()
    expected = f"one of {[*SPLITS]}, or several joined by '+'"
    check_argument(is_split, "split", split, expected)


def find_path(data: Data) -> Path | None:
    """Returns `data` as a path, or `None`. A dataset's name is never a path."""
    if not isinstance(data, str | os.PathLike) or data in ("", *DESCRIBED):
        return None
    path = expand(data)
    is_name = isinstance(data, str) and path.name == data and path.suffix != ".npz"
    return None if is_name and not path.exists() else path


def dataset_name(data: Data) -> str | None:
    """Returns `data` if it is the name of a dataset, or `None`."""
    return data if isinstance(data, str) and find_path(data) is None else None


def locate(data: Data) -> str | None:
    """Returns `data` as a name or an absolute path, or `None` if it is neither."""
    path = find_path(data)
    return os.path.abspath(path) if path else dataset_name(data)


def check_examples(examples: Any) -> ArrayPair:
    """Returns `(images, labels)` as arrays of shapes `(n, ...)` and `(n,)`."""
    if len(examples) != 2:
        raise ValueError(
            "Data must be pairs of images and labels, without sample weights. "
            f"Received: a tuple of {len(examples)}."
        )
    try:
        images, labels = map(np.asarray, examples)
    except ValueError as error:  # e.g. the two pairs of Keras' `load_data()`
        raise ValueError(
            "Data must be one pair of arrays, and all images must have the same shape. "
            "Pass other splits as `validation_data`. Received: "
            f"{', '.join(type(part).__name__ for part in examples)}."
        ) from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if (
        images.ndim < 2
        or labels.ndim != 1
        or not 0 < len(images) == len(labels)
        or not np.issubdtype(labels.dtype, np.integer)
        or labels.min() < 0
    ):
        raise ValueError(
            "Images and labels must have the shapes (n, ...) and (n,) or (n, 1), with "
            f"integer labels from 0. Received: images of shape {images.shape}, "
            f"{labels.dtype} labels of shape {np.shape(examples[1])}."
        )
    kind = images.dtype.kind
    if kind not in "biufV" or (kind in "fV" and not np.isfinite(images).all()):
        raise ValueError(  # V: bfloat16.
            "Images must be finite real numbers. Received: "
            f"{images.dtype} images{', some NaN or infinite' * (kind in 'fV')}."
        )
    return images, labels


def _find_names(data: Any) -> Sequence[str]:
    """Returns the names that `image_dataset_from_directory` gives to classes."""
    if hasattr(data, "class_names") or not hasattr(data, "element_spec"):
        return getattr(data, "class_names", None) or ()
    is_zip = hasattr(data, "_datasets")
    if is_zip or (hasattr(data, "_map_func") and not _keeps_labels(data)):
        return ()
    # The datasets before `map`, `prefetch`, `concatenate`...
    found = {tuple(_find_names(dataset)) for dataset in data._inputs()}
    if len(found - {()}) > 1:
        raise ValueError(
            "The parts of a dataset must have the same classes. "
            f"Received: {sorted(found)}."
        )
    return found.pop() if len(found) == 1 else ()


def _keeps_labels(data: Any) -> bool:
    """Returns `True` if the function of a `map` returns the labels that it takes."""
    graph, spec = data._map_func.function.graph, data._input_dataset.element_spec
    label = graph.outputs[-1]
    while label.op.type in ("Identity", "Cast"):
        label = label.op.inputs[0]
    return isinstance(spec, tuple) and label is graph.inputs[len(spec) - 1]


def _name_classes(
    images: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> LabeledImages:
    names = tuple(map(str, names))
    if names and not labels.max() < len(set(names)) == len(names):
        raise ValueError(
            "Categories must be distinct, one per class. Received: "
            f"categories={names} for labels up to {labels.max()}."
        )
    return LabeledImages(images, labels, names or None)


def _collect(data: Any) -> tuple[np.ndarray, ...]:
    """Draws all batches of a `tf.data.Dataset` or a `PyDataset`."""
    batches: list[Any] = []
    if hasattr(data, "as_numpy_iterator") and data.cardinality() != -1:  # -1: endless
        spec = data.element_spec
        parts = spec if isinstance(spec, tuple) else [spec]
        first, last = (getattr(x, "shape", None) for x in (parts[0], parts[-1]))
        if first and last is not None and last.rank == 0 and first.is_fully_defined():
            data = data.batch(1024)
        batches = list(data.as_numpy_iterator())
    elif count := getattr(data, "num_batches", None):
        batches = [data[index] for index in range(count)]
    if not batches or not all(
        isinstance(batch, tuple | list) and np.ndim(batch[0]) > 0 for batch in batches
    ):
        raise ValueError(
            "Data must be the name of a dataset, a folder with a subfolder of images "
            "per class, a .npz file, (images, labels), or a finite `tf.data.Dataset` "
            f"or `PyDataset` of (images, labels). Received: data={repr(data)[:200]} "
            f"(of type {type(data).__name__})."
        )
    # The shapes of single images may be unknown to TensorFlow.
    are_single = np.ndim(batches[0][-1]) == 0
    start = 0 if are_single else 1
    shapes = {tuple(np.shape(batch[0]))[start:] for batch in batches}
    if len(shapes) > 1:
        raise ValueError(
            "All images must have the same shape. Resize them, for instance with "
            f"`tf.image.resize`. Received: images of the shapes {sorted(shapes)[:5]}."
        )
    join: Any = np.stack if are_single else np.concatenate
    return tuple(map(join, zip(*batches, strict=True)))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    if path.suffix != ".npz" or not path.is_file():
        raise FileNotFoundError(
            "Data must be a folder with a subfolder of images per class, or a .npz "
            f"file. Received: data={str(path)!r}."
        )
    try:
        with np.load(path) as file:
            yield file
    except MissingSplitError:
        raise
    except Exception as error:  # Damaged bytes can cause any exception.
        raise ValueError(
            f"The file cannot be read: {error}. Received: data={str(path)!r}."
        ) from error


def _choose_parts(splits: dict[str, Any], split: str, path: Path) -> list[Any]:
    """Returns the parts of a split, or of several joined by `+`, which must exist."""
    names = split.split("+")
    parts = [splits[name] for name in names if name in splits]
    if parts and len(parts) < len(names):
        raise MissingSplitError(
            f"The data have only the splits {[*splits]}. Received: data={str(path)!r}, "
            f"split={split!r}."
        )
    return parts


def _find_arrays(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {
        split: (f"x_{name}", f"y_{name}")
        for split, known in SPLITS.items()
        for name in known
        if {f"x_{name}", f"y_{name}"} <= set(names)
    }


def _read_npz(path: Path, split: str) -> LabeledImages:
    with _open(path) as file:
        splits = _find_arrays(file.files)
        found = _choose_parts(splits, split, path)
        if not splits and split != "validation" and {"x", "y"} <= set(file.files):
            found = [("x", "y")]
        parts = [(file[x], file[y]) for x, y in found]
        names = file["categories"].ravel().astype(str) if "categories" in file else ()
    if not parts:
        raise MissingSplitError(
            f"The file needs the arrays x_{split} and y_{split}, or only x and y. "
            f"Received: data={str(path)!r} with {sorted(file.files)}."
        )
    pair = check_examples([*map(np.concatenate, zip(*parts, strict=True))])
    return _name_classes(*pair, names)


def _find_splits(folder: Path) -> dict[str, Path]:
    """Finds the folders of splits: those that hold folders themselves."""
    return {
        split: path
        for path in _subfolders(folder)
        for split, names in SPLITS.items()
        if path.name.lower() in names and _subfolders(path)
    }


def _read_folder(
    folder: Path, split: str, shape: tuple[int, ...], form: str | None
) -> LabeledImages:
    """Reads a folder of classes, or of splits that are folders of classes."""
    if not is_file_shape(shape):
        raise ValueError(
            "To read image files, the model must have a fixed input size: (height, "
            "width), alone or with 1 or 3 channels. Received: "
            f"input_shape={shape}."
        )
    splits = _find_splits(folder)
    parts = _choose_parts(splits, split, folder)
    if not splits and split != "validation":
        parts = [folder]
    unread = {path.name for path in _subfolders(folder) if path not in splits.values()}
    if splits and unread:
        warnings.warn(
            f"Folders other than the splits are not read: {sorted(unread)}. "
            f"Received: data={str(folder)!r}.",
            stacklevel=4,
        )
    classes = [path for part in parts for path in _subfolders(part)]
    names = tuple(sorted({path.name for path in classes}))
    reserved = {name for known in SPLITS.values() for name in known}
    if len(names) < 2 or (not splits and {*map(str.lower, names)} <= reserved):
        raise (ValueError if parts else MissingSplitError)(
            "The folder needs a subfolder of images for each class, or folders train, "
            "validation and test that hold these. Received: "
            f"data={str(folder)!r} with the classes {list(names)}, split={split!r}."
        )
    found = [(path.name, *find_images(path)) for path in classes]
    if others := sum(count for *_, count in found):
        message = f"Files of types that are not read as images: {others}."
        warnings.warn(f"{message} Received: data={str(folder)!r}.", stacklevel=4)
    files = [(file, name) for name, images, _ in found for file in images]
    images = np.stack([read_image(file, shape, form) for file, _ in files])
    labels = np.array([names.index(name) for _, name in files])
    return LabeledImages(images, labels, names, form)


def _subfolders(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in paths if p.is_dir() and not p.name.startswith("."))
