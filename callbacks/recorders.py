"""Keeps gradient norms on the device; what the recorders of all backends share."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from .capture import InstrumentedStep
from .recording import Layout, Rows


class Recorder:
    """Keeps the gradient norms of optimizer calls until they are drained.

    Args:
        buffer_size: Integer, the number of calls between two readings.
        applied: Boolean, whether to be shown gradients as the optimizer applies them.
    """

    step_class = InstrumentedStep

    def __init__(self, buffer_size: int, applied: bool) -> None:
        self.buffer_size = buffer_size
        self.applied = applied
        self.steps: dict[tuple[Recorder, ...], InstrumentedStep] = {}
        self.counted = 0
        self.read_rows: list[Rows] = []
        self.lost = 0
        self.is_recorded_elsewhere = False  # by the first of several workers
        self.on_error: Callable[[], object] = self.read

    def record(
        self, layout: Layout, gradients: list[Any], scale: Any, updates: Any = None
    ) -> None:
        """Takes the gradients of one optimizer call; runs inside the train step.

        The row of a call that updates nothing (`updates` is False) is all -1.
        """
        raise NotImplementedError

    def after_run(self) -> None:
        """Is told that a run of the train function has ended."""

    def close(self) -> None:
        """Is told that nobody will read any more."""

    def fail(self) -> None:
        """Is told that training has failed."""
        self.discard_unfinished()
        try:
            self.on_error()
        except Exception as error:  # It must not stand in the place of the step's.
            warnings.warn(f"GradientNorms cannot write: {error}", stacklevel=2)

    def discard_unfinished(self) -> None:
        """Forgets the calls of a step that has failed."""

    def read(self) -> None:
        """Moves what the device holds to `read_rows`, counts what was overwritten."""
        raise NotImplementedError

    def drain(self) -> tuple[list[Rows], int]:
        """Returns the rows since the last time, and how many were overwritten."""
        self.read()
        rows, self.read_rows = self.read_rows, []
        lost, self.lost = self.lost, 0
        return rows, lost

    def keep(self, calls: list[tuple[Layout, np.ndarray[Any, Any]]]) -> None:
        """Numbers calls, given in their order as (layout, norms), and keeps them."""
        grouped: dict[Layout, tuple[list[int], list[Any]]] = {}
        for layout, norms in calls:
            if norms[0] >= 0 or np.isnan(norms[0]):
                steps, rows = grouped.setdefault(layout, ([], []))
                steps.append(self.counted)
                rows.append(norms)
                self.counted += 1
        for layout, (steps, rows) in grouped.items():
            block = np.array(rows, np.float64)
            self.read_rows.append(Rows(layout, np.array(steps, np.int64), block))


class QueueRecorder(Recorder):
    """Keeps the norms of each call as an array on the device, in a list."""

    def __init__(self, buffer_size: int, applied: bool) -> None:
        super().__init__(buffer_size, applied)
        self.queue: list[tuple[Layout, Any]] = []

    def enqueue(self, layout: Layout, norms: Any) -> None:
        self.queue.append((layout, norms))
        if len(self.queue) >= self.buffer_size:
            self.read()

    def read(self) -> None:
        queue, self.queue = self.queue, []
        norms = self.to_host([on_device for _, on_device in queue])
        self.keep(
            [(layout, row) for (layout, _), row in zip(queue, norms, strict=True)]
        )

    def to_host(self, arrays: list[Any]) -> list[Any]:
        """Copies arrays from the device, in one go."""
        raise NotImplementedError


def uses_nnx() -> bool:
    """Whether Keras' JAX backend keeps its variables in Flax NNX."""
    is_enabled = getattr(keras.config, "is_nnx_enabled", None)  # since Keras 3.11
    return is_enabled is not None and bool(is_enabled())


def make_recorder(buffer_size: int, applied: bool) -> Recorder:
    """The recorder for the Keras backend in use."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from .tensorflow_recorder import TensorFlowRecorder

        return TensorFlowRecorder(buffer_size, applied)
    if backend == "jax" and not uses_nnx():
        from .jax_recorder import JaxRecorder

        return JaxRecorder(buffer_size, applied)
    if backend == "torch":
        from .torch_recorder import TorchRecorder

        return TorchRecorder(buffer_size, applied)
    raise NotImplementedError(
        "GradientNorms supports the TensorFlow, JAX (without NNX) and torch backends. "
        f"Received: keras.backend.backend()={backend!r}"
    )
