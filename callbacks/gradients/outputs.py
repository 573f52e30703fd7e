"""Writes gradient norms to CSV files and for TensorBoard."""

import collections
import csv
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .record import Column, Record, Table

Path = str | os.PathLike[str]


def to_dict(record: Record, variables: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Implements `GradientNorms.to_dict`."""
    table = record.variables() if variables else record.layers()
    columns = {
        "step": table.steps,
        "optimizer": table.optimizers,
        "global_norm": record.global_norm(),
    }
    for name, norms in table.by_name().items():
        columns[f"layer/{name}" if name in columns else name] = norms
    return columns


def write_csv(
    path: Path, columns: dict[str, Any], separator: str = ",", append: bool = False
) -> None:
    """Writes columns to a file, after its rows if `append` is True."""
    with open(path, "a+" if append else "w+", newline="") as file:
        file.seek(0)
        header = next(csv.reader(file, delimiter=separator), [])
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        if not header:
            writer.writerow(columns)
        elif header != list(columns):
            raise ValueError(
                f"Cannot append to {os.fspath(path)!r}: it has other columns than this "
                "model's gradient norms. Choose another file, or set `append=False`. "
                f"Expected: {separator.join(columns)}. "
                f"Received: {separator.join(header)}."
            )
        # Python writes the shortest form of a float64 that reads back exactly.
        writer.writerows(zip(*(v.tolist() for v in columns.values()), strict=True))


class CSVOutput:
    """Appends new rows of a record to a file."""

    def __init__(self, path: Path, separator: str, append: bool) -> None:
        self.path, self.separator, self.append = path, separator, append
        self.columns: list[Column] = []
        self.written = 0

    def write(self, record: Record, epoch: int | None) -> None:
        if record.end == self.written:
            return
        append = self.append or record.columns == self.columns
        # A layer was unfrozen, say: then all rows are written again.
        rows = record.since(self.written if append else 0)
        columns = to_dict(rows, variables=False)
        write_csv(self.path, columns, self.separator, append)
        self.columns, self.written = record.columns, record.end

    def get_state(self) -> dict[str, int]:
        size = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        return {"written": self.written, "size": size}

    def set_state(self, state: dict[str, int], record: Record) -> None:
        """Drops the rows written since `get_state`."""
        # Without `append`, the file is rewritten from the record.
        if self.append and os.path.exists(self.path):
            os.truncate(self.path, state["size"])
            self.columns, self.written = record.columns, state["written"]


class TensorBoardOutput:
    """Writes a scalar per layer and a histogram over layers for TensorBoard."""

    def __init__(self, log_dir: Path, update_freq: int | str) -> None:
        import tensorflow as tf

        self.summary = tf.summary
        self.writer = tf.summary.create_file_writer(os.path.join(log_dir, "gradients"))
        self.update_freq = 1 if update_freq == "batch" else update_freq
        self.calls = collections.Counter[str]()
        self.written = 0

    def write(self, record: Record, epoch: int | None) -> None:
        table = record.since(self.written).layers()
        if not len(table.steps) or (self.update_freq == "epoch" and epoch is None):
            return
        self.written = record.end
        with self.writer.as_default():
            for step, norms, present in self._rows(table, epoch):
                for index in np.flatnonzero(present):
                    name = f"gradient_norm/{table.names[index]}"
                    self.summary.scalar(name, norms[index], step)
                positive = norms[np.isfinite(norms) & (norms > 0)]
                self.summary.histogram("log10_gradient_norm", np.log10(positive), step)
        self.writer.flush()

    def _rows(self, table: Table, epoch: int | None) -> Iterator[tuple[Any, ...]]:
        """Yields (step, norms, present): one in `update_freq` calls, or the means."""
        if self.update_freq == "epoch":
            yield epoch, table.means(), table.present.any(axis=0)
            return
        rows = zip(table.steps, table.norms, table.present, strict=True)
        for row, optimizer in zip(rows, table.optimizers, strict=True):
            if self.calls[optimizer] % int(self.update_freq) == 0:
                yield row
            self.calls[optimizer] += 1

    def get_state(self) -> dict[str, Any]:
        return {"written": self.written, "calls": dict(self.calls)}

    def set_state(self, state: dict[str, Any], record: Record) -> None:
        self.written, self.calls = state["written"], collections.Counter(state["calls"])
