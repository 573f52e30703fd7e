"""Draws a recording of gradient norms."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .diagnosis import Diagnosis
from .recording import Recording, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS = 600  # of the picture; longer recordings are shown by medians
MOST_LABELS = 40
LEAST_DECADES = 3  # of the colour scale: noise should not look like a trend

ZERO, NON_FINITE = "black", "#d55e00"  # vermilion: told apart from every viridis hue


def plot(recording: Recording, diagnosis: Diagnosis) -> "Figure":
    """Draws depth against step, with log10 of each layer's norm as colour.

    The input is at the top. Black is a norm of exactly zero, orange a norm that is
    NaN or infinite, white a layer that took no part. Each finding is marked at the
    layer and the step where it begins. The colours are viridis, which readers with
    any colour vision can order.

    Args:
        recording: What a `GradientNorms` callback has recorded.
        diagnosis: The findings to mark.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    table = recording.layers()
    layers, calls = len(table.names), len(table.steps)
    norms = _shrink(table)
    height = 1.6 + 0.26 * min(layers, MOST_LABELS) + 0.22 * len(diagnosis)
    figure, axes = plt.subplots(figsize=(9, max(3.2, height)), layout="constrained")
    edges = np.linspace(0, calls, len(norms) + 1), np.arange(layers + 1) - 0.5
    logs = np.log10(np.where(norms > 0, norms, np.nan)).T
    logs = np.ma.masked_invalid(logs)
    top = float(logs.max()) if logs.count() else 0.0
    bottom = min(float(logs.min()) if logs.count() else 0.0, top - LEAST_DECADES)
    image = axes.pcolormesh(*edges, logs, cmap="viridis", vmin=bottom, vmax=top)
    figure.colorbar(image, label="log10 of the gradient norm", aspect=30)
    legend = []
    for colour, cells, label in (
        (ZERO, norms == 0, "exactly zero"),
        (NON_FINITE, ~np.isfinite(norms), "NaN or infinite"),
    ):
        if cells.any():
            overlay = np.ma.masked_where(~cells, np.ones_like(norms)).T
            axes.pcolormesh(*edges, overlay, cmap=ListedColormap([colour]))
            legend.append(Patch(color=colour, label=label))
    axes.set(xlabel="optimizer step", ylim=(layers - 0.5, -0.5), xlim=(0, calls))
    every = -(-layers // MOST_LABELS)
    faulty = {finding.layer for finding in diagnosis}
    ticks = [i for i, n in enumerate(table.names) if i % every == 0 or n in faulty]
    axes.set_yticks(ticks, [table.names[index] for index in ticks], fontsize=8)
    for tick in axes.get_yticklabels():
        if tick.get_text() in faulty:
            tick.set_fontweight("bold")
    for number, finding in enumerate(diagnosis, 1):
        axes.annotate(
            str(number),
            (
                np.searchsorted(table.steps, finding.step) + 0.5,
                table.names.index(finding.layer),
            ),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.25", "fc": "white", "ec": "black"},
            annotation_clip=False,
            zorder=5,
        )
    if legend:
        figure.legend(handles=legend, loc="outside lower right", ncols=2, fontsize=8)
    lines = [
        f"{number}  {finding.title}" for number, finding in enumerate(diagnosis, 1)
    ]
    axes.set_title(f"Gradient norms: {diagnosis.verdict}", loc="left", fontsize=11)
    figure.supxlabel("\n".join(lines), x=0.02, ha="left", fontsize=8)
    plt.close(figure)  # so that a notebook shows it once, as the returned value
    return figure


def _shrink(table: Table) -> NDArray[np.float64]:
    """The norms of at most `MOST_COLUMNS` blocks of calls, `[blocks, layers]`.

    A block is the median of its calls, NaN if the norm of one is not finite, -1 if
    the layer took part in none.
    """
    calls = len(table.steps)
    norms = np.where(table.present, table.norms, -1.0)
    if calls <= MOST_COLUMNS:
        return norms
    blocks = []
    for rows in np.array_split(np.arange(calls), MOST_COLUMNS):
        taking_part = np.ma.masked_array(norms[rows], ~table.present[rows])
        median = np.ma.median(taking_part, axis=0).filled(-1.0)  # type: ignore[no-untyped-call]
        finite = np.isfinite(norms[rows]).all(axis=0)
        blocks.append(np.where(finite, median, np.nan))
    return np.stack(blocks)
