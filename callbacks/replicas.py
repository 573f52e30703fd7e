"""What the processes and replicas that train one model hold of it together."""

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def process_place() -> tuple[int, int]:
    """On JAX, the index of this process among those that train together."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.process_index(), jax.process_count()
    return 0, 1


def is_chief(model: Any) -> bool:
    """Whether this process saves, of the workers that train a model together."""
    if keras.backend.backend() == "tensorflow":
        return bool(model.distribute_strategy.extended.should_checkpoint)
    return process_place()[0] == 0


def has_peers(model: Any) -> bool:
    """Whether other processes train the model, too."""
    if keras.backend.backend() == "tensorflow":
        replicas, strategy = _replicas(model), model.distribute_strategy
        return replicas > 1 and replicas > len(strategy.extended.worker_devices)
    return process_place()[1] > 1


def gather(model: Any, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Waits for all processes that train the model, and stacks what each of them gives.

    Returns:
        `[processes, ...]`, on TensorFlow `[replicas, ...]`.
    """
    if keras.backend.backend() == "jax" and has_peers(model):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array))
    if _replicas(model) > 1:
        return _gather_replicas(model, [array] * len(_replica_ids(model)))
    return array[None]


def get_values(model: Any, variables: list[Any]) -> dict[str, Any]:
    """The values of variables, and where replicas hold different ones, all of these.

    They do of metrics, which are summed when read, and of statistics of their batches.
    """
    of_replicas: dict[int, np.ndarray[Any, Any]] = {}
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
    """Gives variables what `get_values` has read."""
    for variable, value in zip(variables, saved["values"], strict=True):
        variable.assign(value)
    for i, values in saved["of_replicas"].items():
        if len(values) == _replicas(model):  # Or they are others than before.
            own = values[_replica_ids(model)]
            for part, value in zip(_parts(model, variables[i]), own, strict=True):
                part.assign(value)


def _replicas(model: Any) -> int:
    """On TensorFlow, how many copies of the model its strategy trains."""
    if keras.backend.backend() != "tensorflow":
        return 1
    replicas: int = model.distribute_strategy.num_replicas_in_sync
    return replicas


def _replica_ids(model: Any) -> list[int]:
    """Which of the replicas are in this process."""
    ids: list[int] = []
    model.distribute_strategy.experimental_distribute_values_from_function(
        lambda context: ids.append(context.replica_id_in_sync_group)
    )
    return ids


def _gather_replicas(
    model: Any, arrays: list[np.ndarray[Any, Any]]
) -> np.ndarray[Any, Any]:
    """Stacks an array of each replica, of which this process gives its own."""
    if not has_peers(model):
        return np.stack(arrays)
    strategy, rest = model.distribute_strategy, iter(arrays)
    rows = strategy.experimental_distribute_values_from_function(
        lambda context: keras.ops.convert_to_tensor(next(rest))[None]
    )
    return np.asarray(_traced_gather(strategy)(rows))


@functools.cache
def _traced_gather(strategy: Any) -> Any:
    """`strategy.gather`, which would be traced at every call."""
    import tensorflow as tf

    return tf.function(lambda rows: strategy.gather(rows, axis=0))


def _parts(model: Any, variable: Any) -> Sequence[Any]:
    """What the replicas in this process hold of a variable."""
    parts: Sequence[Any] = model.distribute_strategy.experimental_local_results(
        variable.value
    )
    return parts
