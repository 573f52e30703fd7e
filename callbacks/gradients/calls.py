"""The calls of an optimizer, with gradients relative to weights and error."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .record import Column, Record, Table

WINDOW = 10  # optimizer calls per profile
# Norm of the last layer's input above which its bias gradient is assumed to cancel
# out: always, as before normalization or a softmax over examples, or by chance.
LARGEST_INPUT = 1e5


class Run(NamedTuple):
    """The calls of an optimizer. Arrays have the shape `(calls, layers)`."""

    layers: Table
    kernels: Table  # the layers that have a kernel, or all if none has
    columns: dict[str, list[Column]]  # by layer
    error: NDArray[np.float64]  # at the output, `(calls,)`
    is_estimated: bool  # The error is that of a kernel: there is no bias.
    inputs: NDArray[np.float64]  # norms of the inputs of `kernels`, NaN if unknown
    weights: NDArray[np.float64]  # norms of the weights of `kernels`
    # The norms of `kernels`, divided by those of the weights; then also by the error.
    per_weight: NDArray[np.float64]
    relative: NDArray[np.float64]

    def activation(self, layer: str) -> str:
        return self.columns[layer][0].activation

    def is_recurrent(self, layers: list[str]) -> bool:
        return any(_is_recurrent(self.columns[layer]) for layer in layers)


def _is_recurrent(columns: list[Column]) -> bool:
    return any(column.name == "recurrent_kernel" for column in columns)


def select_calls(record: Record, layers: Table, optimizer: str) -> Run:
    """Returns the calls of an optimizer, with their relative gradients.

    `layers` is the table of all layers and calls.
    """
    variables = record.variables().of(optimizer)
    names = set(variables.names)
    taking_part = [column for column in record.columns if column.path in names]
    has_kernels = any(column.is_kernel for column in taking_part)
    kernels = record.layers(kernels_only=has_kernels).of(optimizer)
    columns: dict[str, list[Column]] = {}
    for column in taking_part:
        columns.setdefault(column.layer, []).append(column)
    # TensorFlow may build a model in the first epoch, too late to be measured.
    measured = [weights for weights in record.weights if weights.layers]
    rows = [weights.by_layer() for weights in measured] or [{}]
    weights = np.array([[r.get(k, (0.0, 0))[0] for k in kernels.names] for r in rows])
    starts = [weights.step for weights in measured[1:]]
    weights = weights[np.searchsorted(starts, kernels.steps, side="right")]
    # The norm of small weights, or of zeros as in a last layer, is raised to that of a
    # dense kernel with the usual variance of 1 / fan_in.
    usual = [
        np.sqrt(max((c.shape[-1] for c in columns[layer] if c.is_kernel), default=1))
        for layer in kernels.names
    ]
    per_weight = kernels.norms / np.maximum(usual, weights)
    inputs = np.full(kernels.norms.shape, np.nan)
    by_name = variables.by_name()
    following = dict(itertools.pairwise([*columns, ""]))
    for index, layer in enumerate(kernels.names):
        own = {column.name: by_name[column.path] for column in columns[layer]}
        # Normalization makes the gradient of a bias before it cancel out.
        after = {column.name for column in columns.get(following[layer], [])}
        if own.keys() == {"kernel", "bias"} and not after & {"gamma", "beta"}:
            # A kernel's gradient is the outer product of the layer's input and of a
            # gradient that the bias receives, too.
            inputs[:, index] = divide(own["kernel"], own["bias"])
    error, is_estimated, last = _error(kernels, columns, by_name)
    relative = divide(per_weight, error[:, None])
    kept = kernels.names[:last]
    norms, present = kernels.norms[:, :last], kernels.present[:, :last]
    kernels = kernels._replace(names=kept, norms=norms, present=present)
    arrays = (values[:, :last] for values in (inputs, weights, per_weight, relative))
    return Run(layers.of(optimizer), kernels, columns, error, is_estimated, *arrays)


def _error(
    kernels: Table,
    columns: dict[str, list[Column]],
    norms: dict[str, NDArray[np.float64]],
) -> tuple[NDArray[np.float64], bool, int]:
    """Returns the error at the output in each call, and whether it is estimated.

    It is that of the last layer, or of the layer before if that is far larger: the last
    one may be a head whose loss hardly counts. The third value is the number of layers
    without that head.
    """
    candidates: list[tuple[Any, bool]] = []
    for layer in kernels.names[-2:]:
        own = columns[layer]
        if layer != kernels.names[-1] and _is_recurrent(own):
            continue  # It is not a head; its gradient may explode through time.
        kernel, bias = (
            np.sqrt(sum(norms[c.path] ** 2 for c in own if c.is_kernel is is_kernel))
            * np.ones(len(kernels.steps))
            for is_kernel in (True, False)
        )
        fan_in = max((np.prod(c.shape[:-1]) for c in own if c.is_kernel), default=1.0)
        inputs = divide(kernel, bias)[:WINDOW]
        unknown = not (inputs <= LARGEST_INPUT).any()
        known = np.maximum(bias, kernel / LARGEST_INPUT)
        candidates.append((kernel / np.sqrt(fan_in) if unknown else known, unknown))
    (before, _), (last, _) = candidates[0], candidates[-1]
    is_minor = median(before[:WINDOW]) > 100 * median(last[:WINDOW])
    last_layer = len(kernels.names) - int(is_minor)
    return *candidates[0 if is_minor else -1], last_layer


def divide(values: NDArray[np.float64], by: NDArray[np.float64]) -> Any:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return values / by


def largest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the largest finite value of each call, or NaN."""
    found = np.where(np.isfinite(values), values, -1.0).max(axis=1, initial=-1.0)
    return np.where(found >= 0, found, np.nan)


def median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the median of finite values over calls, or 0 if none."""
    medians = np.ma.median(np.ma.masked_invalid(values), axis=0)  # type: ignore[no-untyped-call]
    return np.asarray(np.ma.filled(medians, 0.0))


def slope(depth: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    """Returns the median of the slopes between all pairs of layers (Theil-Sen)."""
    later, earlier = np.tril_indices(len(depth), -1)
    slopes = (values[later] - values[earlier]) / (depth[later] - depth[earlier])
    return float(np.median(slopes))
