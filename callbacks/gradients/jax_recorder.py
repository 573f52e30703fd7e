"""Records gradient norms on the JAX backend, as an output of the jitted step."""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.extend.core import get_opaque_trace_state
from keras.src.trainers.data_adapters import data_adapter_utils

from ..train_function import DRAWS_AT_ONCE
from .instrumented_step import InstrumentedStep, replaced
from .record import Layout
from .recorder import Recorder


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Norms:
    """The norms of each step, as a dict.

    After a scan, Keras reads `[-1]`, which here returns the norms of all steps.
    """

    steps: list[dict[Any, jax.Array]]

    def __getitem__(self, last: int) -> "Norms":
        [stacked] = self.steps
        rows = zip(*stacked.values(), strict=True)
        return Norms([dict(zip(stacked, row, strict=True)) for row in rows])


class JaxInstrumentedStep(InstrumentedStep):
    """Returns the norms from the jitted step, together with the logs."""

    recorders: "list[JaxRecorder]"  # type: ignore[assignment]

    def make_function(self) -> Callable[..., Any]:
        model, make = self.model, super().make_function
        original, steps = model.train_step, model.steps_per_execution

        # A new function: for an equal bound method, jit finds the original's code.
        def train_step(state: Any, data: Any) -> Any:
            norms: dict[Any, jax.Array] = {}
            trace = get_opaque_trace_state()
            numbered = enumerate(self.recorders)
            with replaced(*((r, "traced", (trace, norms, i)) for i, r in numbered)):
                logs, state = original(state, data)
            return (logs, Norms([norms])), state

        with replaced((model, "train_step", train_step)):
            scan = make()
            with replaced((model, "steps_per_execution", 1)):
                one_step = make()

        def run(function: Callable[..., Any], state: Any, data: Any) -> Any:
            (logs, outputs), state = function(state, iter([data]))
            for step in outputs.steps:
                for (_, number, layout), norms in step.items():
                    Recorder.store(self.recorders[number], layout, norms)
            return logs, state

        # Without a scan, Keras returns only the last of several steps.
        step = functools.partial(run, one_step)
        with replaced((model, "train_step", step), (model, "_run_eagerly", True)):
            one_by_one = make()
        scans = DRAWS_AT_ONCE and not model.run_eagerly and model.jit_compile

        def function(state: Any, iterator: Any) -> Any:
            data = next(iterator)
            if scans and _are_stacked(data, steps):
                return run(scan, state, data)
            return one_by_one(state, itertools.chain([data], iterator))

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


def _are_stacked(data: Any, steps: int) -> bool:
    is_list = steps == 1 or isinstance(data, data_adapter_utils.PartialBatchList)
    return not is_list and len(keras.tree.flatten(data)[0]) == steps


class JaxRecorder(Recorder):
    """Queues the norms that each run of the jitted step returns."""

    step_class = JaxInstrumentedStep
    closed = False
    # While JAX traces the step: the state of the trace; the norms of the step by call,
    # recorder and layout; and the number of this recorder. A compiled step returns the
    # norms in the order of these keys, which JAX keeps with it.
    traced: tuple[Any, dict[tuple[int, int, Layout], jax.Array], int] | None = None

    def compute_norms(self, gradients: list[Any]) -> jax.Array:
        return _norms(gradients)

    def store(self, layout: Layout, norms: jax.Array) -> None:
        if self.traced is None:
            # The jitted functions of a custom loop do not return norms.
            receive = functools.partial(self.receive_from_loop, layout)
            on_one_device = jax.device_count() == 1  # JAX keeps the order only then.
            jax.debug.callback(receive, norms, ordered=on_one_device)
            return
        trace, norms_of_step, number = self.traced
        if get_opaque_trace_state() != trace:
            # A value of an inner function cannot leave it as an output of the step.
            warnings.warn(
                "GradientNorms does not record this optimizer call, which is inside "
                "`jax.lax.cond`, `scan`, `while_loop`, `vmap` or `jit` in the train "
                "step. Call the optimizer outside to record it.",
                stacklevel=2,
            )
            self.may_be_empty = True
            return
        norms_of_step[len(norms_of_step), number, layout] = norms

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
