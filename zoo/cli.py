"""The command line: words in, calls out.

Nothing heavy is imported before a command needs it, so that `zoo --help` and a mistyped
word are answered at once.
"""

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import zoo
from zoo import terminal

if TYPE_CHECKING:
    import keras

app = typer.Typer(
    add_completion=False,
    help="Small readable Keras models that ship weights and show their gradients.",
    epilog="Begin with `zoo demo`, a tour of about a minute, or with `zoo list`.",
)
datasets_app = typer.Typer(help="List the datasets, or prepare one from its files.")
app.add_typer(datasets_app, name="datasets")


def checked(look_up: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A typer callback: a word that `look_up` refuses is a mistake in the command."""

    def check(word: Any) -> Any:
        try:
            if word is not None:
                look_up(word)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return word

    return check


def look_up_model(name: str) -> None:
    from zoo.weights import closest

    if name not in (names := zoo.list_models()):
        raise ValueError(f"Unknown model {name!r}. {closest(name, names)}")


def look_up(name: str) -> None:
    """Accepts `lenet5.mnist`, `lenet5`, and the path of a file."""
    from zoo.weights import is_path

    if is_path(name):
        if not Path(name).is_file():
            raise ValueError(f"No file at {name}.")
    elif "." in name:
        zoo.get_weights(name)
    else:
        look_up_model(name)


def known_dataset(context: typer.Context, name: str | None) -> str | None:
    """A typer callback: the dataset is known, or prepared in `--data-dir`."""
    data_dir = context.params.get("data_dir")
    if name is not None and name not in zoo.list_datasets(data_dir=data_dir):
        terminal.import_keras()  # TFDS knows, and imports TensorFlow to say so.
    check = checked(lambda name: zoo.dataset_info(name, data_dir=data_dir))
    return cast("str | None", check(name))


def check_exported(path: Path | None) -> None:
    """A typer callback: checks a version, says so and ends."""
    if path is not None:
        terminal.import_keras()
        print(f"{zoo.check_exported(path)} is fit to be served.")
        raise typer.Exit


FILE: dict[str, Any] = {"exists": True, "dir_okay": False}
Dataset = Annotated[
    str | None,
    typer.Option(
        help="mnist, fashion_mnist, digits-sample or a name of TensorFlow Datasets. "
        "Default: the one that the weights or the recipe are for.",
        callback=known_dataset,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the prepared datasets. Default: TFDS'.",
        is_eager=True,  # known before the dataset's name is looked up
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Number = Annotated[int | None, typer.Option(min=1)]
Target = Annotated[
    str,
    typer.Argument(
        help="Published weights such as lenet5.mnist, a weights file that `zoo train` "
        "wrote, or a model such as lenet5 with --weights.",
        callback=checked(look_up),
    ),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option(help="Default: that of the newest published weights.", **FILE),
]
WeightsFile = Annotated[
    Path | None, typer.Option("--weights", help="Weights file of the model.", **FILE)
]


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and TensorFlow's messages.")
    ] = False,
    version: Annotated[bool, typer.Option("--version")] = False,
) -> None:
    if not debug:
        terminal.be_quiet()
    if version:
        print(f"gradzoo {zoo.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Such as '*mlp'.")] = "*",
    weights: Annotated[str | None, typer.Option(help="Such as mnist.")] = None,
    as_json: Json = False,
) -> None:
    """List the models and their published weights."""
    from zoo.weights import closest

    names = zoo.list_models(pattern, weights)
    if not names:
        word, known = pattern, zoo.list_models()
        if weights and zoo.list_models(pattern):
            word, known = weights, sorted({card.dataset for card in zoo.list_weights()})
        raise typer.BadParameter(f"Nothing matches {word!r}. {closest(word, known)}")
    rows = []
    for name in names:
        for card in zoo.list_weights(name, weights or "*"):
            row = {"weights": card.id, "parameters": card.parameters}
            row |= {"flops": card.flops, "bytes": card.bytes}
            rows.append(row | {"test_accuracy": card.metrics["accuracy"]})
    terminal.show(rows, as_json)


@app.command()
def info(target: Target, as_json: Json = False) -> None:
    """Print the card of published weights, or describe a model or a training run."""
    from zoo.weights import is_path

    if is_path(target):
        description: dict[str, Any] = {"file": target, **read_run(Path(target))}
    elif "." in target:
        card = zoo.get_weights(target)
        description = {"id": card.id, **dataclasses.asdict(card)}
        if not as_json:
            del description["golden"]  # Outputs that only a test reads.
    else:
        from zoo.registry import builder

        terminal.import_keras()
        build = builder(target)
        description = {
            "model": target,
            "about": (inspect.getdoc(build) or "").partition("\n\nReference:")[0],
            "parameters": build().count_params(),
            "weights": [card.id for card in zoo.list_weights(target)],
        }
    terminal.show(description, as_json)


@datasets_app.callback(invoke_without_command=True)
def datasets(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        datasets_list()


@datasets_app.command("list")
def datasets_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the datasets, and whether they are ready."""
    rows = []
    for name, ready in zoo.list_datasets(data_dir=data_dir).items():
        about = zoo.dataset_info(name, data_dir=data_dir)
        row = {"name": name, "ready": ready, "splits": about.splits}
        row |= {"shape": about.image_shape, "classes": len(about.classes)}
        rows.append(row | {"license": about.license})
    terminal.show(rows, as_json)


@datasets_app.command("prepare")
def datasets_prepare(
    name: Annotated[str, typer.Argument(callback=known_dataset)],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder with the official files. Default: they are downloaded.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Prepare a dataset, e.g. `zoo datasets prepare mnist --from downloads`."""
    terminal.import_keras()
    path = zoo.prepare_dataset(name, source_dir=source, data_dir=data_dir)
    print(f"{name} is ready: {path}")


@app.command()
def train(
    model: Annotated[str, typer.Argument(callback=checked(look_up_model))],
    dataset: Dataset = None,
    recipe: RecipeFile = None,
    epochs: Number = None,
    batch_size: Number = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    split: Annotated[str, typer.Option(help="train or train+validation.")] = "train",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run.", show_default="runs/MODEL.DATASET"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Folder of checkpoints.", show_default="checkpoint, in --output"
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between checkpoints.", show_default="an epoch"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint.")
    ] = False,
    gradient_norms: Annotated[
        bool, typer.Option("--gradient-norms", help="Record them for each layer.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that train together, by Ray Train: here, or on the "
            "cluster of `ray job submit`.",
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Train a model by a recipe, e.g. `zoo train lenet5 --dataset mnist`."""
    if dataset is None:
        dataset = zoo.load_recipe(recipe).dataset if recipe else "mnist"
    output = output or Path("runs", f"{model}.{dataset}")
    with terminal.if_interrupted("The same command with --resume goes on from here."):
        terminal.import_keras()
        train = zoo.train
        if workers:
            train = functools.partial(zoo.train_on_workers, workers)
        report = train(
            model,
            dataset,
            recipe,
            split=split,
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            output_dir=output,
            checkpoint_dir=checkpoint,
            save_freq=every or "epoch",
            resume=resume,
            gradient_norms=gradient_norms,
            tensorboard=tensorboard,
            data_dir=data_dir,
            verbose=terminal.progress(2),
        )
    print(report)


@app.command()
def sweep(
    model: Annotated[str, typer.Argument(callback=checked(look_up_model))],
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="FIELD=VALUES",
            help="Of the recipe: batch_size=64,128 for choices, optimizer.learning_rate"
            "=1e-4:1e-2:log for a range; arguments.NAME for those of the model.",
        ),
    ],
    dataset: Dataset = None,
    recipe: RecipeFile = None,
    trials: Annotated[
        int | None, typer.Option(min=1, show_default="all, if there are no ranges")
    ] = None,
    epochs: Number = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", min=0, help="Once a run of each trial. Default: 0."),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="val_accuracy or val_loss.")
    ] = "val_accuracy",
    sampling_seed: Annotated[
        int, typer.Option(min=0, help="By which trials are drawn.")
    ] = 0,
    concurrent: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time.", show_default="one per GPU or core"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder.", show_default="sweeps/MODEL.DATASET"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --output.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Find values of a recipe's fields by the validation images."""
    space: dict[str, str] = {}
    for setting in settings:
        field, equals, values = setting.partition("=")
        if not equals or field in space:
            reason = "is given twice" if field in space else "must be FIELD=VALUES"
            raise typer.BadParameter(f"--set {reason}. Received: {setting!r}.")
        space[field] = values
    if dataset is None:
        dataset = zoo.load_recipe(recipe).dataset if recipe else "mnist"
    with terminal.if_interrupted("The same command with --resume goes on from here."):
        terminal.import_keras()
        report = zoo.sweep(
            model,
            dataset,
            space,
            recipe,
            output_dir=output or Path("sweeps", f"{model}.{dataset}"),
            trials=trials,
            epochs=epochs,
            seeds=seeds or (0,),
            metric=metric,
            sampling_seed=sampling_seed,
            concurrent=concurrent,
            resume=resume,
            data_dir=data_dir,
        )
    terminal.show(report.trials)
    print(f"best recipe: {report.output_dir / 'best.toml'}")


@app.command()
def evaluate(
    target: Target,
    weights: WeightsFile = None,
    dataset: Dataset = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy and loss, e.g. `zoo evaluate lenet5.mnist`."""
    model, trained_on = open_model(target, weights, dataset, data_dir)
    dataset = dataset or trained_on
    verbose = 0 if as_json else terminal.progress()
    options: dict[str, Any] = {"data_dir": data_dir, "verbose": verbose}
    scores = zoo.evaluate(model, dataset, split=split, **options)
    row = {"model": target, "dataset": dataset, "split": split}
    terminal.show(row | scores, as_json)


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            help="PNG or JPEG files of any size, folders of them, quoted patterns such "
            "as 'scans/**/*.png', or .npy files of raw pixels."
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            help="Published weights, or the file with those that `zoo train` wrote.",
            callback=checked(look_up),
        ),
    ] = "convnet.mnist",
    invert: Annotated[
        bool,
        typer.Option(
            "--invert",
            help="For dark ink on white: MNIST and Fashion-MNIST are white on black.",
        ),
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Labels for each image.")] = 2,
    out: Annotated[
        Path | None,
        typer.Option(help="Parquet file to write, from any number of images."),
    ] = None,
    shard: Annotated[
        str, typer.Option(help="With --out: only the i-th of n shares, i/n.")
    ] = "1/1",
    batch_size: Annotated[int, typer.Option(min=1)] = 1024,
    as_json: Json = False,
) -> None:
    """Classify images, e.g. `zoo predict digit.png --invert`.

    Any number of them goes into a Parquet file, e.g. `zoo predict scans --out
    labels.parquet`: a row for each, with what is wrong with those that cannot be read.
    """
    if shard != "1/1" and out is None:
        raise typer.BadParameter("--shard is for --out FILE.parquet.")
    model, _ = open_model(weights)
    from zoo.images import list_inputs
    from zoo.prediction import predict_rows

    skipped = 0

    def skip(image: str, error: str) -> None:
        nonlocal skipped
        skipped += 1
        if out is None or skipped <= 20:
            terminal.complain(f"{image}: {error}")
        elif skipped == 21:
            terminal.complain(f"More cannot be read: see the column `error` of {out}.")

    if out is not None:
        options: dict[str, Any] = {"batch_size": batch_size, "invert": invert}
        with terminal.if_interrupted("The same command goes on from here."):
            report = zoo.predict_files(
                model, images, out, shard=shard, on_skip=skip, **options
            )
        terminal.show(dataclasses.asdict(report) | {"path": str(out)}, as_json)
        skipped = report.skipped  # with those of a run that this one went on with
    else:
        inputs = list_inputs(model, images)
        count, rows = len(inputs), []
        for batch, outputs in predict_rows(
            model, inputs, 0, count, min(batch_size, max(count, 1)), invert
        ):
            for i, output in enumerate(outputs):
                if error := batch.errors[i]:
                    skip(batch.name(i), error)
                    continue
                order = output.argsort()[::-1]
                best = [(model.categories[c], float(output[c])) for c in order]
                row = {"file": batch.name(i), "label": best[0][0]}
                row |= {"probability": best[0][1], "runner_up": dict(best[1:top])}
                rows.append(row)
        terminal.show(rows, as_json)
    if skipped:
        raise typer.Exit(1)


@app.command()
def export(
    target: Annotated[
        str,
        typer.Argument(
            help="Published weights such as lenet5.mnist, a weights file that `zoo "
            "train` wrote, a model such as lenet5 with --weights, or the .keras file "
            "of any classifier.",
            callback=checked(look_up),
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Of all versions: serving/lenet5.")],
    weights: WeightsFile = None,
    version: Number = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="File of the classes' labels, one a line.", **FILE),
    ] = None,
    format: Annotated[
        str, typer.Option(help="saved_model, onnx, litert or openvino.")
    ] = "saved_model",
    check: Annotated[
        Path | None,
        typer.Option(
            help="Only tell whether this version, or a folder's newest, can be served.",
            callback=check_exported,
            is_eager=True,  # it needs none of the other words
        ),
    ] = None,
) -> None:
    """Write a SavedModel for TF Serving, by default as the next version."""
    if target.endswith(".keras") and weights is None:
        terminal.import_keras()
        import keras

        model = keras.saving.load_model(target, compile=False)
    else:
        model, _ = open_model(target, weights)
    lines = labels.read_text("utf-8").splitlines() if labels else None
    version_folder = zoo.export(model, folder, version, labels=lines, format=format)
    print(f"{target} is exported: {version_folder}")


@app.command()
def publish(
    recipe: Annotated[Path, typer.Argument(**FILE)],
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Once a run. Default: 0, 1, 2.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    data_dir: DataDir = None,
) -> None:
    """Train a recipe with several seeds and publish the first, with its card."""
    options: dict[str, Any] = {"data_dir": data_dir, "verbose": terminal.progress(2)}
    with terminal.if_interrupted("The same command goes on from here."):
        terminal.import_keras()
        card = zoo.publish(recipe, seeds=seeds or (0, 1, 2), runs_dir=runs, **options)
    print(f"{card.id} is published: test accuracy {card.metrics['accuracy']:.4f}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where to write.")] = Path("demo"),
) -> None:
    """Take the tour: weights, gradients, one table, one picture, an export."""
    terminal.import_keras()
    from zoo.demo import run

    run(output)


def open_model(
    name: str,
    file: Path | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
) -> "tuple[keras.Model, str]":
    """Builds a model with trained weights; returns the name of its data, too."""
    from zoo.weights import is_path

    terminal.import_keras()
    if is_path(name):
        if file:
            raise typer.BadParameter(f"Two weights files: {name} and --weights {file}.")
        name, file = "", Path(name)
    if file is None:
        checked(zoo.get_weights)(name)
        card = zoo.get_weights(name)
        return zoo.create(card.model, weights=card), card.dataset
    recipe = read_run(file).get("recipe", {})
    if name and recipe.get("model") not in (None, name):
        raise typer.BadParameter(f"{file} are weights of {recipe['model']!r}.")
    name, dataset = name or recipe.get("model"), dataset or recipe.get("dataset")
    if not name or not dataset:
        raise FileNotFoundError(
            f"No run.json of `zoo train` beside {file} says what it is: give the "
            "model, --weights FILE and, to evaluate, --dataset NAME."
        )
    about = zoo.dataset_info(dataset, data_dir=data_dir)
    arguments = recipe.get("arguments") or {}
    model = zoo.create(name, weights=file, input_shape=about.image_shape, **arguments)
    model.categories = about.classes
    return model, dataset


def read_run(weights: Path) -> dict[str, Any]:
    """The `run.json` that `zoo train` leaves beside its weights; empty without one."""
    path = weights.with_name("run.json")
    try:
        run = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return cast("dict[str, Any]", run)


def main() -> None:
    """The entry point `zoo`."""
    sys.exit(terminal.run(app, sys.argv[1:]))
