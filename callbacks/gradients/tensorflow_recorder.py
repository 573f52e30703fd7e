"""Records gradient norms on the TensorFlow backend, in ring buffers in the graph."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .instrumented_step import InstrumentedStep, replaced
from .record import Layout, Record
from .recorder import Recorder


class TensorFlowInstrumentedStep(InstrumentedStep):
    """Notifies the recorders at the end of each train step, in the graph."""

    recorders: "list[TensorFlowRecorder]"  # type: ignore[assignment]

    def make_function(self) -> Callable[..., Any]:
        train_step = self.model.train_step
        # A `tf.function` would keep what it records in its own graph.
        original = getattr(train_step, "python_function", train_step)

        def recorded_step(data: Any) -> Any:
            graph = _current_graph()
            with replaced(*((recorder, "graph", graph) for recorder in self.recorders)):
                logs = original(data)
            for recorder in self.recorders:
                recorder.finish_step()
            return logs

        with replaced((self.model, "train_step", recorded_step)):
            return super().make_function()

    def __call__(self, *args: Any) -> Any:
        model = self.model
        # TensorFlow would retrace a step that creates variables.
        if (
            not getattr(model.optimizer, "built", True)
            and getattr(model.train_step, "__func__", None) is keras.Model.train_step
            and all(layer.built for layer in model._flatten_layers())
        ):
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        return super().__call__(*args)


class TensorFlowRecorder(Recorder):
    """Writes a row per optimizer call into a ring buffer.

    A row is float64: the number of the call, then the norm of each variable's
    gradient. Each layout has its own ring; all share the counter of calls.
    """

    step_class = TensorFlowInstrumentedStep
    graph: Any = None  # that of the step; `None` in a custom loop

    def __init__(self, record: Record, buffer_size: int, applied: bool) -> None:
        super().__init__(record, buffer_size, applied)
        self.rings: dict[Layout, tf.Variable] = {}
        self.calls = _create_variable(np.zeros((), np.int64))
        self.finished_calls = _create_variable(np.zeros((), np.int64))
        self.calls_read = 0
        self.expect_new_step()

    def expect_new_step(self) -> None:
        self.runs = 0  # since the last reading
        self.most_calls_per_run = 0  # Unknown, so the next run is read at once.

    def compute_norms(self, gradients: list[Any]) -> tf.Tensor:
        if replica := _replica():
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return tf.sqrt(2 * _half_squares(gradients))

    def store(self, layout: Layout, norms: tf.Tensor) -> None:
        if self.graph is not None and _current_graph() is not self.graph:
            warnings.warn(
                "GradientNorms does not record this optimizer call, which is inside a "
                "`tf.function` that the train step calls. Call the optimizer outside, "
                "or remove the decorator, since Keras compiles the step.",
                stacklevel=2,
            )
            self.may_be_empty = True
            return
        if layout not in self.rings:
            empty = np.full((self.buffer_size, 1 + len(layout.columns)), -1.0)
            self.rings[layout] = _create_variable(empty)
        if _is_later_replica():
            self.may_be_empty = True
            return
        call = self.calls.read_value()
        written = tf.raw_ops.ResourceScatterUpdate(
            resource=self.rings[layout].handle,
            indices=call % self.buffer_size,
            updates=tf.concat([[tf.cast(call, tf.float64)], norms], axis=0),
        )
        # The counter waits for the row: a step that fails must not count.
        with tf.control_dependencies([written]):
            self.calls.assign_add(1)
        in_custom_loop = tf.executing_eagerly() and self.graph is None
        if in_custom_loop and int(call) + 1 - self.calls_read >= self.buffer_size:
            self.read()

    def finish_step(self) -> None:
        """Marks the calls of this train step as finished. Runs at its end."""
        operations = []
        if not tf.executing_eagerly():
            # An assertion can fail after the row has been written: wait for all.
            operations = [
                operation
                for operation in tf.compat.v1.get_default_graph().get_operations()
                if operation.op_def.is_stateful and operation.type != "ReadVariableOp"
            ]
        if not _is_later_replica():
            with tf.control_dependencies(operations):
                self.finished_calls.assign(self.calls.read_value())

    def discard_unfinished(self) -> None:
        self.calls.assign(self.finished_calls)

    def after_run(self) -> None:
        self.runs += 1
        calls_after_next = (self.runs + 1) * self.most_calls_per_run
        if not self.most_calls_per_run or calls_after_next > self.buffer_size:
            self.read()

    def read(self) -> None:
        calls = int(self.calls.numpy())
        if self.runs:
            calls_per_run = -(-(calls - self.calls_read) // self.runs)
            self.most_calls_per_run = max(self.most_calls_per_run, calls_per_run, 1)
            self.runs = 0
        oldest = max(self.calls_read, calls - self.buffer_size)
        lost = oldest - self.calls_read
        self.record.end += lost
        rows = [
            (row[0], layout, row[1:])
            for layout, ring in self.rings.items()
            for row in ring.numpy()
            if oldest <= row[0] < calls
        ]
        rows.sort(key=lambda row: row[0])
        self.keep([(layout, norms) for _, layout, norms in rows])
        self.calls_read = calls
        if lost:
            warnings.warn(
                f"GradientNorms lost {lost} rows: there were more than "
                f"buffer_size={self.buffer_size} optimizer calls between two "
                "readings. Raise `buffer_size`.",
                stacklevel=4,
            )


def _current_graph() -> Any:
    """Returns the graph that is being traced, or "eager"."""
    if tf.executing_eagerly():
        return "eager"
    graph = tf.compat.v1.get_default_graph()
    # The branches of `tf.cond` and the bodies of loops are graphs within it.
    while "control_flow" in type(graph).__module__:
        graph = graph.outer_graph
    return graph


def _replica() -> Any:
    """Returns the context of this replica, or `None` unless there are several."""
    replica = tf.distribute.get_replica_context()
    return replica if replica and replica.num_replicas_in_sync > 1 else None


def _is_later_replica() -> bool:
    """Returns `True` in all replicas but the first."""
    replica = _replica()
    # Each replica has a function of its own, in which its id is a constant.
    return bool(replica and tf.get_static_value(replica.replica_id_in_sync_group) != 0)


def _create_variable(value: Any) -> tf.Variable:
    """Creates a variable outside all graphs, devices and strategy scopes."""
    with ThreadPoolExecutor(max_workers=1) as pool:  # Scopes belong to a thread.
        return pool.submit(tf.Variable, value, trainable=False).result()


def _half_squares(gradients: Sequence[Any]) -> tf.Tensor:
    """Returns half the squared L2 norm of each gradient, float64.

    `l2_loss` computes this in one pass without a copy. In float64, no square of a
    float32 overflows or underflows; the float64 copy is made only if it is needed.
    """
    gradients = [_with_unique_rows(g) for g in gradients]

    def widen(halves: tf.Tensor, *gradients: tf.Tensor) -> tf.Tensor:
        return tf.cast(halves, tf.float64)

    def compute_wide(halves: tf.Tensor, *gradients: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.nn.l2_loss(tf.cast(g, tf.float64)) for g in gradients])

    if any(g.dtype == tf.float64 for g in gradients):
        return compute_wide(None, *gradients)
    halves = tf.stack([tf.nn.l2_loss(tf.cast(g, tf.float32)) for g in gradients])
    is_precise = tf.reduce_all((halves > 1e-25) & (halves < 1e35))
    inputs = [halves, *gradients]
    if tf.executing_eagerly():
        return widen(*inputs) if is_precise else compute_wide(*inputs)
    # `tf.cond` would add an operation per gradient, as slow as computing its norm.
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]
    branches = {
        name: tf.function(branch, autograph=False).get_concrete_function(*specs)
        for name, branch in (("then_branch", widen), ("else_branch", compute_wide))
    }
    [halves] = tf.raw_ops.StatelessIf(
        cond=is_precise, input=inputs, Tout=[tf.float64], **branches
    )
    return halves


def _with_unique_rows(gradient: Any) -> Any:
    """Sums the rows of an embedding's gradient that have the same index."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    # XLA needs static shapes, which sorting has and `tf.unique` lacks.
    indices = tf.reshape(gradient.indices, [-1])
    order = tf.argsort(indices)
    indices = tf.gather(indices, order)
    is_new = tf.cast(indices[1:] != indices[:-1], tf.int32)
    row = tf.concat([[0], tf.cumsum(is_new)], axis=0)
    values = tf.gather(gradient.values, order)
    return tf.math.unsorted_segment_sum(values, row, tf.size(indices))
