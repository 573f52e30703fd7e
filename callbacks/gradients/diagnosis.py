"""Finds training faults in gradient norms.

Most rules do not depend on the scale of the loss and of the targets. They use a layer's
*relative gradient*: the norm of its gradient, divided by that of its weights and by the
error at the output, which is the norm of the gradient of the model's last vector,
usually the bias of the last layer.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .findings import Diagnosis, Finding
from .record import Column, Record, Table

WINDOW = 10  # optimizer calls per profile
MOST_WINDOWS = 1000  # profiles of a long run, whose windows are longer
# Root mean square of pre-activations above which squashing activations are flat.
SATURATION = 6.0
SQUASHING = {"tanh", "sigmoid", "hard_sigmoid", "hard_tanh"}


class _Run(NamedTuple):
    """The calls of an optimizer. Arrays have the shape `(calls, layers)`."""

    layers: Table
    kernels: Table  # the layers that have a kernel, or all if none has
    variables: Table
    columns: dict[str, list[Column]]  # by layer
    weights: NDArray[np.float64]  # norms of the layers with a kernel
    error: NDArray[np.float64]  # at the output, `(calls,)`
    # The norms of `kernels`, divided by those of the weights; then also by the error.
    per_weight: NDArray[np.float64]
    relative: NDArray[np.float64]

    def activation(self, layer: str) -> str:
        return self.columns[layer][0].activation

    def is_recurrent(self, layers: list[str]) -> bool:
        columns = itertools.chain.from_iterable(map(self.columns.__getitem__, layers))
        return any(column.name == "recurrent_kernel" for column in columns)


def diagnose(
    record: Record, vanishing: float = 100.0, exploding: float = 100.0, dead: int = 10
) -> Diagnosis:
    """Implements `GradientNorms.diagnose`, which documents the arguments.

    The change of norms with depth is measured on layers that have a kernel, in windows
    of 10 optimizer calls, or a thousandth of a long run. The change per layer is the
    median over all pairs of layers (Theil-Sen), so that no single layer makes a trend.
    docs/gradients.md gives the sources of the thresholds.
    """
    if vanishing <= 1 or exploding <= 1 or dead < 1:
        raise ValueError(
            "`vanishing` and `exploding` must be greater than 1, `dead` at least 1. "
            f"Received: vanishing={vanishing}, exploding={exploding}, dead={dead}."
        )
    layers = record.layers()
    if not len(layers.steps):
        raise ValueError(
            "No gradient is recorded. Train the model with this callback first. "
            "Received: 0 steps."
        )
    # 15 steps that overflow halve a loss scale of 2**15 down to one.
    patience = 16 if record.dynamic_scale else 1
    findings: list[Finding] = []
    for optimizer in dict.fromkeys(layers.optimizers):
        run = _select(record, optimizer)
        broken = list(_non_finite(run.layers, patience))
        end = min((fault.step for fault in broken), default=np.inf)
        calls = int((run.layers.steps < end).sum())
        faults = list(_at_start(run, calls, exploding))
        faults = faults or [
            *_growth(run, calls, exploding, ends_broken=bool(broken)),
            *_saturated(run, calls),
        ]
        # After an explosion, the profile only shows its consequences.
        exploded = [f.step for f in faults if f.kind == "exploding"]
        calm = min(exploded, default=end)
        profiles = _profiles(run, int((run.layers.steps < calm).sum()))
        vanished = list(_trend(run, profiles, vanishing, towards_input=-1))
        faults += vanished
        faults += _trend(run, profiles, exploding, towards_input=1)
        findings += [*faults, *broken, *_dead(run, dead, underflow=bool(vanished))]
    return Diagnosis(sorted(findings, key=lambda finding: finding.step))


def _select(record: Record, optimizer: str) -> _Run:
    """Returns the calls of an optimizer, with their relative gradients."""
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
    vectors = [i for i, column in enumerate(taking_part) if not column.is_kernel]
    error = np.full(len(kernels.steps), np.nan)
    if vectors:
        error = variables.norms[:, vectors[-1]]
    relative = _divide(per_weight, error[:, None])
    layers = record.layers().of(optimizer)
    parts = weights, error, per_weight, relative
    return _Run(layers, kernels, variables, columns, *parts)


def _divide(values: NDArray[np.float64], by: NDArray[np.float64]) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return values / by


def _largest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the largest finite value of each call, or NaN."""
    largest = np.where(np.isfinite(values), values, -1.0).max(axis=1, initial=-1.0)
    return np.where(largest >= 0, largest, np.nan)


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the median over calls of what is finite; 0 if nothing is."""
    median = np.ma.median(np.ma.masked_invalid(values), axis=0)  # type: ignore[no-untyped-call]
    return np.asarray(np.ma.filled(median, 0.0))


def _at_start(run: _Run, calls: int, threshold: float) -> Iterator[Finding]:
    """Finds relative gradients that are huge from the first call."""
    # The first calls may overflow under mixed precision.
    relative = run.relative[: min(calls, WINDOW)]
    finite = np.isfinite(relative).all(axis=1)
    if not finite.any():
        return
    call, relative = int(finite.argmax()), relative[finite]
    # An explosion within the window comes after calls that are not large. After a
    # huge first call, the weights may be so large that all units are dead.
    typical = np.minimum(relative[0], _median(relative))
    layer = int(np.maximum(typical, relative[0] / threshold).argmax())
    factor = float(relative[0, layer])
    if max(typical[layer], factor / threshold) < threshold**2:
        return
    name, norm = run.kernels.names[layer], float(run.kernels.norms[call, layer])
    is_recurrent = run.is_recurrent([name])
    yield Finding(
        "exploding",
        name,
        int(run.kernels.steps[call]),
        {"norm": norm, "relative": factor},
        f"its norm is {norm:.1e} at the first call, {factor:.0e} times the norm of its "
        "weights times the error at the output"
        f"{'; it grows through time' if is_recurrent else ''}.",
        "recurrent" if is_recurrent else "weights",
    )


def _growth(
    run: _Run, calls: int, threshold: float, ends_broken: bool
) -> Iterator[Finding]:
    """Finds norms that grow far above those of the first calls, and stay there.

    Norms far below those of the weights may grow by any factor, as in a trained model
    that meets a hard batch. Norms also grow with the error alone, or with weights that
    grow towards large targets, while the error falls.
    """
    norms, numbers = run.kernels.norms[:calls], np.arange(calls)
    heights, relative = _largest(norms), _largest(run.relative[:calls])
    error = run.error[:calls]
    is_large = _largest(run.per_weight[:calls]) >= threshold
    window = WINDOW if calls > 2 * WINDOW else max(1, calls // 2)
    ahead = np.minimum(window, calls - numbers)

    def stays(true: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns the calls after which most of the next window is true."""
        return np.convolve(true, np.ones(window))[window - 1 :] > ahead / 2

    for start in range(1, min(calls, WINDOW + 1)):
        before = (float(_median(v[:start])) for v in (heights, relative, error))
        first, usual, first_error = before
        growth = relative / max(1.0, usual)
        grows = heights >= threshold * first
        grows &= (growth >= threshold) | (heights >= threshold**2 * first)
        # The reference is that of the calls before, at most the first ten.
        is_next = numbers >= start if start == WINDOW else numbers == start
        # After the largest of explosions, all units may be dead at once.
        lasts = stays(grows) & (ends_broken | (ahead == window))
        found = is_next & grows & is_large & (lasts | (growth >= threshold**2))
        found &= stays((error >= first_error) | np.isnan(error))
        if first and found.any():
            call = int(found.argmax())
            finite = np.isfinite(norms[call])
            layer = int(np.where(finite, norms[call], -1.0).argmax())
            figures = {"norm": float(norms[call, layer]), "norm_at_first": first}
            figures["calls"] = int(grows.sum())
            figures["largest_norm"] = float(np.nanmax(heights))
            yield Finding(
                "exploding",
                run.kernels.names[layer],
                int(run.kernels.steps[call]),
                figures,
                f"its norm is {figures['norm']:.1e}; the largest at the start was "
                f"{first:.1e}. Norms are that large in {grows.sum()} of "
                f"{len(run.kernels.steps)} calls.",
                "recurrent" if run.is_recurrent(run.kernels.names) else "rate",
            )
            return


def _saturated(run: _Run, calls: int) -> Iterator[Finding]:
    """Finds squashing units that are flat from the first call.

    A kernel's gradient is the outer product of the layer's input and a gradient that
    the bias receives, too. So their ratio is the norm of the input, which, times the
    root mean square of the weights, is that of the pre-activations.
    """
    found: dict[str, float] = {}
    norms = run.variables.by_name()
    following = dict(itertools.pairwise(run.layers.names))
    for layer, weight in zip(run.kernels.names[:-1], run.weights[0], strict=False):
        columns = {column.name: column for column in run.columns[layer]}
        # Normalization makes the gradients of a bias before it cancel out.
        is_normalized = any(c.name == "gamma" for c in run.columns[following[layer]])
        is_squashing = run.activation(layer) in SQUASHING and not is_normalized
        if is_squashing and columns.keys() == {"kernel", "bias"}:
            kernel, bias = (norms[columns[n].path] for n in ("kernel", "bias"))
            size = float(_median(_divide(kernel, bias)[: min(calls, WINDOW)]))
            size *= weight / np.sqrt(np.prod(columns["kernel"].shape))
            if size >= SATURATION:
                found[layer] = size
    if found:
        layer, size = next(iter(found.items()))
        others = f"; {len(found)} layers are saturated" if len(found) > 1 else ""
        yield Finding(
            "saturated",
            layer,
            int(run.layers.steps[0]),
            {"pre_activation": size, "layers": len(found)},
            f"its pre-activations are of size {size:.0f}, where "
            f"{run.activation(layer)} is flat{others}.",
            "weights",
        )


# The number of the first call of a window; the median norm and the median relative
# gradient of each layer over its calls; and the logarithm of the factor by which norms
# change per layer towards the input.
_Profile = tuple[int, NDArray[np.float64], NDArray[np.float64], float]


def _profiles(run: _Run, calls: int) -> list[_Profile]:
    """Returns the profile of each window of the first calls.

    The change ignores layers without a finite, positive norm; it needs three others.
    """
    profiles = []
    window = max(WINDOW, -(-calls // MOST_WINDOWS))
    for start in range(0, max(1, calls - window + 1), window):
        rows = slice(start, min(start + window, calls))
        median, relative = _median(run.kernels.norms[rows]), _median(run.relative[rows])
        depth = np.flatnonzero(median > 0)
        if len(depth) < 3:
            continue
        logs = np.log(median[depth])
        later, earlier = np.tril_indices(len(depth), -1)
        slopes = (logs[earlier] - logs[later]) / (depth[later] - depth[earlier])
        profiles.append((start, median, relative, float(np.median(slopes))))
    return profiles


def _trend(
    run: _Run, profiles: list[_Profile], threshold: float, towards_input: int
) -> Iterator[Finding]:
    """Finds norms that grow (1) or fall (-1) from layer to layer towards the input.

    Two consecutive windows must show the trend, or the only window. Of the norms that
    vanish, the finding names the layer nearest to the input.
    """
    names = run.kernels.names
    limit = np.log(threshold) / max(1, len(names) - 1)
    over = np.array([p[-1] * towards_input >= limit for p in profiles], bool)
    first = _first_run(over, min(2, len(over))) if profiles else None
    if first is None:
        return
    call, norms, relative, change = profiles[first]
    if towards_input > 0:
        kind, verb, layer = "exploding", "grow", int(norms.argmax())
    else:
        kind, verb = "vanishing", "fall"
        small = np.maximum(relative, _divide(norms, norms[-1])) <= 1 / threshold
        small &= run.kernels.present[call]
        if not small.any():
            return
        layer = int(small.argmax())
    norm, at_output = float(norms[layer]), float(norms[-1])
    factor = float(np.exp(towards_input * change))
    squashing = sum(run.activation(name) in SQUASHING for name in names)
    cause = {1: "weights", -1: "squashing" if squashing > len(names) / 3 else "depth"}
    is_recurrent = run.is_recurrent(names[layer:])
    yield Finding(
        kind,
        names[layer],
        int(run.kernels.steps[call]),
        {"norm": norm, "norm_at_output": at_output, "factor_per_layer": factor},
        f"its norm is {norm:.1e} against {at_output:.1e} at {names[-1]}; "
        f"norms {verb} by a factor of {factor:.1f} per layer towards the input.",
        "recurrent" if is_recurrent else cause[towards_input],
    )


def _non_finite(table: Table, patience: int) -> Iterator[Finding]:
    """Finds norms that are NaN or infinite for `patience` consecutive calls."""
    broken = table.present & ~np.isfinite(table.norms)
    call = _first_run(np.any(broken, axis=1), patience)
    if call is not None:
        layer, layers = int(np.flatnonzero(broken[call])[-1]), int(broken[call].sum())
        norm = float(table.norms[call, layer])
        yield Finding(
            "non_finite",
            table.names[layer],
            int(table.steps[call]),
            {"norm": norm, "layers": layers, "calls": int(broken.any(axis=1).sum())},
            f"its norm is {norm}; {layers} of {len(table.names)} layers are "
            "affected, of which this one is nearest to the output.",
            "data",
        )


def _dead(run: _Run, calls: int, underflow: bool) -> Iterator[Finding]:
    """Finds layers whose norm is exactly zero for `calls` consecutive calls.

    A layer that passes no gradient on makes all layers before it dead too. Adjacent
    dead layers are therefore one finding, at the layer nearest to the output. Zeros
    next to the input of a net whose gradient vanishes are an underflow instead. Calls
    without any gradient are those of a loss that is exactly zero, unless all are.
    """
    table = run.layers
    zero = table.present & (table.norms == 0)
    flat = (zero | ~table.present).all(axis=1)
    kept = ~flat | flat.all()
    zero, steps = zero[kept], table.steps[kept]
    starts = [_first_run(column, calls) for column in zero.T]
    for is_dead, group in itertools.groupby(
        range(len(starts)), key=lambda layer: starts[layer] is not None
    ):
        layers = list(group)
        if not is_dead or (layers[0] == 0 and underflow):
            continue
        layer, count = layers[-1], int(zero[:, layers[-1]].sum())
        others = f"; {len(layers)} layers up to it are dead" if layers[1:] else ""
        yield Finding(
            "dead",
            table.names[layer],
            int(steps[starts[layer]]),
            {"layers": len(layers), "calls": count},
            f"its norm is exactly zero in {count} of {len(steps)} calls{others}.",
            "start" if starts[layer] == 0 else "later",
        )


def _first_run(true: NDArray[np.bool_], length: int) -> int | None:
    """Returns the start of the first run of `length` consecutive true values."""
    counts = np.cumsum(np.concatenate([[0], true]))
    runs = np.flatnonzero(counts[length:] - counts[:-length] == length)
    return int(runs[0]) if len(runs) else None
