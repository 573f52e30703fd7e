"""Draws records of gradient norms."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .calls import WINDOW, median
from .diagnosis import diagnose
from .findings import Diagnosis
from .record import Record, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS = 600  # Longer records are drawn as the medians of blocks.
MOST_LABELS = 40
MOST_LETTERS = 40  # Longer names are drawn without their beginning.
LEAST_DECADES = 3  # The least range of a scale: noise is not to look large.
SCALE = "log10 of the gradient norm"

ZERO, NON_FINITE = "black", "#d55e00"  # vermilion, unlike every color of viridis


def plot(records: Sequence[Record], figure: Any = None) -> "Figure":
    """Implements `GradientNorms.plot`. Viridis suits readers with any color vision."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Patch

    runs = [(record.layers(), diagnose(record), record.model) for record in records]
    blocks = [_shrink(table) for table, _, _ in runs]
    values = np.concatenate([norms.ravel() for _, norms in blocks])
    logs = np.log10(values[(values > 0) & np.isfinite(values)])
    top = logs.max() if len(logs) else 0.0
    # Values beyond the scale have colors of their own.
    colors = colormaps["viridis"].with_extremes(under=ZERO, over=NON_FINITE)
    scale = ScalarMappable(cmap=colors)
    scale.set_clim(logs.min(initial=top - LEAST_DECADES), top)

    drawing: Figure = figure or _new_figure()
    columns, rows = min(2, len(runs)), -(-len(runs) // 2)
    layers = min(max(len(table.names) for table, _, _ in runs), MOST_LABELS)
    height = 1.6 + 0.26 * layers + 0.15 * max(len(findings) for _, findings, _ in runs)
    drawing.set_size_inches(2 + 4.5 * columns, rows * max(3.2, height))
    panels = [drawing.add_subplot(rows, columns, i + 1) for i in range(len(runs))]
    for axes, cells, run in zip(panels, blocks, runs, strict=True):
        _draw_panel(axes, scale, cells, *run)
    drawing.colorbar(scale, ax=panels, label=SCALE, aspect=30)
    zero, other = values == 0, ~np.isfinite(values)
    special = (ZERO, zero, "exactly zero"), (NON_FINITE, other, "NaN or infinite")
    legend = [Patch(color=c, label=label) for c, cells, label in special if cells.any()]
    if legend:
        drawing.legend(handles=legend, loc="outside lower right", ncols=2, fontsize=9)
    return drawing


def plot_profile(record: Record, steps: Sequence[int] | None) -> "Figure":
    """Implements `GradientNorms.plot_profile`."""
    from matplotlib import colormaps

    findings = diagnose(record)
    has_kernels = any(column.is_kernel for column in record.columns)
    table = record.layers(kernels_only=has_kernels)
    if steps is None:
        calls = _finite_calls(table) or len(table.steps)
        size = min(WINDOW, -(-calls // 3))
        starts = sorted({0, (calls - size) // 2, calls - size})
    elif np.size(steps) and np.isin(steps, table.steps).all():
        size, starts = 1, np.searchsorted(table.steps, np.ravel(steps)).tolist()
    else:
        raise ValueError(
            f"`steps` must be numbers of recorded steps, {table.steps[0]} to "
            f"{table.steps[-1]}. Received: steps={steps!r}."
        )
    figure = _new_figure()
    axes = figure.subplots()
    tones = colormaps["viridis"](np.linspace(0, 0.85, len(starts)))
    for start, tone in zip(starts, tones, strict=True):
        norms = median(table.norms[start : start + size])
        logs = np.log10(np.where(norms > 0, norms, np.nan))
        axes.plot(logs, "o-", markersize=3, color=tone, label=table.steps[start])
    ticks = _spread([], len(table.names))
    labels = [_shorten(table.names[tick]) for tick in ticks]
    axes.set_xticks(ticks, labels, rotation=90, fontsize=9, parse_math=False)
    bottom, top = axes.get_ylim()
    axes.set(ylim=(min(bottom, top - LEAST_DECADES), top), ylabel=SCALE)
    axes.set_xlabel("input → layers → output")
    _set_title(axes, record.model, findings)
    axes.legend(title="step" if size == 1 else f"median of {size} steps from")
    figure.set_size_inches(max(6, 2 + 0.26 * len(ticks)), 6)
    return figure


def _new_figure() -> "Figure":
    import matplotlib.pyplot as plt

    figure = plt.figure(layout="constrained")
    plt.close(figure)  # A notebook then shows it once, as the returned value.
    return figure


def _draw_panel(
    axes: Any, scale: Any, blocks: Any, table: Table, findings: Diagnosis, model: str
) -> None:
    """Draws blocks of calls, with the findings' numbers beside the layers' rows."""
    edges, norms = blocks[0], blocks[1].T
    logs = np.ma.masked_invalid(np.log10(np.where(norms > 0, norms, np.nan)))
    bottom, top = scale.get_clim()
    logs[norms == 0], logs[~np.isfinite(norms)] = bottom - 1, top + 1
    sides = np.arange(len(norms) + 1) - 0.5
    axes.pcolormesh(edges, sides, logs, cmap=scale.cmap, norm=scale.norm)
    axes.set(xlim=edges[[0, -1]], ylim=sides[[-1, 0]], ylabel="output ← layers → input")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _set_title(axes, model, findings)
    rows = [table.names.index(finding.layer) for finding in findings]
    ticks = _spread(rows, len(table.names))
    labels = [_shorten(table.names[tick]) for tick in ticks]
    axes.set_yticks(ticks, labels, fontsize=9, parse_math=False)
    marks, lines = [""] * len(ticks), ["optimizer step"]
    if rest := int((table.steps >= edges[-1]).sum()):
        lines[0] += f" (not drawn: the last {rest:,}, with NaN or infinity)"
    for number, (finding, row) in enumerate(zip(findings, rows, strict=True), 1):
        lines += textwrap.wrap(f"{number}  {finding.title}", 55)
        axes.plot(finding.step + 0.5, row, "o", mfc="white", mec="black", clip_on=False)
        nearest = np.abs(np.subtract(ticks, row)).argmin()
        marks[nearest] += f", {number}" if marks[nearest] else f"◂ {number}"
        axes.get_yticklabels()[nearest].set_fontweight("bold")
    right = {"transform": axes.get_yaxis_transform(), "va": "center", "weight": "bold"}
    for index in filter(marks.__getitem__, range(len(ticks))):
        axes.text(1.01, ticks[index], marks[index], **right)
    axes.set_xlabel("\n".join(lines), loc="left", fontsize=9, parse_math=False)


def _set_title(axes: Any, model: str, findings: Diagnosis) -> None:
    title = textwrap.fill(f"{_shorten(model)}: {findings.verdict}", 45)
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)


def _shorten(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else "…" + name[1 - MOST_LETTERS :]


def _spread(first: Sequence[int], rows: int) -> list[int]:
    """Returns about 40 rows at most whose labels do not touch, `first` preferred."""
    ticks: list[int] = []
    every = -(-rows // MOST_LABELS)
    for row in (*first, *range(0, rows, every)):
        if all(abs(row - tick) >= every for tick in ticks):
            ticks.append(row)
    return sorted(ticks)


def _finite_calls(table: Table) -> int:
    """Returns the number of calls up to the last whose norms are all finite."""
    # After a NaN, the norm of a ReLU layer may be zero.
    finite = np.flatnonzero((np.isfinite(table.norms) | ~table.present).all(axis=1))
    return int(finite[-1]) + 1 if len(finite) else 0


def _shrink(table: Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Divides the drawn calls into at most `MOST_COLUMNS` blocks.

    Returns the steps at their edges, and their norms, `(blocks, layers)`: the
    median of the calls, NaN if one is not finite, or -1 if the layer took part in none.
    """
    end = _finite_calls(table)
    calls = min(len(table.steps), end + max(5, end // 10))
    bounds = np.linspace(0, calls, min(calls, MOST_COLUMNS) + 1).astype(int)
    edges = np.append(table.steps, table.steps[-1] + 1)[bounds]
    norms = np.where(table.present, table.norms, -1.0)[:calls]
    if calls <= MOST_COLUMNS:
        return edges, norms
    blocks = []
    for rows in map(slice, bounds[:-1], bounds[1:]):
        taking_part = np.ma.masked_array(norms[rows], ~table.present[rows])
        medians = np.ma.median(taking_part, axis=0).filled(-1.0)  # type: ignore[no-untyped-call]
        finite = np.isfinite(norms[rows]).all(axis=0)
        blocks.append(np.where(finite, medians, np.nan))
    return edges, np.stack(blocks)
