"""Errors, warnings, and the messages of TensorFlow."""

import contextlib
import difflib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def suggest(word: str, words: Sequence[str]) -> str:
    """Returns the end of a message about a wrong name: a guess and all names."""
    matches = difflib.get_close_matches(word.lower(), words, n=1)
    guess = f"Did you mean {matches[0]!r}? " if matches else ""
    return f"{guess}Available: {', '.join(map(repr, words)) or 'none'}."


def check_argument(is_valid: object, name: str, value: object, expected: str) -> None:
    """Raises a `ValueError` that says what an argument must be, unless it is valid."""
    if not is_valid:
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}.")


def require(package: str, source: str, purpose: str) -> None:
    """Raises a ModuleNotFoundError unless a package is installed.

    `source` is what to install, and `purpose` the beginning of the message.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{purpose} needs a package that is not installed. Run "
            f'`pip install "{source}"`. Received: package={package!r}.',
            name=package,
        )


def warn_if_scaled(images: Any) -> None:
    """Warns of floating pixels in [0, 1], unless all are 0 or 1, as in a mask."""
    pixels = np.asarray(images)
    inside = pixels.dtype.kind == "f" and np.any((pixels > 0) & (pixels < 1))
    if inside and pixels.min() >= 0 and pixels.max() <= 1:
        warnings.warn(
            "The pixels lie in [0, 1], but the model takes raw pixels in [0, 255]. "
            "Multiply them by 255, or ignore this warning if your model takes pixels "
            f"in [0, 1]. Received: images.max()={pixels.max():.3g}.",
            stacklevel=3,
        )


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Hides TensorFlow's messages: temporary paths, and functions traced again."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
