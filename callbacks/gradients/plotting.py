"""Draws a record of gradient norms."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .diagnosis import Diagnosis
from .record import Record, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS = 600  # Longer records are drawn as the medians of blocks.
MOST_LABELS = 40
LEAST_DECADES = 3  # The least range of the color scale: noise is not to look large.

ZERO, NON_FINITE = "black", "#d55e00"  # vermilion, unlike every color of viridis


def plot(record: Record, diagnosis: Diagnosis) -> "Figure":
    """Implements `GradientNorms.plot`. Readers with any color vision order viridis."""
    import matplotlib.pyplot as plt

    table = record.layers()
    names = table.names
    height = 1.6 + 0.26 * min(len(names), MOST_LABELS) + 0.22 * len(diagnosis)
    figure, axes = plt.subplots(figsize=(9, max(3.2, height)), layout="constrained")
    _draw_norms(figure, axes, table)
    faulty = {finding.layer for finding in diagnosis}
    every = -(-len(names) // MOST_LABELS)
    ticks = [i for i, name in enumerate(names) if i % every == 0 or name in faulty]
    axes.set_yticks(ticks, [names[index] for index in ticks], fontsize=8)
    for label in axes.get_yticklabels():
        if label.get_text() in faulty:
            label.set_fontweight("bold")
    lines = []
    for number, finding in enumerate(diagnosis, 1):
        lines.append(f"{number}  {finding.title}")
        axes.text(
            np.searchsorted(table.steps, finding.step) + 0.5,
            names.index(finding.layer),
            str(number),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.25", "fc": "white", "ec": "black"},
            zorder=5,
        )
    axes.set_title(f"Gradient norms: {diagnosis.verdict}", loc="left", fontsize=11)
    figure.supxlabel("\n".join(lines), x=0.02, ha="left", fontsize=8)
    plt.close(figure)  # A notebook then shows it once, as the returned value.
    return figure


def _draw_norms(figure: Any, axes: Any, table: Table) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    calls, layers = table.norms.shape
    norms = _shrink(table).T
    edges = np.linspace(0, calls, norms.shape[1] + 1), np.arange(layers + 1) - 0.5
    zero, non_finite = norms == 0, ~np.isfinite(norms)
    logs = np.ma.masked_invalid(np.log10(np.where(norms > 0, norms, np.nan)))
    shown = logs.compressed() if logs.count() else np.zeros(1)
    bottom, top = min(shown.min(), shown.max() - LEAST_DECADES), shown.max()
    # Values beyond the scale have colors of their own.
    logs[zero], logs[non_finite] = bottom - 1, top + 1
    colors = colormaps["viridis"].with_extremes(under=ZERO, over=NON_FINITE)
    image = axes.pcolormesh(*edges, logs, cmap=colors, vmin=bottom, vmax=top)
    figure.colorbar(image, label="log10 of the gradient norm", aspect=30)
    special = (ZERO, zero, "exactly zero"), (NON_FINITE, non_finite, "NaN or infinite")
    legend = [Patch(color=c, label=label) for c, cells, label in special if cells.any()]
    if legend:
        figure.legend(handles=legend, loc="outside lower right", ncols=2, fontsize=8)
    axes.set(xlabel="optimizer step", ylim=(layers - 0.5, -0.5), xlim=(0, calls))


def _shrink(table: Table) -> NDArray[np.float64]:
    """Returns the norms of at most `MOST_COLUMNS` blocks of calls, `(blocks, layers)`.

    The norm of a block is the median of its calls, NaN if one of them is not finite,
    or -1 if the layer took part in none.
    """
    norms = np.where(table.present, table.norms, -1.0)
    if len(norms) <= MOST_COLUMNS:
        return norms
    blocks = []
    for rows in np.array_split(np.arange(len(norms)), MOST_COLUMNS):
        taking_part = np.ma.masked_array(norms[rows], ~table.present[rows])
        median = np.ma.median(taking_part, axis=0).filled(-1.0)  # type: ignore[no-untyped-call]
        finite = np.isfinite(norms[rows]).all(axis=0)
        blocks.append(np.where(finite, median, np.nan))
    return np.stack(blocks)
