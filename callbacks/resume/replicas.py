"""The processes and replicas that train one model."""

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np


def process_place() -> tuple[int, int]:
    """Returns the index and the number of JAX processes; (0, 1) on other backends."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.process_index(), jax.process_count()
    return 0, 1


def is_chief(model: Any) -> bool:
    """Returns `True` in the process that writes files for all workers."""
    if strategy := _strategy(model):
        return bool(strategy.extended.should_checkpoint)
    return process_place()[0] == 0


def has_peers(model: Any) -> bool:
    """Returns `True` if other processes train the model, too."""
    if strategy := _strategy(model):
        own = len(strategy.extended.worker_devices)
        return bool(strategy.num_replicas_in_sync > own)
    return process_place()[1] > 1


def gather(model: Any, array: np.ndarray) -> np.ndarray:
    """Waits for all processes that train the model, and stacks their arrays.

    Returns:
        Array of shape `(processes, ...)`, on TensorFlow one row per replica.
    """
    if not has_peers(model):
        return array[None]
    if strategy := _strategy(model):
        return _gather_replicas(strategy, itertools.repeat(array))
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array))


def get_values(model: Any, variables: list[Any]) -> dict[str, Any]:
    """Returns the values of variables, also per replica where these can differ.

    Each replica updates metrics, which are summed when read, and the state of layers,
    such as statistics of batches. Optimizers keep weights equal in all replicas.
    """
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    of_replicas: dict[int, np.ndarray] = {}
    if strategy := _strategy(model):
        gather_all = functools.partial(_gather_replicas, strategy)
        stack = gather_all if has_peers(model) else np.stack
        own = {id(v) for v in model.non_trainable_variables + model.metrics_variables}
        for i, variable in enumerate(variables):
            if id(variable) in own:
                parts = strategy.experimental_local_results(variable.value)
                of_replicas[i] = stack([part.numpy() for part in parts])
    return {"values": values, "of_replicas": of_replicas}


def set_values(model: Any, variables: list[Any], saved: dict[str, Any]) -> None:
    """Assigns the result of `get_values` to variables."""
    for variable, value in zip(variables, saved["values"], strict=True):
        if hasattr(variable, "assign"):
            variable.assign(value)
        else:  # A buffer of a torch module.
            variable.copy_(keras.ops.convert_to_tensor(value))
    strategy = _strategy(model)
    for i, values in saved["of_replicas"].items():
        # The number of replicas may have changed.
        if strategy and len(values) == strategy.num_replicas_in_sync:
            parts = strategy.experimental_local_results(variables[i].value)
            for part, value in zip(parts, _own(strategy, values), strict=True):
                part.assign(value)


def _strategy(model: Any) -> Any:
    """Returns the TensorFlow strategy of a model with several replicas, or `None`."""
    if keras.backend.backend() != "tensorflow":
        return None
    strategy = model.distribute_strategy
    return strategy if strategy.num_replicas_in_sync > 1 else None


def _own(strategy: Any, values: Any) -> Any:
    """Returns those of the values, one per replica, that belong to this process."""
    distribute = strategy.experimental_distribute_values_from_function
    own = distribute(lambda context: values[context.replica_id_in_sync_group])
    return strategy.experimental_local_results(own)


def _gather_replicas(strategy: Any, arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Stacks an array per replica; each process passes those of its own replicas."""
    rest = iter(arrays)
    distribute = strategy.experimental_distribute_values_from_function
    rows = distribute(lambda _: keras.ops.convert_to_tensor(next(rest))[None])
    return np.asarray(_traced_gather(strategy)(rows))


@functools.cache
def _traced_gather(strategy: Any) -> Any:
    """Returns `strategy.gather` as a function that is not traced at each call."""
    import tensorflow as tf

    return tf.function(lambda rows: strategy.gather(rows, axis=0))
