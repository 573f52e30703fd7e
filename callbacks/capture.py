"""Sees the gradients that a Keras model hands to its optimizers during `fit`.

From the outside in:

- `Guard` stands in for `model.train_function` for one call at a time;
- `InstrumentedStep` is a second train function, compiled beside the original, whose
  optimizers are hooked while it runs;
- a `Recorder` (`recorders.py`) turns gradients into norms and keeps them on the
  device until they are read.

Nothing is patched but instances, and none for longer than a call. The private names
of Keras that this needs are listed in `PRIVATE_NAMES`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
from keras import ops
from keras.optimizers import Optimizer

from .naming import variable_columns
from .recording import Layout

if TYPE_CHECKING:
    from .recorders import Recorder

TESTED_KERAS = "3.10 to 3.15"

PRIVATE_NAMES = {
    "model": ("train_function", "make_train_function", "_flatten_layers"),
    "optimizer": (
        "_trainable_variables",
        "_iterations",
        "_get_variable_index",
        "_clip_gradients",
        "gradient_accumulation_steps",
    ),
}


def check_private_names(model: Any) -> None:
    """Raises an error that names what this version of Keras lacks."""
    for kind, owner in (
        ("model", model),
        ("optimizer", getattr(model, "optimizer", None)),
    ):
        missing = [name for name in PRIVATE_NAMES[kind] if not hasattr(owner, name)]
        if owner is not None and missing:
            raise RuntimeError(
                f"GradientNorms relies on names of a Keras {kind} that this one does "
                f"not have: {missing}. It is tested with Keras {TESTED_KERAS}. "
                f"Received: keras {keras.__version__}, {type(owner).__name__}"
            )


@contextlib.contextmanager
def replaced(*attributes: tuple[Any, str, Any]) -> Iterator[None]:
    """Sets attributes, (instance, name, value) each, past Keras; takes them back."""
    absent = object()
    before = [vars(owner).get(name, absent) for owner, name, _ in attributes]
    try:
        for attribute in attributes:
            object.__setattr__(*attribute)
        yield
    finally:
        for (owner, name, _), value in zip(attributes, before, strict=True):
            if value is absent:
                vars(owner).pop(name, None)
            else:
                object.__setattr__(owner, name, value)


class StandIn:
    """Stands in for `model.train_function` during one call.

    A callback puts it in place when a batch begins, and the call takes it away
    before anything can fail, so that no exception leaves it behind. One gap remains,
    a later callback that raises in `on_train_batch_begin`. It is closed by the
    `History` object of the fit: what stands in since another fit is taken away.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.original = model.train_function
        self.history = getattr(model, "history", None)
        object.__setattr__(model, "train_function", self)

    @staticmethod
    def remove_stale(model: Any) -> None:
        while isinstance(model.train_function, StandIn) and (
            model.train_function.is_stale()
        ):
            model.train_function.remove()

    def is_stale(self) -> bool:
        return getattr(self.model, "history", None) is not self.history

    def remove(self) -> None:
        object.__setattr__(self.model, "train_function", self.original)


class PassOver(StandIn):
    """Draws the batches of one call and does not train on them.

    Args:
        model: The model.
        on_batch: Is shown each batch.
    """

    def __init__(self, model: Any, on_batch: Callable[[Any], object]) -> None:
        super().__init__(model)
        self.on_batch = on_batch

    def __call__(self, *args: Any) -> Any:
        self.remove()
        if self.is_stale():
            return self.original(*args)
        *state, batches = args  # On JAX, the state of training comes first.
        if keras.backend.backend() != "torch":  # There, they have been drawn.
            for _ in range(self.model.steps_per_execution):
                self.on_batch(next(batches))
        logs: dict[str, Any] = {}
        return (logs, *state) if state else logs


class Guard(StandIn):
    """Has recorders see one call of `model.train_function`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.recorders: list[Recorder] = []

    @classmethod
    def install(cls, model: Any, recorder: "Recorder") -> None:
        """Has `recorder` see the next call of `model.train_function`."""
        cls.remove_stale(model)
        if isinstance(model.train_function, PassOver):
            return
        if not isinstance(model.train_function, cls):
            cls(model)
        model.train_function.add(recorder)

    def add(self, recorder: "Recorder") -> None:
        """Makes the step now: during a call, JAX variables may have no value."""
        if recorder not in self.recorders:
            self.recorders.append(recorder)
        made = self.recorders[0].steps
        key = tuple(self.recorders)
        if key not in made or made[key].original is not self.original:
            made[key] = recorder.step_class(
                self.model, self.original, list(key), find_optimizers(self.model)
            )
        self.step = made[key]

    def __call__(self, *args: Any) -> Any:
        self.remove()
        return self.original(*args) if self.is_stale() else self.step(*args)


class InstrumentedStep:
    """A train function of `model` whose optimizer calls go past `recorders`.

    Args:
        model: The model.
        original: The train function that it stands in for.
        recorders: Who is shown the gradients.
        optimizers: The optimizers to hook, as (label, optimizer).
    """

    def __init__(
        self,
        model: Any,
        original: Any,
        recorders: "list[Recorder]",
        optimizers: list[tuple[str, Any]],
    ) -> None:
        self.model = model
        self.original = original
        self.recorders = recorders
        self.layouts: dict[tuple[Any, ...], Layout] = {}
        self.hooks = [
            (optimizer, method, hook)
            for label, optimizer in optimizers
            for method, hook in self.make_hooks(optimizer, label).items()
        ]
        self.function = self.make_function()

    def make_function(self) -> Callable[..., Any]:
        """Makes a train function that shares no compiled code with the original."""
        with replaced((self.model, "train_function", None)):
            self.model.make_train_function(force=True)
            function: Callable[..., Any] = self.model.train_function
        return function

    def __call__(self, *args: Any) -> Any:
        try:
            with self.hooked():
                outputs = self.function(*args)
        except BaseException:
            for recorder in self.recorders:
                recorder.fail()
            raise
        for recorder in self.recorders:
            recorder.after_run()
        return outputs

    def hooked(self) -> contextlib.AbstractContextManager[None]:
        """Hooks the optimizers, and takes the hooks away whatever happens."""
        return replaced(*self.hooks)

    def make_hooks(self, optimizer: Any, label: str) -> dict[str, Callable[..., Any]]:
        """Makes what stands before the methods of `optimizer` that take gradients."""
        apply = optimizer.apply

        def recorded_apply(grads: Any, trainable_variables: Any = None) -> Any:
            grads = list(grads)
            if trainable_variables is None:
                variables = optimizer._trainable_variables
            else:
                variables = trainable_variables = list(trainable_variables)
            self.record(optimizer, label, grads, variables)
            return apply(grads, trainable_variables)

        return {"apply": recorded_apply}

    def record(
        self, optimizer: Any, label: str, grads: list[Any], variables: list[Any]
    ) -> None:
        """Shows the recorders the gradients of one optimizer call."""
        pairs = [
            (gradient, variable)
            # As in Keras' `apply`, there may be fewer gradients than variables.
            for gradient, variable in zip(grads, variables, strict=False)
            if gradient is not None
            and not getattr(variable, "overwrite_with_gradient", False)
        ]
        if not pairs:
            return
        if not optimizer.built:
            # What `apply` would do next; from here on its loss scale can be read.
            with keras.name_scope(optimizer.name, caller=optimizer):
                optimizer.build(variables)
        taken, owners = map(list, zip(*pairs, strict=True))
        layout = self._layout(optimizer, label, owners)
        for recorder in self.recorders:
            if recorder.applied:
                recorder.record(layout, *applied_gradients(optimizer, taken, owners))
            else:
                recorder.record(layout, taken, loss_scale(optimizer))

    def _layout(self, optimizer: Any, label: str, variables: list[Any]) -> Layout:
        key = (label, *map(id, variables))
        if key not in self.layouts:
            columns, positions = variable_columns(self.model, variables)
            has_dynamic_scale = hasattr(optimizer, "dynamic_scale")
            self.layouts[key] = Layout(
                label, tuple(columns), tuple(positions), has_dynamic_scale
            )
        return self.layouts[key]


def find_optimizers(model: Any) -> list[tuple[str, Any]]:
    """Every optimizer that an attribute of the model holds, as (label, optimizer).

    The label is the attribute's name, with an index or a key if the attribute is a
    list or a dict, and after the name of the model within the model that has it. The
    compiled optimizer comes first. The optimizer inside a `LossScaleOptimizer` is not
    listed: it is called by its owner.
    """
    found: dict[int, tuple[str, Any]] = {}
    models = [("", model)] + [
        (f"{layer.name}.", layer)
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.Model)
    ]
    for prefix, owner in models:
        # TensorFlow and Keras keep private lists of what an attribute holds.
        attributes = sorted(
            vars(owner).items(),
            key=lambda item: (not isinstance(item[1], Optimizer), item[0][0] == "_"),
        )
        compiled = {"optimizer": getattr(owner, "optimizer", None)}
        for name, value in {**compiled, **dict(attributes)}.items():
            if isinstance(value, list | tuple):
                candidates = {f"{name}[{i}]": item for i, item in enumerate(value)}
            elif isinstance(value, dict):
                candidates = {f"{name}[{key!r}]": item for key, item in value.items()}
            else:
                candidates = {name: value}
            for label, candidate in candidates.items():
                if isinstance(candidate, Optimizer):
                    found.setdefault(id(candidate), (prefix + label, candidate))
    inner = {id(getattr(opt, "inner_optimizer", None)) for _, opt in found.values()}
    return [item for key, item in found.items() if key not in inner]


def loss_scale(optimizer: Any) -> Any:
    """The factor by which the loss, and with it the gradient, was multiplied."""
    if hasattr(optimizer, "dynamic_scale"):
        return optimizer.dynamic_scale.value
    return optimizer.loss_scale_factor or 1.0


def applied_gradients(
    optimizer: Any, gradients: list[Any], variables: list[Any]
) -> tuple[list[Any], float, Any]:
    """What the optimizer makes of the gradients before it uses them.

    Returns:
        The unscaled gradients, averaged over the micro-batches of gradient
        accumulation and clipped; their scale, which is 1; and whether this call
        updates the weights, as a boolean tensor, or None if every call does.
    """
    scale = loss_scale(optimizer)
    gradients = [ops.divide(gradient, scale) for gradient in gradients]
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    updates = None
    if steps := optimizer.gradient_accumulation_steps:
        sums = [
            optimizer._accumulated_gradients[optimizer._get_variable_index(variable)]
            for variable in variables
        ]
        gradients = [
            (g + total) / steps for g, total in zip(gradients, sums, strict=True)
        ]
        updates = ops.equal((optimizer._iterations + 1) % steps, 0)
    return optimizer._clip_gradients(gradients), 1.0, updates
