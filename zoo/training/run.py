"""Training with a recipe."""

import contextlib
import dataclasses
import os
import pathlib
import time
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from zoo.callbacks import ExactResume, GradientNorms
from zoo.callbacks.resume.replicas import is_chief
from zoo.data.augmentation import can_distort
from zoo.data.examples import (
    ArrayPair,
    Data,
    LabeledImages,
    dataset_name,
    load_training_data,
)
from zoo.errors import warn_if_scaled
from zoo.files import PathLike, expand
from zoo.models.inspection import count_classes, takes_raw_pixels
from zoo.models.labels import describe_data, find_data
from zoo.models.registry import check_name, create, get_weights
from zoo.training import run_folder
from zoo.training.batches import checksums, fit, make_batches, make_targets
from zoo.training.evaluation import image_shape
from zoo.training.opening import TRAINED
from zoo.training.recipes import Recipe, compile_model, default_recipe, load_recipe
from zoo.training.speed import describe_engine, tell_about_onednn


@dataclasses.dataclass(repr=False)
class Report:
    """The results of a training run.

    Attributes:
        model: Keras model, trained.
        recipe: `Recipe` that was run.
        history: Dict. Values per epoch, as in `keras.callbacks.History`. With a teacher
            or label smoothing, `loss` and `accuracy` are relative to the soft targets.
            If the recipe averages the weights, the last validation values are those of
            the averages.
        seconds: Float. Wall time of the training.
        output_dir: Path. Folder of the run, or `None`.
        gradient_norms: The `GradientNorms` callback, or `None`.
    """

    model: keras.Model
    recipe: Recipe
    history: dict[str, list[float]]
    seconds: float
    output_dir: pathlib.Path | None
    gradient_norms: GradientNorms | None

    def __repr__(self) -> str:
        epochs, figures = self.recipe.epochs, self.history.items()
        count = "1 epoch" if epochs == 1 else f"{epochs} epochs"
        lines = [f"{self.model.name}: {count} in {self.seconds:.0f} s"]
        last = [f"{n} {v[-1]:.4f}" for n, v in figures if v and np.ndim(v[-1]) == 0]
        if last:
            lines.append(f"last epoch: {', '.join(last)}")
        if self.gradient_norms is not None and len(self.gradient_norms.steps):
            lines += [str(finding) for finding in self.gradient_norms.diagnose()]
        if self.output_dir:
            lines.append(f"model: {self.output_dir / TRAINED}")
        return "\n".join(lines)


def train(
    model: str | keras.Model,
    data: Data,
    recipe: Recipe | PathLike | None = None,
    *,
    split: str = "train",
    validation_data: Data | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    output_dir: PathLike | None = None,
    save_freq: int | str = "epoch",
    resume: bool = False,
    gradient_norms: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    from_logits: bool | None = None,
    data_dir: PathLike | None = None,
    verbose: Any = "auto",
) -> Report:
    """Trains a model with a recipe.

    The same recipe and seed give the same weights on the same machine.

    Args:
        model: String or Keras model. Name of a model, built with the arguments of the
            recipe; or a functional or Sequential classifier, trained in place with
            the optimizer of the recipe, whatever it was compiled with. The
            workers in `TF_CONFIG` train a model together if it is given by name or was
            built under the scope of `zoo.distributed.strategy()`.
        data: Any of these, which are held in memory:
            - String. Name of a dataset.
            - Path of a folder with a subfolder of images per class, or of a folder
              with such folders named `train`, `validation` and `test`. Image files
              become pixels as in `zoo.read_images`.
            - Path of a `.npz` file with the arrays `x` and `y`, or `x_train`,
              `y_train`, `x_test`..., and maybe `categories`.
            - Tuple of arrays `(images, labels)`: `(n, ...)`, and integers >= 0 of
              shape `(n,)` or `(n, 1)`; or a `tf.data.Dataset` or `PyDataset` of these.
        recipe: `Recipe`, name of published weights (`"lenet5.mnist"`), path of a recipe
            file, or `"fast"`: a small `"convnet"` for one epoch. Defaults to the newest
            published recipe for the model and the dataset, or else to that for MNIST
            without its teacher. The default has no distortions if the inputs are not
            `(n, height, width, channels)`.
        split: String. `"train"`, with validation on `"validation"` after each epoch,
            or `"train+validation"`, without validation. Defaults to `"train"`.
        validation_data: As `data`. Replaces the validation split. Defaults to `None`.
        seed: Integer. Defaults to the recipe's.
        epochs: Integer. Defaults to the recipe's.
        batch_size: Integer. Images per step. Defaults to the recipe's.
        output_dir: Path. Folder for `log.csv`, `run.json` (a description of the run),
            checkpoints of `zoo.callbacks.ExactResume` in `checkpoint` and, at the end,
            `trained.keras`, which `zoo.load_model` opens. Defaults to `None`.
        save_freq: `"epoch"`, or integer N: also save a checkpoint every N steps.
            Defaults to `"epoch"`.
        resume: Boolean. Whether to resume from the newest checkpoint, if there is one.
            The final weights and logs are bit-identical to those of an uninterrupted
            run. Defaults to `False`: a folder with a checkpoint is refused.
        gradient_norms: Boolean. Whether to record the gradient norm of each layer at
            each step, in `gradient_norms.csv` in `output_dir`. Defaults to `False`.
        callbacks: Sequence of Keras callbacks. Defaults to none.
        from_logits: Boolean. As in `zoo.evaluate`. Defaults to `None`.
        data_dir: Path. Folder of the prepared datasets. Defaults to TFDS' folder.
        verbose: As in `keras.Model.fit`. Defaults to `"auto"`.

    Returns:
        A `Report` with the trained model, which has the `categories` of the data if
        these are known: the labels of a dataset or the names of subfolders.

    Raises:
        ValueError: If an argument or the recipe is wrong, the recipe is for another
            model, or the checkpoint belongs to another run.
        FileExistsError: If there is a checkpoint and `resume` is false, or the folder
            holds other files that the run would replace.

    Example:

    >>> report = zoo.train("lenet5", "digits-sample", epochs=1, verbose=0)
    >>> sorted(report.history)
    ['accuracy', 'loss', 'val_accuracy', 'val_loss']
    """
    folder = run_folder.check_output_dir(output_dir, resume, bool(gradient_norms))
    scope = _strategy_scope(model)
    given = {"seed": seed, "epochs": epochs, "batch_size": batch_size}
    completed = _complete_recipe(recipe, model, data, given)
    options = {"data_dir": data_dir, **_image_form(model, completed)}
    examples, validation = load_training_data(data, split, validation_data, **options)
    completed = _check_augmentation(completed, examples, is_default=recipe is None)
    batches = make_batches(examples, completed)
    description = run_folder.describe(model, data, completed, split)
    with scope:
        model = _build(model, examples, validation, completed)
        compile_model(model, completed, batches.steps_per_epoch, from_logits)
    teacher = completed.teacher and get_weights(completed.teacher).sha256
    description |= {"teacher": teacher, **describe_engine(model)}
    tell_about_onednn(model)
    if completed.has_soft_targets:
        classes = count_classes(model, examples.images.shape[1:])
        batches.targets = make_targets(examples, completed, classes)
        if validation:
            images, labels = validation
            validation = images, keras.utils.to_categorical(labels, classes)
    if not is_chief(model):  # Of several workers, only the chief writes.
        folder, verbose = None, 0
    recorder, hooks = _make_callbacks(callbacks, completed, folder, gradient_norms)
    if output_dir is not None:
        checkpoint = ExactResume(
            expand(output_dir) / "checkpoint",
            save_freq=save_freq,
            callbacks=[*hooks],
            data=batches,
            description={**description, "data": checksums(examples, validation)},
        )
        if folder and not checkpoint.has_checkpoint():
            run_folder.start(folder, model, description, data, examples, recorder)
        hooks.append(checkpoint)
    started = time.perf_counter()
    with run_folder.completing_files(hooks):
        history = fit(model, batches, validation, completed, hooks, verbose)
    seconds = time.perf_counter() - started
    run_folder.save_model(model, folder)
    return Report(model, completed, history, seconds, folder, recorder)


def _strategy_scope(model: str | keras.Model) -> Any:
    """Returns the scope in which a model that several workers train is compiled."""
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if not on_tensorflow and not os.environ.get("TF_CONFIG"):
        return contextlib.nullcontext()
    from zoo.training import distributed  # It imports TensorFlow.

    if on_tensorflow and isinstance(model, str):
        return distributed.strategy().scope()
    strategy = getattr(model, "distribute_strategy", None)
    addresses, _ = distributed.read_cluster(os.environ) or ((), 0)
    is_shared = strategy and strategy.num_replicas_in_sync > 1
    if len(addresses) > 1 and not is_shared:
        raise ValueError(
            "Every worker in `TF_CONFIG` would train a model of its own. With "
            "TensorFlow as Keras' backend, give the model by name, or build it under "
            "`with zoo.distributed.strategy().scope():`. Received: "
            f"model={model!r}, backend={keras.backend.backend()!r}."
        )
    return strategy.scope() if strategy else contextlib.nullcontext()


def _complete_recipe(
    recipe: Recipe | PathLike | None,
    model: str | keras.Model,
    data: Data,
    given: dict[str, Any],
) -> Recipe:
    """Returns the recipe to run, with the arguments given to `train`."""
    if isinstance(model, str):
        check_name(model)
    elif not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be the name of a model or a Keras model, such as one from "
            f"`zoo.load_model`. Received: model={model!r}."
        )
    given = {**given, "dataset": dataset_name(data)}
    given = {name: value for name, value in given.items() if value is not None}
    if recipe is None:
        name = model if isinstance(model, str) else model.name
        recipe = default_recipe(name, given.get("dataset"))
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if isinstance(model, str) and model != recipe.model:
        raise ValueError(
            f"The recipe is for the model {recipe.model!r}. Received: model={model!r}."
        )
    return dataclasses.replace(recipe, **given)


def _image_form(model: str | keras.Model, recipe: Recipe) -> dict[str, Any]:
    """Returns the shape and the normalization of image files for a model."""
    if isinstance(model, str):
        return {"shape": tuple(recipe.arguments.get("input_shape", (28, 28, 1)))}
    known, form = find_data(model)
    return {"shape": image_shape(model), "form": form, "known": known}


def _check_augmentation(
    recipe: Recipe, examples: LabeledImages, *, is_default: bool
) -> Recipe:
    if recipe.augmentation and not can_distort(examples.images):
        if is_default:
            return dataclasses.replace(recipe, augmentation={})
        raise ValueError(
            "The `augmentation` of a recipe needs images of shape (n, height, width, "
            "channels). Reshape them, or use a recipe without it. Received: images of "
            f"shape {examples.images.shape}."
        )
    return recipe


def _build(
    model: str | keras.Model,
    examples: LabeledImages,
    validation: ArrayPair | None,
    recipe: Recipe,
) -> keras.Model:
    keras.utils.set_random_seed(recipe.seed)
    labels, shape = examples.categories, examples.images.shape[1:]
    if isinstance(model, str):
        classes = len(labels or ()) or int(examples.labels.max()) + 1
        shapes = {"input_shape": shape, "classes": classes}
        model = create(model, **(shapes | recipe.arguments))
    elif not model.built:
        model.build((None, *shape))
    if takes_raw_pixels(model) or recipe.teacher:
        warn_if_scaled(examples.images)
    for images, y in filter(None, (validation, examples[:2])):
        outputs = count_classes(model, images.shape[1:], y.max())
    if labels and len(labels) == outputs:
        describe_data(model, labels, examples.normalization)
    elif labels:
        describe_data(model, None, examples.normalization)
        warnings.warn(
            f"The model {model.name!r} has {outputs} classes, but the data have "
            f"{len(labels)} labels, so the labels are not stored and `zoo.evaluate` "
            "cannot match them. Build the model with one class per label.",
            stacklevel=3,
        )
    return model


def _make_callbacks(
    callbacks: Sequence[keras.callbacks.Callback],
    recipe: Recipe,
    folder: pathlib.Path | None,
    gradient_norms: bool,
) -> tuple[GradientNorms | None, list[keras.callbacks.Callback]]:
    """Returns the recorder of gradient norms, or `None`, and all callbacks."""
    is_one = isinstance(callbacks, keras.callbacks.Callback)  # As `fit` accepts it.
    hooks: list[Any] = [callbacks] if is_one else list(callbacks)
    restores = [getattr(hook, "restore_best_weights", False) for hook in hooks]
    if recipe.has_averages and any(restores):
        raise ValueError(
            "`EarlyStopping` would replace the averaged weights at the end of the run. "
            "Pass `restore_best_weights=False`, or a recipe without averages. "
            "Received: restore_best_weights=True."
        )
    recorder = None
    if gradient_norms:
        recorder = GradientNorms(csv=folder / "gradient_norms.csv" if folder else None)
        hooks.append(recorder)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        hooks.append(keras.callbacks.CSVLogger(folder / "log.csv", append=True))
    return recorder, hooks
