"""The files beside the versions of a model, filled in from `templates/`."""

import json
import math
import os
import pathlib
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.files import atomic_write

TEMPLATES = pathlib.Path(__file__).parent / "templates"
FILES = ("README.md", "compose.yaml")

# At least as new as the TensorFlow that exports, so that it has all its operations.
SERVER_IMAGE = "tensorflow/serving:2.21.0"

# 28 x 28 gray pixels that show a 7.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAAAJUlEQVR42mNgGEqAEcb4j0WQCZ9OJqKM"
    "ZUAyn3JjRyUpkhx0AAC+oAIhICBeSwAAAABJRU5ErkJggg=="
)


def served_name(base: str | os.PathLike[str]) -> str:
    """Returns the name under which a folder is served: that of the folder.

    Other characters than ASCII letters, digits, `.`, `_` and `-` become `_`, so that
    the name needs no quotes in URLs, shell commands, YAML and Python.
    """
    folder = pathlib.Path(base).resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "_", folder).strip("._-") or "model"


def write_serving_files(base: pathlib.Path, contract: Mapping[str, Any]) -> None:
    """Writes those of `FILES` that do not exist to `base`, each atomically."""
    values = _values(served_name(base), contract["signatures"], contract["labels"])
    for file in FILES:
        if not os.path.lexists(base / file):
            with atomic_write(base / file) as unfinished:
                unfinished.write_text(_fill(file, values), "utf-8")


def _values(
    name: str, signatures: Mapping[str, Any], labels: Sequence[str]
) -> dict[str, object]:
    _, *shape = signatures["serving_default"]["inputs"]["image"]["shape"]
    image = "0"  # Python code of a nested list: `[[0] * 3] * 2` for the shape (2, 3).
    for length in reversed(shape):
        image = f"[{image}] * {length}"
    # JSON escapes line breaks, so labels of any text stay on their line.
    shown = json.dumps(labels[:20], ensure_ascii=False)
    if len(labels) > 20:
        shown += f" and {len(labels) - 20} more, in labels.txt"
    values: dict[str, object] = {
        "server_image": SERVER_IMAGE,
        "name": name,
        "labels": shown,
        "shape": ", ".join(map(str, shape)),
        "image": image,
        "pixels": math.prod(shape),
        "png": _PNG,
    }
    # The request to `classify` sends the image of the section before.
    sections = ["pixels.md", "classify_pixels.md"]
    if "serving_bytes" in signatures:
        sections = ["pixels.md", "bytes.md", "classify_bytes.md"]
    values["sections"] = "\n".join(_fill(section, values) for section in sections)
    return values


def _fill(template: str, values: Mapping[str, object]) -> str:
    text = (TEMPLATES / template).read_text("utf-8")
    return string.Template(text).substitute(values)
