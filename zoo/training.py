"""A recipe run to its end: training, and evaluation."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from zoo.augment import distort
from zoo.callbacks import ExactResume, GradientNorms, ShuffledBatches
from zoo.callbacks.replicas import gather, is_chief, process_place
from zoo.datasets import dataset_info, load_dataset
from zoo.inspection import ends_in_softmax
from zoo.recipes import Recipe, default_recipe, load_recipe
from zoo.registry import create
from zoo.weights import closest

Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class Report:
    """What a training run gave.

    Attributes:
        model: the trained model.
        recipe: the recipe that was run.
        history: `{name: value of each epoch}`, as in `keras.callbacks.History`.
        seconds: wall time of the training, in this process.
        output_dir: folder of the logs and trained weights, or `None`.
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
            f"{self.model.name}: {self.recipe.epochs} epochs in {self.seconds:.0f} s"
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
    checkpoint_dir: str | os.PathLike[str] | None = None,
    save_freq: int | str = "epoch",
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
        model: name of a model, built with the recipe's arguments; or a functional or
            Sequential classifier, trained in place. With `TF_CONFIG` set, all workers
            that it names train the model together (see `zoo.distributed`), if it is
            given by name or was built under the scope of their strategy.
        dataset: name of a dataset, whatever the recipe is for; or arrays `(images,
            labels)`, `[n, ...]` and integer `[n]` or `[n, 1]`.
        recipe: a `Recipe`, or the path of its file. Defaults to the newest recipe in
            `zoo/published` for the model and the data, or else for the model and
            MNIST; without its distortions, if the inputs are not images
            `[n, height, width, channels]`.
        split: what to train on: `"train"`, validated on `"validation"` after each
            epoch, or `"train+validation"`, without validation.
        validation_data: `(images, labels)` to validate on, in place of the split.
        seed, epochs, batch_size: take the place of the recipe's.
        output_dir: folder for `log.csv`, `run.json` and, at the end,
            `trained.weights.h5`. `run.json` describes the run: the recipe, with null
            for the model and its arguments, or the dataset, where they were given as
            objects rather than by name.
        checkpoint_dir: folder for checkpoints, which hold all that training needs to
            go on exactly (see `zoo.callbacks.ExactResume`). Defaults to `checkpoint` in
            `output_dir`.
        save_freq: after how many steps to write one, beside one after each epoch.
        resume: whether to go on from the newest checkpoint, if there is one. Without
            it, a folder that holds a checkpoint is refused. A run that was stopped,
            at whatever moment, ends with the very weights and records of one that
            was not.
        gradient_norms: whether to record the gradient norm of each layer at each step,
            and to write them to `gradient_norms.csv` in `output_dir`.
        tensorboard: whether to write TensorBoard logs to `output_dir`.
        callbacks: further Keras callbacks.
        data_dir: folder of the prepared datasets. Defaults to TFDS' own.
        verbose: as in `keras.Model.fit`.

    Returns:
        A `Report`, with the trained model.

    Raises:
        ValueError: an argument or the recipe is wrong, the recipe is for another model,
            or the checkpoint belongs to another run.
        FileExistsError: there is a checkpoint and `resume` is false.
        ImportError: `tensorboard` is true and the package is not installed.

    Example:

    >>> report = zoo.train("lenet5", "digits-sample", epochs=1, verbose=0)
    >>> sorted(report.history)
    ['accuracy', 'loss', 'val_accuracy', 'val_loss']
    """
    folder = pathlib.Path(output_dir) if output_dir is not None else None
    if tensorboard:
        _check_tensorboard(folder)
    checkpoint_dir = find_checkpoint_dir(folder, checkpoint_dir, resume)
    scope = _strategy_scope(model, callbacks)
    given = {"seed": seed, "epochs": epochs, "batch_size": batch_size}
    is_default = recipe is None
    recipe = complete_recipe(recipe, model, dataset, given)
    (images, labels), validation_data, classes = _load(
        dataset, split, validation_data, data_dir
    )
    recipe = _check_distortions(recipe, images, is_default)
    description = _describe(model, dataset, recipe, split)
    augmentation = recipe.augmentation
    batches = ShuffledBatches(
        images,
        labels,
        recipe.batch_size,
        seed=recipe.seed,
        augment=functools.partial(distort, **augmentation) if augmentation else None,
        shard=process_place(),
    )

    keras.utils.set_random_seed(recipe.seed)
    with scope:
        if isinstance(model, str):
            model = create(
                model, input_shape=images.shape[1:], classes=classes, **recipe.arguments
            )
        elif not model.built:
            model.build((None, *images.shape[1:]))
        compile_model(model, recipe, batches.steps_per_epoch)
    if not is_chief(model):  # The first of several workers writes for all.
        folder, verbose = None, 0

    hooks = list(callbacks)
    recorder = None
    if gradient_norms:
        recorder = GradientNorms(csv=folder / "gradient_norms.csv" if folder else None)
        hooks.append(recorder)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        hooks.append(keras.callbacks.CSVLogger(folder / "log.csv", append=True))
        if tensorboard:
            hooks.append(keras.callbacks.TensorBoard(folder / "tensorboard"))
    saving: Any = contextlib.nullcontext()
    if checkpoint_dir is not None:
        checkpoint = ExactResume(
            checkpoint_dir,
            save_freq=save_freq,
            callbacks=hooks,
            data=batches,
            description={**description, "data": _checksum(images, labels)},
        )
        if not checkpoint.has_checkpoint():
            _begin_folder(folder, description)
        hooks.append(checkpoint)
        saving = checkpoint.saving_when_stopped()

    started = time.perf_counter()
    try:
        with saving:
            history = model.fit(
                batches,
                epochs=recipe.epochs,
                steps_per_epoch=batches.steps_per_epoch,
                validation_data=validation_data,
                validation_batch_size=1000,
                shuffle=False,
                callbacks=hooks,
                verbose=verbose,
            )
    finally:
        if recorder:
            recorder.flush()
        for hook in hooks:  # Some versions of Keras have no file before training.
            if file := getattr(hook, "csv_file", None):
                file.close()
    seconds = time.perf_counter() - started

    if folder:
        save_weights(model, folder / "trained.weights.h5")
    gather(model, np.zeros(1))  # No worker is done before the first has written.
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
        dataset: name of a dataset; or arrays `(images, labels)`, `[n, ...]` and integer
            `[n]` or `[n, 1]`.
        split: what to evaluate on: `"train"`, `"validation"` or `"test"`.
        batch_size: images per step.
        data_dir: folder of the prepared datasets. Defaults to TFDS' own.
        verbose: as in `keras.Model.predict`.

    Returns:
        `accuracy`, a fraction; `loss`, the mean cross-entropy in nats; `images`, their
        number.

    Raises:
        ValueError: `dataset` is neither, or the last layer of `model` does not tell
            whether it returns probabilities or logits.

    Example:

    >>> model = zoo.LeNet5(weights="mnist")
    >>> scores = zoo.evaluate(model, "digits-sample", split="train")
    >>> scores["accuracy"] > 0.99
    True
    """
    if isinstance(dataset, str):
        dataset = load_dataset(dataset, split, as_="numpy", data_dir=data_dir)
    images, labels = _check_examples(dataset)
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


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compiles `model` with the recipe's optimizer and schedule, and cross-entropy.

    Raises:
        ValueError: Keras has no optimizer of that name, or the last layer of `model`
            does not tell whether it returns probabilities or logits.
    """
    optimizer = dict(recipe.optimizer)
    name, rate = optimizer.pop("name"), optimizer.pop("learning_rate")
    known = [
        key.lower()
        for key, value in vars(keras.optimizers).items()
        if isinstance(value, type) and key != "Optimizer"
    ]
    if name.lower() not in known:
        raise ValueError(f"Unknown optimizer {name!r}. {closest(name, known)}")
    steps = recipe.epochs * steps_per_epoch
    # A run that is cut short to try a recipe out still has a decay.
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), steps // 2)
    if recipe.schedule == "cosine" or warmup:
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else rate,
            decay_steps=steps - warmup,
            alpha=0.0 if recipe.schedule == "cosine" else 1.0,  # of the peak, at last
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


def _strategy_scope(
    model: str | keras.Model, callbacks: Sequence[keras.callbacks.Callback]
) -> Any:
    """Where to make and compile a model, so that several workers train it together."""
    strategy: Any = None
    if keras.backend.backend() == "tensorflow":
        if isinstance(model, str):
            from zoo import distributed

            # No callback of `train` acts on the logs of a step.
            return distributed.strategy(reduce_batch_logs=bool(callbacks)).scope()
        strategy = model.distribute_strategy
    if os.environ.get("TF_CONFIG") and not (
        strategy and strategy.num_replicas_in_sync > 1
    ):
        from zoo.distributed import read_cluster

        cluster = read_cluster(os.environ)
        if cluster and len(cluster.addresses) > 1:
            raise ValueError(
                "Every worker in `TF_CONFIG` would train a model of its own. With "
                "TensorFlow as Keras' backend, give the model by name, or build it "
                "under `with zoo.distributed.strategy().scope():`. Received: "
                f"model={model!r}, backend {keras.backend.backend()!r}."
            )
    return strategy.scope() if strategy else contextlib.nullcontext()


def _begin_folder(folder: pathlib.Path | None, description: dict[str, Any]) -> None:
    """Describes the run, and removes the log of one that came to nothing."""
    if folder:
        (folder / "log.csv").unlink(missing_ok=True)
        text = json.dumps({**description, "versions": software_versions()}, indent=2)
        (folder / "run.json").write_text(text + "\n")


def _checksum(*arrays: np.ndarray) -> int:
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, from which the file is then moved to `path`.

    `path` holds its old content or all of the new, whatever happens in between.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        unfinished = pathlib.Path(folder, path.name)
        yield unfinished
        os.replace(unfinished, path)


def save_weights(model: keras.Model, path: pathlib.Path) -> None:
    """Writes the weights and the optimizer's state, whole or not at all."""
    # Keras makes an optimizer meanwhile, in which all processes of a distribution would
    # have to take part.
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        with written_whole(path) as unfinished:
            model.save_weights(unfinished)
    finally:
        keras.distribution.set_distribution(distribution)


def software_versions() -> dict[str, str]:
    """Versions of Python, Keras and Keras' backend."""
    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        backend: importlib.metadata.version(backend),
    }


def find_checkpoint_dir(
    output_dir: pathlib.Path | None,
    checkpoint_dir: str | os.PathLike[str] | None,
    resume: bool,
) -> str | os.PathLike[str] | None:
    """Where checkpoints go, if anywhere.

    Raises:
        ValueError: there is nothing to go on from.
        FileExistsError: there is a checkpoint and `resume` is false.
    """
    if checkpoint_dir is None:
        if output_dir is None and resume:
            raise ValueError(
                "`resume` needs a folder. Received: output_dir=None, "
                "checkpoint_dir=None."
            )
        if output_dir is None:
            return None
        checkpoint_dir = output_dir / "checkpoint"
    if not resume and ExactResume(checkpoint_dir).has_checkpoint():
        raise FileExistsError(
            f"{checkpoint_dir} holds the checkpoint of a run: go on with it "
            "(`resume=True`, on the command line --resume), or choose another "
            "`output_dir` (--output)."
        )
    return checkpoint_dir


def _check_tensorboard(output_dir: pathlib.Path | None) -> None:
    if output_dir is None:
        raise ValueError("`tensorboard` needs a folder. Received: output_dir=None.")
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "TensorBoard logs need the package tensorboard: "
            "`pip install gradzoo[tensorboard]`."
        )


def complete_recipe(
    recipe: Recipe | str | os.PathLike[str] | None,
    model: str | keras.Model,
    dataset: str | Arrays,
    given: dict[str, int | None],
) -> Recipe:
    """The recipe to run: for this dataset, with what was given in its place."""
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if isinstance(dataset, str):
        changes["dataset"] = dataset
    if recipe is None:
        name = model if isinstance(model, str) else model.name
        recipe = default_recipe(name, changes.get("dataset", "mnist"))
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if isinstance(model, str) and model != recipe.model:
        raise ValueError(
            f"The recipe is for the model {recipe.model!r}. Received: model={model!r}."
        )
    return dataclasses.replace(recipe, **changes)


def _check_distortions(recipe: Recipe, images: np.ndarray, is_default: bool) -> Recipe:
    """The recipe as it suits these inputs: a default one leaves vectors undistorted."""
    if not recipe.augmentation or images.ndim == 4:
        return recipe
    if is_default:
        return dataclasses.replace(recipe, augmentation={})
    raise ValueError(
        "The `augmentation` of a recipe is for images [n, height, width, channels]: "
        "reshape them, or take a recipe without it. Received: images of shape "
        f"{list(images.shape)}."
    )


def _describe(
    model: str | keras.Model, dataset: str | Arrays, recipe: Recipe, split: str
) -> dict[str, Any]:
    """What is trained, for `run.json`: null for what has no name."""
    fields = dataclasses.asdict(recipe)
    if not isinstance(model, str):
        fields["model"] = fields["arguments"] = None
    if not isinstance(dataset, str):
        fields["dataset"] = None
    return {"recipe": fields, "split": split}


def _load(
    dataset: str | Arrays,
    split: str,
    validation_data: Arrays | None,
    data_dir: str | os.PathLike[str] | None,
) -> tuple[Arrays, Arrays | None, int]:
    """The training data, the validation data, and the number of classes."""
    if split not in ("train", "train+validation"):
        raise ValueError(
            "`split` must be 'train' or 'train+validation': the test images are not "
            f"for training. Received: split={split!r}."
        )
    if isinstance(dataset, str):
        load = functools.partial(load_dataset, dataset, as_="numpy", data_dir=data_dir)
        training_data = load(split=split)
        classes = len(dataset_info(dataset, data_dir=data_dir).classes)
        if validation_data is None and split == "train":
            validation_data = load(split="validation")
    else:
        training_data = _check_examples(dataset)
        classes = int(training_data[1].max()) + 1
    if validation_data is not None:
        validation_data = _check_examples(validation_data)
    return training_data, validation_data, classes


def _check_examples(examples: Any) -> Arrays:
    """`(images, labels)` as arrays `[n, ...]` and `[n]`.

    Raises:
        ValueError: they are no such pair.
    """
    if not isinstance(examples, tuple | list) or len(examples) != 2:
        raise ValueError(
            "Data must be the name of a dataset or a pair of arrays, (images, labels), "
            'as `zoo.load_dataset(..., as_="numpy")` returns. Received: '
            f"{type(examples).__name__}."
        )
    images, labels = map(np.asarray, examples)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if (
        images.ndim < 2
        or labels.ndim != 1
        or not 0 < len(images) == len(labels)
        or not np.issubdtype(labels.dtype, np.integer)
    ):
        raise ValueError(
            "Images and labels must have the shapes [n, ...] and [n] or [n, 1], with "
            f"integer labels. Received: images of shape {list(images.shape)}, "
            f"{labels.dtype} labels of shape {list(np.shape(examples[1]))}."
        )
    return images, labels
