"""Recipes: everything that determines a training run, as one small TOML file."""

import dataclasses
import os
import pathlib
import tomllib
from typing import Any

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
        warmup_epochs: epochs over which the learning rate first climbs from 0.
        augmentation: arguments of `zoo.augment.distort`; empty for none.
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
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(
                "`schedule` of a recipe must be 'cosine' or 'constant'. Received: "
                f"schedule={self.schedule!r}."
            )
        for field in ("epochs", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"`{field}` of a recipe must be a positive integer. Received: "
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
    """The recipe of the newest published weight of `model`.

    Args:
        model: name of the model.
        dataset: name of the data. Data without published weights get the recipe for
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
