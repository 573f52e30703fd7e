"""Finds training faults in gradient norms.

Most rules do not depend on the scale of the loss and of the targets. They use a layer's
*relative gradient*: the norm of its gradient, divided by that of its weights and by the
error at the output, which is the norm of the gradient of the last layer's bias.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .calls import WINDOW, Run, divide, largest, median, select_calls, slope
from .findings import Diagnosis, Finding
from .record import Record, Table

MOST_WINDOWS = 1000  # profiles of a long run, whose windows are longer
# Root mean square above which pre-activations saturate an activation, and above
# which weights are large, relative to the usual 1 / sqrt(fan_in).
SATURATION, LARGE_WEIGHTS = 6.0, 3.0
SQUASHING = {"tanh", "sigmoid", "hard_sigmoid", "hard_tanh"}


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
        run = select_calls(record, layers, optimizer)
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
        vanished = list(_trend(run, profiles, vanishing, toward_input=-1))
        faults += vanished
        faults += _trend(run, profiles, exploding, toward_input=1)
        findings += [*faults, *broken, *_dead(run, dead, underflow=bool(vanished))]
    return Diagnosis(sorted(findings, key=lambda finding: finding.step))


def _at_start(run: Run, calls: int, threshold: float) -> Iterator[Finding]:
    """Finds gradients that are huge from the first call.

    Relative gradients are huge, or the inputs of layers grow with depth.
    """
    relative = run.relative[: min(calls, WINDOW)]
    # The first calls may overflow under mixed precision.
    finite = np.flatnonzero(np.isfinite(relative).all(axis=1))
    if not len(finite):
        return
    call, relative = int(finite[0]), relative[finite]
    # An explosion within the window comes after calls that are not large. After a
    # huge first call, the weights may be so large that all units are dead.
    typical = np.minimum(relative[0], median(relative))
    typical = np.maximum(typical, relative[0] / threshold)
    if run.is_estimated:  # It contains the growth of a recurrent layer's output.
        through_time = [run.is_recurrent([name]) for name in run.kernels.names]
        typical[through_time] *= 2 * threshold
    # The gradient of the bias of the last layer may mean nothing.
    inputs = run.inputs[finite, :-1]
    growth = min(_growth_with_depth(v) for v in (inputs[0], median(inputs)))
    if max(typical.max(), growth) < threshold**2:
        return
    norms = run.kernels.norms[call]
    is_forward = typical.max() < threshold**2
    layer = int((norms if is_forward else typical).argmax())
    name, norm = run.kernels.names[layer], float(norms[layer])
    is_recurrent = run.is_recurrent([name])
    factor = growth if is_forward else float(relative[0, layer])
    text = (
        f"the inputs of layers grow {factor:.0e}-fold with depth"
        if is_forward
        else f"{factor:.0e} times the norm of its weights times the error at the output"
    )
    yield Finding(
        "exploding",
        name,
        int(run.kernels.steps[call]),
        {"norm": norm, "growth" if is_forward else "relative": factor},
        f"its norm is {norm:.1e} at the first call, {text}"
        f"{'; it grows through time' if is_recurrent else ''}.",
        "recurrent" if is_recurrent else "weights",
    )


def _growth_with_depth(values: NDArray[np.float64]) -> float:
    """Returns the factor by which values grow from the first to the last layer."""
    depth = np.flatnonzero(values > 0)
    if len(depth) < 3:
        return 1.0
    change = slope(depth, np.log(values[depth])) * (depth[-1] - depth[0])
    return float(np.exp(min(change, 700.0)))


def _growth(
    run: Run, calls: int, threshold: float, ends_broken: bool
) -> Iterator[Finding]:
    """Finds norms that grow far above those of the first calls, and stay there.

    Norms far below those of the weights may grow by any factor, as in a trained model
    that meets a hard batch. Norms also grow with the error alone, or with weights that
    grow toward large targets, while the error falls.
    """
    norms, numbers = run.kernels.norms[:calls], np.arange(calls)
    heights, relative = largest(norms), largest(run.relative[:calls])
    error = run.error[:calls]
    is_large = largest(run.per_weight[:calls]) >= threshold
    window = WINDOW if calls > 2 * WINDOW else max(1, calls // 2)
    ahead = np.minimum(window, calls - numbers)
    before = np.maximum(numbers - WINDOW // 2, 0)
    rises = heights >= np.sqrt(threshold) * heights[before]
    lowest = usual = np.inf
    highest = 0.0

    def count(true: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Counts the true values from each call to the end of its window."""
        return np.convolve(true, np.ones(window))[window - 1 :]

    for start in range(1, min(calls, WINDOW + 1)):
        # The reference is that of the calls before, at most the first ten.
        at_first = (float(median(v[:start])) for v in (heights, relative, error))
        first, usual_now, first_error = at_first
        lowest = min(lowest, first or np.inf)
        usual, highest = min(usual, max(1.0, usual_now)), max(highest, first_error)
        is_next = numbers >= start if start == WINDOW else numbers == start
        unknown = np.isnan(error)
        # A sudden rise, after which all units may be dead.
        steep = is_large & (heights >= threshold * lowest)
        steep &= (relative >= threshold * usual) & ((error >= highest) | unknown)
        sudden = steep & rises & (count(steep) >= min(2, window))
        # A gradual one, which has to last, and to raise the error.
        grows = is_large & (heights >= threshold * first) & bool(first)
        grows &= (relative >= threshold * usual) | (heights >= threshold**2 * first)
        lasts = count(grows & ((error >= 1.3 * first_error) | unknown)) > ahead / 2
        lasts &= ends_broken | (ahead == window)
        found = is_next & (sudden | (grows & lasts))
        if found.any():
            call = int(found.argmax())
            finite = np.isfinite(norms[call])
            layer = int(np.where(finite, norms[call], -1.0).argmax())
            figures = {"norm": float(norms[call, layer]), "norm_at_first": lowest}
            figures["calls"] = int(grows.sum())
            figures["largest_norm"] = float(np.nanmax(heights))
            yield Finding(
                "exploding",
                run.kernels.names[layer],
                int(run.kernels.steps[call]),
                figures,
                f"its norm is {figures['norm']:.1e}; the largest at the start was "
                f"{lowest:.1e}. Norms are that large in {grows.sum()} of "
                f"{len(run.kernels.steps)} calls.",
                "recurrent" if run.is_recurrent(run.kernels.names) else "rate",
            )
            return


def _saturated(run: Run, calls: int) -> Iterator[Finding]:
    """Finds squashing units that are flat from the first call.

    The root mean square of the pre-activations is that of the weights times the norm of
    the input. Weights must be large, too: the norm of the input is an estimate.
    """
    found: dict[str, float] = {}
    sizes = median(run.inputs[: min(calls, WINDOW)])
    for index, layer in enumerate(run.kernels.names[:-1]):
        if run.activation(layer) not in SQUASHING or not sizes[index]:
            continue
        shape = next(c.shape for c in run.columns[layer] if c.is_kernel)
        scale = run.weights[0, index] / np.sqrt(np.prod(shape))
        is_large = scale * np.sqrt(np.prod(shape[:-1])) >= LARGE_WEIGHTS
        if is_large and scale * sizes[index] >= SATURATION:
            found[layer] = float(scale * sizes[index])
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
# change per layer toward the input.
_Profile = tuple[int, NDArray[np.float64], NDArray[np.float64], float]


def _profiles(run: Run, calls: int) -> list[_Profile]:
    """Returns the profile of each window of the first calls.

    The change ignores layers without a finite, positive norm; it needs three others.
    """
    profiles = []
    window = max(WINDOW, -(-calls // MOST_WINDOWS))
    for start in range(0, max(1, calls - window + 1), window):
        rows = slice(start, min(start + window, calls))
        norms, relative = median(run.kernels.norms[rows]), median(run.relative[rows])
        depth = np.flatnonzero(norms > 0)
        if len(depth) < 3:
            continue
        change = -slope(depth, np.log(norms[depth]))
        profiles.append((start, norms, relative, change))
    return profiles


def _trend(
    run: Run, profiles: list[_Profile], threshold: float, toward_input: int
) -> Iterator[Finding]:
    """Finds norms that grow (1) or fall (-1) from layer to layer toward the input.

    Two consecutive windows must show the trend, or the only window. If norms
    vanish, the finding names the layer nearest to the input.
    """
    names = run.kernels.names
    limit = np.log(threshold) / max(1, len(names) - 1)
    over = np.array([p[-1] * toward_input >= limit for p in profiles], bool)
    first = _first_run(over, min(2, len(over))) if profiles else None
    if first is None:
        return
    call, norms, relative, change = profiles[first]
    if toward_input > 0:
        kind, verb, layer = "exploding", "grow", int(norms.argmax())
    else:
        kind, verb = "vanishing", "fall"
        small = np.maximum(relative, divide(norms, norms[-1])) <= 1 / threshold
        small &= run.kernels.present[call]
        if not small.any():
            return
        layer = int(small.argmax())
    norm, at_output = float(norms[layer]), float(norms[-1])
    factor = float(np.exp(toward_input * change))
    squashing = sum(run.activation(name) in SQUASHING for name in names)
    cause = {1: "weights", -1: "squashing" if squashing > len(names) / 3 else "depth"}
    is_recurrent = run.is_recurrent(names[layer:])
    yield Finding(
        kind,
        names[layer],
        int(run.kernels.steps[call]),
        {"norm": norm, "norm_at_output": at_output, "factor_per_layer": factor},
        f"its norm is {norm:.1e} against {at_output:.1e} at {names[-1]}; "
        f"norms {verb} by a factor of {factor:.1f} per layer toward the input.",
        "recurrent" if is_recurrent else cause[toward_input],
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


def _dead(run: Run, calls: int, underflow: bool) -> Iterator[Finding]:
    """Finds layers whose norm is exactly zero in the last calls, at least `calls`.

    A layer that passes no gradient on makes all layers before it dead too. Adjacent
    dead layers are therefore one finding, at the layer nearest to the output. Zeros
    next to the input of a net whose gradient vanishes are an underflow instead. A call
    in which every norm is zero has a loss of zero and is ignored, unless all calls are
    like that, or the norms before it were as large as at first.
    """
    table = run.layers
    zero = table.present & (table.norms == 0)
    flat = (zero | ~table.present).all(axis=1)
    alive = largest(table.norms)[~flat]
    is_sudden = len(alive) and alive[-1] >= median(alive[:WINDOW]) / 2
    kept = ~flat | flat.all() | bool(is_sudden)
    zero, steps = zero[kept], table.steps[kept]
    taking_part = table.present[kept] & ~np.isnan(table.norms[kept])
    starts = [
        _last_run(zero[rows, layer], rows, calls)
        for layer, rows in enumerate(map(np.flatnonzero, taking_part.T))
    ]
    for is_dead, group in itertools.groupby(
        range(len(starts)), key=lambda layer: starts[layer] is not None
    ):
        layers = list(group)
        if not is_dead or (layers[0] == 0 and underflow):
            continue
        layer, count = layers[-1], int(zero[:, layers[-1]].sum())
        others = f"; {len(layers)} layers up to it are dead" if layers[1:] else ""
        name = table.names[layer]
        is_flat = starts[layer] == 0 and run.activation(name) in SQUASHING
        is_flat &= not run.is_recurrent([name])
        yield Finding(
            "saturated" if is_flat else "dead",
            name,
            int(steps[starts[layer]]),
            {"layers": len(layers), "calls": count},
            f"its norm is exactly zero in {count} of {len(steps)} calls{others}.",
            "weights" if is_flat else "start" if starts[layer] == 0 else "later",
        )


def _last_run(
    zero: NDArray[np.bool_], rows: NDArray[np.int64], calls: int
) -> int | None:
    """Returns the row at which the zeros of the last calls begin.

    Returns `None` if there are fewer than `calls`, or less than twice as
    many as in an earlier run of zeros.
    """
    breaks = np.flatnonzero(~zero)
    ends = np.concatenate([[-1], breaks, [len(zero)]])
    lengths = np.diff(ends) - 1
    longest_before = lengths[:-1].max(initial=0)
    if lengths[-1] < max(calls, 2 * longest_before):
        return None
    return int(rows[ends[-2] + 1])


def _first_run(true: NDArray[np.bool_], length: int) -> int | None:
    """Returns the start of the first run of `length` consecutive true values."""
    counts = np.cumsum(np.concatenate([[0], true]))
    runs = np.flatnonzero(counts[length:] - counts[:-length] == length)
    return int(runs[0]) if len(runs) else None
