"""Recipes: the settings of a training run, as one small TOML file."""

import dataclasses
import glob
import inspect
import math
import tomllib
from typing import Any

import keras
import numpy as np

from zoo.data.augmentation import distort
from zoo.errors import check_argument, is_size, suggest
from zoo.files import PathLike
from zoo.models.inspection import returns_logits
from zoo.models.registry import recipe_path
from zoo.models.weights import PUBLISHED
from zoo.training.speed import choose_jit


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of a training run.

    Attributes:
        model: String. Name of the model, e.g. `"lenet5"`.
        dataset: String. Name of the dataset, e.g. `"mnist"`.
        version: Integer. Version of the resulting weights. Defaults to 1.
        seed: Integer. Seed of all randomness. Defaults to 0.
        epochs: Integer. Passes over the training images. Defaults to 10.
        batch_size: Integer. Images per step. Defaults to 128.
        arguments: Dict. Arguments of the model's builder. Defaults to none.
        optimizer: Dict. `name` of a Keras optimizer and its arguments, of which
            `learning_rate` is the peak of the schedule. Defaults to Adam with 1e-3.
        schedule: String. `"cosine"`, from the peak to 0 over the run, or `"constant"`.
            Defaults to `"cosine"`.
        warmup_epochs: Float. Epochs of a linear rise from 0 to the peak. Defaults to 0.
        augmentation: Dict. Arguments of `zoo.data.augmentation.distort`. Defaults to
            none, which leaves the images as they are.
        label_smoothing: Float in [0, 1). The part of each label that is spread evenly
            over all classes. Defaults to 0.
        teacher: String. Name of published weights, e.g. `"convnet.mnist"`, whose
            probabilities for the distorted images are mixed with the labels.
            Defaults to `None`.
        teacher_weight: Float in (0, 1]. The weight of the teacher's probabilities in
            the targets. Defaults to 0.9.
        ema_momentum: Float in [0, 1). The momentum of an exponential moving average of
            the weights, which replaces them at the end of the run. The statistics of
            batch normalization are then computed again. In a short run, the momentum
            is lowered so that the average covers at most a tenth of it. Defaults to 0:
            no average.

    Reference:
    - [Szegedy et al., 2016](https://arxiv.org/abs/1512.00567): label smoothing.
    - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531): distillation.
    - [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407): averages of weights
      need new statistics of batch normalization.

    Raises:
        ValueError: If a field has the wrong type or is out of range. Keras checks the
            optimizer, and the builder the `arguments`, when they are used.
    """

    model: str
    dataset: str
    version: int = 1
    seed: int = 0
    epochs: int = 10
    batch_size: int = 128
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"name": "Adam", "learning_rate": 1e-3}
    )
    schedule: str = "cosine"
    warmup_epochs: float = 0
    augmentation: dict[str, Any] = dataclasses.field(default_factory=dict)
    label_smoothing: float = 0
    teacher: str | None = None
    teacher_weight: float = 0.9
    ema_momentum: float = 0

    def __post_init__(self) -> None:
        for field, value in vars(self).items():  # Python's numbers, also within tables.
            value = keras.tree.map_structure(
                lambda x: x.item() if isinstance(x, np.generic) else x, value
            )
            object.__setattr__(self, field, value)
        optimizer = self.optimizer if isinstance(self.optimizer, dict) else {}
        rate: Any = optimizer.get("learning_rate")
        named = isinstance(optimizer.get("name"), str) and _is_number(rate) and rate > 0
        scheduled = self.schedule in ("cosine", "constant")
        warmed = _is_number(self.warmup_epochs) and self.warmup_epochs >= 0
        smoothed, averaged = map(_is_part, (self.label_smoothing, self.ema_momentum))
        weighted = _is_number(self.teacher_weight) and 0 < self.teacher_weight <= 1
        seeded = type(self.seed) is int and self.seed >= 0  # `True` is invalid
        for field, is_valid, expected in (
            ("model", isinstance(self.model, str), "a name"),
            ("dataset", isinstance(self.dataset, str), "a name"),
            ("version", is_size(self.version), "an integer of at least 1"),
            ("seed", seeded, "an integer of at least 0"),
            ("epochs", is_size(self.epochs), "an integer of at least 1"),
            ("batch_size", is_size(self.batch_size), "an integer of at least 1"),
            ("arguments", isinstance(self.arguments, dict), "a table"),
            ("optimizer", named, "a table with `name` and a positive `learning_rate`"),
            ("schedule", scheduled, "'cosine' or 'constant'"),
            ("warmup_epochs", warmed, "a number of at least 0"),
            ("augmentation", isinstance(self.augmentation, dict), "a table"),
            ("label_smoothing", smoothed, "a number from 0 to less than 1"),
            ("teacher", isinstance(self.teacher, str | None), "a name"),
            ("teacher_weight", weighted, "a number above 0 and at most 1"),
            ("ema_momentum", averaged, "a number from 0 to less than 1"),
        ):
            check_argument(is_valid, field, getattr(self, field), expected)
        distortions = inspect.getfullargspec(distort).kwonlyargs
        for name, value in self.augmentation.items():
            _check_name("augmentation", name, distortions)
            _check_amount(name, value)

    @property
    def id(self) -> str:
        """Full name of the resulting weights, e.g. `"lenet5.mnist.v1"`."""
        return f"{self.model}.{self.dataset}.v{self.version}"

    @property
    def has_soft_targets(self) -> bool:
        """True if the recipe trains on probabilities instead of labels."""
        return bool(self.label_smoothing or self.teacher)

    @property
    def has_averages(self) -> bool:
        """True if averages replace the weights at the end of the run."""
        return bool(self.ema_momentum or self.optimizer.get("use_ema"))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Makes a recipe from a dict of its fields."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            _check_name("field", name, fields)
        if missing := sorted({"model", "dataset"} - values.keys()):
            raise ValueError(f"A recipe needs {missing}. Received: {[*values]}.")
        return cls(**values)


def load_recipe(recipe: PathLike) -> Recipe:
    """Reads a recipe file.

    Args:
        recipe: Path of a TOML file of the fields of `zoo.Recipe`, name of published
            weights, or `"fast"`.

    Returns:
        A `Recipe`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not TOML, or a field is unknown, missing or wrong.

    Example:

    >>> zoo.load_recipe("lenet5.mnist").batch_size
    128
    """
    path = recipe_path(recipe)
    try:
        return Recipe.from_dict(tomllib.loads(path.read_text("utf-8")))
    except ValueError as error:  # Of TOML or of a field.
        raise ValueError(
            f"The recipe file {path} is not valid: {str(error).removesuffix('.')}."
        ) from error


def default_recipe(model: str, dataset: str | None) -> Recipe:
    """Returns the newest published recipe for a dataset, or else the one for MNIST.

    The one for MNIST drops its teacher, which may not fit the images.
    A model without recipes gets the defaults of `Recipe`.
    """
    for name in (dataset, "mnist"):
        paths = PUBLISHED.glob(f"{glob.escape(model)}.{name}.v*.toml")
        recipes = sorted(map(load_recipe, paths), key=lambda recipe: recipe.version)
        if recipes:
            if name == dataset:
                return recipes[-1]
            changes: dict[str, Any] = {"dataset": dataset or name, "teacher": None}
            return dataclasses.replace(recipes[-1], **changes)
    return Recipe(model, dataset or "mnist")


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    steps_per_epoch: int,
    from_logits: bool | None = None,
) -> None:
    """Compiles `model` with the recipe's optimizer and schedule, and cross-entropy."""
    config = {**recipe.optimizer, "learning_rate": _schedule(recipe, steps_per_epoch)}
    if recipe.ema_momentum:
        # The average reaches back over a tenth of the run at most.
        longest = max(0.0, 1 - 10 / (recipe.epochs * steps_per_epoch))
        momentum = min(recipe.ema_momentum, longest)
        config |= {"use_ema": True, "ema_momentum": momentum}
    name = config.pop("name")
    classes = inspect.getmembers(keras.optimizers, inspect.isclass)
    known = [key.lower() for key, _ in classes if key != "Optimizer"]
    if name.lower() not in known:
        raise ValueError(
            f"Unknown optimizer. {suggest(name, known)} Received: optimizer={name!r}."
        )
    optimizer = keras.optimizers.get({"class_name": name, "config": config})
    from_logits = returns_logits(model, from_logits)
    prefix = "" if recipe.has_soft_targets else "Sparse"
    loss = getattr(keras.losses, f"{prefix}CategoricalCrossentropy")
    accuracy = getattr(keras.metrics, f"{prefix}CategoricalAccuracy")
    jit = choose_jit(model, recipe.epochs * steps_per_epoch)
    # TensorFlow retraces a step that creates variables. The string "accuracy" and
    # an optimizer that is not built would create some.
    metrics = [accuracy("accuracy")]
    model.compile(optimizer, loss(from_logits), metrics=metrics, jit_compile=jit)
    model.optimizer.build(model.trainable_variables)


def _schedule(recipe: Recipe, steps_per_epoch: int) -> Any:
    """Returns a learning rate, or a schedule with warm-up or decay."""
    rate = recipe.optimizer["learning_rate"]
    steps = recipe.epochs * steps_per_epoch
    # A run shortened to a few epochs still has a decay.
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), steps // 2)
    if recipe.schedule == "constant" and not warmup:
        return rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else rate,
        decay_steps=steps - warmup,
        alpha=0.0 if recipe.schedule == "cosine" else 1.0,  # final fraction of the peak
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    )


def _check_name(kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ValueError(
            f"Unknown `{kind}` in a recipe. {suggest(name, known)} Received: {name!r}."
        )


def _check_amount(name: str, value: Any) -> None:
    is_valid, expected = _is_number(value), "a number"
    if name == "flip":
        is_valid, expected = isinstance(value, bool), "a boolean"
    elif name == "erase":
        is_valid, expected = is_valid and 0 <= value <= 1, "a number from 0 to 1"
    elif name == "elastic_sigma":
        is_valid, expected = is_valid and value > 0, "a positive number"
    check_argument(is_valid, f"augmentation.{name}", value, expected)


def _is_part(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
