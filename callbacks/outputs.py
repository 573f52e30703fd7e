"""Where recorded gradient norms are written: CSV files and TensorBoard."""

import collections
import csv
import os
from typing import Any

import numpy as np

from .recording import Column, Recording, Table


def to_dict(recording: Recording, variables: bool) -> dict[str, np.ndarray[Any, Any]]:
    """One array per column: step, optimizer, global norm and every layer's norm."""
    table = recording.variables() if variables else recording.layers()
    columns = {
        "step": table.steps,
        "optimizer": table.optimizers,
        "global_norm": recording.global_norm(),
    }
    for name, norms in zip(table.names, table.norms.T, strict=True):
        columns[f"layer/{name}" if name in columns else name] = norms
    return columns


def write_csv(
    path: str | os.PathLike[str],
    columns: dict[str, Any],
    *,
    separator: str = ",",
    append: bool = False,
) -> None:
    """Writes rows to a file that `pandas.read_csv` reads back without loss.

    Args:
        path: The file.
        columns: Dict from column name to values.
        separator: String between values.
        append: Boolean, whether to add to the rows that the file has, under the
            same header.

    Raises:
        ValueError: The file to append to has other columns.
    """
    header = ""
    if append and os.path.exists(path):
        with open(path) as file:
            header = file.readline().rstrip("\n")
    with open(path, "a" if append else "w", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        if not header:
            writer.writerow(columns)
        elif next(csv.reader([header], delimiter=separator)) != list(columns):
            raise ValueError(
                f"Cannot append to {os.fspath(path)!r}: its columns are not those of "
                "this model's gradient norms. Give another file, or `append=False`. "
                f"Expected: {separator.join(columns)}\nReceived: {header}"
            )
        # Python writes the shortest form of a float64 that reads back exactly.
        writer.writerows(zip(*(v.tolist() for v in columns.values()), strict=True))


class CSVOutput:
    """Appends to a file what is new in a recording."""

    def __init__(
        self, path: str | os.PathLike[str], separator: str, append: bool
    ) -> None:
        self.path, self.separator, self.append = path, separator, append
        self.columns: list[Column] = []
        self.written = 0

    def write(self, recording: Recording, epoch: int | None) -> None:
        if recording.end == self.written:
            return
        continues = recording.columns == self.columns
        if not continues and not self.append:
            self.written = 0  # also when a layer was unfrozen: all is written anew
        write_csv(
            self.path,
            to_dict(recording.since(self.written), variables=False),
            separator=self.separator,
            append=continues or self.append,
        )
        self.columns, self.written = recording.columns, recording.end

    def get_state(self) -> dict[str, int]:
        exists = os.path.exists(self.path)
        return {
            "written": self.written,
            "size": os.path.getsize(self.path) if exists else 0,
        }

    def set_state(self, state: dict[str, int], recording: Recording) -> None:
        """Drops what has been written since; what is no addition is written anew."""
        if self.append and os.path.exists(self.path):
            os.truncate(self.path, state["size"])
            self.columns, self.written = recording.columns, state["written"]


class TensorBoardOutput:
    """Writes a scalar per layer, and a histogram over layers, for TensorBoard."""

    def __init__(self, log_dir: str | os.PathLike[str], update_freq: int | str) -> None:
        import tensorflow as tf

        self.summary = tf.summary
        self.writer = tf.summary.create_file_writer(os.path.join(log_dir, "gradients"))
        self.update_freq = 1 if update_freq == "batch" else update_freq
        self.calls = collections.Counter[str]()
        self.written = 0

    def write(self, recording: Recording, epoch: int | None) -> None:
        table = recording.since(self.written).layers()
        if not len(table.steps) or (self.update_freq == "epoch" and epoch is None):
            return
        self.written = recording.end
        if self.update_freq == "epoch":
            rows = [(epoch, table.means(), table.present.any(axis=0))]
        else:
            due = self._due(table, int(self.update_freq))
            columns = table.steps[due], table.norms[due], table.present[due]
            rows = list(zip(*columns, strict=True))
        with self.writer.as_default():
            for step, norms, present in rows:
                for index in np.flatnonzero(present):
                    name = f"gradient_norm/{table.names[index]}"
                    self.summary.scalar(name, norms[index], step)
                positive = norms[np.isfinite(norms) & (norms > 0)]
                self.summary.histogram("log10_gradient_norm", np.log10(positive), step)
        self.writer.flush()

    def get_state(self) -> dict[str, Any]:
        return {"written": self.written, "calls": dict(self.calls)}

    def set_state(self, state: dict[str, Any], recording: Recording) -> None:
        self.written, self.calls = state["written"], collections.Counter(state["calls"])

    def _due(self, table: Table, every: int) -> list[int]:
        """The rows to write: one in `every` of each optimizer's calls."""
        due = []
        for row, optimizer in enumerate(table.optimizers):
            if self.calls[optimizer] % every == 0:
                due.append(row)
            self.calls[optimizer] += 1
        return due
