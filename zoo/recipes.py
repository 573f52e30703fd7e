"""Recipes: everything that determines a training run, as one small TOML file."""

import dataclasses
import inspect
import math
import os
import pathlib
import tomllib
from typing import Any

from zoo.augment import distort
from zoo.weights import PUBLISHED, closest


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        model: name of the model, e.g. `"lenet5"`.
        dataset: name of the data, e.g. `"mnist"`.
        version: version of the published weight that the recipe is for.
        seed: seed of the initialisation, order, distortions and dropout.
        epochs: passes over the training images.
        batch_size: images per step.
        arguments: the builder's architecture arguments.
        optimizer: `name` of a Keras optimizer and its arguments, `learning_rate` being
            the peak of the schedule.
        schedule: `"cosine"`, from the peak to 0 over the run, or `"constant"`.
        warmup_epochs: epochs over which the learning rate first climbs from 0, with
            either schedule.
        augmentation: arguments of `zoo.augment.distort`; empty for none.

    Raises:
        ValueError: a field is of another type or out of range. Whether Keras has the
            optimizer, and the builder the `arguments`, shows when they are used: a
            recipe is read without Keras.
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

    def __post_init__(self) -> None:
        for field in ("model", "dataset"):
            self._check(field, isinstance(getattr(self, field), str), "a name")
        for field, least in (
            ("version", 1),
            ("seed", 0),
            ("epochs", 1),
            ("batch_size", 1),
        ):
            value = getattr(self, field)
            # `type`, since True is an int.
            is_valid = type(value) is int and value >= least
            self._check(field, is_valid, f"an integer from {least} on")
        for field in ("arguments", "optimizer", "augmentation"):
            self._check(field, isinstance(getattr(self, field), dict), "a table")
        rate: Any = self.optimizer.get("learning_rate")
        self._check(
            "optimizer",
            isinstance(self.optimizer.get("name"), str)
            and _is_number(rate)
            and rate > 0,
            "a table with a `name` and a positive `learning_rate`",
        )
        self._check(
            "schedule",
            self.schedule in ("cosine", "constant"),
            "'cosine' or 'constant'",
        )
        self._check(
            "warmup_epochs",
            _is_number(self.warmup_epochs) and self.warmup_epochs >= 0,
            "a number from 0 on",
        )
        known = [
            parameter.name
            for parameter in inspect.signature(distort).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        for name in self.augmentation:
            if name not in known:
                raise ValueError(
                    f"Unknown `augmentation` {name!r}. {closest(name, known)}"
                )

    def _check(self, field: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise ValueError(
                f"`{field}` of a recipe must be {expected}. Received: "
                f"{field}={getattr(self, field)!r}."
            )

    @property
    def id(self) -> str:
        """Full name of the weight that the recipe makes, e.g. `"lenet5.mnist.v1"`."""
        return f"{self.model}.{self.dataset}.v{self.version}"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """A recipe from its fields.

        Raises:
            ValueError: a field is unknown, missing or out of range.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in fields:
                raise ValueError(f"Unknown field {name!r}. {closest(name, fields)}")
        for name in ("model", "dataset"):
            if name not in values:
                raise ValueError(f"A recipe needs the field {name!r}.")
        return cls(**values)


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Reads a recipe file.

    Args:
        path: a TOML file with the fields of `Recipe`.

    Returns:
        The `Recipe`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no TOML, or a field is unknown, missing or out of range.
    """
    path = pathlib.Path(path).expanduser().absolute()
    try:
        return Recipe.from_dict(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise FileNotFoundError(f"No recipe file at {path}.") from None
    except ValueError as error:
        raise ValueError(f"The recipe {path} cannot be read: {error}") from error


def default_recipe(model: str, dataset: str) -> Recipe:
    """The newest recipe for `model` in `zoo/published`.

    Args:
        model: name of the model.
        dataset: name of the data. Data without a recipe of their own get the one for
            MNIST.

    Returns:
        The `Recipe`, with `dataset` filled in.
    """
    for name in (dataset, "mnist"):
        paths = PUBLISHED.glob(f"{model}.{name}.v*.toml")
        recipes = sorted(map(load_recipe, paths), key=lambda recipe: recipe.version)
        if recipes:
            return dataclasses.replace(recipes[-1], dataset=dataset)
    raise ValueError(
        f"There is no recipe for {model!r}: pass one. Received: recipe=None."
    )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
