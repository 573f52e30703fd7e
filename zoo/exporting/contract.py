"""The files of an exported version, and `export.json`, which describes them."""

import json
import pathlib
from typing import Any

from zoo.exporting import runtimes

FORMATS = ("saved_model", *runtimes.FORMATS)


def read_contract(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the `export.json` of a version."""
    path = folder / "export.json"
    if not path.is_file():
        raise FileNotFoundError(
            "No version written by `zoo.export` was found. Pass the folder of a "
            f"version, or the folder of all versions. Received: path={str(folder)!r}."
        )
    try:
        contract: dict[str, Any] = json.loads(path.read_text("utf-8"))
        is_complete = contract.keys() >= {"labels", "signatures", "files"}
        if is_complete and contract["format"] in FORMATS:
            return contract
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(
        f"The file is damaged. Export the model again. Received: path={str(path)!r}."
    )


def list_versions(base: pathlib.Path) -> dict[int, pathlib.Path]:
    """Lists the versions in a folder by number, as TF Serving finds them."""
    if not base.is_dir():
        return {}
    numbered = (x for x in base.iterdir() if x.name.isascii() and x.name.isdecimal())
    return {int(path.name): path for path in numbered}


def list_files(folder: pathlib.Path) -> list[str]:
    """Lists the files of a version by their relative paths."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)
