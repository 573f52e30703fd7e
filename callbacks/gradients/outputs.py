"""Writes gradient norms to CSV files and for TensorBoard."""

import csv
import functools
import importlib.util
import os
from typing import Any

import numpy as np

from .record import Column, Record

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


def write_csv(path: Path, columns: dict[str, Any], append: bool = False) -> None:
    """Writes columns to a file; with `append`, their rows alone."""
    with open(path, "a" if append else "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not append:
            writer.writerow(columns)
        # Python writes the shortest form of a float64 that reads back exactly.
        writer.writerows(zip(*(v.tolist() for v in columns.values()), strict=True))


class CSVOutput:
    """Writes a record to a file, first as a whole, later its new rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[Column] = []
        self.written = 0

    def write(self, record: Record, epoch: int | None) -> None:
        if record.end == self.written:
            return
        # If a layer was unfrozen, say, all rows are written again.
        append = record.columns == self.columns
        rows = record.since(self.written if append else 0)
        write_csv(self.path, to_dict(rows, variables=False), append)
        self.columns, self.written = record.columns, record.end


class TensorBoardOutput:
    """Writes a scalar per layer and a histogram over layers for TensorBoard."""

    def __init__(self, log_dir: Path, update_freq: str, written: int) -> None:
        if not all(map(importlib.util.find_spec, ("tensorflow", "tensorboard"))):
            raise ImportError(
                "`log_dir` needs TensorFlow and TensorBoard: `pip install "
                f"gradzoo[tensorboard]`. Received: log_dir={os.fspath(log_dir)!r}."
            )
        import tensorflow as tf

        self.summary = tf.summary
        self.folder = os.path.join(log_dir, "gradients")
        self.update_freq = update_freq
        self.written = written

    @functools.cached_property
    def writer(self) -> Any:
        """Creates the file, which a copy of the callback may never need."""
        return self.summary.create_file_writer(self.folder)

    def write(self, record: Record, epoch: int | None) -> None:
        table = record.since(self.written).layers()
        if not len(table.steps) or (self.update_freq == "epoch" and epoch is None):
            return
        self.written = record.end
        rows: Any = zip(table.steps, table.norms, table.present, strict=True)
        if self.update_freq == "epoch":
            rows = [(epoch, table.means(), table.present.any(axis=0))]
        with self.writer.as_default():
            for step, norms, present in rows:
                for index in np.flatnonzero(present):
                    name = f"gradient_norm/{table.names[index]}"
                    self.summary.scalar(name, norms[index], step)
                positive = norms[np.isfinite(norms) & (norms > 0)]
                self.summary.histogram("log10_gradient_norm", np.log10(positive), step)
        self.writer.flush()
