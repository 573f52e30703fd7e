"""The gradient norms read from the device, as NumPy arrays."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Column(NamedTuple):
    """A variable, with its shape and the name of its layer's activation, or ""."""

    layer: str
    name: str
    shape: tuple[int, ...]
    activation: str = ""

    @property
    def path(self) -> str:
        return f"{self.layer}/{self.name}"

    @property
    def is_kernel(self) -> bool:
        return len(self.shape) >= 2


# Sorts variables from the input to the output of the model: the place of the layer in
# the order of calls, or the indices of the layers that contain the variable, from the
# outermost; then the index of the variable in its layer.
Position = tuple[int, ...]


class Layout(NamedTuple):
    """The label of the optimizer and the variables of an optimizer call.

    `positions` belong to `columns`, and change if layers are added to the model.
    `dynamic_scale` is True for a `LossScaleOptimizer`, which skips a step whose
    gradient is not finite and halves its scale.
    """

    optimizer: str
    columns: tuple[Column, ...]
    positions: tuple[Position, ...]
    dynamic_scale: bool


class Table(NamedTuple):
    """All calls, one row each, with a column per variable or layer.

    `norms` has the shape `(calls, columns)` and is NaN where the Boolean array
    `present` of the same shape is False: the column took no part in the call.
    """

    steps: NDArray[np.int64]
    optimizers: NDArray[np.str_]
    names: list[str]
    norms: NDArray[np.float64]
    present: NDArray[np.bool_]

    def by_name(self) -> dict[str, NDArray[np.float64]]:
        return dict(zip(self.names, self.norms.T, strict=True))

    def of(self, optimizer: str) -> "Table":
        """Returns the calls of an optimizer, with the columns that take part."""
        rows = self.optimizers == optimizer
        columns = np.flatnonzero(self.present[rows].any(axis=0))
        names = [self.names[column] for column in columns]
        norms, present = self.norms[rows][:, columns], self.present[rows][:, columns]
        return Table(self.steps[rows], self.optimizers[rows], names, norms, present)

    def means(self, dynamic_scale: bool) -> NDArray[np.float64]:
        """Returns the mean of each column over the calls in which it took part.

        With a dynamic loss scale, calls that overflow are skipped, as in training.
        """
        broken = (self.present & ~np.isfinite(self.norms)).any(axis=1, keepdims=True)
        skipped = broken & dynamic_scale
        norms = np.ma.masked_array(self.norms, ~self.present | skipped)
        means: NDArray[np.float64] = norms.mean(axis=0).filled(np.nan)
        return means


class Weights(NamedTuple):
    """The norms of the weights before an optimizer call, and of its update.

    With `steps_per_execution`, the update is that of all steps together.
    """

    step: int  # the number of the call
    layers: tuple[str, ...]  # of the variables
    norms: NDArray[np.float64]  # (variables,)
    updates: NDArray[np.float64]  # (variables,)

    def by_layer(self) -> dict[str, NDArray[np.float64]]:
        """Returns the norm of each layer's weights and of their update."""
        squares: dict[str, Any] = {}
        for layer, *norms in zip(*self[1:], strict=True):
            squares[layer] = squares.get(layer, 0.0) + np.square(norms)
        return {layer: np.sqrt(pair) for layer, pair in squares.items()}


class Record:
    """All optimizer calls so far. Grows by `add` and is read as tables."""

    def __init__(self) -> None:
        # The numbers of the calls of a layout, and their norms, row by row.
        self._calls: dict[Layout, tuple[array[int], array[float]]] = {}
        self._places: dict[str, tuple[Position, Column]] = {}  # by path
        self.columns: list[Column] = []  # all variables, from the input to the output
        self.end = 0  # the number of the next optimizer call
        self.model = "model"  # its name
        self.weights: list[Weights] = []  # at the first call of each epoch

    @property
    def dynamic_scale(self) -> bool:
        return any(layout.dynamic_scale for layout in self._calls)

    def add(
        self, layout: Layout, steps: NDArray[np.int64], norms: NDArray[np.float64]
    ) -> None:
        """Adds calls that come after those of the same layout."""
        calls = self._calls.get(layout)
        if calls is None:
            calls = self._calls[layout] = array("q"), array("d")
            for column, position in zip(layout.columns, layout.positions, strict=True):
                self._places[column.path] = position, column
            places = sorted(self._places.values(), key=lambda place: place[0])
            self.columns = [column for _, column in places]
        calls[0].frombytes(np.asarray(steps, np.int64).tobytes())
        calls[1].frombytes(np.asarray(norms, np.float64).tobytes())
        self.end = max(self.end, int(steps[-1]) + 1)

    def _arrays(
        self, since: int = 0
    ) -> dict[Layout, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Returns the steps and the norms of each layout, with a row per call."""
        arrays = {}
        for layout, (steps, norms) in self._calls.items():
            first, width = bisect_left(steps, since), len(layout.columns)
            if first < len(steps):  # Copies of these calls alone.
                rows = np.frombuffer(norms[first * width :]).reshape(-1, width)
                arrays[layout] = np.frombuffer(steps[first:], np.int64), rows
        return arrays

    def get_state(self) -> dict[str, Any]:
        """Returns the record as dicts of strings, numbers, lists and arrays."""
        calls = [
            {"layout": list(layout), "steps": steps, "norms": norms}
            for layout, (steps, norms) in self._arrays().items()
        ]
        weights = [list(weights) for weights in self.weights]
        return {"calls": calls, "weights": weights, "model": self.model}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Record":
        record = cls()
        for calls in state["calls"]:
            # JSON turns tuples into lists.
            optimizer, columns, positions, dynamic_scale = calls["layout"]
            columns = tuple(Column(*c)._replace(shape=tuple(c[2])) for c in columns)
            positions = tuple(tuple(position) for position in positions)
            layout = Layout(optimizer, columns, positions, dynamic_scale)
            record.add(layout, calls["steps"], calls["norms"])
        for step, layers, *norms in state["weights"]:
            record.weights.append(Weights(step, tuple(layers), *norms))
        record.model = state["model"]
        return record

    def since(self, step: int) -> "Record":
        """Returns the calls from number `step` on, with the columns of all calls."""
        later = Record()
        for layout, calls in self._arrays(step).items():
            later.add(layout, *calls)
        later.columns, later.model = self.columns, self.model
        later.weights = self.weights
        return later

    def variables(self) -> Table:
        """Returns a table with a column per variable."""
        calls = self._arrays()
        each = [steps for steps, _ in calls.values()]
        steps = np.sort(np.concatenate([np.empty(0, np.int64), *each]))
        optimizers = np.empty(len(steps), object)
        norms = np.full((len(steps), len(self.columns)), np.nan)
        present = np.zeros(norms.shape, bool)
        place = {column.path: index for index, column in enumerate(self.columns)}
        for layout, (layout_steps, layout_norms) in calls.items():
            rows = np.searchsorted(steps, layout_steps)
            cells = rows[:, None], [place[column.path] for column in layout.columns]
            norms[cells] = layout_norms
            present[cells] = True
            optimizers[rows] = layout.optimizer
        names = [column.path for column in self.columns]
        return Table(steps, optimizers.astype(str), names, norms, present)

    def layers(self, *, kernels_only: bool = False) -> Table:
        """Returns a table with a column per layer: the L2 norm over its variables.

        `kernels_only` leaves out layers without a kernel, such as normalization,
        whose gradients differ in size from those of kernels.
        """
        kernels = {column.layer for column in self.columns if column.is_kernel}
        members: dict[str, list[int]] = {}
        for index, column in enumerate(self.columns):
            if column.layer in kernels or not kernels_only:
                members.setdefault(column.layer, []).append(index)
        table = self.variables()
        norms = np.empty((len(table.steps), len(members)))
        present = np.empty(norms.shape, bool)
        for index, indices in enumerate(members.values()):
            norms[:, index] = _joint_norm(table, indices)
            present[:, index] = table.present[:, indices].any(axis=1)
        return Table(table.steps, table.optimizers, list(members), norms, present)

    def update_ratio(self) -> dict[str, NDArray[np.float64]]:
        """Returns the norm of each layer's update relative to that of its weights."""
        rows = [weights.by_layer() for weights in self.weights]
        ratios = {}
        for layer in dict.fromkeys(column.layer for column in self.columns):
            pairs = np.array([row.get(layer, (np.nan, np.nan)) for row in rows])
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios[layer] = np.divide(*pairs.reshape(-1, 2)[:, ::-1].T)
        return ratios

    def global_norm(self) -> NDArray[np.float64]:
        """Returns the L2 norm over all variables, shape `(calls,)`."""
        return _joint_norm(self.variables(), range(len(self.columns)))


def _joint_norm(table: Table, indices: Sequence[int]) -> NDArray[np.float64]:
    """Returns the L2 norm over some columns, NaN in calls where none took part."""
    norms, present = table.norms[:, indices], table.present[:, indices]
    joint = np.sqrt(np.square(norms).sum(axis=1, where=present))
    return np.where(present.any(axis=1), joint, np.nan)
