"""Training that goes on after a kill as if nothing had happened."""

import collections
import contextlib
import copy
import hashlib
import io
import json
import os
import pathlib
import signal
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from .capture import PassOver, StandIn, find_optimizers
from .replicas import gather, get_values, has_peers, is_chief, set_values
from .shuffled_batches import ShuffledBatches

SUFFIX = ".checkpoint.npz"
KEPT = 2


class ExactResume(keras.callbacks.Callback):
    """Saves all that training needs to go on, and goes on from there.

    A run that was killed, at any moment and any number of times, ends with the weights,
    bit for bit, of a run that was not, if its data are a function of the epoch and the
    batch: batches that come in the same order in every epoch, or `ShuffledBatches`.
    `keras.callbacks.BackupAndRestore` repeats an epoch that was cut short and forgets
    the states of random layers and of other callbacks.

    A checkpoint holds every variable of the model, of its optimizers, metrics and
    random layers, the place in the run, `History`, and the state of other callbacks. It
    is written beside, flushed to disk and renamed, with checksums; the last two are
    kept. If the newest is damaged, training goes on from the one before, and if one
    cannot be written, as on a full disk, without it, both with a warning.

    It has to be the last in the list of callbacks. In the epoch that was cut short,
    batches that were trained on are drawn and passed over; callbacks that are not named
    in `callbacks` see them begin and end. Of workers that train a model together, the
    chief saves.

    Args:
        directory: Path of the folder for checkpoints, from which training goes on if
            it holds one. If that is of a run that has ended, nothing is left to train
            unless `epochs` has grown: give another run another folder.
        save_freq: `"epoch"`, or after how many batches to save within an epoch, too.
        callbacks: Those other callbacks of the `fit` whose state belongs to the run:
            `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint`, `CSVLogger` (with
            `append=True`), `GradientNorms`. Of others, attributes are saved that hold
            numbers, strings, arrays, or lists or dicts of these; or what the methods
            `get_state()` and `set_state(state)` make of such.
        data: The `ShuffledBatches` that `fit` is given, or None for batches that come
            in the same order in every epoch.
        description: Dict for JSON that tells the run apart from others: a checkpoint
            with another description is refused. The shapes of the variables, the
            optimizer and the number of batches in an epoch are compared in any case.

    Raises:
        ValueError: An argument is wrong; or, as training begins, the model or one of
            its optimizers is not built, `fit` was not given the steps of an epoch of
            `data`, the checkpoint is of another run, or all are damaged.
        RuntimeError: Workers that train together find different checkpoints.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> def fit(epochs):
    ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     data = ShuffledBatches(np.ones((96, 8)), np.ones((96, 1)), batch_size=32)
    ...     return model.fit(
    ...         data, steps_per_epoch=data.steps_per_epoch, epochs=epochs, verbose=0,
    ...         callbacks=[ExactResume(directory, save_freq=2, data=data)])
    >>> directory = tempfile.mkdtemp()
    >>> _ = fit(epochs=2)
    >>> len(fit(epochs=5).history["loss"])  # of which three are trained now
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
        if save_freq != "epoch" and not (isinstance(save_freq, int) and save_freq >= 1):
            raise ValueError(
                '`save_freq` must be "epoch" or a positive integer. '
                f"Received: save_freq={save_freq!r}"
            )
        if any(
            isinstance(callback, keras.callbacks.CSVLogger) and not callback.append
            for callback in callbacks
        ):
            raise ValueError(
                "A CSVLogger goes on with its file only if made with `append=True`. "
                "Received: append=False"
            )
        self.directory = pathlib.Path(directory)
        self.save_freq = save_freq
        self.callbacks = list(callbacks)
        self.data = data
        self.description = description or {}
        self._initial = {
            name: _fingerprints(callback) for name, callback in self._named_callbacks()
        }
        self._kept: list[pathlib.Path] = []
        self._signal: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        model = self._model
        StandIn.remove_stale(model)
        model._initial_epoch = None
        if not model.built or not model.optimizer:
            raise ValueError(
                "ExactResume takes a model that is built and compiled before `fit`: "
                "give it an `Input`, or call `model.build(input_shape)`. "
                f"Received: {model.name!r}"
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        for label, optimizer in find_optimizers(model):
            if not optimizer.built:
                raise ValueError(
                    "ExactResume takes optimizers that are built before `fit`: call "
                    f"`model.{label}.build(variables)`. Received: {label!r}"
                )
        if self.data is not None and self.params["steps"] is None:
            raise ValueError(
                "`ShuffledBatches` has no end: give `fit` "
                "`steps_per_epoch=data.steps_per_epoch`. Received: steps_per_epoch=None"
            )
        self._run = self._describe_run()
        self._fresh = {
            name: copy.deepcopy(_plain_attributes(callback))
            for name, callback in self._named_callbacks()
        }
        self._epoch, self._batch = 0, 0
        self._epochs: list[int] = []
        self._history: dict[str, list[Any]] = {}
        self._is_first_epoch = True
        self._resumed = self._read_newest()
        self._check_agreement()
        if self._resumed:
            self._restore(self._resumed)
        else:  # A kill before the next would begin with other random weights.
            self._save()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._model._initial_epoch = None
        if not self._resumed or epoch > self._epoch:
            self._epoch, self._batch = epoch, 0
        if self._is_first_epoch and self.data is not None:
            # Of an endless sequence, Keras draws for whole executions.
            size = self._model.steps_per_execution
            drawn = epoch * -(-self.params["steps"] // size) * size
            self.data.start_at(drawn, self._batch)
        self._is_first_epoch = False
        self._restore_history()
        if self._resumed and self._batch:
            for callback in self.callbacks:
                _skip_batches(callback, self._batch)

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        # Here, and not at the end of the batch before: to override that method ends
        # asynchronous dispatch of the callbacks.
        if self._resumed and batch < self._batch:
            PassOver(self._model, self._build_metrics)
            return
        if self._resumed and self._batch:
            model = self.model  # The property brings JAX's state back to the model.
            set_values(model, _variables(model), self._resumed["variables"])
            set_values(model, model.metrics_variables, self._resumed["metrics"])
            # Other callbacks have seen the epoch, and this batch, begin again.
            self._restore_callbacks(self._resumed)
        if self._resumed or not batch:
            # torch draws from these, too, when it begins to iterate over data.
            _set_torch_generators(self._generators)
            self._resumed = None
        is_due = isinstance(self.save_freq, int) and (
            batch // self.save_freq > self._batch // self.save_freq
        )
        if is_due or (self._signal and not has_peers(self._model)):
            self._batch = batch
            self._save()
        if self._signal:
            self._interrupt()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epochs.append(epoch)
        for name, value in (logs or {}).items():
            if not isinstance(value, float):  # A metric may have a value per class.
                value = keras.ops.convert_to_numpy(value)
            self._history.setdefault(name, []).append(value)
        self._epoch, self._batch = epoch + 1, 0
        self._save()
        if self._signal:
            self._interrupt()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._model._initial_epoch = None
        self._restore_history()
        if self.data is not None:
            self.data.start_at(0)

    @contextlib.contextmanager
    def saving_when_stopped(self) -> Iterator[None]:
        """Has Ctrl-C and SIGTERM wait for the step to end, and for a checkpoint.

        `with resume.saving_when_stopped(): model.fit(...)` raises `KeyboardInterrupt`
        or, upon the SIGTERM by which clusters stop a job, `SystemExit`. What comes a
        second time does not wait. Works in the main thread, where Python takes signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

        def wait(number: int, frame: Any) -> None:
            self._signal = number
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, wait)
        try:
            yield
            if self._signal:  # After the last step.
                self._interrupt()
        finally:
            self._signal = None
            for number, handler in before.items():
                signal.signal(number, handler)

    def _check_agreement(self) -> None:
        """Raises an error if workers do not go on from the same checkpoint."""
        resumed = self._resumed or {"epoch": -1, "batch": -1}
        place = np.array([resumed["epoch"], resumed["batch"]])
        places = gather(self._model, place)
        if (places != place).any():
            raise RuntimeError(
                "The workers find different checkpoints: give them a folder that all "
                f"of them can read. Received: directory={self.directory}, with the "
                f"newest [epoch, batch] {places.tolist()}"
            )

    def _interrupt(self) -> None:
        if isinstance(self._model.train_function, StandIn):
            self._model.train_function.remove()
        raise KeyboardInterrupt if self._signal == signal.SIGINT else SystemExit(143)

    def _describe_run(self) -> dict[str, Any]:
        """What must not change between a checkpoint and the run that goes on."""
        run = {
            "optimizer": _fixed(keras.optimizers.serialize(self._model.optimizer)),
            "variables": [
                f"{v.dtype} {list(v.shape)}" for v in _variables(self._model)
            ],
            "batches": self.params["steps"],
            "steps_per_execution": self._model.steps_per_execution,
            "shuffled_batches": self.data and self.data.describe(),
            **self.description,
        }
        described: dict[str, Any] = json.loads(json.dumps(run, default=str))
        return described

    def _restore(self, state: dict[str, Any]) -> None:
        model = self._model
        differences = [
            f"{name}: saved {state['run'].get(name)}, received {self._run.get(name)}"
            for name in {**state["run"], **self._run}
            if state["run"].get(name) != self._run.get(name)
        ]
        if differences:
            raise ValueError(
                f"The checkpoint in {self.directory} belongs to another run: give "
                f"another folder, or that run. It differs in {'; '.join(differences)}"
            )
        self._epoch, self._batch = state["epoch"], state["batch"]
        self._generators = state["torch_generators"]
        set_values(model, _variables(model), state["variables"])
        self._restore_callbacks(state)
        self._epochs, self._history = state["epochs"], state["history"]
        # As Keras' own BackupAndRestore has `fit` begin with another epoch.
        model._initial_epoch = (
            self.params["epochs"] if state["stopped"] else self._epoch
        )

    def _build_metrics(self, batch: Any) -> None:
        """On TensorFlow, metrics are made as the train step is traced."""
        saved = self._resumed["metrics"]["values"] if self._resumed else []
        if len(self._model.metrics_variables) != len(saved):
            self._model._symbolic_build(data_batch=batch)

    def _restore_callbacks(self, state: dict[str, Any]) -> None:
        for name, callback in self._named_callbacks():
            if name in state["callbacks"]:
                vars(callback).update(copy.deepcopy(self._fresh[name]))
                _set_state(callback, copy.deepcopy(state["callbacks"][name]))

    def _named_callbacks(self) -> list[tuple[str, Any]]:
        """The callbacks by the names of their classes, numbered within each."""
        numbers = collections.Counter[str]()
        named = []
        for callback in self.callbacks:
            name = type(callback).__name__
            named.append((f"{name} {numbers[name]}", callback))
            numbers[name] += 1
        return named

    def _restore_history(self) -> None:
        """`History` begins anew with each `fit`, after this callback does."""
        history = self._model.history
        if history is not None and len(self._epochs) > len(history.epoch):
            history.epoch = list(self._epochs)
            history.history = {k: list(v) for k, v in self._history.items()}

    def _save(self) -> None:
        model = self.model  # The property brings JAX's state back to the model.
        self._generators = _get_torch_generators()
        arrays: list[np.ndarray[Any, Any]] = []
        state = _pack(
            {
                "run": self._run,
                "epoch": self._epoch,
                "batch": self._batch,
                "stopped": model.stop_training,
                "epochs": self._epochs,
                "history": self._history,
                # Several workers have to read together what they hold together.
                "variables": get_values(model, _variables(model)),
                "metrics": get_values(model, model.metrics_variables),
                "torch_generators": self._generators,
                "callbacks": {
                    name: _get_state(callback, self._initial[name])
                    for name, callback in self._named_callbacks()
                },
            },
            arrays,
        )
        if not is_chief(model):
            return
        content = io.BytesIO()
        named: dict[str, Any] = {str(i): array for i, array in enumerate(arrays)}
        np.savez(content, state=np.array(json.dumps(state)), **named)
        try:
            self._write(content.getbuffer())
        except OSError as error:
            warnings.warn(
                f"ExactResume cannot save, and training goes on: {error}", stacklevel=2
            )

    def _write(self, content: memoryview) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = self.directory / ".unfinished"
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path = self.directory / f"{self._epoch:05}-{self._batch:08}{SUFFIX}"
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        before = [kept for kept in self._kept if kept != path]
        self._kept = [*before, path][-KEPT:]
        for old in set(self._files()) - set(self._kept):
            old.unlink(missing_ok=True)

    def has_checkpoint(self) -> bool:
        """Whether training would go on from a checkpoint."""
        return bool(self._files())

    def _files(self) -> list[pathlib.Path]:
        """The checkpoints, from the oldest on."""
        return sorted(self.directory.glob(f"*{SUFFIX}"))

    def _read_newest(self) -> dict[str, Any] | None:
        files = self._files()
        for index, path in reversed(list(enumerate(files))):
            try:
                state = _read(path)
            except Exception as error:  # Whatever the bytes may lead to.
                warnings.warn(f"{path} is damaged: {error!r}", stacklevel=2)
            else:
                self._kept = files[: index + 1]
                return state
        if files:
            raise ValueError(
                f"Every checkpoint in {self.directory} is damaged: remove them to "
                f"begin anew. Received: {', '.join(path.name for path in files)}"
            )
        return None


def _get_torch_generators() -> list[np.ndarray[Any, Any]]:
    """On torch, the process' own generators, from which layers without a seed draw."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return [state.numpy() for state in states]


def _set_torch_generators(states: list[np.ndarray[Any, Any]]) -> None:
    if states:
        import torch

        of_cpu, *of_gpus = [torch.from_numpy(state) for state in states]
        torch.set_rng_state(of_cpu)
        torch.cuda.set_rng_state_all(of_gpus)


def _variables(model: Any) -> list[Any]:
    """All of a model but its metrics: layers, random generators, optimizers."""
    optimizers = [optimizer for _, optimizer in find_optimizers(model)]
    found = [*model.variables, *(v for o in optimizers for v in o.variables)]
    return list({id(variable): variable for variable in found}.values())


def _fixed(config: Any) -> Any:
    """The settings of an optimizer, without those that may change on the way."""
    if not isinstance(config, dict):
        return config
    return {
        name: _fixed(value)
        for name, value in config.items()
        # A plain learning rate may be lowered, and is a variable.
        if name != "name" and not (name == "learning_rate" and np.isscalar(value))
    }


def _skip_batches(callback: Any, first: int) -> None:
    """Has a callback see no batch before `first`."""

    def since_first(method: Callable[..., None]) -> Callable[..., None]:
        def see(batch: int, logs: dict[str, Any] | None = None) -> None:
            if batch >= first:
                vars(callback).pop(method.__name__, None)
                method(batch, logs)

        return see

    for method in (callback.on_train_batch_begin, callback.on_train_batch_end):
        vars(callback)[method.__name__] = since_first(method)


def _get_state(callback: Any, initial: dict[str, str]) -> dict[str, Any]:
    """What of a callback has changed since it was made."""
    if hasattr(callback, "get_state"):
        state: dict[str, Any] = callback.get_state()
        return state
    changed = {
        name: value
        for name, value in _plain_attributes(callback).items()
        if initial.get(name) != _fingerprint(value)
    }
    if isinstance(callback, keras.callbacks.CSVLogger):
        changed["size"] = os.path.getsize(callback.filename)
    return changed


def _set_state(callback: Any, state: dict[str, Any]) -> None:
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    vars(callback).update(state)
    if isinstance(callback, keras.callbacks.CSVLogger):
        # What was written after the checkpoint is about to come again.
        size = min(callback.size, os.path.getsize(callback.filename))
        os.truncate(callback.filename, size)
        callback.append_header = size == 0


def _plain_attributes(callback: Any) -> dict[str, Any]:
    """The attributes of a callback that can be saved."""
    return {
        name: value
        for name, value in vars(callback).items()
        if name != "params" and _is_plain(value)
    }


def _fingerprints(callback: Any) -> dict[str, str]:
    return {
        name: _fingerprint(value) for name, value in _plain_attributes(callback).items()
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biufcUV" and value.dtype.fields is None
    return value is None or isinstance(value, bool | int | float | str)


def _fingerprint(value: Any) -> str:
    arrays: list[np.ndarray[Any, Any]] = []
    packed = _pack(value, arrays)
    digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    return json.dumps([packed, digests])


def _pack(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """A value for JSON, whose arrays are put into a list."""
    if isinstance(value, np.ndarray | np.generic):
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1, "dtype": str(value.dtype)}
    if isinstance(value, dict):
        return {"items": [_pack(pair, arrays) for pair in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays) for item in value]
    return value


def _unpack(value: Any, arrays: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if isinstance(value, dict):
        if "array" in value:
            # NumPy's files know no bfloat16.
            return arrays[str(value["array"])].view(value["dtype"])
        return {key: _unpack(item, arrays) for key, item in value["items"]}
    return value


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a checkpoint; every part of the file has a checksum."""
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():
            raise ValueError(f"{damaged} has another checksum")
    with np.load(path, allow_pickle=False) as arrays:
        state: dict[str, Any] = _unpack(json.loads(str(arrays["state"])), arrays)
    return state
