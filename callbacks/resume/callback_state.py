"""The state of other callbacks, which belongs to a checkpoint."""

import copy
import os
import pickle
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


class CallbackStates:
    """Reads and sets the states of callbacks.

    The state of a callback is the result of its method `get_state`. Without one, it
    consists of the plain attributes that have changed since this object was created.
    """

    def __init__(self, callbacks: Sequence[Any]) -> None:
        kinds = [type(callback).__name__ for callback in callbacks]
        names = [f"{kind} {kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]
        self._callbacks = dict(zip(names, callbacks, strict=True))
        # Pickles differ between processes; these are compared within one only.
        self._initial = {
            name: {k: pickle.dumps(v) for k, v in _plain_attributes(callback).items()}
            for name, callback in self._callbacks.items()
        }

    def get(self) -> dict[str, Any]:
        """Returns the states by callback."""
        states = {}
        for name, callback in self._callbacks.items():
            if hasattr(callback, "get_state"):
                states[name] = callback.get_state()
                continue
            initial = self._initial[name]
            states[name] = {
                key: value
                for key, value in _plain_attributes(callback).items()
                if pickle.dumps(value) != initial.get(key)
            }
            if isinstance(callback, keras.callbacks.CSVLogger):
                states[name]["size"] = os.path.getsize(callback.filename)
        return states

    def set(self, states: dict[str, Any]) -> None:
        """Gives the callbacks the states that `get` returned."""
        for name in self._callbacks.keys() & states.keys():
            callback, state = self._callbacks[name], copy.deepcopy(states[name])
            if hasattr(callback, "set_state"):
                callback.set_state(state)
                continue
            initial = self._initial[name]
            for key in initial.keys() & _plain_attributes(callback).keys():
                state.setdefault(key, pickle.loads(initial[key]))
            vars(callback).update(state)
            if isinstance(callback, keras.callbacks.CSVLogger):
                # Rows written after the checkpoint will be written again.
                size = min(state["size"], os.path.getsize(callback.filename))
                os.truncate(callback.filename, size)
                callback.append_header = size == 0

    def skip_batches(self, first: int) -> None:
        """Hides the batches before `first` from the callbacks, in this epoch."""
        for callback in self._callbacks.values():
            _skip_batches(callback, "on_train_batch_begin", first)
            _skip_batches(callback, "on_train_batch_end", first)


def _skip_batches(callback: Any, name: str, first: int) -> None:
    """Replaces a method of a callback until it is called for the batch `first`."""
    method = getattr(callback, name)

    def skip(batch: int, logs: Any = None) -> None:
        if batch >= first:
            setattr(callback, name, method)
            method(batch, logs)

    setattr(callback, name, skip)


def _plain_attributes(callback: Any) -> dict[str, Any]:
    """Returns the attributes of a callback that can be saved."""
    plain = {name: x for name, x in vars(callback).items() if is_plain(x)}
    plain.pop("params", None)
    if hasattr(callback, "monitor_op"):
        plain.pop("min_delta", None)  # Keras gives it a sign when training begins.
    return plain


def is_plain(value: Any) -> bool:
    """Returns `True` if a checkpoint can hold a value."""
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biufcUV" and value.dtype.fields is None
    return value is None or isinstance(value, bool | int | float | str)
