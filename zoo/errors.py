"""Errors, warnings, and the messages of TensorFlow."""

import contextlib
import difflib
import importlib.util
import logging
import numbers
import os
import re
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


def is_size(value: Any) -> bool:
    """Returns `True` for a positive integer of any type that fits into 64 bits."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and 0 < value < 2**63


def check_size(name: str, value: Any) -> int:
    """Returns `value` as an `int`; raises a `ValueError` unless it is positive."""
    check_argument(is_size(value), name, value, "a positive integer")
    return int(value)


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


def as_list(values: Any) -> list[Any]:
    """Returns a sequence or an array as a list; `[]` for other types and text."""
    values = values.tolist() if hasattr(values, "tolist") else values
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    return list(values) if is_sequence else []


def holds_files(images: Any) -> bool:
    """Returns `True` for a list of image files, `False` for an array of numbers."""
    first = images[0] if isinstance(images, list | tuple) and images else None
    if isinstance(first, str | bytes | os.PathLike):
        return True
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise ValueError(
            "`images` must all have the same shape. Received: "
            f"images={repr(images)[:200]}."
        ) from error
    if array.ndim == 0 or array.dtype.kind not in "biufV":  # V: bfloat16.
        raise TypeError(
            "`images` must be an array of numbers or a list of PNG or JPEG files, as "
            f"paths or bytes. Received: images={repr(images)[:200]}."
        )
    return False


def name_image(images: Any, index: int) -> str:
    """Returns the name of a file in a list for messages, with its path if known."""
    path = "" if isinstance(images[index], bytes) else f" ({images[index]})"
    return f"images[{index}]{path}"


def warn_if_scaled(images: Any) -> None:
    """Warns if pixels are not raw: outside [0, 255], or their maximum in (0, 1]."""
    pixels = np.asarray(images)
    if not pixels.size or pixels.dtype.kind not in "biuf":
        return
    low, high = float(pixels.min()), float(pixels.max())
    is_dark = pixels.dtype.kind in "iu" and len(pixels) == 1  # One dark image.
    if low < 0 or high >= 256 or (0 < high <= 1 and not is_dark):
        warnings.warn(
            f"The pixels lie in [{low:.3g}, {high:.3g}], but the model takes raw "
            "pixels in [0, 255]. Pass them unscaled, or ignore this warning if your "
            f"model takes others. Received: images.max()={high:.3g}.",
            stacklevel=3,
        )


# Stack traces, names of nodes, and the JSON around a message of TF Serving.
_NOISE = (
    r"(?s)^Graph execution error.*?unavailable>\n"
    r"|\{\{function_node .*?\}\}\s*(?!\]\])"
    r"|(\s|\\[nt])*\[\[\{\{.*"
    r'|^\{\s*"error":\s*"|"\s*\}\s*$'
)


def clean_message(message: str) -> str:
    """Returns a message of TensorFlow without stack traces, nodes or brackets."""
    text = re.sub(_NOISE, "", message)
    # The files that an assertion lists are named by their place in the request.
    assertion = r"assertion failed: \[(.*?)(?: Received: files\] \[[\d ]+|)\]"
    return re.sub(assertion, r"\1", text)


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Hides TensorFlow's messages about temporary paths and retraced functions."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
