"""Checkpoint files: written atomically, read with their checksums verified."""

import json
import os
import pathlib
import warnings
from typing import Any

import numpy as np

SUFFIX = ".checkpoint.npz"


class CheckpointFolder:
    """The folder with the last two checkpoints of a run."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = pathlib.Path(directory)
        self._newest: pathlib.Path | None = None  # of the intact ones

    def files(self) -> list[pathlib.Path]:
        """Returns the paths of the checkpoints, oldest first."""
        return sorted(self.directory.glob(f"*{SUFFIX}"))

    def read_newest(self) -> Any:
        """Returns the state in the newest intact checkpoint, or `None` without any."""
        files = self.files()
        for path in reversed(files):
            try:
                # It verifies the checksum of each array that is read.
                with path.open("rb") as file, np.load(file) as arrays:
                    state = _unpack(json.loads(str(arrays["state"])), arrays)
            except Exception as error:  # Damaged bytes can cause any exception.
                warnings.warn(f"{path} is damaged: {error!r}.", stacklevel=2)
            else:
                self._newest = path
                return state
        if files:
            raise ValueError(
                "Every checkpoint is damaged. Remove the files to begin the run again. "
                f"Received: directory={str(self.directory)!r} with the files "
                f"{[path.name for path in files]}."
            )
        return None

    def write(self, epoch: int, batch: int, state: dict[str, Any]) -> None:
        """Writes a checkpoint atomically, and removes all but the last two.

        `state` is a dict of numbers, strings, arrays, and lists and dicts of these.
        """
        arrays: dict[str, Any] = {}
        text = json.dumps(_pack(state, arrays))
        path = self.directory / f"{epoch:05}-{batch:08}{SUFFIX}"
        unfinished = self.directory / ".unfinished"
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                np.savez(file, state=np.array(text), **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        if path != self._newest:
            for old in set(self.files()) - {path, self._newest}:
                old.unlink(missing_ok=True)
            self._newest = path


def _pack(value: Any, arrays: dict[str, Any]) -> Any:
    """Converts a value for JSON; adds its arrays to a dict."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:  # NumPy would write it, and refuse to read it.
            raise TypeError(f"A state cannot hold objects. Received: {value!r}.")
        name = str(len(arrays))
        arrays[name] = np.asarray(value)
        return {"array": name, "dtype": str(value.dtype)}
    if isinstance(value, dict):
        return {"items": [_pack(pair, arrays) for pair in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays) for item in value]
    return value


def _unpack(value: Any, arrays: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if isinstance(value, dict):
        if "array" in value:
            # The file format of NumPy does not support bfloat16.
            return arrays[value["array"]].view(value["dtype"])
        return {key: _unpack(item, arrays) for key, item in value["items"]}
    return value
