"""Records gradient norms on the torch backend: one tensor per optimizer call."""

from typing import Any

import torch

from .instrumented_step import InstrumentedStep
from .record import Layout
from .recorder import QueueRecorder


class TorchInstrumentedStep(InstrumentedStep):
    """Keeps `torch.compile` from tracing into the recorders."""

    record = torch.compiler.disable(InstrumentedStep.record)


class TorchRecorder(QueueRecorder):
    """Queues the norms of each call."""

    step_class = TorchInstrumentedStep
    finished = 0  # the number of queued calls whose step has not failed

    def take(
        self, layout: Layout, gradients: list[Any], scale: Any, updates: Any = None
    ) -> None:
        # Squares of float32 fit into float64, which Apple's GPUs do not support.
        on_mps = gradients[0].device.type == "mps"
        dtype = torch.float32 if on_mps else torch.float64
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(g, dtype=dtype) for g in gradients]
            row = torch.stack(norms) / scale
            if updates is not None:
                row = torch.where(updates, row, -torch.ones_like(row))
        self.enqueue(layout, row)

    def after_run(self) -> None:
        self.finished = len(self.queue)

    def discard_unfinished(self) -> None:
        del self.queue[self.finished :]

    def read(self) -> None:
        super().read()
        self.finished = 0
