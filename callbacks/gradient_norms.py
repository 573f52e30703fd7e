"""The real gradient of every layer at every optimizer step."""

import atexit
import contextlib
import os
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from .capture import Guard, check_private_names, replaced
from .diagnosis import ADVICE, Diagnosis, diagnose
from .outputs import CSVOutput, TensorBoardOutput, to_dict, write_csv
from .recorders import Recorder, make_recorder
from .recording import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GradientNorms(keras.callbacks.Callback):
    """Records the L2 norm of each layer's training gradient at every step.

    The gradients are those that training itself computes and hands to the
    optimizer, at every optimizer call, whatever the model, the train step or
    `steps_per_execution`; none is computed anew. Under mixed precision they are
    divided by the loss scale.
    Training is not altered: the weights are bit for bit those of a run without it.
    (One exception is known: XLA on the JAX backend may round the last bit of a
    convolution's gradient otherwise if the optimizer clips norms.)

    Reference:

    - [Understanding the difficulty of training deep feedforward neural networks](
        https://proceedings.mlr.press/v9/glorot10a.html) (Glorot and Bengio, 2010)

    Layers are named by their path in the model, in its order from the input to the
    output, and variables by that path and their own name: `encoder/dense` and
    `encoder/dense/kernel`. Names that Keras made up (`dense_7`) are counted anew
    within the model, so that models built alike have equal names; names numbered from
    1, as people do, are kept.

    A later `fit` with the same callback and model goes on where the last one ended;
    another model begins a new recording. Copies and pickles hold what is recorded, and
    not the model.

    Args:
        applied: Boolean, whether to record gradients as the optimizer applies them,
            clipped and, with `gradient_accumulation_steps`, averaged, one row per
            update. By default they are recorded as they come, one row per batch.
        csv: Path of a file to which rows are added at the end of each epoch, when a
            train step fails and, after any other exception, when Python exits: step,
            optimizer, global norm, every layer's norm.
        separator: String between the values of that file.
        append: Boolean, whether to add to the rows that the file has.
        log_dir: Path of the directory for TensorBoard: a scalar per layer, and the
            histogram over layers of log10 of the norm.
        update_freq: `"batch"`, `"epoch"` (means over the epoch) or an integer, how
            often to write to `log_dir`.
        logs: Boolean, whether to put each layer's mean over the epoch into the
            epoch's logs, as `grad_norm/<layer>`, for the callbacks that come later:
            `History`, `CSVLogger`, and those of experiment trackers.
        stop_on: Kinds of finding that end training, of `"vanishing"`, `"exploding"`,
            `"non_finite"` and `"dead"`. Looked for at the end of each epoch; a
            warning gives the finding.
        buffer_size: Integer, the number of optimizer calls whose norms stay on the
            device before they are read, in one go. Reading costs a synchronization
            with the device. A recording takes 8 bytes per variable and step, in memory
            up to 64 MiB and beyond that in temporary files.

    Attributes:
        history: Dict from layer path to the norm of that layer's gradient, float64
            array of shape `(steps,)`; NaN at steps in which the layer took no part,
            as in a fit in which it was frozen.
        variables: Likewise, from variable path.
        global_norm: The norm over all variables, float64 array of shape `(steps,)`.
        steps: The number of each optimizer call, counted from 0, int64 array of
            shape `(steps,)`.
        optimizers: The name of the model's attribute that holds the optimizer of
            each call, string array of shape `(steps,)`.

    Raises:
        NotImplementedError: The Keras backend is not supported.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.layers.Dense(4, activation="relu"),
    ...                           keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> gradients = GradientNorms()
    >>> x, y = np.ones((96, 8)), np.ones((96, 1))
    >>> _ = model.fit(x, y, callbacks=[gradients], verbose=0)
    >>> list(gradients.history), gradients.global_norm.shape
    (['dense', 'dense_1'], (3,))
    """

    def __init__(
        self,
        *,
        applied: bool = False,
        csv: str | os.PathLike[str] | None = None,
        separator: str = ",",
        append: bool = False,
        log_dir: str | os.PathLike[str] | None = None,
        update_freq: int | str = "epoch",
        logs: bool = False,
        stop_on: Collection[str] = (),
        buffer_size: int = 1024,
    ) -> None:
        super().__init__()
        if buffer_size < 1:
            raise ValueError(
                f"`buffer_size` must be at least 1. Received: buffer_size={buffer_size}"
            )
        if isinstance(stop_on, str) or not set(stop_on) <= ADVICE.keys():
            raise ValueError(
                f"`stop_on` must be a collection of {list(ADVICE)}. "
                f"Received: stop_on={stop_on!r}"
            )
        if update_freq not in ("batch", "epoch") and not (
            isinstance(update_freq, int) and update_freq >= 1
        ):
            raise ValueError(
                '`update_freq` must be "batch", "epoch" or a positive integer. '
                f"Received: update_freq={update_freq!r}"
            )
        self.applied = applied
        self.csv, self.separator, self.append = csv, separator, append
        self.log_dir, self.update_freq = log_dir, update_freq
        self.logs, self.stop_on = logs, frozenset(stop_on)
        self.buffer_size = buffer_size
        self._begin_recording(Recording())

    def _begin_recording(self, recording: Recording) -> None:
        self._recording = recording
        self._recorder = self._make_recorder()
        self._fit_begins_at = self._epoch_begins_at = recording.end
        self._outputs: list[CSVOutput | TensorBoardOutput] = []
        if self.csv is not None:
            self._outputs.append(CSVOutput(self.csv, self.separator, self.append))
        if self.log_dir is not None:
            self._outputs.append(TensorBoardOutput(self.log_dir, self.update_freq))

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: all that is recorded, and not the model."""
        self._read()
        process_only = ("_model", "_recorder", "_outputs")
        return {k: v for k, v in vars(self).items() if k not in process_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _model=None)
        self._begin_recording(self._recording)
        for output in self._outputs:
            output.written = self._recording.end

    def _make_recorder(self) -> Recorder:
        recorder = make_recorder(self.buffer_size, self.applied)
        recorder.on_error = self._write
        recorder.counted = self._recording.end
        return recorder

    def set_model(self, model: Any) -> None:
        if self._model is not None and model is not self._model:
            self._begin_recording(Recording())
        # Kept by the base class as `_model`. Its `model` property is not for use
        # here: on JAX it copies the training state back into the model.
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        check_private_names(self._model)
        self._fit_begins_at = self._epoch_begins_at = self._read().end
        # An exception in another callback is not seen: what is recorded by then is
        # written when Python exits.
        atexit.register(self._recorder.fail)

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        Guard.install(self._model, self._recorder)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._outputs:
            self._write(epoch)
        if self.logs and logs is not None:
            layers = self._read().since(self._epoch_begins_at).layers()
            for layer, mean in zip(layers.names, layers.means(), strict=True):
                logs[f"grad_norm/{layer}"] = float(mean)
        if self.stop_on and self._read().end > self._fit_begins_at:
            for finding in diagnose(self._recording.since(self._fit_begins_at)):
                if finding.kind in self.stop_on:
                    self._model.stop_training = True
                    warnings.warn(
                        f"GradientNorms ends training: {finding}", stacklevel=2
                    )
                    break
        self._epoch_begins_at = self._recording.end

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.flush()
        self._warn_if_empty()

    def flush(self) -> None:
        """Writes now what, after an exception, is written when Python exits."""
        atexit.unregister(self._recorder.fail)
        self._recorder.fail()

    @contextlib.contextmanager
    def watch(self, optimizer: Any, model: Any) -> Iterator["GradientNorms"]:
        """Records within a `with` block, for custom loops and `train_on_batch`.

        A `tf.function` or `jax.jit` of the loop has to be called for the first time
        within the block, since what is compiled before does not record. In a loop
        compiled with TensorFlow, read an attribute such as `global_norm` at least
        every `buffer_size` steps.

        Args:
            optimizer: The Keras optimizer that the loop calls.
            model: The model whose layers name the variables.

        Yields:
            This callback.

        Example:

        ```python
        with GradientNorms().watch(model.optimizer, model) as gradients:
            for x, y in batches:
                model.train_on_batch(x, y)
        print(gradients.diagnose())
        ```
        """
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "`watch` takes a Keras optimizer and a Keras model, in this order. "
                f"Received: optimizer={optimizer!r}, model={model!r}"
            )
        check_private_names(model)
        self.set_model(model)
        self._fit_begins_at = self._read().end
        recorder = self._recorder
        step = recorder.step_class(
            model, model.train_function, [recorder], [("optimizer", optimizer)]
        )
        try:
            with step.hooked(), replaced((model, "train_function", step)):
                yield self
        finally:
            self._write()
            # Functions compiled in the block go on writing to the old recorder.
            recorder.close()
            self._recorder = self._make_recorder()
        self._warn_if_empty()

    def get_state(self) -> dict[str, Any]:
        """What `ExactResume` saves: all that is recorded, and how much is written."""
        return {
            "recording": self._read().get_state(),
            "fit_begins_at": self._fit_begins_at,
            "epoch_begins_at": self._epoch_begins_at,
            "outputs": {type(o).__name__: o.get_state() for o in self._outputs},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on with what another process has recorded."""
        self._recorder.drain()
        self._recording = Recording.from_state(state["recording"])
        self._recorder.counted = self._recording.end
        self._fit_begins_at = state["fit_begins_at"]
        self._epoch_begins_at = state["epoch_begins_at"]
        for output in self._outputs:
            if saved := state["outputs"].get(type(output).__name__):
                output.set_state(saved, self._recording)

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

    def _read(self) -> Recording:
        """Fetches what the device still holds."""
        blocks, lost = self._recorder.drain()
        for rows in blocks:
            self._recording.add(rows)
        if lost:
            warnings.warn(
                f"GradientNorms lost {lost} rows: there were more than "
                f"buffer_size={self.buffer_size} optimizer calls between two "
                "readings. Raise `buffer_size`.",
                stacklevel=3,
            )
        return self._recording

    def _write(self, epoch: int | None = None) -> None:
        """Has the outputs write what is new."""
        recording = self._read()
        for output in self._outputs:
            output.write(recording, epoch)

    @property
    def history(self) -> dict[str, NDArray[np.float64]]:
        table = self._read().layers()
        return dict(zip(table.names, table.norms.T, strict=True))

    @property
    def variables(self) -> dict[str, NDArray[np.float64]]:
        table = self._read().variables()
        return dict(zip(table.names, table.norms.T, strict=True))

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
        """Everything as one dict of columns, ready for `pandas.DataFrame`.

        Args:
            variables: Boolean, whether to give the norm of each variable instead of
                each layer.

        Returns:
            Dict with the arrays `step`, `optimizer`, `global_norm`, and one per
            layer or variable, all of shape `(steps,)`. A layer that is called like
            one of the three is in `layer/<name>`.
        """
        return to_dict(self._read(), variables)

    def to_csv(self, path: str | os.PathLike[str], variables: bool = False) -> None:
        """Writes `to_dict` to a file, which `pandas.read_csv` reads back exactly."""
        write_csv(path, self.to_dict(variables))

    def diagnose(
        self, *, vanishing: float = 100.0, exploding: float = 100.0, dead: int = 10
    ) -> Diagnosis:
        """Finds vanishing, exploding, non-finite and dead gradients.

        Args:
            vanishing: Float, how many times smaller the norm is at the input than at
                the output, as a trend over all layers that have a kernel.
            exploding: Float, how many times larger a layer's norm becomes than any
                layer's was at the first call, or than at the output.
            dead: Integer, for how many consecutive calls a norm is exactly zero.

        Returns:
            A tuple of `Finding`, empty if the run is healthy. Printed, it says
            where and when each fault begins and what to try against it; its
            `verdict` is the short form. The measures and the sources of the
            thresholds are described in `zoo.callbacks.diagnosis`.

        Raises:
            ValueError: Nothing is recorded yet.
        """
        return diagnose(
            self._read(), vanishing=vanishing, exploding=exploding, dead=dead
        )

    def plot(self) -> "Figure":
        """Draws depth against step, with log10 of the norm as colour.

        Returns:
            A `matplotlib.figure.Figure`. Needs matplotlib (`pip install
            gradzoo[plot]`).
        """
        from .plotting import plot

        recording = self._read()
        return plot(recording, diagnose(recording))
