"""The record of `GradientNorms` as arrays, tables, a diagnosis and figures."""

import contextlib
import html
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import outputs, plotting
from .diagnosis import diagnose
from .findings import Diagnosis
from .record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RecordViews:
    """Properties and methods that show a record."""

    _record: Record
    _read: Callable[[], Record]  # with what the device still held

    @property
    def history(self) -> dict[str, NDArray[np.float64]]:
        return self._read().layers().by_name()

    @property
    def variables(self) -> dict[str, NDArray[np.float64]]:
        return self._read().variables().by_name()

    @property
    def update_ratio(self) -> dict[str, NDArray[np.float64]]:
        return self._read().update_ratio()

    @property
    def global_norm(self) -> NDArray[np.float64]:
        return self._read().global_norm()

    @property
    def steps(self) -> NDArray[np.int64]:
        return self._read().variables().steps

    @property
    def optimizers(self) -> NDArray[np.str_]:
        return self._read().variables().optimizers

    def to_dict(self, variables: bool = False) -> dict[str, NDArray[Any]]:
        """Returns the record as one dict of columns, ready for `pandas.DataFrame`.

        Args:
            variables: Boolean. Norms of variables, not layers. Defaults to `False`.

        Returns:
            Dict of the arrays `step`, `optimizer`, `global_norm` and one per layer or
            variable, all of shape `(steps,)`. A layer that has one of these three
            names is found under `layer/<name>`.
        """
        return outputs.to_dict(self._read(), variables)

    def to_csv(self, path: str | os.PathLike[str], variables: bool = False) -> None:
        """Writes `to_dict` to a file, which `pandas.read_csv` reads back exactly."""
        outputs.write_csv(path, self.to_dict(variables))

    def diagnose(
        self, *, vanishing: float = 100.0, exploding: float = 100.0, dead: int = 10
    ) -> Diagnosis:
        """Tells you which layer is not learning, since which step and why.

        Args:
            vanishing: Float. Factor by which norms must fall from the output to the
                input, as a trend over all layers that have a kernel. Defaults to 100, a
                factor of 1.67 per layer for ten layers.
            exploding: Float. Factor by which norms must exceed those of the first calls
                and stay there, or grow from the output to the input. Its square limits
                the norm relative to weights and error at the first call. Defaults to
                100.
            dead: Integer. Consecutive calls with a norm of exactly 0. Defaults to 10.

        Returns:
            A tuple of `Finding`, empty if the run is healthy. Printed, it describes
            each fault and suggests remedies; its `verdict` is a short form.

        Raises:
            ValueError: If nothing is recorded yet, or a threshold is out of range.
        """
        return diagnose(self._read(), vanishing, exploding, dead)

    def plot(self, *others: "RecordViews") -> "Figure":
        """Draws depth against step, with log10 of the norm as color.

        Needs matplotlib: `pip install "gradzoo[plot]"`. The input is at the top. Black
        is a norm of exactly zero, orange one that is NaN or infinite, white a layer
        that took no part. A dot marks where each finding begins. Of the steps with
        NaN or infinity that end a run, only the first are drawn.

        Args:
            *others: `GradientNorms`. Further runs, each drawn as a panel of its own,
                with the same colors.
        """
        if not all(isinstance(other, RecordViews) for other in others):
            raise TypeError(
                "`plot` takes the `GradientNorms` of further runs. "
                f"Received: others={others!r}."
            )
        return plotting.plot([norms._read() for norms in (self, *others)])

    def plot_profile(self, steps: Sequence[int] | None = None) -> "Figure":
        """Draws the norm against the layer, from the input to the output.

        Needs matplotlib: `pip install "gradzoo[plot]"`. Layers without a kernel are
        left out, and norms that are zero or not finite.

        Args:
            steps: Sequence of integers or `None`. The steps to draw, a line each.
                Defaults to `None`: the medians over ten steps at the beginning, in the
                middle and at the end, up to the last step whose norms are all finite.

        Raises:
            ValueError: If nothing is recorded yet, or a step is not recorded.
        """
        return plotting.plot_profile(self._read(), steps)

    def __repr__(self) -> str:
        record = vars(self).get("_record") or Record()
        return f"<GradientNorms of {record.model!r}: {record.end:,} rows read>"

    def __str__(self) -> str:
        with contextlib.suppress(Exception):  # Compiled code, for one, cannot read.
            self._read()
        if not self._record.columns:
            return "GradientNorms: nothing is recorded yet."
        steps, layers = self._record.layers().norms.shape
        summary = f"{self._record.model}: {steps:,} steps, {layers} layers"
        return f"GradientNorms of {summary}, {diagnose(self._record).verdict}"

    def _repr_html_(self) -> str:
        summary = f"<p>{html.escape(str(self))}</p>"
        findings = self._record.columns and diagnose(self._record)
        return summary + findings._repr_html_() if findings else summary
