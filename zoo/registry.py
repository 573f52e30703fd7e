"""The zoo's models and weights, by name."""

import fnmatch
from typing import TYPE_CHECKING, Any

import zoo
from zoo.weights import Weights, closest, find, published

if TYPE_CHECKING:
    import keras

# The builders by model name. They are looked up in `zoo` when one is needed: listing
# models and cards must not wait for Keras.
BUILDERS = {
    "shallow_mlp": "ShallowMLP",
    "deep_mlp": "DeepMLP",
    "lenet5": "LeNet5",
    "convnet": "ConvNet",
}


def list_models(pattern: str = "*", weights: str | None = None) -> list[str]:
    """Names of the models, from the simplest to the most modern.

    Args:
        pattern: keeps the names that match, as in `fnmatch`, e.g. `"*mlp"`.
        weights: keeps the models that have weights for this data, e.g. `"mnist"`.

    Returns:
        Names that `create` takes.

    Example:

    >>> zoo.list_models("*mlp")
    ['shallow_mlp', 'deep_mlp']
    """
    return [
        name
        for name in fnmatch.filter(BUILDERS, pattern)
        if weights is None or list_weights(name, weights)
    ]


def create(name: str, **arguments: Any) -> "keras.Model":
    """Builds a model by its name.

    Args:
        name: one of `list_models()`.
        **arguments: the arguments of its builder.

    Returns:
        The `keras.Model`.

    Raises:
        ValueError: there is no such model.

    Example:

    >>> zoo.create("lenet5", activation="relu").name
    'lenet5'
    """
    return builder(name)(**arguments)


def builder(name: str) -> Any:
    """The builder function of the model called `name`."""
    check_name(name)
    return getattr(zoo, BUILDERS[name])


def check_name(name: str) -> None:
    """Raises a ValueError unless there is a model called `name`."""
    if name not in BUILDERS:
        raise ValueError(
            f"Unknown model. {closest(str(name), list(BUILDERS))} Received: {name!r}."
        )


def list_weights(model: str = "*", dataset: str = "*") -> list[Weights]:
    """The published weights.

    Args:
        model: keeps those of the models that match, as in `fnmatch`.
        dataset: keeps those trained on the datasets that match.

    Returns:
        The `Weights`, in the order of `list_models()`, then by dataset and version.

    Example:

    >>> [weights.id for weights in zoo.list_weights("lenet5")]
    ['lenet5.fashion_mnist.v1', 'lenet5.mnist.v1']
    """
    matching = (
        w
        for w in published()
        if fnmatch.fnmatch(w.model, model) and fnmatch.fnmatch(w.dataset, dataset)
    )
    return sorted(matching, key=lambda w: list(BUILDERS).index(w.model))


def get_weights(model: str, name: str | None = None) -> Weights:
    """The card of one published weight.

    Args:
        model: name of the model, or a full name such as `"lenet5.mnist"`.
        name: name of the weights, e.g. `"mnist"` (the newest) or `"mnist.v1"`; left out
            with a full name.

    Returns:
        The `Weights`.

    Raises:
        ValueError: there is no such model or weight.

    Example:

    >>> zoo.get_weights("lenet5", "mnist").id
    'lenet5.mnist.v1'
    """
    if name is None:
        model, _, name = model.partition(".")
    check_name(model)
    return find(model, name)
