"""Images in files, folders and arrays, found and read as a model takes them.

All of them together are rows, which are numbered from 0.
"""

import dataclasses
import glob
import hashlib
import os
from collections.abc import Iterable, Iterator

import keras
import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
PREPROCESSING = (
    "raw pixels; files turned as their Exif orientation says, put on white where they "
    "are transparent, converted to the model's channels, resized bilinearly"
)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The images to predict, in an order of which every row has its place.

    Attributes:
        files: paths of image files, one row each, and of `.npy` files.
        ends: int64 `[len(files)]`, the number of rows up to the end of each file.
    """

    files: list[str]
    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def between(self, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
        """Rows `start` to `stop` as `(file, first, last)`, images counted in the file.

        `last` is the first image that is not meant, as in a slice.
        """
        i = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            begins = int(self.ends[i - 1]) if i else 0
            end = min(stop, int(self.ends[i]))
            if start < end:  # There are arrays of no images.
                yield self.files[i], start - begins, end - begins
            start, i = end, i + 1

    def sha256(self) -> str:
        """Tells one list of files, of these sizes, from others."""
        digest = hashlib.sha256(self.ends.tobytes())
        for file in self.files:
            digest.update(os.fsencode(file) + b"\0")
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some rows, as they were read.

    Attributes:
        files: path of each row's file.
        indices: each row's place in its `.npy` file, or `None`.
        errors: why a row could not be predicted, or `None`.
        pixels: `[batch size, *input shape]`, zeros where there is an error and behind
            the last row.
    """

    files: list[str]
    indices: list[int | None]
    errors: list[str | None]
    pixels: np.ndarray

    def name(self, i: int) -> str:
        """How messages call the image of row `i`."""
        index = self.indices[i]
        return self.files[i] if index is None else f"{self.files[i]}[{index}]"


def list_inputs(
    model: keras.Model, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
) -> Inputs:
    """Finds the images that `predict_files` describes; reads no more than headers.

    Raises:
        FileNotFoundError: a path or pattern names nothing. An image file that is not
            there is listed as one that cannot be read.
        ValueError: the model takes no such images.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    shape = model.input_shape[1:]
    if None in shape:
        raise ValueError(
            "The model must have one input of a fixed shape. Received: "
            f"{model.name!r} with input shape {model.input_shape}"
        )
    files = list(dict.fromkeys(file for path in paths for file in _expand(path)))
    counts = [_count_images(file, shape) for file in files]
    return Inputs(files, np.cumsum(counts, dtype=np.int64))


def read_image(path: str | os.PathLike[str], shape: tuple[int, ...]) -> np.ndarray:
    """Reads an image file as raw pixels: uint8 `shape`, (height, width, channels)."""
    height, width, channels = shape
    with Image.open(path, formats=("PNG", "JPEG")) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip.
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        image = image.convert("RGBA")
        # Where an image is transparent, one sees the page behind it.
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)


def read_batch(
    pieces: Iterable[tuple[str, int, int]],
    shape: tuple[int, ...],
    batch_size: int,
    invert: bool,
) -> Batch:
    files: list[str] = []
    indices: list[int | None] = []
    errors: list[str | None] = []
    blocks = []
    for file, first, last in pieces:
        error = None
        try:
            if _is_array(file):
                # Mapped for this batch alone: what was read would else stay mapped.
                block = np.load(file, mmap_mode="r")[first:last]
                block = block.reshape(last - first, *shape)
            else:
                block = read_image(file, shape)[np.newaxis]
            if invert:
                dtype = np.result_type(block, np.uint8)
                block = np.subtract(255, block, dtype=dtype)
        except Exception as failure:  # Pillow raises many kinds on damaged files.
            block = np.zeros((last - first, *shape), np.uint8)
            reason = getattr(failure, "strerror", None) or str(failure)
            error = reason or type(failure).__name__
        blocks.append(block)
        files += [file] * (last - first)
        indices += range(first, last) if _is_array(file) else [None]
        errors += [error] * (last - first)
    blocks.append(np.zeros((batch_size - len(files), *shape), np.uint8))
    return Batch(files, indices, errors, np.concatenate(blocks))


def _expand(path: str | os.PathLike[str]) -> list[str]:
    """The files that one of the paths stands for."""
    name = os.fsdecode(path)
    if os.path.isdir(name):
        found = sorted(_images_in(name))
    elif os.path.exists(name):
        found = [name]
    elif any(wildcard in name for wildcard in "*?["):
        matches = glob.iglob(name, recursive=True)
        found = sorted(match for match in matches if not os.path.isdir(match))
    else:
        found = [name] if name.lower().endswith(IMAGE_SUFFIXES) else []
    if not found:
        raise FileNotFoundError(
            "There are no images here: name image files, folders that hold PNG or JPEG "
            "files, patterns such as 'scans/**/*.png' or .npy files of pixels. "
            f"Received: {name}"
        )
    return found


def _images_in(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield os.path.join(place, name)


def _is_array(file: str) -> bool:
    return file.lower().endswith(".npy")


def _count_images(file: str, shape: tuple[int, ...]) -> int:
    """How many rows a file has; `ValueError` if they are none for the model."""
    if not _is_array(file):
        if len(shape) != 3 or shape[2] not in (1, 3):
            raise ValueError(
                "Image files are for models whose input is (height, width, 1) or "
                "(height, width, 3); others take .npy files. Received: input shape "
                f"{shape} and {file}"
            )
        return 1
    try:
        images = np.load(file, mmap_mode="r")
    except (OSError, ValueError):  # It is a row, which will tell what is wrong.
        return 1
    received = f"{type(images).__name__}"
    if isinstance(images, np.ndarray):
        received = f"{images.dtype} of shape {list(images.shape)}"
        # Axes of one channel, or of one pixel, change nothing.
        if images.dtype.kind in "uif" and _sides(images.shape[1:]) == _sides(shape):
            return len(images)
    raise ValueError(
        f"An array of images for this model is numeric and has the shape "
        f"{['n', *shape]}: n images of raw pixels. Received: {file}, {received}"
    )


def _sides(shape: tuple[int, ...]) -> list[int]:
    return [side for side in shape if side != 1]
