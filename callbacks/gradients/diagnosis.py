"""Finds faults of training that show in its gradient norms."""

import dataclasses
import html
import itertools
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .record import Record, Table

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
        "a smaller learning rate, `clipnorm=1.0` in the optimizer, a check of the "
        "data for NaN and infinity, a loss that takes logits (`from_logits=True`)"
    ),
    "dead": (
        "a smaller learning rate, `leaky_relu` or `gelu` in place of `relu`, zero or "
        "small positive initial biases; if the loss does not reach the layer, a "
        "check of its connections"
    ),
}

WINDOW = 10  # optimizer calls per profile,
MOST_WINDOWS = 1000  # or more, so that a long run has at most this many profiles


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault.

    Attributes:
        kind: String. `"vanishing"`, `"exploding"`, `"non_finite"` or `"dead"`.
        layer: String. The path of the layer that shows it.
        step: Integer. The number of the optimizer call at which it begins.
        figures: Dict. The numbers behind it, by name.
        description: String. The numbers in a sentence.
    """

    kind: str
    layer: str
    step: int
    figures: dict[str, float]
    description: str

    @property
    def advice(self) -> str:
        """Remedies to try."""
        return ADVICE[self.kind]

    @property
    def name(self) -> str:
        """The kind as written in text."""
        return self.kind.replace("_", "-")

    @property
    def title(self) -> str:
        """The kind, layer and step in a phrase."""
        return f"{self.name} gradient at {self.layer} from step {self.step}"

    def __str__(self) -> str:
        return f"{self.title}: {self.description}\n  Try {self.advice}."


class Diagnosis(tuple[Finding, ...]):
    """The findings in the order in which they begin; empty if there are none."""

    @property
    def verdict(self) -> str:
        """`"healthy"`, or the kinds found, such as `"exploding, non-finite"`."""
        return ", ".join(dict.fromkeys(f.name for f in self)) or "healthy"

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "No fault found: the gradient is healthy."

    def _repr_html_(self) -> str:
        """Returns a table for notebooks, or a line if there are no findings."""
        if not self:
            return f"<p>{self}</p>"
        rows = [_html_row("th", "finding", "layer", "since step", "figures", "remedy")]
        for f in self:
            cells = f.name, f.layer, str(f.step), f.description, f.advice
            rows.append(_html_row("td", *cells))
        return f"<table>{''.join(rows)}</table>"


def _html_row(tag: str, *cells: str) -> str:
    row = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return "<tr>" + re.sub("`(.+?)`", r"<code>\1</code>", row) + "</tr>"


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
    layers, layers_with_kernel = record.layers(), record.layers(kernels_only=True)
    if not len(layers.steps):
        raise ValueError(
            "No gradient is recorded. Train the model with this callback first. "
            "Received: 0 steps."
        )
    # 15 steps that overflow halve a loss scale of 2**15 down to one.
    patience = 16 if record.dynamic_scale else 1
    findings: list[Finding] = []
    for optimizer in dict.fromkeys(layers.optimizers):
        table, kernels = layers.of(optimizer), layers_with_kernel.of(optimizer)
        faults = [*_growth(table, exploding), *_non_finite(table, patience)]
        # After an explosion, the profile only shows its consequences.
        calm = min((fault.step for fault in faults), default=np.inf)
        profiles = _profiles(kernels, calm)
        vanished = list(_trend(profiles, kernels.names, vanishing, towards_input=-1))
        faults += vanished
        faults += _trend(profiles, kernels.names, exploding, towards_input=1)
        faults += _dead(table, dead, underflow=bool(vanished))
        findings += faults
    return Diagnosis(sorted(findings, key=lambda finding: finding.step))


# The first step of a window, the median norm of each layer over its calls, and the
# factor by which norms change from the output to the input.
_Profile = tuple[int, NDArray[np.float64], float]


def _profiles(table: Table, before: float) -> list[_Profile]:
    """Returns the profile of each window that begins before a step.

    The change ignores layers without a finite, positive norm; it needs three others.
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
        profiles.append((int(table.steps[start]), median, change))
    return profiles


def _trend(
    profiles: list[_Profile], layers: list[str], threshold: float, towards_input: int
) -> Iterator[Finding]:
    """Finds norms that grow (1) or fall (-1) from layer to layer towards the input.

    Two consecutive windows must show the trend, or the only window.
    """
    over = np.array([p[-1] ** towards_input >= threshold for p in profiles], bool)
    first = _first_run(over, min(2, len(over)))
    if first is None:
        return
    step, norms, change = profiles[first]
    if towards_input > 0:
        kind, verb, layer = "exploding", "grow", int(norms.argmax())
    else:
        kind, verb = "vanishing", "fall"
        # Zeros next to the input are norms below the smallest float32.
        layer = int(np.where(norms > 0, norms, np.inf).argmin()) if norms[0] else 0
    norm, at_output = float(norms[layer]), float(norms[-1])
    factor = change ** (towards_input / (len(layers) - 1))
    yield Finding(
        kind,
        layers[layer],
        step,
        {"norm": norm, "norm_at_output": at_output, "factor_per_layer": factor},
        f"its norm is {norm:.1e} against {at_output:.1e} at {layers[-1]}; "
        f"norms {verb} by a factor of {factor:.1f} per layer towards the input.",
    )


def _growth(table: Table, threshold: float) -> Iterator[Finding]:
    """Finds norms far above those of all layers before the first update."""
    # The first finite norm: a loss scale that is too large overflows at first.
    first = (table.present & np.isfinite(table.norms)).argmax(axis=0)
    first_norms = table.norms[first, np.arange(len(table.names))]
    start = float(np.nanmax(first_norms, initial=0.0))
    norms = np.where(np.isfinite(table.norms), table.norms, 0.0)
    large = (norms > threshold * start).any(axis=1)
    if 0 < start < np.inf and large.any():
        call, calls = int(large.argmax()), int(large.sum())
        layer = int(norms[call].argmax())
        norm = float(norms[call, layer])
        figures = {"norm": norm, "norm_at_first": start, "calls": calls}
        figures["largest_norm"] = float(norms.max())
        yield Finding(
            "exploding",
            table.names[layer],
            int(table.steps[call]),
            figures,
            f"its norm is {norm:.1e}, and at first no layer's was above {start:.1e}; "
            f"{calls} of {len(table.steps)} calls have norms this far above.",
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
        )


def _dead(table: Table, calls: int, underflow: bool) -> Iterator[Finding]:
    """Finds layers whose norm is exactly zero for `calls` consecutive calls.

    A layer that passes no gradient on makes all layers before it dead too. Adjacent
    dead layers are therefore one finding, at the layer nearest to the output. Zeros
    next to the input of a net whose gradient vanishes are an underflow instead.
    """
    zero = table.present & (table.norms == 0)
    starts = [_first_run(column, calls) for column in zero.T]
    for is_dead, group in itertools.groupby(
        range(len(starts)), key=lambda layer: starts[layer] is not None
    ):
        layers = list(group)
        if not is_dead or (layers[0] == 0 and underflow):
            continue
        layer, count = layers[-1], int(zero[:, layers[-1]].sum())
        others = f"; so is that of {len(layers) - 1} before it" if layers[1:] else ""
        yield Finding(
            "dead",
            table.names[layer],
            int(table.steps[starts[layer]]),
            {"layers": len(layers), "calls": count},
            f"its norm is exactly zero in {count} of {len(table.steps)} calls{others}.",
        )


def _first_run(true: NDArray[np.bool_], length: int) -> int | None:
    """Returns the start of the first run of `length` consecutive true values."""
    counts = np.cumsum(np.concatenate([[0], true]))
    runs = np.flatnonzero(counts[length:] - counts[:-length] == length)
    return int(runs[0]) if len(runs) else None
