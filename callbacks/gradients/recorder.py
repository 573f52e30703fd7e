"""The base class of the recorders, which keep gradient norms on the device."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from .record import Layout, Record


class Recorder:
    """Keeps the norms of `buffer_size` calls on the device, then reads them.

    By default, the norms of each call are an array on the device, in a list.
    """

    step_class: type[Any]  # the `InstrumentedStep` of the backend

    def __init__(self, record: Record, buffer_size: int, applied: bool) -> None:
        self.record = record
        self.buffer_size = buffer_size
        self.applied = applied
        self.queue: list[tuple[Layout, Any]] = []
        self.finished = 0  # the number of queued calls whose step has not failed
        self.step: Any = None  # the latest `InstrumentedStep`, which is used again
        self.may_be_empty = False  # a later replica, or calls that a warning named
        self.on_failure: Callable[[], object] = self.read

    def take(
        self, layout: Layout, gradients: list[Any], scale: Any, updates: Any = None
    ) -> None:
        """Takes the gradients of one optimizer call. Runs inside the train step.

        The gradients are multiplied by `scale`, unless it is `None`. If `updates` is
        False, the call updates no weights: its norms are -1, and `keep` drops them.
        """
        norms = self.compute_norms(gradients)
        if scale is not None:
            norms = ops.divide(norms, scale)
        if updates is not None:
            norms = ops.where(updates, norms, -1.0)
        self.store(layout, norms)

    def compute_norms(self, gradients: list[Any]) -> Any:
        """Returns the L2 norm of each gradient, of shape `(gradients,)`."""
        raise NotImplementedError

    def store(self, layout: Layout, norms: Any) -> None:
        """Stores the norms of one call on the device."""
        self.queue.append((layout, norms))
        if len(self.queue) >= self.buffer_size:
            self.read()

    def expect_new_step(self) -> None:
        """Called when a new step is made, whose number of calls may differ."""

    def after_run(self) -> None:
        """Called after each run of the train function."""
        self.finished = len(self.queue)

    def discard_unfinished(self) -> None:
        """Drops the calls of a step that has failed."""
        del self.queue[self.finished :]

    def close(self) -> None:
        """Called once the recorder is no longer needed."""

    def read(self) -> None:
        """Moves the norms from the device to the record."""
        queue, self.queue, self.finished = self.queue, [], 0
        self.keep([(layout, ops.convert_to_numpy(norms)) for layout, norms in queue])

    def keep(self, calls: list[tuple[Layout, np.ndarray[Any, Any]]]) -> None:
        """Adds consecutive calls, each (layout, norms), to the record."""
        updates = [call for call in calls if not call[1][0] < 0]
        for layout, group in itertools.groupby(updates, key=lambda call: call[0]):
            norms = np.stack([norms for _, norms in group])
            self.record.add(layout, self.record.end + np.arange(len(norms)), norms)
