"""Records gradient norms on the JAX backend, as an output of the jitted step."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.extend.core import get_opaque_trace_state

from .instrumented_step import InstrumentedStep, replaced
from .record import Layout
from .recorder import Recorder


class JaxInstrumentedStep(InstrumentedStep):
    """Returns the norms from the jitted step, together with the logs."""

    recorders: "list[JaxRecorder]"  # type: ignore[assignment]

    def make_function(self) -> Callable[..., Any]:
        original = self.model.train_step

        # A new function: for an equal bound method, jit finds the original's code.
        def train_step(state: Any, data: Any) -> Any:
            norms: list[Any] = [{} for _ in self.recorders]
            pairs = list(zip(self.recorders, norms, strict=True))
            trace = get_opaque_trace_state()
            with replaced(
                *((recorder, "traced", empty) for recorder, empty in pairs),
                *((recorder, "trace", trace) for recorder, _ in pairs),
            ):
                logs, state = original(state, data)
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

    def make_hooks(self, label: str, optimizer: Any) -> list[tuple[Any, str, Any]]:
        """Adds a hook for the `stateless_apply` that does not call `apply`."""
        hooks = super().make_hooks(label, optimizer)
        stateless_apply = optimizer.stateless_apply

        def recorded_apply(
            optimizer_variables: Any, grads: Any, trainable_variables: Any
        ) -> Any:
            state = zip(optimizer.variables, optimizer_variables, strict=True)
            with keras.StatelessScope(state_mapping=list(state)):
                self.record(optimizer, label, grads, optimizer._trainable_variables)
            return stateless_apply(optimizer_variables, grads, trainable_variables)

        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            hooks.append((optimizer, "stateless_apply", recorded_apply))
        return hooks


class JaxRecorder(Recorder):
    """Queues the norms that each run of the jitted step returns."""

    step_class = JaxInstrumentedStep
    closed = False
    # The norms of the step being traced, by the number of the call in the step and its
    # layout. A compiled step returns them in the order of these keys.
    traced: dict[tuple[int, Layout], jax.Array] | None = None
    trace: Any = None  # that of the step

    def compute_norms(self, gradients: list[Any]) -> jax.Array:
        return _norms(gradients)

    def store(self, layout: Layout, norms: jax.Array) -> None:
        if self.traced is None:
            # The jitted functions of a custom loop do not return norms.
            receive = functools.partial(self.receive_from_loop, layout)
            on_one_device = jax.device_count() == 1  # Only there, JAX keeps an order.
            jax.debug.callback(receive, norms, ordered=on_one_device)
            return
        if get_opaque_trace_state() != self.trace:
            # A value of an inner function cannot leave it as an output of the step.
            warnings.warn(
                "GradientNorms does not record this optimizer call, which is inside "
                "`jax.lax.cond`, `scan`, `while_loop`, `vmap` or `jit` in the train "
                "step. Call the optimizer outside to record it.",
                stacklevel=2,
            )
            self.is_recorded_elsewhere = True
            return
        self.traced[len(self.traced), layout] = norms

    def receive(self, traced: dict[tuple[int, Layout], jax.Array]) -> None:
        for (_, layout), norms in traced.items():
            super().store(layout, norms)

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
