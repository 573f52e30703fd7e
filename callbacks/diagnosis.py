"""Finds the faults of training that show in the norms of its gradients."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .recording import Recording, Table

ADVICE = {
    "vanishing": (
        'a ReLU-like activation with `kernel_initializer="he_normal"`, '
        "batch or layer normalization, residual connections"
    ),
    "exploding": (
        "a smaller learning rate or a warm-up, `clipnorm=1.0` in the optimizer, an "
        "initializer that suits the activation (He for ReLU), normalized inputs"
    ),
    "non_finite": (
        "a smaller learning rate, `clipnorm=1.0` in the optimizer, a look for NaN and "
        "infinity in the data, a loss that takes logits (`from_logits=True`)"
    ),
    "dead": (
        "a smaller learning rate, `leaky_relu` or `gelu` in place of `relu`, zero or "
        "small positive initial biases; for a layer that the loss does not reach, a "
        "look at how it is connected"
    ),
}

WINDOW = 10  # optimizer calls over which a profile in depth is the median,
MOST_WINDOWS = 1000  # unless that makes more windows than these


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: `"vanishing"`, `"exploding"`, `"non_finite"` or `"dead"`.
        layer: The path of the layer at which it shows.
        step: The number of the optimizer call at which it begins.
        figures: The numbers behind it, by name.
        description: What they say, in a sentence.
    """

    kind: str
    layer: str
    step: int
    figures: dict[str, float]
    description: str

    @property
    def advice(self) -> str:
        """What to try against it."""
        return ADVICE[self.kind]

    @property
    def title(self) -> str:
        """What, where and since when, without figures."""
        return f"{self.name} gradient at {self.layer} from step {self.step}"

    @property
    def name(self) -> str:
        """The kind as it is written in a text."""
        return self.kind.replace("_", "-")

    def __str__(self) -> str:
        return f"{self.title}: {self.description}\n  Try {self.advice}."


class Diagnosis(tuple[Finding, ...]):
    """The findings in the order in which they begin; empty if there is none."""

    @property
    def verdict(self) -> str:
        """`"healthy"`, or the kinds that were found: `"exploding, non-finite"`."""
        return ", ".join(dict.fromkeys(f.name for f in self)) or "healthy"

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "No fault found: the gradient is healthy."


def diagnose(
    recording: Recording,
    *,
    vanishing: float = 100.0,
    exploding: float = 100.0,
    dead: int = 10,
) -> Diagnosis:
    """Finds vanishing, exploding, non-finite and dead gradients.

    How norms change with depth is measured on the layers that have a kernel, over
    windows of 10 optimizer calls, or of a thousandth of a long run. The change per
    layer is the median over all pairs of layers (Theil-Sen), so that no single layer
    makes a trend, and has to hold for two windows.

    Reference:

    - [The vanishing gradient problem during learning recurrent neural nets](
        https://doi.org/10.1142/S0218488598000094) (Hochreiter, 1998): a sigmoid
        lets a quarter of the gradient through at best.
    - [Understanding the difficulty of training deep feedforward neural networks](
        http://proceedings.mlr.press/v9/glorot10a.html) (Glorot and Bengio, 2010):
        the then usual initialization divides it by the root of 3 in each layer.
    - [On the difficulty of training recurrent neural networks](
        https://proceedings.mlr.press/v28/pascanu13.html) (Pascanu et al., 2013):
        exploding gradients and clipping.
    - [Dying ReLU and initialization](https://arxiv.org/abs/1903.06733) (Lu et al.,
        2019).

    Args:
        recording: What a `GradientNorms` callback has recorded.
        vanishing: Float, how many times smaller the norm is at the input than at
            the output. The default of 100 is a factor of 1.67 per layer for ten
            layers, just below the root of 3 of the reference.
        exploding: Float, how many times larger a layer's norm becomes than any
            layer's was at the first call, or than at the output.
        dead: Integer, for how many consecutive calls a norm is exactly zero.

    Returns:
        A `Diagnosis`.

    Raises:
        ValueError: Nothing is recorded, or a threshold makes no sense.
    """
    if vanishing <= 1 or exploding <= 1 or dead < 1:
        raise ValueError(
            "`vanishing` and `exploding` must be greater than 1, `dead` at least 1. "
            f"Received: vanishing={vanishing}, exploding={exploding}, dead={dead}"
        )
    every_layer, kernels = recording.layers(), recording.layers(kernels_only=True)
    if not len(every_layer.steps):
        raise ValueError(
            "No gradient is recorded. Train the model with this callback first."
        )
    # A loss scale of 2**15 has been halved to one after 15 steps that overflow.
    patience = 16 if recording.dynamic_scale else 1
    findings: list[Finding] = []
    for label in dict.fromkeys(every_layer.optimizers):
        table = _calls_of(every_layer, label)
        faults = [*_growth(table, exploding), *_non_finite(table, patience)]
        # What the profile does after an explosion is its wake.
        calm = min((fault.step for fault in faults), default=np.inf)
        profiles = _profiles(_calls_of(kernels, label), calm)
        vanished = list(_trend(profiles, vanishing, towards_input=-1))
        faults += vanished
        faults += _trend(profiles, exploding, towards_input=1)
        faults += _dead(table, dead, underflow=bool(vanished))
        findings += faults
    return Diagnosis(sorted(findings, key=lambda finding: finding.step))


def _calls_of(table: Table, optimizer: str) -> Table:
    """The calls of one optimizer and the columns that take part in them."""
    rows = table.optimizers == optimizer
    columns = table.present[rows].any(axis=0)
    return Table(
        table.steps[rows],
        table.optimizers[rows],
        [name for name, kept in zip(table.names, columns, strict=True) if kept],
        table.norms[rows][:, columns],
        table.present[rows][:, columns],
    )


class _Profile(NamedTuple):
    """The median norm of each layer over a window of calls that begins at `step`.

    `change` is the factor by which norms change from the output to the input.
    """

    step: int
    layers: list[str]
    norms: NDArray[np.float64]
    change: float


def _profiles(table: Table, before: float) -> list[_Profile]:
    """The profile of each window that begins before a step.

    Layers without a finite, positive norm do not count for the change, and a window
    with fewer than three others has no profile.
    """
    profiles = []
    calls = int((table.steps < before).sum())
    window = max(WINDOW, -(-calls // MOST_WINDOWS))
    for start in range(0, max(1, calls - window + 1), window):
        norms = np.ma.masked_invalid(table.norms[start : min(start + window, calls)])
        median = np.ma.median(norms, axis=0).filled(0.0)  # type: ignore[no-untyped-call]
        depth = np.flatnonzero(median > 0)
        if len(depth) < 3:
            continue
        logs = np.log(median[depth])
        later, earlier = np.tril_indices(len(depth), -1)
        slopes = (logs[earlier] - logs[later]) / (depth[later] - depth[earlier])
        change = float(np.exp(np.median(slopes) * (len(median) - 1)))
        profiles.append(_Profile(int(table.steps[start]), table.names, median, change))
    return profiles


def _trend(
    profiles: list[_Profile], threshold: float, towards_input: int
) -> Iterator[Finding]:
    """Norms that grow (1) or fall (-1) from layer to layer towards the input.

    The trend has to hold in two windows on end, or in the only one there is.
    """
    over = np.array([p.change**towards_input >= threshold for p in profiles], bool)
    first = _first_run(over, min(2, len(over)))
    if first is None:
        return
    step, layers, norms, change = profiles[first]
    if towards_input > 0:
        layer = int(norms.argmax())
    else:
        # Zeros next to the input have vanished below the smallest float32.
        layer = int(np.where(norms > 0, norms, np.inf).argmin()) if norms[0] else 0
    per_layer = change ** (towards_input / (len(layers) - 1))
    yield Finding(
        "exploding" if towards_input > 0 else "vanishing",
        layers[layer],
        step,
        {
            "norm": float(norms[layer]),
            "norm_at_output": float(norms[-1]),
            "factor_per_layer": per_layer,
        },
        f"its norm is {norms[layer]:.1e} against {norms[-1]:.1e} at {layers[-1]}; "
        f"norms {'grow' if towards_input > 0 else 'fall'} by a factor of "
        f"{per_layer:.1f} per layer towards the input.",
    )


def _growth(table: Table, threshold: float) -> Iterator[Finding]:
    """Norms that outgrow, in time, every layer's norm before the first update."""
    # A loss scale that is too large at first overflows before it has been halved.
    first = (table.present & np.isfinite(table.norms)).argmax(axis=0)
    start = np.nanmax(table.norms[first, np.arange(len(table.names))], initial=0.0)
    norms = np.where(np.isfinite(table.norms), table.norms, 0.0)
    large = norms > threshold * start
    calls = np.flatnonzero(large.any(axis=1))
    if len(calls) and 0 < start < np.inf:
        layer = int(norms[calls[0]].argmax())
        yield Finding(
            "exploding",
            table.names[layer],
            int(table.steps[calls[0]]),
            {
                "norm": float(norms[calls[0], layer]),
                "norm_at_first": float(start),
                "largest_norm": float(norms.max()),
                "calls": len(calls),
            },
            f"its norm is {norms[calls[0], layer]:.1e}, where no layer's was above "
            f"{start:.1e} at first; so large a norm is seen in {len(calls)} of "
            f"{len(table.steps)} calls.",
        )


def _non_finite(table: Table, patience: int) -> Iterator[Finding]:
    """Norms that are NaN or infinite for `patience` consecutive calls."""
    broken = table.present & ~np.isfinite(table.norms)
    call = _first_run(np.any(broken, axis=1), patience)
    if call is not None:
        layer = int(np.flatnonzero(broken[call])[-1])
        yield Finding(
            "non_finite",
            table.names[layer],
            int(table.steps[call]),
            {
                "norm": float(table.norms[call, layer]),
                "layers": int(broken[call].sum()),
                "calls": int(broken.any(axis=1).sum()),
            },
            f"its norm is {table.norms[call, layer]}; {broken[call].sum()} of "
            f"{len(table.names)} layers are hit, this one nearest the output.",
        )


def _dead(table: Table, calls: int, underflow: bool) -> Iterator[Finding]:
    """Layers whose norm is exactly zero for `calls` consecutive calls.

    A layer that passes no gradient on makes all those before it dead too, so that
    neighbours are one finding, named by the layer nearest the output. Zeros next to
    the input of a net whose gradient vanishes are float32's underflow instead.
    """
    zero = table.present & (table.norms == 0)
    starts = [_first_run(zero[:, layer], calls) for layer in range(zero.shape[1])]
    for is_dead, group in itertools.groupby(
        range(len(starts)), key=lambda layer: starts[layer] is not None
    ):
        layers = list(group)
        if not is_dead or (layers[0] == 0 and underflow):
            continue
        layer, count = layers[-1], int(zero[:, layers[-1]].sum())
        others = f", as is that of {len(layers) - 1} before it" if layers[1:] else ""
        yield Finding(
            "dead",
            table.names[layer],
            int(table.steps[starts[layer]]),
            {"layers": len(layers), "calls": count},
            f"its norm is exactly zero in {count} of {len(table.steps)} calls{others}.",
        )


def _first_run(true: NDArray[np.bool_], length: int) -> int | None:
    """Where the first `length` consecutive true values begin."""
    counts = np.cumsum(np.concatenate([[0], true]))
    runs = np.flatnonzero(counts[length:] - counts[:-length] == length)
    return int(runs[0]) if len(runs) else None
