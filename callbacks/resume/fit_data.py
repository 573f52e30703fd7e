"""The data of the running `fit`, which Keras does not pass to callbacks."""

import itertools
import sys
from typing import Any

import keras


def find_fit() -> tuple[Any, list[Any]]:
    """Returns the epoch iterator and the callbacks of the running `fit`."""
    frame: Any = sys._getframe()
    kind = keras.callbacks.CallbackList
    while frame and not isinstance(frame.f_locals.get("callbacks"), kind):
        frame = frame.f_back
    if not frame:  # A model may have a `fit` of its own.
        return None, []
    return frame.f_locals.get("epoch_iterator"), frame.f_locals["callbacks"].callbacks


def skip_epochs(iterator: Any, count: int) -> None:
    """Draws the batches of epochs, if each epoch begins where the last one ended."""
    size = iterator.steps_per_execution
    # Keras draws whole executions, and starts again after the last batch.
    drawn = -(-(iterator.steps_per_epoch or 0) // size) * size
    if drawn and (number := iterator.data_adapter.num_batches):
        count %= -(-number // drawn)
    if drawn * count:
        batches = iter(iterator._get_iterator())
        iterator._current_iterator, iterator._steps_seen = batches, count * drawn
        for _ in itertools.islice(batches, count * drawn):
            pass


def find_randomness(iterator: Any) -> list[str]:
    """Returns what makes the batches depend on more than their position."""
    adapter, found = iterator.data_adapter, []
    is_endless = bool(iterator.steps_per_epoch) and adapter.num_batches is None
    if not is_endless:
        if getattr(adapter, "shuffle", getattr(adapter, "_shuffle", False)):
            found.append("shuffle=True")
        if getattr(adapter, "enqueuer", None):  # It keeps batches for the next epoch.
            found.append("workers")
    data = getattr(adapter, "py_dataset", None)
    unchanged = (keras.utils.PyDataset.on_epoch_end, None)
    if getattr(type(data), "on_epoch_end", None) not in unchanged:
        found.append(f"{type(data).__name__}.on_epoch_end")
    sampler = getattr(getattr(adapter, "_dataloader", None), "sampler", None)
    if "Random" in type(sampler).__name__:
        found.append("RandomSampler")
    datasets: list[Any] = [getattr(adapter, "_dataset", None)]
    for dataset in datasets:
        if not hasattr(dataset, "_inputs"):  # Not of tf.data.
            continue
        datasets += dataset._inputs()
        is_seeded = any(int(getattr(dataset, name, 1)) for name in ("_seed", "_seed2"))
        reshuffles = getattr(dataset, "_reshuffle_each_iteration", False) is not False
        if not is_seeded or (reshuffles and not is_endless):
            found.append("Dataset.shuffle")
        in_order = dataset.options().deterministic is not False
        if not in_order or getattr(dataset, "_deterministic", "") == "false":
            found.append("deterministic=False")
        for function in dataset._functions():
            types = {op.type for op in function.function.graph.get_operations()}
            # Keras' random generators assign their state.
            found += [t for t in types if t.startswith(("Assign", "Random", "Rng"))]
    return sorted(set(found))
