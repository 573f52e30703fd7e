"""What `GradientNorms` has recorded, as NumPy arrays; knows no backend."""

import contextlib
import tempfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IN_MEMORY = 64 * 2**20  # bytes of norms


class Column(NamedTuple):
    """One variable of the model.

    `rank` is the number of its axes: kernels have two or more, biases and scales one.
    """

    layer: str
    name: str
    rank: int

    @property
    def path(self) -> str:
        return f"{self.layer}/{self.name}"


# The place of a variable among those of a model, from the input to the output: its
# number within its layer, after the numbers of the layers that lead to it.
Position = tuple[int, ...]


class Layout(NamedTuple):
    """Who took part in an optimizer call: the optimizer's label and its variables.

    `positions` are those of the columns, which may change as a model is built on.
    `dynamic_scale` tells that the optimizer is a `LossScaleOptimizer`, which skips
    steps whose gradient is not finite and halves its scale.
    """

    optimizer: str
    columns: tuple[Column, ...]
    positions: tuple[Position, ...]
    dynamic_scale: bool


class Rows(NamedTuple):
    """Consecutive optimizer calls of one layout.

    `steps` is int64 `[calls]`, `norms` float64 `[calls, variables]`.
    """

    layout: Layout
    steps: NDArray[np.int64]
    norms: NDArray[np.float64]


class Table(NamedTuple):
    """All calls against all columns.

    `norms` is float64 `[calls, columns]`, NaN where `present` (bool, same shape)
    says that the column took no part in the call.
    """

    steps: NDArray[np.int64]
    optimizers: NDArray[np.str_]
    names: list[str]
    norms: NDArray[np.float64]
    present: NDArray[np.bool_]

    def means(self) -> NDArray[np.float64]:
        """The mean of each column over the calls that it took part in, `[columns]`."""
        norms = np.ma.masked_array(self.norms, ~self.present)
        means: NDArray[np.float64] = norms.mean(axis=0).filled(np.nan)
        return means


class Recording:
    """Grows by `add`, reads as tables over variables or layers.

    Norms are kept in memory up to `IN_MEMORY` bytes, and beyond in temporary files
    that vanish with the recording.
    """

    def __init__(self) -> None:
        self._blocks: list[Rows] = []
        self._in_memory = 0
        self._positions: dict[Column, Position] = {}
        self.columns: list[Column] = []  # every variable, from the input to the output
        self.end = 0  # the number of the next optimizer call

    def add(self, rows: Rows) -> None:
        """Adds calls that come after all those that are there."""
        if not len(rows.steps):
            return
        self._blocks.append(rows)
        layout = rows.layout
        self._positions |= zip(layout.columns, layout.positions, strict=True)
        self.columns = sorted(
            self._positions, key=lambda column: self._positions[column]
        )
        self.end = max(self.end, int(rows.steps[-1]) + 1)
        self._in_memory += rows.norms.nbytes
        if self._in_memory > IN_MEMORY:
            self._move_to_files()

    def _move_to_files(self) -> None:
        """Moves the norms in memory to a file for each layout.

        A disk without room for them loses nothing: they stay in memory.
        """
        grouped: dict[Layout, list[Rows]] = {}
        moved = []
        for rows in self._blocks:
            if isinstance(rows.norms, np.memmap):
                moved.append(rows)
            else:
                grouped.setdefault(rows.layout, []).append(rows)
        for layout, blocks in grouped.items():
            norms = np.concatenate([rows.norms for rows in blocks])
            with contextlib.suppress(OSError), tempfile.TemporaryFile() as file:
                norms.tofile(file)
                norms = np.memmap(file, np.float64, "r", shape=norms.shape)
            steps = np.concatenate([rows.steps for rows in blocks])
            moved.append(Rows(layout, steps, norms))
        self._blocks, self._in_memory = moved, 0

    def get_state(self) -> list[dict[str, Any]]:
        """The blocks as dicts of strings, numbers, lists and arrays."""
        grouped: dict[Layout, list[Rows]] = {}
        for rows in self._blocks:
            grouped.setdefault(rows.layout, []).append(rows)
        return [
            {
                "layout": list(layout),
                "steps": np.concatenate([rows.steps for rows in blocks]),
                "norms": np.concatenate([rows.norms for rows in blocks]),
            }
            for layout, blocks in grouped.items()
        ]

    @classmethod
    def from_state(cls, state: list[dict[str, Any]]) -> "Recording":
        recording = cls()
        for block in state:
            optimizer, columns, positions, dynamic_scale = block["layout"]
            layout = Layout(
                optimizer,
                tuple(Column(*column) for column in columns),
                tuple(tuple(position) for position in positions),
                dynamic_scale,
            )
            recording.add(Rows(layout, block["steps"], block["norms"]))
        return recording

    def since(self, step: int) -> "Recording":
        """The calls numbered `step` and later, under the columns of all."""
        later = Recording()
        for layout, steps, norms in self._blocks:
            first = int(np.searchsorted(steps, step))
            later.add(Rows(layout, steps[first:], norms[first:]))
        later.columns = self.columns
        return later

    @property
    def dynamic_scale(self) -> bool:
        return any(rows.layout.dynamic_scale for rows in self._blocks)

    def variables(self) -> Table:
        """One column per variable."""
        place = {column: index for index, column in enumerate(self.columns)}
        count = sum(len(rows.steps) for rows in self._blocks)
        steps = np.concatenate(
            [np.empty(0, np.int64), *(b.steps for b in self._blocks)]
        )
        row_of = np.empty(count, np.int64)
        row_of[np.argsort(steps, kind="stable")] = np.arange(count)
        optimizers = np.empty(count, object)
        norms = np.full((count, len(self.columns)), np.nan)
        present = np.zeros((count, len(self.columns)), bool)
        end = 0
        for layout, block_steps, block_norms in self._blocks:
            start, end = end, end + len(block_steps)
            rows = row_of[start:end]
            cells = rows[:, None], [place[column] for column in layout.columns]
            optimizers[rows] = layout.optimizer
            norms[cells] = block_norms
            present[cells] = True
        return Table(
            np.sort(steps),
            optimizers.astype(str),
            [column.path for column in self.columns],
            norms,
            present,
        )

    def layers(self, *, kernels_only: bool = False) -> Table:
        """One column per layer: the L2 norm over its variables.

        `kernels_only` leaves out layers without a variable of two or more axes,
        whose gradients are not comparable in size to those of kernels.
        """
        table, columns = self.variables(), self.columns
        members: dict[str, list[int]] = {}
        for index, column in enumerate(columns):
            members.setdefault(column.layer, []).append(index)
        if kernels_only:
            members = {
                layer: indices
                for layer, indices in members.items()
                if any(columns[index].rank >= 2 for index in indices)
            }
        norms = [_joint_norm(table, indices) for indices in members.values()]
        present = [
            table.present[:, indices].any(axis=1) for indices in members.values()
        ]
        shape = (len(table.steps), len(members))
        return Table(
            table.steps,
            table.optimizers,
            list(members),
            np.stack(norms, axis=1) if norms else np.empty(shape),
            np.stack(present, axis=1) if present else np.empty(shape, bool),
        )

    def global_norm(self) -> NDArray[np.float64]:
        """The L2 norm over all variables, `[calls]`."""
        table = self.variables()
        return _joint_norm(table, list(range(len(table.names))))


def _joint_norm(table: Table, indices: list[int]) -> NDArray[np.float64]:
    """The L2 norm over some columns, NaN where none of them took part."""
    squares, taking_part = np.zeros(len(table.steps)), np.zeros(len(table.steps), bool)
    for index in indices:  # one by one: a long recording is copied a column at a time
        present = table.present[:, index]
        squares += np.square(np.where(present, table.norms[:, index], 0.0))
        taking_part |= present
    return np.where(taking_part, np.sqrt(squares), np.nan)
