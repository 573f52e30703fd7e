"""Wrappers that replace `model.train_function` for one call."""

from collections.abc import Callable
from typing import Any

import keras

# Since Keras 3.16, the JAX trainer draws the batches of all steps of an execution at
# once, and runs the steps in a `lax.scan`.
VERSION = tuple(map(int, keras.__version__.split(".")[:2]))
DRAWS_AT_ONCE = keras.backend.backend() == "jax" and VERSION >= (3, 16)


class TrainFunctionWrapper:
    """Replaces `model.train_function` for one call, by `run`.

    A callback creates the wrapper in `on_train_batch_begin`, and the call removes it
    before anything can fail. If a later callback raises an exception, there is no call
    and the wrapper stays. It is stale in the next fit, which has another `History`.
    """

    run: Callable[..., Any]

    def __init__(self, model: Any) -> None:
        self.model = model
        self.original = model.train_function
        self.history = getattr(model, "history", None)
        object.__setattr__(model, "train_function", self)

    def __call__(self, *args: Any) -> Any:
        self.remove()
        return self.original(*args) if self.is_stale() else self.run(*args)

    @staticmethod
    def remove_stale(model: Any) -> None:
        """Removes the wrappers that an interrupted fit left behind."""
        while isinstance(model.train_function, TrainFunctionWrapper) and (
            model.train_function.is_stale()
        ):
            model.train_function.remove()

    def is_stale(self) -> bool:
        return getattr(self.model, "history", None) is not self.history

    def remove(self) -> None:
        object.__setattr__(self.model, "train_function", self.original)


class SkipBatches(TrainFunctionWrapper):
    """Draws the batches of one call and passes them to `on_batch`, not to training."""

    def __init__(self, model: Any, on_batch: Callable[[Any], object]) -> None:
        super().__init__(model)
        self.on_batch = on_batch

    def run(self, *args: Any) -> Any:
        *state, batches = args  # On JAX, the training state comes first.
        if keras.backend.backend() != "torch":  # On torch, Keras has drawn the batch.
            for _ in range(1 if DRAWS_AT_ONCE else self.model.steps_per_execution):
                self.on_batch(next(batches))
        return ({}, *state) if state else {}
