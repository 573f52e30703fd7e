"""The `GradientNorms` callback."""

import contextlib
import os
import warnings
from collections.abc import Collection, Iterator
from numbers import Integral
from typing import Any

import keras
import numpy as np

from . import outputs
from .backend import recorder_class
from .diagnosis import diagnose
from .findings import ADVICE
from .instrumented_step import RecordGradients, check_private_names, replaced
from .record import Record
from .views import RecordViews
from .weights import WeightUpdate


class GradientNorms(RecordViews, keras.callbacks.Callback):
    """Records the L2 norm of each layer's training gradient at every step.

    These are the gradients that training computes and passes to the optimizer, at
    every optimizer call, for any model, train step and `steps_per_execution`. Under
    mixed precision they are divided by the loss scale. No gradient is computed twice,
    and the final weights are bit-identical to those of a run without the callback.
    There are two exceptions. If the optimizer clips norms, XLA on the JAX backend may
    round the last bit of a gradient differently. And the callback traces the train step
    again: a layer frozen after `compile` is frozen at once, while Keras alone needs
    another `compile`.

    Layers, in order from input to output, are named by their path in the model, and
    variables by that path and their own name: `encoder/dense`, `encoder/dense/kernel`.
    Names that Keras generated (`dense_7`) are renumbered within the model, so identical
    models have identical names. Names numbered from 1 are kept.

    A later `fit` with the same callback and model extends the record; another model
    starts a new one. The record takes 8 bytes per variable and step: 80 MB for the 10
    variables of LeNet5 and a million steps. Copies and pickles hold it, not the model.

    Args:
        applied: Boolean. True to record gradients as the optimizer applies them,
            clipped and, with `gradient_accumulation_steps`, averaged, one row per
            update. False for one row per batch, as they arrive. Defaults to `False`.
        csv: Path or `None`. A file for the columns of `to_dict`, written at the end of
            each epoch, when a train step fails and, after any other exception, when the
            callback is deleted or Python exits. Defaults to `None`.
        log_dir: Path or `None`. A directory for TensorBoard: log10 of each layer's
            norm, if it is finite and not zero, the histogram of these over layers and,
            with matplotlib, `plot` at the end of each epoch. Defaults to `None`.
        update_freq: `"batch"` or `"epoch"` (means over the epoch). How often to write
            to `log_dir`. Defaults to `"epoch"`.
        logs: Boolean. True to add each layer's mean over the epoch to the epoch's
            logs, as `grad_norm/<layer>`, for later callbacks. Defaults to `False`.
        stop_on: Collection of `"vanishing"`, `"exploding"`, `"saturated"`,
            `"non_finite"` and `"dead"`. Findings that stop training after an epoch,
            with a warning. Defaults to `()`.
        buffer_size: Integer. The number of optimizer calls whose norms are read from
            the device together; each read waits for it. Defaults to 1024.

    Attributes:
        history: Dict from layer path to the norm of that layer's gradient, a float64
            array of shape `(steps,)`, NaN where the layer took no part (frozen, say).
        variables: Dict from variable path to an array of the same form.
        global_norm: Float64 array of shape `(steps,)`. The norm over all variables.
        update_ratio: Dict from layer path to a float64 array of shape `(epochs,)`. The
            norm of the update by the epoch's first batch (by all steps of the first
            execution with `steps_per_execution`), relative to that of the weights. NaN
            if the layer is frozen or not built yet, and in `watch`.
        steps: Int64 array of shape `(steps,)`. The numbers of the optimizer calls.
        optimizers: String array `(steps,)`. The model's attribute that holds each
            optimizer.

    Raises:
        NotImplementedError: If the Keras backend is not supported.
        ImportError: If `log_dir` is given and TensorBoard is not installed.

    Reference: [Understanding the difficulty of training deep feedforward neural
    networks](https://proceedings.mlr.press/v9/glorot10a.html) (Glorot and Bengio, 2010)

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.layers.Dense(4, activation="relu"),
    ...                           keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> norms = GradientNorms()
    >>> x, y = np.ones((96, 8)), np.ones((96, 1))
    >>> _ = model.fit(x, y, callbacks=[norms], verbose=0)
    >>> list(norms.history), norms.global_norm.shape
    (['dense', 'dense_1'], (3,))
    """

    def __init__(
        self,
        *,
        applied: bool = False,
        csv: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        update_freq: str = "epoch",
        logs: bool = False,
        stop_on: Collection[str] = (),
        buffer_size: int = 1024,
    ) -> None:
        super().__init__()
        are_kinds = isinstance(stop_on, Collection) and not isinstance(stop_on, str)
        are_kinds = are_kinds and all(kind in list(ADVICE) for kind in stop_on)
        is_known = update_freq in ("batch", "epoch")
        is_count = isinstance(buffer_size, Integral) and buffer_size is not True
        is_count = is_count and buffer_size >= 1
        for name, value, is_valid, expected in (
            ("buffer_size", buffer_size, is_count, "a positive integer"),
            ("stop_on", stop_on, are_kinds, f"a collection of {list(ADVICE)}"),
            ("update_freq", update_freq, is_known, '"batch" or "epoch"'),
        ):
            if not is_valid:
                message = f"`{name}` must be {expected}. Received: {name}={value!r}."
                raise ValueError(message)
        self.applied = applied
        self.csv, self.log_dir, self.update_freq = csv, log_dir, update_freq
        self.logs, self.stop_on = logs, frozenset(stop_on)
        self.buffer_size = buffer_size
        self._start_record(Record())

    def _start_record(self, record: Record) -> None:
        self._record = record
        self._recorder = recorder_class()(record, self.buffer_size, self.applied)
        self._recorder.on_failure = self.flush
        self._fit_begins_at = self._epoch_begins_at = record.end
        self._update: WeightUpdate | None = None  # by the first batch of the epoch
        self._start_outputs()

    def _start_outputs(self) -> None:
        self._outputs: list[outputs.CSVOutput | outputs.TensorBoardOutput] = []
        if self.csv is not None:
            self._outputs.append(outputs.CSVOutput(self.csv))
        if self.log_dir is not None:
            written = self._epoch_begins_at
            output = outputs.TensorBoardOutput(self.log_dir, self.update_freq, written)
            self._outputs.append(output)

    def __getstate__(self) -> dict[str, Any]:
        self._read()
        of_process = ("_model", "_recorder", "_outputs", "_is_training", "_update")
        return {k: v for k, v in vars(self).items() if k not in of_process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _model=None)
        self._start_record(self._record)

    def set_model(self, model: Any) -> None:
        if self._model is not None and model is not self._model:
            self._start_record(Record())
        # The base class keeps it as `_model`. Its property `model` is avoided here: on
        # JAX it copies the training state back into the model.
        super().set_model(model)
        self._record.model = model.name

    def on_train_begin(self, logs: Any = None) -> None:
        check_private_names(self._model)
        if self.logs:
            outputs.warn_if_behind(self)
        if self.csv is not None:
            # A path that cannot be written fails now.
            open(os.path.expanduser(self.csv), "a").close()
        self._fit_begins_at = self._epoch_begins_at = self._read().end
        self._is_training = True
        outputs.unwritten.add(self)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._update = WeightUpdate(self._model, self._read().end)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch:
            self._measure_update()
        RecordGradients.install(self._model, self._recorder)

    def _measure_update(self) -> None:
        if self._update:
            _ = self.model  # On JAX, this property copies the weights back.
            self._record.weights.append(self._update.measure())
            self._update = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._measure_update()
        if self._outputs:
            self._write(epoch)
        if self.logs and logs is not None:
            layers = self._read().since(self._epoch_begins_at).layers()
            means = layers.means(self._record.dynamic_scale)
            for layer, mean in zip(layers.names, means, strict=True):
                logs[f"grad_norm/{layer}"] = float(mean)
        if self.stop_on and self._read().end > self._fit_begins_at:
            findings = diagnose(self._record.since(self._fit_begins_at))
            found = [finding for finding in findings if finding.kind in self.stop_on]
            if found:
                self._model.stop_training = True
                warnings.warn(f"GradientNorms stops training: {found[0]}", stacklevel=2)
        self._epoch_begins_at = self._record.end

    def on_train_end(self, logs: Any = None) -> None:
        self.flush()
        self._warn_if_empty()

    def flush(self) -> None:
        """Writes the remaining rows, which Python would otherwise write at exit."""
        self._is_training, self._update = False, None
        outputs.unwritten.discard(self)
        try:
            self._write()
        except Exception as error:  # It must not hide the exception of a step.
            warnings.warn(f"GradientNorms cannot write: {error}.", stacklevel=2)

    def __del__(self) -> None:
        if vars(self).get("_is_training"):
            with contextlib.suppress(Exception):  # The folder may be gone, too.
                self._write()

    @contextlib.contextmanager
    def watch(self, optimizer: Any, model: Any) -> Iterator["GradientNorms"]:
        """Records within a `with` block, for custom loops and `train_on_batch`.

        Call a `tf.function` or `jax.jit` of the loop for the first time in the block:
        functions compiled earlier do not record. In a loop compiled with TensorFlow,
        read `global_norm`, say, at least every `buffer_size` steps. There are no
        epochs: `log_dir` needs `update_freq="batch"`, and `logs` and `stop_on` have no
        effect.

        Args:
            optimizer: Keras optimizer. The optimizer that the loop calls.
            model: `keras.Model`. The model whose layers name the variables.

        Example:

        ```python
        with GradientNorms().watch(model.optimizer, model) as norms:
            for x, y in batches:
                model.train_on_batch(x, y)
        print(norms.diagnose())
        ```
        """
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "`watch` takes a Keras optimizer and a Keras model, in this order. "
                f"Received: optimizer={optimizer!r}, model={model!r}."
            )
        self.set_model(model)
        self.on_train_begin()
        # Without epochs, only the weights before training are measured, unless a loop
        # in JAX has donated them.
        with contextlib.suppress(RuntimeError):
            weights = WeightUpdate(model, self._record.end).measure()
            unknown = np.full(len(weights.updates), np.nan)
            self._record.weights.append(weights._replace(updates=unknown))
        recorder, labeled = self._recorder, [("optimizer", optimizer)]
        try:
            step = recorder.step_class(model, model.train_function, [recorder], labeled)
            function = model, "train_function", step
            with replaced(*step.hooks, *step.call_hooks, function):
                yield self
            self._warn_if_empty()
        finally:
            self.flush()
            # Functions compiled in the block keep writing to the old recorder.
            recorder.close()
            self._start_record(self._record)

    def get_state(self) -> dict[str, Any]:
        """Returns the record, for `ExactResume`."""
        return {
            "recording": self._read().get_state(),
            "fit_begins_at": self._fit_begins_at,
            "epoch_begins_at": self._epoch_begins_at,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned, even in another process."""
        # Norms on the device and the pending update belong to the replaced record.
        self._read()
        self._update = None
        self._record = self._recorder.record = Record.from_state(state["recording"])
        self._fit_begins_at = state["fit_begins_at"]
        self._epoch_begins_at = state["epoch_begins_at"]
        self._start_outputs()

    def _warn_if_empty(self) -> None:
        is_empty = self._read().end == self._fit_begins_at
        if is_empty and not self._recorder.may_be_empty:
            warnings.warn(
                "GradientNorms has seen no gradient: no Keras optimizer in an "
                "attribute of the model was called during training. Does the "
                "train step update the weights by other means, are all weights "
                "frozen, or was a custom loop compiled before it was watched?",
                stacklevel=3,
            )

    def _read(self) -> Record:
        self._recorder.read()
        return self._record

    def _write(self, epoch: int | None = None) -> None:
        record = self._read()
        for output in self._outputs:
            output.write(record, epoch)
