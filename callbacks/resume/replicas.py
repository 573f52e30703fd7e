"""The processes and replicas that train one model."""

import functools
import zlib
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
    if keras.backend.backend() == "tensorflow":
        return bool(model.distribute_strategy.extended.should_checkpoint)
    return process_place()[0] == 0


def has_peers(model: Any) -> bool:
    """Returns `True` if other processes train the model, too."""
    if keras.backend.backend() == "tensorflow":
        replicas, strategy = _replicas(model), model.distribute_strategy
        return replicas > 1 and replicas > len(strategy.extended.worker_devices)
    return process_place()[1] > 1


def gather(model: Any, array: np.ndarray) -> np.ndarray:
    """Waits for all processes that train the model, and stacks their arrays.

    Returns:
        Array of shape `(processes, ...)`, on TensorFlow `(replicas, ...)`.
    """
    if keras.backend.backend() == "jax" and has_peers(model):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array))
    if _replicas(model) > 1:
        return _gather_replicas(model, [array] * len(_replica_ids(model)))
    return array[None]


def get_values(model: Any, variables: list[Any]) -> dict[str, Any]:
    """Returns the values of variables, per replica where they differ.

    They differ for metrics, which are summed when read, and for statistics of batches.
    """
    of_replicas: dict[int, np.ndarray] = {}
    if _replicas(model) > 1:
        parts = [[part.numpy() for part in _parts(model, v)] for v in variables]
        checksums = [
            np.array([zlib.crc32(array.tobytes()) for array in arrays])
            for arrays in zip(*parts, strict=True)
        ]
        differs = np.ptp(_gather_replicas(model, checksums), axis=0) > 0
        of_replicas = {
            i: _gather_replicas(model, parts[i])
            for i, variable in enumerate(variables)
            if differs[i] or variable.synchronization == "on_read"
        }
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    return {"values": values, "of_replicas": of_replicas}


def set_values(model: Any, variables: list[Any], saved: dict[str, Any]) -> None:
    """Assigns the result of `get_values` to variables."""
    for variable, value in zip(variables, saved["values"], strict=True):
        variable.assign(value)
    for i, values in saved["of_replicas"].items():
        if len(values) == _replicas(model):  # The number of replicas may have changed.
            own = values[_replica_ids(model)]
            for part, value in zip(_parts(model, variables[i]), own, strict=True):
                part.assign(value)


def _replicas(model: Any) -> int:
    """Returns the number of copies of the model, which is 1 except on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return int(model.distribute_strategy.num_replicas_in_sync)


def _replica_ids(model: Any) -> list[int]:
    """Returns the indices of the replicas in this process."""
    ids: list[int] = []
    model.distribute_strategy.experimental_distribute_values_from_function(
        lambda context: ids.append(context.replica_id_in_sync_group)
    )
    return ids


def _gather_replicas(model: Any, arrays: list[np.ndarray]) -> np.ndarray:
    """Stacks an array per replica; each process passes those of its own replicas."""
    if not has_peers(model):
        return np.stack(arrays)
    strategy, rest = model.distribute_strategy, iter(arrays)
    rows = strategy.experimental_distribute_values_from_function(
        lambda context: keras.ops.convert_to_tensor(next(rest))[None]
    )
    return np.asarray(_traced_gather(strategy)(rows))


@functools.cache
def _traced_gather(strategy: Any) -> Any:
    """Returns `strategy.gather` as a function that is not traced at each call."""
    import tensorflow as tf

    return tf.function(lambda rows: strategy.gather(rows, axis=0))


def _parts(model: Any, variable: Any) -> list[Any]:
    """Returns the variables of the replicas in this process."""
    strategy = model.distribute_strategy
    return list(strategy.experimental_local_results(variable.value))
