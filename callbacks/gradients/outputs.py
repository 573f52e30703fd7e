"""Writes gradient norms to CSV files and for TensorBoard."""

import atexit
import csv
import functools
import importlib.util
import io
import os
import sys
import warnings
import weakref
from typing import Any

import keras
import numpy as np

from .plotting import plot
from .record import Column, Record

Path = str | os.PathLike[str]

# Callbacks with rows to write. Keras does not tell them of an exception in another
# callback: they write when they are deleted, or when Python exits.
unwritten: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def write_all() -> None:
    for callback in list(unwritten):
        callback.flush()


def to_dict(record: Record, variables: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Implements `GradientNorms.to_dict`."""
    table = record.variables() if variables else record.layers()
    columns: dict[str, Any] = {"step": table.steps, "optimizer": table.optimizers}
    columns["global_norm"] = record.global_norm()
    for name, norms in table.by_name().items():
        columns[f"layer/{name}" if name in columns else name] = norms
    return columns


def write_csv(path: Path, columns: dict[str, Any], append: bool = False) -> None:
    """Writes columns to a file; with `append`, only their rows."""
    path, mode = os.path.expanduser(path), "a" if append else "w"
    with open(path, mode, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not append:
            writer.writerow(columns)
        # Python writes the shortest form of a float64 that reads back exactly.
        writer.writerows(zip(*(v.tolist() for v in columns.values()), strict=True))


def warn_if_behind(callback: Any) -> None:
    """Warns if callbacks that read the logs come before the one that adds to them.

    Called from `on_train_begin`. Keras does not pass the list of callbacks, which the
    calling `CallbackList` holds.
    """
    container = sys._getframe(2).f_locals.get("self")
    if not isinstance(container, keras.callbacks.CallbackList):
        return
    earlier = container.callbacks[: container.callbacks.index(callback)]
    default = keras.callbacks.Callback.on_epoch_end
    names = [type(c).__name__ for c in earlier if type(c).on_epoch_end is not default]
    if names:
        warnings.warn(
            "`logs=True` adds only to the logs of later callbacks. Put GradientNorms "
            f"first. Received: callbacks=[{', '.join(names)}, GradientNorms].",
            stacklevel=2,
        )


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
    """Writes log10 of the norms, their histogram and the plot for TensorBoard."""

    def __init__(self, log_dir: Path, update_freq: str, written: int) -> None:
        if not all(map(importlib.util.find_spec, ("tensorflow", "tensorboard"))):
            raise ImportError(
                '`log_dir` needs TensorFlow and TensorBoard: `pip install "'
                f'gradzoo[tensorboard]"`. Received: log_dir={os.fspath(log_dir)!r}.'
            )
        import tensorflow as tf

        self.summary, self.decode_png = tf.summary, tf.io.decode_png
        self.folder = os.path.join(os.path.expanduser(log_dir), "gradients")
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
        rows: Any = zip(table.steps, table.norms, strict=True)
        if self.update_freq == "epoch":
            rows = [(epoch, table.means(record.dynamic_scale))]
        with self.writer.as_default():
            for step, norms in rows:
                positive = np.flatnonzero(np.isfinite(norms) & (norms > 0))
                logs = np.log10(norms[positive])
                for index, log in zip(positive, logs, strict=True):
                    name = f"log10_gradient_norm/{table.names[index]}"
                    self.summary.scalar(name, log, step)
                self.summary.histogram("log10_gradient_norm", logs, step)
            if epoch is not None and importlib.util.find_spec("matplotlib"):
                from matplotlib.figure import Figure  # pyplot may need a screen.

                file = io.BytesIO()
                figure = plot([record], Figure(layout="constrained"))
                figure.savefig(file, format="png")
                image = self.decode_png(file.getvalue())
                self.summary.image("gradient_norms", image[None], epoch)
        self.writer.flush()
