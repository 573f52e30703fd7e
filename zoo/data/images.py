"""Image files: finding them, and reading them as pixels."""

import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[pathlib.Path]:
    """Lists image files.

    Args:
        paths: Paths of image files, and of folders, which are searched recursively for
            PNG and JPEG files. Hidden files and folders in them are skipped.

    Returns:
        List of paths without duplicates, sorted within each folder.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds no images.
    """
    found: dict[pathlib.Path, None] = {}
    for path in map(pathlib.Path, paths):
        images = sorted(_images_in(path)) if path.is_dir() else [path]
        if not images or not path.exists():
            raise FileNotFoundError(
                "Each path must be an image file, or a folder with PNG or JPEG files. "
                f"Received: path={str(path)!r}."
            )
        found |= dict.fromkeys(images)
    return list(found)


def read_image(path: str | os.PathLike[str], shape: tuple[int, ...]) -> np.ndarray:
    """Reads an image file as raw pixels.

    The image is rotated according to its Exif orientation, composited over white where
    it is transparent, converted to the number of channels in `shape`, and resized
    bilinearly.

    Args:
        path: Path of a PNG or JPEG file.
        shape: Tuple of integers, `(height, width, 1)` or `(height, width, 3)`.

    Returns:
        uint8 array of shape `shape`.

    Raises:
        OSError: If the file cannot be read, or is neither a PNG nor a JPEG file.
    """
    height, width, channels = shape
    with Image.open(path, formats=("PNG", "JPEG")) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):  # 16-bit gray, which `convert` would clip.
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)


def _images_in(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield pathlib.Path(parent, name)
