"""A recipe run to its end: training, and evaluation."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from zoo.augment import distort
from zoo.datasets import dataset_info, load_dataset
from zoo.recipes import Recipe, default_recipe, load_recipe
from zoo.registry import create

Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class Report:
    """What a training run gave.

    Attributes:
        model: the trained model.
        recipe: the recipe that was run.
        history: `{name: value of each epoch}`, as in `keras.callbacks.History`; the
            epochs before a resumption stand in `log.csv`.
        seconds: wall time of the training, in this process.
        output_dir: folder of the checkpoint, logs and trained weights, or `None`.
        gradient_norms: the `GradientNorms` callback, or `None`.
    """

    model: keras.Model
    recipe: Recipe
    history: dict[str, list[float]]
    seconds: float
    output_dir: pathlib.Path | None
    gradient_norms: Any

    def __str__(self) -> str:
        last = {name: values[-1] for name, values in self.history.items() if values}
        figures = ", ".join(f"{name} {value:.4f}" for name, value in last.items())
        lines = [
            f"{self.recipe.id}: {self.recipe.epochs} epochs in {self.seconds:.0f} s"
        ]
        if figures:
            lines.append(f"last epoch: {figures}")
        if self.gradient_norms is not None and len(self.gradient_norms.steps):
            lines += [str(finding) for finding in self.gradient_norms.diagnose()]
        if self.output_dir:
            lines.append(f"weights: {self.output_dir / 'trained.weights.h5'}")
        return "\n".join(lines)


def train(
    model: str | keras.Model,
    dataset: str | Arrays,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    *,
    split: str = "train",
    validation_data: Arrays | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    gradient_norms: bool = False,
    tensorboard: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    data_dir: str | os.PathLike[str] | None = None,
    verbose: Any = "auto",
) -> Report:
    """Trains a model by a recipe.

    The order of the images is a function of the seed and the epoch alone, and the
    distortions of the seed and the step, so that the same recipe and seed give the same
    weights on the same machine.

    Args:
        model: name of a model, built with the recipe's arguments; or a model, trained
            in place.
        dataset: name of a dataset; or `(images, labels)` arrays.
        recipe: a `Recipe`, or the path of its file. Defaults to the recipe of the
            newest published weight.
        split: what to train on: `"train"`, validated on `"validation"` after each
            epoch, or `"train+validation"`, without validation.
        validation_data: `(images, labels)` to validate on, with arrays as `dataset`.
        seed, epochs, batch_size: take the place of the recipe's.
        output_dir: folder for the checkpoint (written after each epoch), `log.csv`,
            `recipe.json` and, at the end, `trained.weights.h5`.
        resume: whether to go on from the checkpoint in `output_dir`, if there is one.
            Without it, a folder that holds a checkpoint is refused.
        gradient_norms: whether to record the gradient norm of each layer at each step,
            and to write them to `gradient_norms.csv`.
        tensorboard: whether to write TensorBoard logs to `output_dir`.
        callbacks: further Keras callbacks.
        data_dir: folder of the prepared datasets. Defaults to TFDS' own.
        verbose: as in `keras.Model.fit`.

    Returns:
        A `Report`, with the trained model.

    Raises:
        ValueError: an argument or the recipe is wrong, or the checkpoint belongs to
            another recipe.
        FileExistsError: `output_dir` holds a checkpoint and `resume` is false.
        ImportError: `tensorboard` is true and the package is not installed.

    Example:

    >>> report = zoo.train("lenet5", "digits-sample", epochs=1, verbose=0)
    >>> sorted(report.history)
    ['accuracy', 'loss', 'val_accuracy', 'val_loss']
    """
    recipe = _recipe(model, dataset, recipe)
    given = {"seed": seed, "epochs": epochs, "batch_size": batch_size}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    recipe = dataclasses.replace(recipe, **changes)
    if isinstance(dataset, str):
        images, labels = load_dataset(dataset, split, as_="numpy", data_dir=data_dir)
        classes = len(dataset_info(dataset, data_dir=data_dir).classes)
        if split == "train":
            validation_data = load_dataset(
                dataset, "validation", as_="numpy", data_dir=data_dir
            )
    else:
        images, labels = dataset
        classes = int(labels.max()) + 1
    steps = max(1, len(images) // recipe.batch_size)

    keras.utils.set_random_seed(recipe.seed)
    if isinstance(model, str):
        model = create(
            model, input_shape=images.shape[1:], classes=classes, **recipe.arguments
        )
    compile_model(model, recipe, steps)

    hooks = list(callbacks)
    recorder = None
    if gradient_norms:
        from zoo.callbacks import GradientNorms

        recorder = GradientNorms()
        hooks.append(recorder)
    folder, first_epoch, logger = None, 0, None
    if output_dir is not None:
        folder = pathlib.Path(output_dir)
        checkpoint = _Checkpoint(folder, recipe, split)
        first_epoch = checkpoint.start(model, resume) // steps
        logger = keras.callbacks.CSVLogger(folder / "log.csv", append=resume)
        hooks += [logger, checkpoint]
        if tensorboard:
            _check_tensorboard()
            hooks.append(keras.callbacks.TensorBoard(folder / "tensorboard"))

    started = time.perf_counter()
    try:
        history = model.fit(
            TrainingBatches(images, labels, recipe, first_epoch * steps),
            epochs=recipe.epochs,
            initial_epoch=first_epoch,
            steps_per_epoch=steps,
            validation_data=validation_data,
            validation_batch_size=1000,
            shuffle=False,
            callbacks=hooks,
            verbose=verbose,
        )
    finally:
        if logger:
            logger.on_train_end()  # Keras leaves its file open after an exception
    seconds = time.perf_counter() - started

    if folder:
        model.save_weights(folder / "trained.weights.h5")
        if recorder:
            recorder.to_csv(folder / "gradient_norms.csv")
    return Report(model, recipe, history.history, seconds, folder, recorder)


def evaluate(
    model: keras.Model,
    dataset: str | Arrays,
    *,
    split: str = "test",
    batch_size: int = 1000,
    data_dir: str | os.PathLike[str] | None = None,
    verbose: Any = 0,
) -> dict[str, float]:
    """Accuracy and loss of a classifier, compiled or not.

    Args:
        model: a model from images to `[n, classes]` probabilities or logits.
        dataset: name of a dataset; or `(images, labels)` arrays.
        split: what to evaluate on: `"train"`, `"validation"` or `"test"`.
        batch_size: images per step.
        data_dir: folder of the prepared datasets. Defaults to TFDS' own.
        verbose: as in `keras.Model.predict`.

    Returns:
        `accuracy`, a fraction; `loss`, the mean cross-entropy in nats; `images`, their
        number.

    Example:

    >>> model = zoo.LeNet5(weights="mnist")
    >>> scores = zoo.evaluate(model, "digits-sample", split="train")
    >>> scores["accuracy"] > 0.99
    True
    """
    if isinstance(dataset, str):
        dataset = load_dataset(dataset, split, as_="numpy", data_dir=data_dir)
    images, labels = dataset
    outputs = np.float64(model.predict(images, batch_size=batch_size, verbose=verbose))
    if ends_in_softmax(model):
        log_probabilities = np.log(np.maximum(outputs, np.finfo("float32").tiny))
    else:
        outputs = outputs - outputs.max(-1, keepdims=True)
        log_probabilities = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    return {
        "accuracy": float(np.mean(outputs.argmax(-1) == labels)),
        "loss": float(-np.mean(log_probabilities[np.arange(len(labels)), labels])),
        "images": len(labels),
    }


def ends_in_softmax(model: keras.Model) -> bool:
    """Whether the outputs of `model` are probabilities rather than logits."""
    activation = getattr(model.layers[-1], "activation", None)
    return activation is keras.activations.softmax


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compiles `model` with the recipe's optimizer and schedule, and cross-entropy."""
    optimizer = dict(recipe.optimizer)
    name, rate = optimizer.pop("name"), optimizer.pop("learning_rate")
    steps = recipe.epochs * steps_per_epoch
    # A run that is cut short to try a recipe out still has a decay.
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), steps // 2)
    if recipe.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else rate,
            decay_steps=steps - warmup,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    config = {"learning_rate": rate, **optimizer}
    model.compile(
        optimizer=keras.optimizers.get({"class_name": name, "config": config}),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=not ends_in_softmax(model)
        ),
        metrics=["accuracy"],
    )


class TrainingBatches(keras.utils.PyDataset):
    """The endless sequence of a recipe's training batches, from step `start` on.

    The batch of a step depends on the recipe and the step alone. The images of an epoch
    that do not fill a batch are left out; the next epoch's order is another.
    """

    num_batches = None

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, start: int = 0
    ) -> None:
        super().__init__()
        self.images, self.labels = images, labels
        self.recipe = recipe
        self.start = start
        self.batch_size = min(recipe.batch_size, len(images))
        self.steps_per_epoch = len(images) // self.batch_size

    def __getitem__(self, index: int) -> Arrays:
        seed = self.recipe.seed
        epoch, step = divmod(self.start + index, self.steps_per_epoch)
        order = _permutation(len(self.images), seed, epoch)
        chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
        images = self.images[chosen]
        if self.recipe.augmentation:
            rng = np.random.default_rng((seed, epoch, step))
            images = distort(images, rng, **self.recipe.augmentation)
        return images, self.labels[chosen]


@functools.lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


class _Checkpoint(keras.callbacks.Callback):
    """Writes weights and optimizer after each epoch, whole or not at all."""

    def __init__(self, folder: pathlib.Path, recipe: Recipe, split: str) -> None:
        super().__init__()
        self.path = folder / "checkpoint.weights.h5"
        self.run_path = folder / "run.json"
        self.run = {"recipe": dataclasses.asdict(recipe), "split": split}

    def start(self, model: keras.Model, resume: bool) -> int:
        """Loads the checkpoint, if there is one, and returns the steps done."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            run = {**self.run, "versions": software_versions()}
            self.run_path.write_text(json.dumps(run, indent=2) + "\n")
            return 0
        if not resume:
            raise FileExistsError(
                f"{self.path.parent} holds the checkpoint of a run: go on with it "
                "(`resume=True`, on the command line --resume), or choose another "
                "`output_dir` (--output)."
            )
        saved = json.loads(self.run_path.read_text())
        wanted = json.loads(json.dumps(self.run))
        if any(saved[key] != wanted[key] for key in wanted):
            raise ValueError(
                f"The checkpoint in {self.path.parent} belongs to another run, which "
                f"{self.run_path.name} describes. Received: {wanted}."
            )
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self.path)
        return int(model.optimizer.iterations)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        unfinished = self.path.with_name("unfinished.weights.h5")
        self.model.save_weights(unfinished)
        os.replace(unfinished, self.path)


def software_versions() -> dict[str, str]:
    """Versions of Python, Keras and Keras' backend."""
    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        backend: importlib.metadata.version(backend),
    }


def _check_tensorboard() -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "TensorBoard logs need the package tensorboard: "
            "`pip install gradzoo[tensorboard]`."
        )


def _recipe(model: str | keras.Model, dataset: str | Arrays, recipe: Any) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        return load_recipe(recipe)
    name = model if isinstance(model, str) else model.name
    return default_recipe(name, dataset if isinstance(dataset, str) else "mnist")
