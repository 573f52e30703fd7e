"""The arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

import zoo


def check_name(
    context: typer.Context, parameter: typer.CallbackParam, name: str
) -> str:
    """Checks the name of a model, of published weights or of a file, without Keras."""
    from zoo.models import registry
    from zoo.models.weights import is_path

    try:
        if parameter.name == "model":
            registry.check_name(name)
        elif is_path(name):
            if not Path(name).is_file():
                raise ValueError(f"File not found. Received: {name}.")
        elif context.command.name != "info" or name not in zoo.list_models():
            zoo.get_weights(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return name


FILE: dict[str, Any] = {"exists": True, "dir_okay": False}
FOLDER: dict[str, Any] = {"exists": True, "file_okay": False}

Model = Annotated[str, Argument(help="Name, e.g. lenet5.", callback=check_name)]
Target = Annotated[
    str,
    Argument(
        help="Published weights (lenet5.mnist) or a weights file of `zoo train`.",
        callback=check_name,
    ),
]
WeightsName = Annotated[
    str, Option(help="Published weights, or a weights file.", callback=check_name)
]
Dataset = Annotated[
    str | None,
    Option(
        help="Name of a dataset, e.g. mnist.",
        show_default="that of the weights or recipe",
    ),
]
DataDir = Annotated[Path | None, Option(help="Folder of the prepared datasets.")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
