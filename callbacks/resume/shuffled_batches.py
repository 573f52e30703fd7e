"""Training batches that depend only on their position."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


class ShuffledBatches(keras.utils.PyDataset):
    """An endless sequence of shuffled batches, each determined by its position.

    Seed and epoch determine the order. Examples that do not fill a batch are left out.

    Args:
        x: Array-like of inputs, of shape `(n, ...)`.
        y: Array-like of targets, of shape `(n, ...)`.
        batch_size: Integer. Examples per batch. Defaults to 32.
        seed: Non-negative integer. Defaults to 0.
        augment: Callable that maps a batch of inputs and a `numpy.random.Generator` to
            inputs. Seed, epoch and batch determine the generator. Defaults to `None`.
        shard: Tuple of two integers. The index of the part of each batch to return, and
            the number of parts: with `keras.distribution.DataParallel`, each process
            passes its own part to `fit`. Defaults to `(0, 1)`: the whole batch.

    Attributes:
        steps_per_epoch: Integer. Pass it to `fit` under this name.

    Raises:
        ValueError: If `x` and `y` differ in length or are empty, `batch_size` is not
            positive, or `shard` does not divide it.
    """

    num_batches = None

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int = 32,
        *,
        seed: int = 0,
        augment: Callable[[Any, np.random.Generator], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        if not 0 < len(x) == len(y) or batch_size < 1:
            raise ValueError(
                "`x` and `y` must have the same length and not be empty, and "
                "`batch_size` must be positive. Received: "
                f"len(x)={len(x)}, len(y)={len(y)}, batch_size={batch_size}."
            )
        self.x, self.y = np.asarray(x), np.asarray(y)
        self.batch_size = min(batch_size, len(x))
        if not 0 <= shard[0] < shard[1] or self.batch_size % shard[1]:
            raise ValueError(
                "`shard` must be an index and the number of parts, which must divide "
                f"`batch_size`. Received: shard={shard}, batch_size={self.batch_size}."
            )
        self.seed, self.augment, self.shard = seed, augment, shard
        self.steps_per_epoch = len(x) // self.batch_size
        self._start = 0

    def start_at(self, step: int) -> None:
        """Makes `step`, counted from the first epoch, the batch at index 0."""
        self._start = step

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        epoch, batch = divmod(self._start + index, self.steps_per_epoch)
        order = _permutation(len(self.x), self.seed, epoch)
        chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        x, y = self.x[chosen], self.y[chosen]
        if self.augment:
            x = self.augment(x, np.random.default_rng((self.seed, epoch, batch)))
        index, parts = self.shard
        size = self.batch_size // parts
        part = slice(index * size, (index + 1) * size)
        return x[part], y[part]


@functools.lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)
