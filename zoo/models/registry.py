"""The registry of models and published weights."""

import fnmatch
import inspect
import itertools
import pathlib
import pkgutil
from typing import TYPE_CHECKING, Any

from zoo.errors import suggest
from zoo.files import PathLike, expand
from zoo.models.weights import PUBLISHED, Weights, find, is_path, published

if TYPE_CHECKING:
    import keras

# The builders, from the simplest to the most modern. They are imported on first
# use, because listing models and weights must not wait for Keras.
BUILDERS = {
    "shallow_mlp": "zoo.models.mlp:ShallowMLP",
    "deep_mlp": "zoo.models.mlp:DeepMLP",
    "lenet5": "zoo.models.convnet:LeNet5",
    "convnet": "zoo.models.convnet:ConvNet",
}

# Arguments that act only in training: they may differ from those of the weights.
TRAINING_ARGUMENTS = ("dropout", "kernel_initializer")


def list_models(pattern: str = "*", weights: str | None = None) -> list[str]:
    """Lists the models that `create` builds, from the simplest to the most modern.

    `zoo.LeNet1998`, which has no published weights, is not among them.

    Args:
        pattern: String. Keeps the names that match, as in `fnmatch`, e.g. `"*mlp"`.
            Defaults to `"*"`.
        weights: String. Keeps the models that have weights for this dataset, e.g.
            `"mnist"`. Defaults to `None`, which keeps all.

    Returns:
        List of strings.

    Example:

    >>> zoo.list_models("*mlp")
    ['shallow_mlp', 'deep_mlp']
    """
    names = fnmatch.filter(BUILDERS, pattern)
    return [x for x in names if weights is None or list_weights(x, weights)]


def create(name: str, /, **arguments: Any) -> "keras.Model":
    """Builds a model by its name.

    Args:
        name: String. One of `list_models()`, or the full name of published weights,
            such as `"lenet5.mnist"`, for a model with these weights.
        **arguments: Arguments of the builder.

    Raises:
        ValueError: If the model or its weights are unknown, or given twice.

    Example:

    >>> zoo.create("lenet5", classes=3).output.shape
    (None, 3)
    """
    model, dot, weights = str(name).partition(".")
    if dot:
        if "weights" in arguments:
            raise ValueError(
                f"The name {name!r} has weights. Leave out `weights`, or pass the name "
                f"{model!r}. Received: weights={arguments['weights']!r}."
            )
        arguments["weights"] = weights
    return builder(model)(**arguments)


def builder(name: str) -> Any:
    """Returns the builder function of a model."""
    check_name(name)
    return pkgutil.resolve_name(BUILDERS[name])


def check_name(name: str) -> None:
    """Raises a `ValueError` unless `name` is the name of a model."""
    if name not in BUILDERS:
        raise ValueError(
            f"Unknown model. {suggest(str(name), list(BUILDERS))} Received: "
            f"name={name!r}."
        )


def default_arguments(name: str) -> dict[str, Any]:
    """Returns the architecture arguments of a builder with their defaults.

    These are the arguments that precede `weights` in its signature, except for those
    that act only in training. They describe its published weights, for every dataset.
    """
    parameters = inspect.signature(builder(name)).parameters.values()
    own = itertools.takewhile(lambda parameter: parameter.name != "weights", parameters)
    return {p.name: p.default for p in own if p.name not in TRAINING_ARGUMENTS}


def list_weights(model: str = "*", dataset: str = "*") -> list[Weights]:
    """Lists the published weights.

    Args:
        model: String. Keeps the models that match, as in `fnmatch`. Defaults to `"*"`.
        dataset: String. Keeps the datasets that match. Defaults to `"*"`.

    Returns:
        List of `Weights`, in the order of `list_models()`, then by dataset and version.

    Example:

    >>> [weights.id for weights in zoo.list_weights("lenet5")]
    ['lenet5.fashion_mnist.v1', 'lenet5.mnist.v1']
    """
    names = fnmatch.filter(BUILDERS, model)
    matching = [w for w in published() if fnmatch.fnmatch(w.dataset, dataset)]
    return [w for name in names for w in matching if w.model == name]


def get_weights(model: str, name: str | None = None) -> Weights:
    """Returns the card of published weights.

    Args:
        model: String. Name of the model, or a full name such as `"lenet5.mnist"`.
        name: String. Name of the weights, e.g. `"mnist"` (the newest version) or
            `"mnist.v1"`. Defaults to `None`, for a full name in `model`.

    Returns:
        The `Weights`.

    Raises:
        ValueError: If the model or the weights are unknown.

    Example:

    >>> zoo.get_weights("lenet5", "mnist").id
    'lenet5.mnist.v1'
    """
    if name is None:
        model, _, name = model.partition(".")
    check_name(model)
    if not name:
        names = sorted({f"{w.model}.{w.dataset}" for w in list_weights(model)})
        raise ValueError(
            "The name of a model is not enough to find weights. "
            f"{suggest(model, names)} Received: model={model!r}."
        )
    return find(model, name)


def recipe_path(recipe: PathLike) -> pathlib.Path:
    """Returns the path of a recipe, given by its path or name."""
    if isinstance(recipe, str) and not recipe.endswith(".toml") and not is_path(recipe):
        name = recipe if recipe == "fast" else get_weights(recipe).id
        return PUBLISHED / f"{name}.toml"
    return expand(recipe).absolute()
