"""Gradient norms on the TensorFlow backend: ring buffers written inside the graph."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .capture import InstrumentedStep, replaced
from .recorders import Recorder
from .recording import Layout


class TensorFlowInstrumentedStep(InstrumentedStep):
    """Tells the recorders when a step has finished."""

    recorders: "list[TensorFlowRecorder]"  # type: ignore[assignment]

    def make_function(self) -> Callable[..., Any]:
        original = self.model.train_step

        def train_step(data: Any) -> Any:
            logs = original(data)
            for recorder in self.recorders:
                recorder.finish_step()
            return logs

        for recorder in self.recorders:
            recorder.expect_other_steps()
        with replaced((self.model, "train_step", train_step)):
            return super().make_function()


class TensorFlowRecorder(Recorder):
    """Writes a row per optimizer call, inside the graph if there is one.

    A row is float64: the number of the call, then half the square of each variable's
    norm; the host does the rest. There is a ring per layout and one counter for all,
    so that the calls of different optimizers stay in order.
    """

    step_class = TensorFlowInstrumentedStep

    def __init__(self, buffer_size: int, applied: bool) -> None:
        super().__init__(buffer_size, applied)
        self.rings: dict[Layout, tf.Variable] = {}
        self.calls = _create_variable(np.zeros((), np.int64))
        self.finished_calls = _create_variable(np.zeros((), np.int64))
        self.calls_read = 0
        self.expect_other_steps()

    def expect_other_steps(self) -> None:
        """Begins to learn anew how many optimizer calls a run makes, by reading."""
        self.runs, self.most_calls_per_run, self.runs_until_reading = 0, 1, 1

    def record(
        self, layout: Layout, gradients: list[Any], scale: Any, updates: Any = None
    ) -> None:
        if layout not in self.rings:
            empty = np.full((self.buffer_size, 1 + len(gradients)), -1.0)
            self.rings[layout] = _create_variable(empty)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        halves = _half_squares(gradients)
        if tf.is_tensor(scale) or scale != 1:
            halves /= tf.square(tf.cast(scale, tf.float64))
        if updates is not None:
            halves = tf.where(updates, halves, -tf.ones_like(halves))
        if _is_first_replica():
            self._write(layout, halves)
        else:
            self.is_recorded_elsewhere = True

    def _write(self, layout: Layout, halves: tf.Tensor) -> None:
        call = self.calls.read_value()
        row = tf.concat([[tf.cast(call, tf.float64)], halves], axis=0)
        written = tf.raw_ops.ResourceScatterUpdate(
            resource=self.rings[layout].handle,
            indices=call % self.buffer_size,
            updates=row,
        )
        # The counter waits for the row: a step that fails must not count.
        with tf.control_dependencies([written]):
            self.calls.assign_add(1)

    def finish_step(self) -> None:
        """Runs at the end of the train step."""
        operations = []
        if not tf.executing_eagerly():
            # An assertion that fails may run after the row has been written.
            graph = tf.compat.v1.get_default_graph()
            operations = [
                operation
                for operation in graph.get_operations()
                if operation.op_def.is_stateful and operation.type != "ReadVariableOp"
            ]
        if _is_first_replica():
            with tf.control_dependencies(operations):
                self.finished_calls.assign(self.calls.read_value())

    def discard_unfinished(self) -> None:
        self.calls.assign(self.finished_calls)

    def after_run(self) -> None:
        self.runs += 1
        if self.runs >= self.runs_until_reading:
            self.read()

    def read(self) -> None:
        calls = int(self.calls.numpy())
        if self.runs:
            calls_per_run = -(-(calls - self.calls_read) // self.runs)
            self.most_calls_per_run = max(self.most_calls_per_run, calls_per_run)
            self.runs_until_reading = max(
                1, self.buffer_size // self.most_calls_per_run
            )
            self.runs = 0
        oldest = max(self.calls_read, calls - self.buffer_size)
        self.lost += oldest - self.calls_read
        self.counted += oldest - self.calls_read
        rows = []
        if calls > oldest:
            for layout, ring in self.rings.items():
                table = ring.numpy()
                fresh = table[(table[:, 0] >= oldest) & (table[:, 0] < calls)]
                # Below zero, a call that updates nothing; it stays below.
                norms = np.copysign(np.sqrt(2 * np.abs(fresh)), fresh)
                rows += [
                    (call, layout, row)
                    for call, row in zip(fresh[:, 0], norms[:, 1:], strict=True)
                ]
        rows.sort(key=lambda row: row[0])
        self.keep([(layout, norms) for _, layout, norms in rows])
        self.calls_read = calls


def _is_first_replica() -> bool:
    """Whether this is the code of a strategy's first replica, or of no strategy."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return True
    # The id is a constant in the function of each replica: no need for a cond.
    return bool(tf.get_static_value(replica.replica_id_in_sync_group) == 0)


def _create_variable(value: Any) -> tf.Variable:
    """Creates a variable outside every graph, device and strategy scope.

    Such scopes belong to a thread; a fresh one has none.
    """
    created: list[tf.Variable] = []
    thread = threading.Thread(
        target=lambda: created.append(tf.Variable(value, trainable=False))
    )
    thread.start()
    thread.join()
    return created[0]


def _half_squares(gradients: Sequence[Any]) -> tf.Tensor:
    """Half the squared L2 norm of each gradient, float64 `[gradients]`.

    This is what `l2_loss` gives, in one pass and without a copy. In float64 no square
    of a float32 over- or underflows; the copy is made only if it has to be.
    """
    gradients = [_with_unique_rows(g) for g in gradients]

    def compute(dtype: tf.DType, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.stack([tf.nn.l2_loss(tf.cast(g, dtype)) for g in gradients])

    def keep(halves: tf.Tensor, *gradients: tf.Tensor) -> tf.Tensor:
        return tf.cast(halves, tf.float64)

    def compute_wide(halves: tf.Tensor, *gradients: tf.Tensor) -> tf.Tensor:
        return compute(tf.float64, gradients)

    if any(g.dtype == tf.float64 for g in gradients):
        return compute(tf.float64, gradients)
    halves = compute(tf.float32, gradients)
    is_precise = tf.reduce_all((halves > 1e-25) & (halves < 1e35))
    inputs = [halves, *gradients]
    if tf.executing_eagerly():
        return keep(*inputs) if is_precise else compute_wide(*inputs)
    # `tf.cond` would become an operation for each gradient, which takes as long as its
    # norm.
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]
    then_branch, else_branch = (
        tf.function(branch, autograph=False).get_concrete_function(*specs)
        for branch in (keep, compute_wide)
    )
    [halves] = tf.raw_ops.StatelessIf(
        cond=is_precise,
        input=inputs,
        Tout=[tf.float64],
        then_branch=then_branch,
        else_branch=else_branch,
    )
    return halves


def _with_unique_rows(gradient: Any) -> Any:
    """Sums the rows of an embedding's gradient that belong to the same index.

    Sorting, unlike `tf.unique`, has static shapes, which XLA needs.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    indices = tf.reshape(gradient.indices, [-1])
    order = tf.argsort(indices)
    indices = tf.gather(indices, order)
    is_new = tf.cast(indices[1:] != indices[:-1], tf.int32)
    row = tf.concat([[0], tf.cumsum(is_new)], axis=0)
    values = tf.gather(gradient.values, order)
    return tf.math.unsorted_segment_sum(values, row, tf.size(indices))
