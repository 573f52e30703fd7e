"""Records gradient norms on the JAX backend, as an output of the jitted step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras

from .instrumented_step import InstrumentedStep, replaced
from .record import Layout, Record
from .recorder import QueueRecorder


class JaxInstrumentedStep(InstrumentedStep):
    """Returns the norms from the jitted step, together with the logs."""

    recorders: "list[JaxRecorder]"  # type: ignore[assignment]

    def make_function(self) -> Callable[..., Any]:
        original = self.model.train_step

        # A new function: jit treats equal bound methods as one, and would find the
        # original's compiled code.
        def train_step(state: Any, data: Any) -> Any:
            for recorder in self.recorders:
                recorder.traced = {}
            logs, state = original(state, data)
            norms = [recorder.take_traced() for recorder in self.recorders]
            return (logs, norms), state

        # Keras returns only the last of several steps, so they run one by one.
        steps = self.model.steps_per_execution
        with replaced(
            (self.model, "train_step", train_step),
            (self.model, "steps_per_execution", 1),
        ):
            one_step = super().make_function()

        def function(state: Any, iterator: Any) -> Any:
            for step in range(steps):
                try:
                    (logs, outputs), state = one_step(state, iterator)
                except StopIteration:
                    if step == 0:
                        raise
                    break
                for recorder, norms in zip(self.recorders, outputs, strict=True):
                    recorder.receive(norms)
            return logs, state

        return function

    def make_hooks(self, optimizer: Any, label: str) -> dict[str, Callable[..., Any]]:
        """Adds a hook for the `stateless_apply` that does not call `apply`."""
        hooks = super().make_hooks(optimizer, label)
        stateless_apply = optimizer.stateless_apply

        def recorded_apply(
            optimizer_variables: Any, grads: Any, trainable_variables: Any
        ) -> Any:
            state = zip(optimizer.variables, optimizer_variables, strict=True)
            with keras.StatelessScope(state_mapping=list(state)):
                self.record(optimizer, label, grads, optimizer._trainable_variables)
            return stateless_apply(optimizer_variables, grads, trainable_variables)

        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            hooks["stateless_apply"] = recorded_apply
        return hooks


class JaxRecorder(QueueRecorder):
    """Queues the norms that each run of the jitted step returns."""

    step_class = JaxInstrumentedStep
    closed = False
    # The norms of the step being traced, by (number of the call in the step, index of
    # the layout): compiled code can return integers as keys.
    traced: dict[tuple[int, int], jax.Array] | None = None

    def __init__(self, record: Record, buffer_size: int, applied: bool) -> None:
        super().__init__(record, buffer_size, applied)
        self.layouts: list[Layout] = []

    def take(
        self, layout: Layout, gradients: list[Any], scale: Any, updates: Any = None
    ) -> None:
        norms = _norms(gradients) / scale
        if updates is not None:
            norms = jnp.where(updates, norms, -1.0)
        if self.traced is None:
            # The jitted functions of a custom loop do not return norms.
            receive = functools.partial(self.receive_from_loop, layout)
            on_one_device = jax.device_count() == 1  # Only there, JAX keeps an order.
            jax.debug.callback(receive, norms, ordered=on_one_device)
            return
        if layout not in self.layouts:
            self.layouts.append(layout)
        self.traced[len(self.traced), self.layouts.index(layout)] = norms

    def take_traced(self) -> dict[tuple[int, int], jax.Array] | None:
        traced, self.traced = self.traced, None
        return traced

    def receive(self, norms: dict[tuple[int, int], jax.Array]) -> None:
        for (_, index), row in sorted(norms.items(), key=lambda item: item[0]):
            self.enqueue(self.layouts[index], row)

    def receive_from_loop(self, layout: Layout, norms: Any) -> None:
        """Queues norms in a thread of JAX, where `effects_barrier` would deadlock."""
        if not self.closed:
            self.queue.append((layout, norms))
            if len(self.queue) >= self.buffer_size:
                super().read()

    def close(self) -> None:
        self.closed = True

    def read(self) -> None:
        jax.effects_barrier()
        super().read()


@jax.jit  # type: ignore[untyped-decorator]  # for train steps that are not compiled
def _norms(gradients: Sequence[Any]) -> jax.Array:
    """Returns the L2 norm of each gradient, in float32 or wider.

    If a sum of squares overflows or loses digits, each gradient is divided by its
    largest absolute value before it is squared.
    """
    wide = [g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in gradients]
    squares = jnp.stack([jnp.vdot(g, g) for g in wide])

    def scaled(_: Any) -> jax.Array:
        norms = []
        for gradient in wide:
            largest = jnp.max(jnp.abs(gradient))
            ordinary = (largest > 0) & jnp.isfinite(largest)
            unit = jnp.where(ordinary, largest, 1.0)
            norms.append(unit * jnp.sqrt(jnp.sum(jnp.square(gradient / unit))))
        return jnp.stack(norms)

    precise = jnp.all((squares > 1e-25) & (squares < 1e35))
    norms: jax.Array = jax.lax.cond(precise, jnp.sqrt, scaled, squares)
    return norms
