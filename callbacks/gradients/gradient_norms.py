"""The `GradientNorms` callback."""

import contextlib
import html
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from . import outputs
from .backend import recorder_class
from .diagnosis import ADVICE, Diagnosis, diagnose
from .instrumented_step import RecordGradients, check_private_names, replaced
from .record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GradientNorms(keras.callbacks.Callback):
    """Records the L2 norm of each layer's training gradient at every step.

    These are the gradients that training computes and passes to the optimizer, at
    every optimizer call, for any model, train step and `steps_per_execution`. Under
    mixed precision they are divided by the loss scale. No gradient is computed twice,
    and the final weights are bit-identical to those of a run without the callback.
    (One exception is known: if the optimizer clips norms, XLA on the JAX backend may
    round the last bit of a gradient differently.)

    Layers are named by their path in the model, in order from the input to the output,
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
        stop_on: Collection of `"vanishing"`, `"exploding"`, `"non_finite"` and
            `"dead"`. Findings that end training after an epoch, with a warning.
            Defaults to `()`.
        buffer_size: Integer. The number of optimizer calls whose norms are read from
            the device together; each reading waits for it. Defaults to 1024.

    Attributes:
        history: Dict from layer path to the norm of that layer's gradient, a float64
            array of shape `(steps,)`, NaN where the layer took no part (frozen, say).
        variables: Dict from variable path to an array of the same form.
        global_norm: Float64 array of shape `(steps,)`. The norm over all variables.
        steps: Int64 array of shape `(steps,)`. The numbers of the optimizer calls.
        optimizers: String array `(steps,)`. The model's attribute with the optimizer.

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
        are_kinds = not isinstance(stop_on, str) and set(stop_on) <= ADVICE.keys()
        is_known = update_freq in ("batch", "epoch")
        for name, value, is_valid, expected in (
            ("buffer_size", buffer_size, buffer_size >= 1, "a positive integer"),
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
        of_process = ("_model", "_recorder", "_outputs", "_is_training")
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

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        RecordGradients.install(self._model, self._recorder)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._outputs:
            self._write(epoch)
        if self.logs and logs is not None:
            layers = self._read().since(self._epoch_begins_at).layers()
            for layer, mean in zip(layers.names, layers.means(), strict=True):
                logs[f"grad_norm/{layer}"] = float(mean)
        if self.stop_on and self._read().end > self._fit_begins_at:
            findings = diagnose(self._record.since(self._fit_begins_at))
            found = [finding for finding in findings if finding.kind in self.stop_on]
            if found:
                self._model.stop_training = True
                warnings.warn(f"GradientNorms ends training: {found[0]}", stacklevel=2)
        self._epoch_begins_at = self._record.end

    def on_train_end(self, logs: Any = None) -> None:
        self.flush()
        self._warn_if_empty()

    def flush(self) -> None:
        """Writes the rows that, after an exception, are written when Python exits."""
        self._is_training = False
        outputs.unwritten.discard(self)
        try:
            self._write()
        except Exception as error:  # It must not hide the exception of a step.
            warnings.warn(f"GradientNorms cannot write: {error}", stacklevel=2)

    def __del__(self) -> None:
        if vars(self).get("_is_training"):
            with contextlib.suppress(Exception):  # The folder may be gone, too.
                self._write()

    @contextlib.contextmanager
    def watch(self, optimizer: Any, model: Any) -> Iterator["GradientNorms"]:
        """Records within a `with` block, for custom loops and `train_on_batch`.

        Compile a `tf.function` or `jax.jit` of the loop within the block, by its first
        call: functions compiled before do not record. In a loop compiled with
        TensorFlow, read `global_norm`, say, at least every `buffer_size` steps.

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
        recorder, labeled = self._recorder, [("optimizer", optimizer)]
        step = recorder.step_class(model, model.train_function, [recorder], labeled)
        try:
            with replaced(*step.hooks, (model, "train_function", step)):
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
            "model": self._record.model,
            "fit_begins_at": self._fit_begins_at,
            "epoch_begins_at": self._epoch_begins_at,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned, also in another process."""
        self._read()  # What the device holds belongs to the record that is replaced.
        self._record = self._recorder.record = Record.from_state(state["recording"])
        self._record.model = state["model"]
        self._fit_begins_at = state["fit_begins_at"]
        self._epoch_begins_at = state["epoch_begins_at"]
        self._start_outputs()

    def _warn_if_empty(self) -> None:
        is_empty = self._read().end == self._fit_begins_at
        if is_empty and not self._recorder.is_recorded_elsewhere:
            warnings.warn(
                "GradientNorms has seen no gradient: no Keras optimizer was called "
                "that an attribute of the model held when training began. Does the "
                "train step update the weights by other means, is no weight "
                "trainable, or was a custom loop compiled before it was watched?",
                stacklevel=3,
            )

    def _read(self) -> Record:
        """Returns the record, with what the device still held."""
        self._recorder.read()
        return self._record

    def _write(self, epoch: int | None = None) -> None:
        record = self._read()
        for output in self._outputs:
            output.write(record, epoch)

    @property
    def history(self) -> dict[str, NDArray[np.float64]]:
        return self._read().layers().by_name()

    @property
    def variables(self) -> dict[str, NDArray[np.float64]]:
        return self._read().variables().by_name()

    @property
    def global_norm(self) -> NDArray[np.float64]:
        return self._read().global_norm()

    @property
    def steps(self) -> NDArray[np.int64]:
        return self._read().variables().steps

    @property
    def optimizers(self) -> NDArray[np.str_]:
        return self._read().variables().optimizers

    def to_dict(self, variables: bool = False) -> dict[str, NDArray[Any]]:
        """Returns the record as one dict of columns, ready for `pandas.DataFrame`.

        Args:
            variables: Boolean. Norms of variables, not layers. Defaults to `False`.

        Returns:
            Dict of the arrays `step`, `optimizer`, `global_norm` and one per layer or
            variable, all of shape `(steps,)`. A layer that has one of these three
            names is found under `layer/<name>`.
        """
        return outputs.to_dict(self._read(), variables)

    def to_csv(self, path: str | os.PathLike[str], variables: bool = False) -> None:
        """Writes `to_dict` to a file, which `pandas.read_csv` reads back exactly."""
        outputs.write_csv(path, self.to_dict(variables))

    def diagnose(
        self, *, vanishing: float = 100.0, exploding: float = 100.0, dead: int = 10
    ) -> Diagnosis:
        """Tells you which layer is not learning, since which step and why.

        Args:
            vanishing: Float. How many times smaller the norm is at the input than at
                the output, as a trend over all layers that have a kernel. Defaults to
                100, a factor of 1.67 per layer for ten layers.
            exploding: Float. How many times a layer's norm exceeds all layers' norms
                at the first call, or the norm at the output. Defaults to 100.
            dead: Integer. Consecutive calls with a norm of exactly 0. Defaults to 10.

        Returns:
            A tuple of `Finding`, empty if the run is healthy. Printed, it describes
            each fault and suggests remedies; its `verdict` is a short form.

        Raises:
            ValueError: If nothing is recorded yet, or a threshold is out of range.
        """
        return diagnose(self._read(), vanishing, exploding, dead)

    def plot(self, *others: "GradientNorms") -> "Figure":
        """Draws depth against step, with log10 of the norm as color.

        Needs matplotlib: `pip install gradzoo[plot]`. The input is at the top. Black
        is a norm of exactly zero, orange one that is NaN or infinite, white a layer
        that took no part. A dot marks where each finding begins. Of the steps with
        NaN or infinity that end a run, only the first are drawn.

        Args:
            *others: `GradientNorms`. Further runs, each drawn as a panel of its own,
                with the same colors.
        """
        from .plotting import plot

        if not all(isinstance(other, GradientNorms) for other in others):
            raise TypeError(
                "`plot` takes the `GradientNorms` of further runs. "
                f"Received: others={others!r}."
            )
        return plot([norms._read() for norms in (self, *others)])

    def plot_profile(self, steps: Sequence[int] | None = None) -> "Figure":
        """Draws the norm against the layer, from the input to the output.

        Needs matplotlib: `pip install gradzoo[plot]`. Layers without a kernel are left
        out, and norms that are zero or not finite.

        Args:
            steps: Sequence of integers or `None`. The steps to draw, a line each.
                Defaults to `None`: the medians over ten steps at the beginning, in the
                middle and at the end, up to the last step whose norms are all finite.

        Raises:
            ValueError: If nothing is recorded yet, or a step is not recorded.
        """
        from .plotting import plot_profile

        return plot_profile(self._read(), steps)

    def __repr__(self) -> str:
        record = vars(self).get("_record") or Record()
        return f"<GradientNorms of {record.model!r}: {record.end:,} rows read>"

    def __str__(self) -> str:
        with contextlib.suppress(Exception):  # Compiled code, for one, cannot read.
            self._read()
        if not self._record.columns:
            return "GradientNorms: nothing is recorded yet."
        steps, layers = self._record.layers().norms.shape
        summary = f"{self._record.model}: {steps:,} steps, {layers} layers"
        return f"GradientNorms of {summary}, {diagnose(self._record).verdict}"

    def _repr_html_(self) -> str:
        summary = f"<p>{html.escape(str(self))}</p>"
        findings = self._record.columns and diagnose(self._record)
        return summary + findings._repr_html_() if findings else summary
