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
        self.names = tuple((column.layer, column.name) for column, _ in pairs)
        self.before = self._read()

    def _read(self) -> list[Any]:
        return [np.array(ops.convert_to_numpy(v), np.float64) for v in self.variables]

    def measure(self) -> Weights:
        """Returns the norms of the weights before the run, and of their change."""
        changes = map(np.subtract, self._read(), self.before)
        norms = np.array([np.linalg.norm(values) for values in self.before])
        updates = np.array([np.linalg.norm(values) for values in changes])
        return Weights(self.step, self.names, norms, updates)
