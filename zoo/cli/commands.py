"""The commands of `zoo`: each reads its arguments and calls the package.

Keras and TensorFlow are imported only by the commands that need them, so that
`zoo --help`, `zoo list` and errors in names appear at once.
"""

import dataclasses
import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

import zoo
from zoo.cli import arguments, terminal
from zoo.cli.arguments import FILE, FOLDER, Data, DataDir, Json, Target
from zoo.errors import suggest
from zoo.files import expand

if TYPE_CHECKING:
    import keras

app = typer.Typer(
    help="Small Keras models with trained weights and per-layer gradient norms.",
    epilog="Start with `zoo demo`, a tour of about a minute, or with `zoo list`.",
)
datasets_app = typer.Typer(help="List the datasets or prepare one.")
app.add_typer(datasets_app, name="datasets")


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    debug: Annotated[
        bool, Option("--debug", help="Show tracebacks and TensorFlow's messages.")
    ] = False,
    version: Annotated[bool, Option("--version", help="Print the version.")] = False,
) -> None:
    # On CPUs without VNNI, BF16 or AMX, TensorFlow leaves oneDNN off.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if not debug:
        terminal.be_quiet()
    if version:
        print(f"gradzoo {zoo.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_(
    pattern: Annotated[str, Argument(help="Models, e.g. '*mlp'.")] = "*",
    weights: Annotated[str, Option(help="Dataset, e.g. mnist.")] = "*",
    as_json: Json = False,
) -> None:
    """List the models and their published weights."""
    rows = [
        {
            "weights": card.id,
            "parameters": card.parameters,
            "flops": card.flops,
            "bytes": card.bytes,
            "test_accuracy": card.metrics["accuracy"],
        }
        for card in zoo.list_weights(pattern, weights)
    ]
    if not rows:
        word, known = pattern, zoo.list_models()
        if zoo.list_models(pattern):
            word, known = weights, sorted({card.dataset for card in zoo.list_weights()})
        raise typer.BadParameter(f"Nothing matches {word!r}. {suggest(word, known)}")
    terminal.show(rows, as_json)


@app.command()
def info(target: Target, as_json: Json = False) -> None:
    """Describe published weights, a training run or a model."""
    from zoo.training import opening

    if opening.is_target_path(target):
        description: dict[str, Any] = {"file": str(opening.trained_file(target))}
        description |= opening.read_run(target) or summarize(open_target(target))
    elif target in zoo.list_models():
        from zoo.models.registry import builder

        terminal.import_keras()
        build = builder(target)
        description = {
            "model": target,
            "about": (inspect.getdoc(build) or "").partition("\n\nReference:")[0],
            "parameters": build().count_params(),
            "weights": [card.id for card in zoo.list_weights(target)],
        }
    else:
        card = zoo.get_weights(target)
        whole = {"id": card.id, **dataclasses.asdict(card)}
        description = whole if as_json else card.summary()
    terminal.show(description, as_json)


@datasets_app.callback(invoke_without_command=True)
def datasets(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        datasets_list()


@datasets_app.command("list")
def datasets_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the datasets and show which are prepared."""
    rows = []
    for name, ready in zoo.list_datasets(data_dir=data_dir).items():
        about = zoo.dataset_info(name)
        row = {"name": name, "ready": ready, "splits": about.splits}
        row |= {"shape": about.image_shape, "classes": len(about.classes)}
        rows.append(row | {"license": about.license})
    terminal.show(rows, as_json)


@datasets_app.command("prepare")
def datasets_prepare(
    name: Annotated[str, Argument(help="Name, e.g. mnist.")],
    source: Annotated[
        Path | None, Option("--from", help="Folder of official files.", **FOLDER)
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Prepare a dataset, e.g. `zoo datasets prepare mnist --from downloads`."""
    terminal.import_keras()
    path = zoo.prepare_dataset(name, source_dir=source, data_dir=data_dir)
    print(f"{name} is ready: {path}")


@app.command()
def train(
    model: arguments.Model,
    data: Data = None,
    recipe: arguments.RecipeName = None,
    validation_data: Annotated[str | None, Option(help="As --data.")] = None,
    epochs: arguments.Epochs = None,
    batch_size: Annotated[int | None, Option(min=1, help="Images per step.")] = None,
    seed: Annotated[int | None, Option(min=0, help="Seed of the run.")] = None,
    split: Annotated[str, Option(help="train or train+validation.")] = "train",
    output: Annotated[Path | None, Option(help="Folder of the run.")] = None,
    every: Annotated[int | None, Option(min=1, help="Steps per checkpoint.")] = None,
    resume: Annotated[bool, Option("--resume", help="Resume the run.")] = False,
    gradient_norms: Annotated[
        bool, Option("--gradient-norms", help="Record each layer's gradient norms.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Train a model with a recipe, e.g. `zoo train lenet5 --data mnist`.

    The run is written to runs/MODEL.DATA unless --output names a folder. Checkpoints
    are written after each epoch, to the folder `checkpoint` of the run.
    """
    terminal.import_keras()
    if data is None:
        data = zoo.load_recipe(recipe).dataset if recipe else "mnist"
    name = os.path.basename(os.path.abspath(data)).removesuffix(".npz")
    report = zoo.train(
        model,
        data,
        recipe,
        split=split,
        validation_data=validation_data,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        output_dir=output or Path("runs", f"{model}.{name}"),
        save_freq=every or "epoch",
        resume=resume,
        gradient_norms=gradient_norms,
        data_dir=data_dir,
        verbose=terminal.progress(2),
    )
    print(report)


@app.command()
def evaluate(
    target: Target,
    data: Data = None,
    split: Annotated[str, Option(help="train, validation or test.")] = "test",
    detailed: arguments.Detailed = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy and loss, e.g. `zoo evaluate lenet5.mnist`."""
    from zoo.data.examples import choose_split
    from zoo.training.opening import has_seen, training_data

    used = data or training_data(target)
    split = choose_split(used, split)
    model = open_target(target)
    verbose = 0 if as_json else terminal.progress()
    options: dict[str, Any] = {"split": split, "detailed": detailed}
    if has_seen(target, used, split):
        terminal.complain("The model was trained on these images.", "note")
    scores = zoo.evaluate(model, used, **options, data_dir=data_dir, verbose=verbose)
    terminal.show({"model": target, "data": used, "split": split} | scores, as_json)


@app.command()
def compare(
    models: Annotated[list[str], Argument(help="Models, weights or runs.")],
    data: Data = None,
    recipe: arguments.RecipeName = None,
    validation_data: Annotated[str | None, Option(help="As --data.")] = None,
    epochs: arguments.Epochs = None,
    split: Annotated[str, Option(help="Images to evaluate on.")] = "validation",
    detailed: arguments.Detailed = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Train or load several models, and print one table of them."""
    terminal.import_keras()
    from zoo.training.opening import training_data

    options: dict[str, Any] = {"split": split, "epochs": epochs, "data_dir": data_dir}
    options |= {"verbose": terminal.progress(), "validation_data": validation_data}
    if data is None and recipe:
        data = zoo.load_recipe(recipe).dataset
    trained = [name for name in models if name not in zoo.list_models()]
    data = data or (training_data(trained[0]) if trained else "mnist")
    table = zoo.compare(models, data, recipe, detailed=detailed, **options)
    terminal.show(table, as_json)


@app.command()
def predict(
    images: Annotated[list[Path], Argument(help="Image files, or folders.")],
    weights: arguments.WeightsName = "convnet.mnist",
    as_is: Annotated[bool, Option("--as-is", help="Only resize the images.")] = False,
    show: Annotated[
        Path | None, Option(help="PNG to write: what the model sees of each image.")
    ] = None,
    top: Annotated[int, Option(min=1, help="Labels per image.")] = 2,
    as_json: Json = False,
) -> None:
    """Label image files, e.g. `zoo predict digit.jpg`."""
    import numpy as np

    from zoo.data.images import draw_images, find_images

    files: dict[Path, None] = {}
    failed = 0
    for path in images:
        try:
            found, others = find_images(path)
        except OSError as error:
            terminal.complain(str(error))
            failed += 1
            continue
        files |= dict.fromkeys(found)
        if others:
            terminal.complain(f"Files of other types in {path}: {others}.", "note")
    if not files:
        raise typer.Exit(1)
    if show and expand(show).resolve() in {file.resolve() for file in files}:
        raise typer.BadParameter(f"--show would replace an image. Received: {show}.")
    model = open_target(weights)
    from zoo.models.labels import find_data  # imports Keras

    labels, form = find_data(model)
    as_is = as_is or (labels is None and form is None)
    pixels = {}
    for file in files:
        try:
            [pixels[file]] = zoo.read_images([file], model, as_is=as_is)
        except OSError as error:
            terminal.complain(str(error))
            failed += 1
    rows = []
    if pixels:
        probabilities = classify(model, np.stack([*pixels.values()]))
        names = labels or number_classes(probabilities, form)
        decoded = zoo.decode_predictions(probabilities, names, top)
        for file, (best, *rest) in zip(pixels, decoded, strict=True):
            row = {"file": str(file), "label": best[0], "probability": best[1]}
            rows.append(row | {"runner_up": dict(rest)})
    if rows or as_json:
        terminal.show(rows, as_json)
    if rows and show:
        draw_images(show, [*pixels.values()], [str(row["label"]) for row in rows])
    if failed:
        terminal.complain(f"{failed} of {failed + len(rows)} files could not be read.")
        raise typer.Exit(1)


@app.command()
def export(
    target: Target,
    folder: Annotated[Path, Argument(help="Base folder, e.g. serving/lenet5.")],
    version: Annotated[int | None, Option(min=1, help="Number of the version.")] = None,
    labels: Annotated[Path | None, Option(help="One label per line.", **FILE)] = None,
    format: Annotated[
        str, Option(help="saved_model, onnx, litert or openvino.")
    ] = "saved_model",
) -> None:
    """Export a model, by default as the next version."""
    try:  # Editors add a byte order mark and blank lines.
        lines = labels.read_text("utf-8-sig").rstrip().splitlines() if labels else None
    except ValueError as error:
        message = f"The labels must be UTF-8 ({error}). Received: labels='{labels}'."
        raise ValueError(message) from error
    model = open_target(target)
    path = zoo.export(model, folder, version, labels=lines, format=format)
    print(f"{target} is exported: {path}")


@app.command()
def check(path: Annotated[Path, Argument(help="Version, or folder of all.")]) -> None:
    """Check an exported version before it is served."""
    terminal.import_keras()
    print(f"{zoo.check_exported(path)} can be served.")


@app.command()
def publish(
    recipe: Annotated[str, Argument(help="Recipe file, or published weights.")],
    seeds: Annotated[
        list[int] | None,
        Option(
            "--seed", help="Seed (repeatable).", show_default="as published, or 0, 1, 2"
        ),
    ] = None,
    runs: Annotated[Path, Option(help="Folder of the runs.")] = Path("runs"),
    data_dir: DataDir = None,
) -> None:
    """Run a recipe with several seeds and publish the first."""
    terminal.import_keras()
    options: dict[str, Any] = {"data_dir": data_dir, "verbose": terminal.progress(2)}
    card = zoo.publish(recipe, seeds=seeds, runs_dir=runs, **options)
    print(f"{card.id} is published: test accuracy {card.metrics['accuracy']:.4f}")


@app.command()
def recipe(name: Annotated[str, Argument(help="Weights, e.g. lenet5.mnist.")]) -> None:
    """Print the recipe of published weights, e.g. to write one of your own."""
    from zoo.models.registry import recipe_path

    print(recipe_path(name).read_text("utf-8"), end="")


@app.command()
def demo(
    output: Annotated[Path, Option(help="Folder.", file_okay=False)] = Path("demo"),
) -> None:
    """Take a tour: published weights, four models' gradients, an export."""
    terminal.import_keras()
    from zoo.cli import tour

    tour.run(output)


def main() -> None:
    """Runs the command line and exits the process."""
    sys.exit(terminal.run(app, sys.argv[1:]))


def open_target(target: str) -> "keras.Model":
    """Calls `zoo.load_model` after an import of Keras without start-up messages."""
    terminal.import_keras()
    return zoo.load_model(target)


def classify(model: "keras.Model", images: Any) -> Any:
    """Returns the probabilities of images, `(n, classes)`."""
    import keras
    import numpy as np

    from zoo.models.inspection import ends_in_softmax

    # A model may return a dict of one array.
    [outputs] = keras.tree.flatten(model.predict(images, verbose=0))
    if ends_in_softmax(model):
        return outputs
    return np.exp(outputs - np.logaddexp.reduce(outputs, -1, keepdims=True))


def number_classes(probabilities: Any, form: str | None) -> tuple[str, ...]:
    """Returns the numbers of the classes in place of labels, with a warning."""
    message = "The model does not know the labels of its classes"
    message += "" if form else ", nor the form of its images, which are only resized"
    terminal.complain(f"{message}. Labels are shown as '0', '1', ...", "warning")
    return tuple(map(str, range(probabilities.shape[-1])))


def summarize(model: "keras.Model") -> dict[str, Any]:
    """Returns what `zoo info` prints for a model without a card or a run."""
    fields = ("name", "input_shape", "categories", "normalization")
    found = {field: getattr(model, field, None) for field in fields}
    return found | {"parameters": model.count_params() if model.built else None}
