"""Records gradient norms on the torch backend: one tensor per optimizer call."""

from typing import Any

import torch

from .instrumented_step import InstrumentedStep
from .recorder import Recorder


class TorchInstrumentedStep(InstrumentedStep):
    """Keeps `torch.compile` from tracing into the recorders."""

    record = torch.compiler.disable(InstrumentedStep.record)


class TorchRecorder(Recorder):
    """Computes norms on the torch backend."""

    step_class = TorchInstrumentedStep

    def compute_norms(self, gradients: list[Any]) -> torch.Tensor:
        # Squares of float32 fit into float64, which Apple's GPUs do not support.
        on_mps = gradients[0].device.type == "mps"
        dtype = torch.float32 if on_mps else torch.float64
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(g, dtype=dtype) for g in gradients]
            return torch.stack(norms)
