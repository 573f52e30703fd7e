"""Training batches that are each a function of their place alone."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


class ShuffledBatches(keras.utils.PyDataset):
    """The endless sequence of training batches, each a function of its place alone.

    Every epoch has an order of its own, of the seed and the epoch. What does not fill a
    batch is left out; the next epoch leaves out something else.

    Args:
        x: Array of inputs, `[n, ...]`.
        y: Array of targets, `[n, ...]`.
        batch_size: Integer.
        seed: Integer from 0.
        augment: Function from a batch of inputs and a `numpy.random.Generator`, which
            is one of the seed, the epoch and the batch, to inputs.
        shard: Two integers, which part of each batch to give, from 0, and how many
            there are: for the processes of `keras.distribution.DataParallel`, each of
            which gives `fit` its own part.

    Raises:
        ValueError: `x` and `y` differ in length or are empty, `batch_size` is not
            positive, or `shard` does not divide it.

    Attributes:
        steps_per_epoch: The argument of that name, which `fit` needs for it.
    """

    num_batches = None

    def __init__(
        self,
        x: np.ndarray[Any, Any],
        y: np.ndarray[Any, Any],
        batch_size: int = 32,
        *,
        seed: int = 0,
        augment: Callable[[Any, np.random.Generator], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        if not 0 < len(x) == len(y) or batch_size < 1:
            raise ValueError(
                "`x` and `y` must have one length, and `batch_size` must be positive. "
                f"Received: lengths {len(x)} and {len(y)}, batch_size={batch_size}"
            )
        self.x, self.y = x, y
        self.batch_size = min(batch_size, len(x))
        if not 0 <= shard[0] < shard[1] or self.batch_size % shard[1]:
            raise ValueError(
                "`shard` must be an index and the number of parts, which divides "
                f"`batch_size`. Received: shard={shard}, batch_size={self.batch_size}"
            )
        self.seed, self.augment, self.shard = seed, augment, shard
        self.steps_per_epoch = len(x) // self.batch_size
        self._order = 0, self._permutation(0)
        self.start_at(0)

    def start_at(self, step: int, passed_over: int = 0) -> None:
        """Begins with a step; the batches that are passed over need not be made."""
        self._start, self._passed_over = step, passed_over
        self._stand_in: tuple[Any, Any] | None = None

    def describe(self) -> list[int]:
        """What must not change between a checkpoint and the run that goes on."""
        return [len(self.x), self.batch_size, self.seed]

    def _permutation(self, epoch: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.x))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index >= self._passed_over:
            return self._make(self._start + index)
        if self._stand_in is None:
            self._stand_in = self._make(self._start + self._passed_over)
        return self._stand_in

    def _make(self, step: int) -> tuple[Any, Any]:
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = self._order  # Another thread may make another meanwhile.
        if order[0] != epoch:
            order = self._order = epoch, self._permutation(epoch)
        chosen = order[1][batch * self.batch_size : (batch + 1) * self.batch_size]
        x, y = self.x[chosen], self.y[chosen]
        if self.augment:
            x = self.augment(x, np.random.default_rng((self.seed, epoch, batch)))
        index, parts = self.shard
        size = self.batch_size // parts
        part = slice(index * size, (index + 1) * size)
        return x[part], y[part]
