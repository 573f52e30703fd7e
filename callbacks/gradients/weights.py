"""Measures the weights and their updates, once per epoch."""

from typing import Any

import numpy as np
from keras import ops

from .naming import variable_columns
from .record import Weights


class WeightUpdate:
    """The update of the weights by the next run of the train function."""

    def __init__(self, model: Any, step: int) -> None:
        self.step = step  # the number of the first optimizer call in the run
        self.variables = list(model.trainable_variables)
        pairs = variable_columns(model, self.variables, {})
        self.layers = tuple(column.layer for column, _ in pairs)
        self.before = [np.array(ops.convert_to_numpy(v)) for v in self.variables]

    def measure(self) -> Weights:
        """Returns the norms of the weights before the run, and of their change."""
        norms, updates = [], []
        for variable, before in zip(self.variables, self.before, strict=True):
            before = before.astype(np.float64)
            norms.append(np.linalg.norm(before))
            updates.append(np.linalg.norm(ops.convert_to_numpy(variable) - before))
        return Weights(self.step, self.layers, np.array(norms), np.array(updates))
