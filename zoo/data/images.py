"""Image files: finding them, and reading them as pixels."""

import contextlib
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from zoo.data.normalization import fit
from zoo.files import PathLike, atomic_write, expand

_SUFFIXES = """.png .jpg .jpeg .jpe .jfif .jp2 .webp .avif .heic .heif .bmp .tif .tiff
.gif .pbm .pgm .pnm .ppm"""
IMAGE_SUFFIXES = tuple(_SUFFIXES.split())


def find_images(path: PathLike) -> tuple[list[pathlib.Path], int]:
    """Lists `path` itself or the images in a folder, and counts the other files.

    Folders are searched recursively, linked ones once, and hidden ones are skipped.
    """
    path = expand(path)
    files = _files_in(path) if path.is_dir() else [path]
    suffixes = IMAGE_SUFFIXES if path.is_dir() else ""
    images = [file for file in files if file.name.lower().endswith(suffixes)]
    if not images or not path.exists():
        raise FileNotFoundError(
            "Each path must be an image file, or a folder with image files "
            f"({', '.join(IMAGE_SUFFIXES)}). Received: path={str(path)!r}."
        )
    return images, len(files) - len(images)


def is_file_shape(shape: tuple[int | None, ...]) -> bool:
    """Returns `True` if image files can become pixels of this shape."""
    is_fixed = all(isinstance(size, int) for size in shape)
    return is_fixed and len(shape) > 1 and shape[2:] in ((), (1,), (3,))


def read_image(
    file: PathLike, shape: tuple[int, ...], form: str | None = None
) -> np.ndarray:
    """Reads an image file as the pixels that a model takes.

    The image is turned upright (Exif), the first frame of an animation is taken, and
    `zoo.data.normalization.fit` converts the result to uint8 pixels. Warns if an image
    shows no ink; an `OSError` names a file that is not an image.
    """
    with contextlib.suppress(ImportError):
        import pillow_heif  # type: ignore[import-not-found]

        pillow_heif.register_heif_opener()
    is_path = isinstance(file, str | os.PathLike)
    source = expand(file) if is_path else file
    name = repr(os.fspath(file)) if is_path else repr(file)[:100]
    try:
        with Image.open(source) as opened:
            image = ImageOps.exif_transpose(opened)
        if image.mode[0] in "IF":
            image = _to_8_bits(image)
        rgba = np.asarray(image.convert("RGBA"), np.float32)
    except Exception as error:  # Pillow raises many types for damaged files.
        raise OSError(
            f"The image cannot be read: {error}. Received: file={name}."
        ) from error
    pixels = np.asarray(fit(rgba, shape, form), np.uint8)
    if form is not None and not pixels.any():
        message = "No ink was found, so a prediction would be meaningless. "
        warnings.warn(f"{message}Received: file={name}.", stacklevel=3)
    return pixels


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scales gray of 16 or 32 bits or of floats, which Pillow would clip."""
    gray = np.nan_to_num(np.asarray(image, np.float32))
    ranges = {"F": (1, 255), "I": (255, 65_535)}
    small, large = ranges.get(image.mode, (65_535, 65_535))
    white = small if gray.max() <= small else large
    return Image.fromarray(np.clip(gray * 255 / white, 0, 255).round().astype(np.uint8))


def draw_images(
    path: PathLike, images: Sequence[np.ndarray], captions: Sequence[str]
) -> None:
    """Writes a PNG file with images side by side, enlarged, above their captions."""
    side = 112
    sheet = Image.new("RGB", (side * min(len(images), 8), 130 * -(-len(images) // 8)))
    for index, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        corner = index % 8 * side, index // 8 * 130
        tile = Image.fromarray(np.squeeze(pixels)).convert("RGB")
        sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), corner)
        ImageDraw.Draw(sheet).text((corner[0] + 4, corner[1] + side + 2), caption)
    with atomic_write(path) as unfinished:
        sheet.save(unfinished, format="PNG")


def _files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    files, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [pathlib.Path(parent, n) for n in names if not n.startswith(".")]
    return sorted(files)
