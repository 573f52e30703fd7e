"""A callback that resumes an interrupted run with bit-identical results."""

import contextlib
import json
import numbers
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from ..optimizers import find_optimizers
from ..train_function import SkipBatches, TrainFunctionWrapper
from .callback_state import CallbackStates, is_plain
from .checkpoint import CheckpointFolder
from .fit_data import find_fit, find_randomness, skip_epochs
from .model_state import (
    describe_model,
    find_state,
    get_torch_generators,
    set_torch_generators,
)
from .replicas import gather, get_values, has_peers, is_chief, set_values
from .shuffled_batches import ShuffledBatches


class ExactResume(keras.callbacks.Callback):
    """Saves the state of training, and resumes an interrupted run from it.

    However often a run is killed, its final weights are bit-identical to those of an
    uninterrupted run if the data depend only on their position: batches in the same
    order in each epoch, an endless sequence that restarts with the same batches, or
    `ShuffledBatches`. Randomness detected in the data causes a warning before training.
    Random numbers in the model must come from `keras.random`.

    A checkpoint holds all variables of the model, its optimizers, metrics and random
    generators, the position in the run, `History`, and the state of other callbacks.
    The two newest checkpoints are kept. A damaged one is skipped; if one cannot be
    written, as on a full disk, training continues. Both cause a warning, as does an
    iterator in an attribute of the model. With several workers, only the chief saves.

    This callback must be the last in the list. The batches before the checkpoint are
    drawn and skipped: those of the epoch, or of the run if data span several epochs.

    Args:
        directory: Path of the local folder for the checkpoints of one run. If it holds
            one, training resumes from it, up to the argument `epochs` of `fit`.
        save_freq: `"epoch"`, or integer N: also save every N batches. Defaults to
            `"epoch"`.
        callbacks: List of the other callbacks of `fit` whose state is saved, such as
            `EarlyStopping`, `CSVLogger(append=True)`, `GradientNorms`. The state is
            what `get_state()` returns and `set_state(state)` accepts, or else the
            attributes that are numbers, strings, arrays, or lists or dicts of these.
        data: The `ShuffledBatches` from which `fit` draws. Needed if `fit` reads them
            through another object, such as a `tf.data.Dataset`. Defaults to `None`.
        description: JSON-serializable dict that identifies the run. A checkpoint is
            refused if its description, loss, optimizer, number of batches, layers,
            activations, dtypes or shapes of variables differ. Defaults to `None`.

    Raises:
        ValueError: If an argument is wrong. When training begins: if the model or an
            optimizer is not built, `data` is passed to `fit` without `steps_per_epoch`,
            `BackupAndRestore` comes later in the list, the checkpoint belongs to
            another run or an epoch with other metrics, or all checkpoints are damaged.
        RuntimeError: If workers find different checkpoints when training begins.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> x, y, directory = np.ones((96, 8)), np.ones((96, 1)), tempfile.mkdtemp()
    >>> def fit(epochs):
    ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     callbacks = [ExactResume(directory, save_freq=2)]
    ...     return model.fit(
    ...         x, y, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=0)
    >>> _ = fit(epochs=2)
    >>> len(fit(epochs=5).history["loss"])  # The second run trains three epochs.
    5
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        save_freq: int | str = "epoch",
        callbacks: Sequence[keras.callbacks.Callback] = (),
        data: ShuffledBatches | None = None,
        description: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        is_integer = isinstance(save_freq, numbers.Integral) and save_freq is not True
        if save_freq != "epoch" and not (is_integer and int(save_freq) >= 1):
            raise ValueError(
                '`save_freq` must be "epoch" or a positive integer. '
                f"Received: save_freq={save_freq!r}."
            )
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.CSVLogger) and not callback.append:
                raise ValueError(
                    "A CSVLogger must be created with `append=True` to be resumed. "
                    "Received: append=False."
                )
        self.directory = os.path.expanduser(directory)
        if "://" in str(self.directory) or os.path.isfile(self.directory):
            raise ValueError(
                "`directory` must be a local folder. "
                f"Received: directory={self.directory!r}."
            )
        self.save_freq = save_freq
        self.data = self._batches = data
        self.description = description or {}
        self._checkpoints = CheckpointFolder(self.directory)
        self._callback_states = CallbackStates(callbacks)
        self._signal: int | None = None

    def has_checkpoint(self) -> bool:
        """Returns `True` if the folder holds a checkpoint to resume from."""
        return bool(self._checkpoints.files())

    @contextlib.contextmanager
    def saving_when_stopped(self) -> Iterator[None]:
        """Delays Ctrl-C and SIGTERM until the step has ended and a checkpoint is saved.

        `with resume.saving_when_stopped(): model.fit(...)` then raises
        `KeyboardInterrupt`, or `SystemExit` for SIGTERM. A second signal is not
        delayed. Outside the main thread, which receives the signals, nothing changes.
        """
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        before: dict[int, Any] = {n: signal.getsignal(n) for n in numbers}

        def wait(number: int, frame: Any) -> None:
            self._signal = number
            signal.signal(number, before[number])

        for number in before:
            signal.signal(number, wait)
        try:
            yield
            if self._signal:  # It came after the last step.
                self._interrupt()
        finally:
            self._signal = None
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_begin(self, logs: Any = None) -> None:
        TrainFunctionWrapper.remove_stale(self._model)
        self._check_built()
        self._variables, self._bit_generators, unsaved = find_state(self._model)
        self._inspect_fit(unsaved)
        if self._batches and self.params["steps"] is None:
            raise ValueError(
                "`ShuffledBatches` is endless: pass its `steps_per_epoch` to `fit`. "
                "Received: steps_per_epoch=None."
            )
        self._run = self._describe_run()
        # BackupAndRestore may have set the first epoch.
        self._epoch, self._batch = self._model._initial_epoch or 0, 0
        self._epochs: list[int] = []
        self._history: dict[str, list[Any]] = {}
        self._resumed = self._checkpoints.read_newest()
        self._check_agreement()
        if self._resumed:
            self._restore(self._resumed)
        else:  # A run that is killed before the next save must keep these weights.
            self._save()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._model._initial_epoch = None
        if not self._resumed or epoch > self._epoch:
            self._epoch, self._batch = epoch, 0
        if not self._batches:
            if self._resumed and (iterator := find_fit()[0]):
                skip_epochs(iterator, len(self._epochs))
        elif self._resumed or not self._epochs:  # The first epoch.
            # Keras draws whole executions from an endless sequence.
            size = self._model.steps_per_execution
            drawn = epoch * -(-self.params["steps"] // size) * size
            self._batches.start_at(drawn)
        self._restore_history()
        if self._resumed and self._batch:
            self._callback_states.skip_batches(self._batch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Saving happens here because a callback that overrides `on_train_batch_end`
        # disables the asynchronous dispatch of callbacks.
        if self._resumed and batch < self._batch:
            SkipBatches(self._model, self._build_metrics)
            return
        if self._resumed and self._batch:
            model = self.model  # The property copies JAX's state back to the model.
            metrics, saved = model.metrics_variables, self._resumed["metrics"]
            if len(metrics) != len(saved["values"]):
                raise ValueError(
                    "Compile the model with the metrics of the interrupted epoch. "
                    f"Received: metrics={[variable.path for variable in metrics]}."
                )
            self._set_state(self._resumed)
            set_values(model, metrics, saved)
            # The other callbacks have seen the epoch and this batch begin again.
            self._callback_states.set(self._resumed["callbacks"])
        if self._resumed or not batch:
            # torch also draws from them when it starts to iterate over data.
            set_torch_generators(self._generators)
            self._resumed = None
        is_due = not isinstance(self.save_freq, str) and (
            batch // self.save_freq > self._batch // self.save_freq
        )
        if is_due or (self._signal and not has_peers(self._model)):
            self._batch = batch
            self._save()
        if self._signal:
            self._interrupt()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epochs.append(epoch)
        for name, value in (logs or {}).items():
            if hasattr(value, "shape"):  # A metric may have a value per class.
                value = keras.ops.convert_to_numpy(value)
            if is_plain(value):
                self._history.setdefault(name, []).append(value)
            else:
                message = "A checkpoint cannot hold a value of the logs. Received: "
                warnings.warn(f"{message}{name}={value!r}.", stacklevel=2)
        self._epoch, self._batch = epoch + 1, 0
        self._save()
        if self._signal:
            self._interrupt()

    def on_train_end(self, logs: Any = None) -> None:
        self._model._initial_epoch = None
        self._restore_history()
        if self._batches:
            self._batches.start_at(0)

    def _check_built(self) -> None:
        model = self._model
        if model.built and model.optimizer and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        parts = {"model": model, "optimizer": None, **dict(find_optimizers(model))}
        unbuilt = [name for name, part in parts.items() if not (part and part.built)]
        if unbuilt:
            raise ValueError(
                "ExactResume requires a model and optimizers that are built before "
                "`fit`. Add an `Input` or call `model.build(input_shape)`; call "
                "`optimizer.build(variables)` if `compile` did not set the optimizer. "
                f"Received: unbuilt={unbuilt}."
            )

    def _inspect_fit(self, unsaved: list[str]) -> None:
        """Checks the order of the callbacks; warns about what cannot be restored."""
        iterator, callbacks = find_fit()
        backups = [isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks]
        if not any(backups):
            self._model._initial_epoch = None
        elif self in callbacks[: backups.index(True)]:
            raise ValueError(
                "Remove BackupAndRestore, or pass it before ExactResume. "
                f"Received: callbacks={[type(c).__name__ for c in callbacks]}."
            )
        random = []
        if iterator:
            random = find_randomness(iterator)
            data = getattr(iterator.data_adapter, "py_dataset", None)
            self._batches = data if isinstance(data, ShuffledBatches) else self.data
        if random or unsaved:
            warnings.warn(
                "A resumed run will not be bit-identical. Pass `ShuffledBatches`, or "
                "data in the same order in each epoch (`shuffle=False`), and keep "
                "state in variables and NumPy generators. "
                f"Received: data={random}, attributes={unsaved}.",
                stacklevel=2,
            )

    def _check_agreement(self) -> None:
        """Raises an error unless all workers resume from the same checkpoint."""
        resumed = self._resumed or {"epoch": -1, "batch": -1}
        place = np.array([resumed["epoch"], resumed["batch"]])
        places = gather(self._model, place)
        if (places != place).any():
            raise RuntimeError(
                "The workers find different checkpoints. Use a folder that all workers "
                f"can read. Received: directory={self.directory!r} with the newest "
                f"[epoch, batch] {places.tolist()}."
            )

    def _describe_run(self) -> Any:
        """Returns values that must be the same in a resumed run."""
        model, data = self._model, self._batches
        run = {
            **describe_model(model),
            "variables": [f"{v.dtype} {list(v.shape)}" for v in self._variables],
            "generators": [type(g).__name__ for g in self._bit_generators],
            "batches": self.params["steps"],
            "steps_per_execution": model.steps_per_execution,
            "shuffled_batches": data and [len(data.x), data.batch_size, data.seed],
            **self.description,
        }
        return json.loads(json.dumps(run, default=str))

    def _restore(self, state: dict[str, Any]) -> None:
        model = self._model
        saved, received = state["run"], self._run
        differences = [
            f"{name}: saved {saved.get(name)}, received {received.get(name)}"
            for name in {**saved, **received}
            if saved.get(name) != received.get(name)
        ]
        if differences:
            raise ValueError(
                "The checkpoint belongs to another run. Use another folder, or resume "
                f"that run. It differs in {'; '.join(differences)}. "
                f"Received: directory={self.directory!r}."
            )
        self._epoch, self._batch = state["epoch"], state["batch"]
        self._generators = state["torch_generators"]
        self._set_state(state)
        self._callback_states.set(state["callbacks"])
        self._epochs, self._history = state["epochs"], state["history"]
        # `fit` begins with this epoch; BackupAndRestore of Keras does the same.
        epochs = self.params["epochs"]
        model._initial_epoch = epochs if state["stopped"] else self._epoch
        if state["stopped"] and self._epoch < epochs:
            warnings.warn(
                f"A callback ended this run after {self._epoch} epochs: nothing is "
                "trained. Use another folder to train from the start. "
                f"Received: directory={self.directory!r}.",
                stacklevel=2,
            )

    def _set_state(self, state: dict[str, Any]) -> None:
        set_values(self._model, self._variables, state["variables"])
        for i, generator in enumerate(self._bit_generators):
            generator.state = state["generators"][i]

    def _restore_history(self) -> None:
        """Restores `History`, which `fit` clears after `on_train_begin`."""
        history = self._model.history
        if history is not None and len(self._epochs) > len(history.epoch):
            history.epoch = list(self._epochs)
            history.history = {k: list(v) for k, v in self._history.items()}

    def _build_metrics(self, batch: Any) -> None:
        """Builds the metrics, which TensorFlow does when it traces the train step."""
        model, saved = self._model, self._resumed["metrics"]["values"]
        # A train step of the user may ignore the loss and take other batches.
        is_of_keras = type(model).train_step is keras.Model.train_step
        if is_of_keras or len(model.metrics_variables) != len(saved):
            model._symbolic_build(data_batch=batch)

    def _save(self) -> None:
        model = self.model  # The property copies JAX's state back to the model.
        self._generators = get_torch_generators()
        state = {
            "run": self._run,
            "epoch": self._epoch,
            "batch": self._batch,
            "stopped": model.stop_training,
            "epochs": self._epochs,
            "history": self._history,
            # All workers must take part in reading values that differ by replica.
            "variables": get_values(model, self._variables),
            "generators": [g.state for g in self._bit_generators],
            "metrics": get_values(model, model.metrics_variables),
            "torch_generators": self._generators,
            "callbacks": self._callback_states.get(),
        }
        if not is_chief(model):
            return
        try:
            self._checkpoints.write(self._epoch, self._batch, state)
        except OSError as error:
            message = "ExactResume cannot save a checkpoint; training continues: "
            warnings.warn(f"{message}{error}.", stacklevel=2)

    def _interrupt(self) -> None:
        if isinstance(self._model.train_function, TrainFunctionWrapper):
            self._model.train_function.remove()
        raise KeyboardInterrupt if self._signal == signal.SIGINT else SystemExit(143)
