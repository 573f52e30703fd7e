"""Base classes of the recorders, which keep gradient norms on the device."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from .record import Layout, Record


class Recorder:
    """Keeps the norms of `buffer_size` calls on the device, then reads them."""

    step_class: type[Any]  # the `InstrumentedStep` of the backend

    def __init__(self, record: Record, buffer_size: int, applied: bool) -> None:
        self.record = record
        self.buffer_size = buffer_size
        self.applied = applied
        self.step: Any = None  # the latest `InstrumentedStep`, which is used again
        self.is_recorded_elsewhere = False  # by the first replica
        self.on_failure: Callable[[], object] = self.read

    def take(
        self, layout: Layout, gradients: list[Any], scale: Any, updates: Any = None
    ) -> None:
        """Takes the gradients of one optimizer call. Runs inside the train step.

        If `updates` is False, the call updates no weights: its row is -1, and `keep`
        drops it.
        """
        raise NotImplementedError

    def after_run(self) -> None:
        """Called after each run of the train function."""

    def close(self) -> None:
        """Called once the recorder is no longer needed."""

    def discard_unfinished(self) -> None:
        """Drops the calls of a step that has failed."""

    def read(self) -> None:
        """Moves the norms from the device to the record."""
        raise NotImplementedError

    def keep(self, calls: list[tuple[Layout, np.ndarray[Any, Any]]]) -> None:
        """Numbers consecutive calls, each (layout, norms), and adds them."""
        updating = [call for call in calls if not call[1][0] < 0]
        rows: dict[Layout, list[tuple[int, Any]]] = {}
        for step, (layout, norms) in enumerate(updating, self.record.end):
            rows.setdefault(layout, []).append((step, norms))
        for layout, numbered in rows.items():
            steps, norms_of_steps = zip(*numbered, strict=True)
            block = np.array(norms_of_steps, np.float64)
            self.record.add(layout, np.array(steps, np.int64), block)


class QueueRecorder(Recorder):
    """Keeps the norms of each call as an array on the device, in a list."""

    def __init__(self, record: Record, buffer_size: int, applied: bool) -> None:
        super().__init__(record, buffer_size, applied)
        self.queue: list[tuple[Layout, Any]] = []

    def enqueue(self, layout: Layout, norms: Any) -> None:
        self.queue.append((layout, norms))
        if len(self.queue) >= self.buffer_size:
            self.read()

    def read(self) -> None:
        queue, self.queue = self.queue, []
        self.keep([(layout, ops.convert_to_numpy(norms)) for layout, norms in queue])
