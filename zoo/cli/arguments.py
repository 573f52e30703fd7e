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
    from zoo.training import opening

    try:
        if parameter.name == "model":
            registry.check_name(name)
        elif opening.is_target_path(name):
            opening.trained_file(name)
        elif context.command.name != "info" or name not in zoo.list_models():
            zoo.get_weights(name)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    return name


FILE: dict[str, Any] = {"exists": True, "dir_okay": False}
FOLDER: dict[str, Any] = {"exists": True, "file_okay": False}

Model = Annotated[str, Argument(help="Name, e.g. lenet5.", callback=check_name)]
_TARGET = "Weights (lenet5.mnist), the folder of a run, or a .keras or .h5 file."
Target = Annotated[str, Argument(help=_TARGET, callback=check_name)]
WeightsName = Annotated[str, Option(help=_TARGET, callback=check_name)]
Data = Annotated[
    str | None,
    Option(
        "--data",
        "--dataset",
        help="Name of a dataset, folder of folders of images, or .npz file.",
        show_default="that of the weights or recipe",
    ),
]
DataDir = Annotated[Path | None, Option(help="Folder of the prepared datasets.")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
RecipeName = Annotated[
    str | None, Option("--recipe", help="Recipe file, published weights, or `fast`.")
]
Detailed = Annotated[
    bool, Option("--detailed", help="Also measure calibration and distorted images.")
]
Epochs = Annotated[int | None, Option(min=1, help="Number of epochs.")]
