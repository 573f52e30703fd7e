"""What `GradientNorms` has recorded, as NumPy arrays; knows no backend."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Column(NamedTuple):
    """One variable of the model.

    `position` is its place in the model, counted from the input; `rank` is the
    number of its axes: kernels have two or more, biases and scales one.
    """

    position: int
    layer: str
    name: str
    rank: int

    @property
    def path(self) -> str:
        return f"{self.layer}/{self.name}"


class Layout(NamedTuple):
    """Who took part in an optimizer call: the optimizer's label and its variables.

    `dynamic_scale` tells that the optimizer is a `LossScaleOptimizer`, which skips
    steps whose gradient is not finite and halves its scale.
    """

    optimizer: str
    columns: tuple[Column, ...]
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

    def since(self, call: int) -> "Table":
        """The calls from the one at index `call` on."""
        steps, optimizers, names, norms, present = self
        return Table(
            steps[call:], optimizers[call:], names, norms[call:], present[call:]
        )

    def means(self) -> NDArray[np.float64]:
        """The mean of each column over the calls that it took part in, `[columns]`."""
        norms = np.ma.masked_array(self.norms, ~self.present)
        means: NDArray[np.float64] = norms.mean(axis=0).filled(np.nan)
        return means


class Recording:
    """Grows by `add`, reads as tables over variables or layers."""

    def __init__(self) -> None:
        self._blocks: list[Rows] = []
        self._variables: Table | None = None
        self.lost = 0

    def add(self, rows: Rows) -> None:
        if len(rows.steps):
            self._blocks.append(rows)
            self._variables = None

    @property
    def dynamic_scale(self) -> bool:
        return any(rows.layout.dynamic_scale for rows in self._blocks)

    @property
    def columns(self) -> list[Column]:
        """Every variable that was ever recorded, from the input to the output."""
        return sorted({column for rows in self._blocks for column in rows.layout[1]})

    def variables(self) -> Table:
        """One column per variable."""
        if self._variables is None:
            columns = self.columns
            place = {column: index for index, column in enumerate(columns)}
            count = sum(len(rows.steps) for rows in self._blocks)
            steps = np.empty(count, np.int64)
            optimizers = np.empty(count, object)
            norms = np.full((count, len(columns)), np.nan)
            present = np.zeros((count, len(columns)), bool)
            end = 0
            for layout, block_steps, block_norms in self._blocks:
                start, end = end, end + len(block_steps)
                steps[start:end] = block_steps
                optimizers[start:end] = layout.optimizer
                taking_part = [place[column] for column in layout.columns]
                norms[start:end, taking_part] = block_norms
                present[start:end, taking_part] = True
            order = np.argsort(steps, kind="stable")
            self._variables = Table(
                steps[order],
                optimizers[order].astype(str),
                [column.path for column in columns],
                norms[order],
                present[order],
            )
        return self._variables

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
    present = table.present[:, indices]
    squares = np.square(np.where(present, table.norms[:, indices], 0.0))
    joint: NDArray[np.float64] = np.sqrt(squares.sum(axis=1))
    return np.where(present.any(axis=1), joint, np.nan)
