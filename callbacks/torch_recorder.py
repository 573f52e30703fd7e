"""Gradient norms on the torch backend: a tensor per optimizer call."""

from typing import Any

import torch

from .capture import InstrumentedStep
from .recorders import QueueRecorder
from .recording import Layout


class TorchInstrumentedStep(InstrumentedStep):
    """Keeps `torch.compile` from tracing into the recorders."""

    record = torch.compiler.disable(InstrumentedStep.record)


class TorchRecorder(QueueRecorder):
    """Queues the norms of each call."""

    step_class = TorchInstrumentedStep

    def __init__(self, buffer_size: int, applied: bool) -> None:
        super().__init__(buffer_size, applied)
        self.finished = 0

    def record(
        self, layout: Layout, gradients: list[Any], scale: Any, updates: Any = None
    ) -> None:
        # Squares of float32 fit into float64, which Apple's GPUs do not have.
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

    def to_host(self, arrays: list[Any]) -> list[Any]:
        return [array.cpu().numpy() for array in arrays]
