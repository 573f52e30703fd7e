"""Passes the gradients of a Keras model to recorders during training.

- `RecordGradients` replaces `model.train_function` for one call.
- `InstrumentedStep` is a second train function, compiled separately from the original.
  While it runs, hooks replace the methods of the optimizers that take gradients.

Only instances are changed, and only during a call.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops
from keras.src.trainers.data_adapters import data_adapter_utils

from ..optimizers import find_optimizers
from ..train_function import DRAWS_AT_ONCE, SkipBatches, TrainFunctionWrapper
from .naming import variable_columns
from .record import Layout
from .recorder import Recorder

TESTED_KERAS = "3.10 to 3.16"

# The private names of Keras in use: of a model, its optimizer, and the data adapters.
NAMES = (
    "train_function make_train_function _flatten_layers _run_eagerly",
    "_trainable_variables _iterations _get_variable_index _clip_gradients "
    "gradient_accumulation_steps",
    "PartialBatchList" if DRAWS_AT_ONCE else "",
)


def check_private_names(model: Any) -> None:
    """Raises an error if this version of Keras lacks a private name we need."""
    optimizer = getattr(model, "optimizer", None)
    owners = model, optimizer, data_adapter_utils
    for owner, names in zip(owners, NAMES, strict=True):
        missing = [name for name in names.split() if not hasattr(owner, name)]
        if owner is not None and missing:
            raise RuntimeError(
                f"GradientNorms needs the attributes {missing}, which a "
                f"{type(owner).__name__} of this Keras does not have. Install a "
                f"version that it is tested with, Keras {TESTED_KERAS}. "
                f"Received: keras.__version__={keras.__version__!r}."
            )


@contextlib.contextmanager
def replaced(*attributes: tuple[Any, str, Any]) -> Iterator[None]:
    """Sets attributes, each (instance, name, value), and restores them at the end."""
    absent = object()
    before = [vars(owner).get(name, absent) for owner, name, _ in attributes]
    try:
        for attribute in attributes:
            object.__setattr__(*attribute)  # Keras would track the value.
        yield
    finally:
        for (owner, name, _), value in zip(attributes, before, strict=True):
            if value is absent:
                vars(owner).pop(name, None)
            else:
                object.__setattr__(owner, name, value)


def unordered_layers(model: Any) -> list[Any]:
    """Returns all layers, or none if the model lists them in the order of the calls."""
    layers = list(model._flatten_layers())
    # torch.compile would trace into the hooks.
    is_compiled = keras.backend.backend() == "torch" and model.jit_compile
    is_ordered = (
        isinstance(layer, keras.Sequential)
        or hasattr(layer, "_operations_by_depth")  # a functional model
        or len(layer._layers) < 2
        for layer in layers
    )
    if is_compiled or all(is_ordered):
        return []
    return [layer for layer in layers if layer is not model]


class InstrumentedStep:
    """Trains like `original`, and passes the optimizers' gradients to recorders."""

    def __init__(
        self,
        model: Any,
        original: Any,
        recorders: Sequence[Recorder],
        optimizers: list[tuple[str, Any]],  # (label, optimizer)
    ) -> None:
        self.model = model
        self.original = original
        self.recorders = list(recorders)
        for recorder in self.recorders:
            recorder.expect_new_step()
        self.layouts: dict[tuple[Any, ...], Layout] = {}
        self.calls: dict[int, int] = {}  # the order of layers, by their first calls
        self.call_hooks = [
            (la, "call", self.noting_call(la)) for la in unordered_layers(model)
        ]
        self.hooks = [hook for pair in optimizers for hook in self.make_hooks(*pair)]
        self.function = self.make_function()

    def make_function(self) -> Callable[..., Any]:
        """Makes a train function that shares no compiled code with the original."""
        with replaced((self.model, "train_function", None)):
            self.model.make_train_function(force=True)
            function: Callable[..., Any] = self.model.train_function
        return function

    def __call__(self, *args: Any) -> Any:
        try:
            with replaced(*self.hooks, *self.call_hooks):
                outputs = self.function(*args)
        except BaseException:
            for recorder in self.recorders:
                recorder.discard_unfinished()
                recorder.on_failure()
            raise
        self.call_hooks = []  # The first run determines the order.
        for recorder in self.recorders:
            recorder.after_run()
        return outputs

    def noting_call(self, layer: Any) -> Callable[..., Any]:
        """Wraps the method `call` of a layer to note the layer's place."""
        call = layer.call

        @functools.wraps(call)
        def noted_call(*args: Any, **kwargs: Any) -> Any:
            self.calls.setdefault(id(layer), len(self.calls))
            return call(*args, **kwargs)

        return noted_call

    def make_hooks(self, label: str, optimizer: Any) -> list[tuple[Any, str, Any]]:
        """Returns the hooks of an optimizer, as attributes for `replaced`."""
        apply = optimizer.apply

        def recorded_apply(grads: Any, trainable_variables: Any = None) -> Any:
            grads = list(grads)
            if trainable_variables is None:
                variables = optimizer._trainable_variables
            else:
                variables = trainable_variables = list(trainable_variables)
            self.record(optimizer, label, grads, variables)
            return apply(grads, trainable_variables)

        return [(optimizer, "apply", recorded_apply)]

    def record(
        self, optimizer: Any, label: str, grads: list[Any], variables: list[Any]
    ) -> None:
        """Passes the gradients of one optimizer call to the recorders."""
        pairs = [
            # The loss does not depend on a variable without a gradient.
            (ops.zeros((), "float32") if gradient is None else gradient, variable)
            # As in Keras' `apply`, there may be fewer gradients than variables.
            for gradient, variable in zip(grads, variables, strict=False)
            if not getattr(variable, "overwrite_with_gradient", False)
        ]
        if not pairs or all(gradient is None for gradient in grads):
            return
        if not optimizer.built:
            # `apply` would do this next. The loss scale exists only afterwards.
            with keras.name_scope(optimizer.name, caller=optimizer):
                optimizer.build(variables)
        taken, owners = map(list, zip(*pairs, strict=True))
        key = (label, *map(id, owners))
        if key not in self.layouts:
            columns, positions = zip(
                *variable_columns(self.model, owners, self.calls), strict=True
            )
            has_dynamic_scale = hasattr(optimizer, "dynamic_scale")
            self.layouts[key] = Layout(label, columns, positions, has_dynamic_scale)
        for recorder in self.recorders:
            if recorder.applied:
                applied, updates = _applied_gradients(optimizer, taken, owners)
                recorder.take(self.layouts[key], applied, None, updates)
            else:
                recorder.take(self.layouts[key], taken, _loss_scale(optimizer))


class RecordGradients(TrainFunctionWrapper):
    """Runs an instrumented step in place of one call of the train function."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.recorders: list[Recorder] = []

    @classmethod
    def install(cls, model: Any, recorder: Recorder) -> None:
        """Adds `recorder` to those that receive the gradients of the next call."""
        cls.remove_stale(model)
        wrapper = model.train_function
        # A callback that calls `compile` removes the function: Keras raises an error.
        if wrapper is None or isinstance(wrapper, SkipBatches):
            return
        if not isinstance(wrapper, cls):
            wrapper = cls(model)
        if recorder in wrapper.recorders:
            return
        wrapper.recorders.append(recorder)
        original, recorders = wrapper.original, wrapper.recorders
        # If nothing has changed, the recorder's step need not be compiled again.
        step = recorder.step
        if not (step and step.original is original and step.recorders == recorders):
            # Made before the call: during a call, JAX variables may have no value.
            optimizers = find_optimizers(model)
            step = recorder.step_class(model, original, recorders, optimizers)
        wrapper.run = recorder.step = step


def _loss_scale(optimizer: Any) -> Any:
    """Returns the factor of the loss and so of the gradient, or `None`."""
    if hasattr(optimizer, "dynamic_scale"):
        return optimizer.dynamic_scale.value
    return optimizer.loss_scale_factor


def _applied_gradients(
    optimizer: Any, gradients: list[Any], variables: list[Any]
) -> tuple[list[Any], Any]:
    """Computes the gradients that the optimizer uses: unscaled, averaged, clipped.

    Returns them and a Boolean tensor, which is True if this call updates the weights,
    or `None` if every call does.
    """
    is_multiple = hasattr(optimizer, "_var_to_optimizer_idx")  # a `MultiOptimizer`
    scale = None if is_multiple else _loss_scale(optimizer)
    if scale is not None:
        gradients = [ops.divide(gradient, scale) for gradient in gradients]
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if hasattr(optimizer, "_var_to_optimizer_idx"):
        return _applied_by_each(optimizer, gradients, variables)
    updates = None
    if steps := optimizer.gradient_accumulation_steps:
        index = optimizer._get_variable_index
        sums = [optimizer._accumulated_gradients[index(v)] for v in variables]
        pairs = zip(gradients, sums, strict=True)
        gradients = [(gradient + total) / steps for gradient, total in pairs]
        updates = ops.equal((optimizer._iterations + 1) % steps, 0)
    return optimizer._clip_gradients(gradients), updates


def _applied_by_each(
    optimizer: Any, gradients: list[Any], variables: list[Any]
) -> tuple[list[Any], Any]:
    """Computes the gradients that each part of a `MultiOptimizer` uses."""
    applied, all_updates = list(gradients), []
    owners = [optimizer._var_to_optimizer_idx[optimizer._var_key(v)] for v in variables]
    for number in set(owners):
        own = [i for i, owner in enumerate(owners) if owner == number]
        parts, updates = _applied_gradients(
            optimizer.optimizers[number],
            [gradients[i] for i in own],
            [variables[i] for i in own],
        )
        all_updates.append(True if updates is None else updates)
        for i, part in zip(own, parts, strict=True):
            applied[i] = part
    # A row is kept if any part updates its weights.
    return applied, ops.any(ops.stack(all_updates))
