"""Writes what the page loads: the exported models, and ONNX Runtime for browsers.

    python play/prepare.py [--output FOLDER]

Without a folder, the files are written beside the page's own; with one, the whole page
is written there. Any web server for static files then serves it. The page also lists
models of your own that `zoo.export` wrote to `models/<name>` beside this file.
"""

import argparse
import gzip
import itertools
import json
import pathlib
import shutil
import subprocess

import keras
from keras import layers

import zoo
from zoo.exporting.loading import list_versions

HERE = pathlib.Path(__file__).resolve().parent
PAGE = (
    "index.html",
    "style.css",
    "examples.json",
    *(p.name for p in HERE.glob("*.js")),
)
BUILDERS = (zoo.ShallowMLP, zoo.DeepMLP, zoo.LeNet5, zoo.ConvNet)
VANISHING = "SigmoidMLP"

# The layers that begin a block of a network, and those that may follow within it.
BLOCKS = (layers.Dense, layers.Conv2D, layers.MaxPooling2D, layers.AveragePooling2D)
REFINEMENTS = (layers.BatchNormalization, layers.LayerNormalization, layers.Activation)


def last_of_blocks(model: keras.Model) -> list[str]:
    """Names the layers that the page shows: the last of each block before the head."""
    return [
        layer.name
        for layer, following in itertools.pairwise(model.layers)
        if isinstance(layer, BLOCKS + REFINEMENTS)
        and not isinstance(following, REFINEMENTS)
        and layer is not model.layers[-1]
    ]


def vanishing_net() -> keras.Model:
    """Trains ten sigmoid layers, whose gradient vanishes, for two epochs."""
    keras.utils.set_random_seed(0)
    model = zoo.DeepMLP(
        (128,) * 10, activation="sigmoid", normalization=None, residual=False
    )
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=2, verbose=0)
    return model


def export(model: keras.Model, title: str, models: pathlib.Path) -> None:
    """Exports a model with the outputs of its blocks, in place of an earlier export."""
    shutil.rmtree(models / title, ignore_errors=True)
    labels = [str(digit) for digit in range(10)]
    names = last_of_blocks(model)
    zoo.export(model, models / title, labels=labels, format="onnx", features=names)


def newest(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the newest version of an export."""
    versions = list_versions(folder)
    return versions[max(versions)]


def write_models(models: pathlib.Path) -> None:
    """Exports the zoo's models for MNIST, and lists all models of the folder."""
    titles = [build.__name__ for build in BUILDERS]
    for build, title in zip(BUILDERS, titles, strict=True):
        export(build(weights="mnist"), title, models)
    export(vanishing_net(), VANISHING, models)
    for source in sorted((HERE / "models").glob("*")):
        if source.name in {*titles, VANISHING} or not list_versions(source):
            continue
        if not (newest(source) / "model.onnx").is_file():
            print(f'{source} is left out: export it with `format="onnx"`.')
            continue
        if models.parent != HERE:
            shutil.copytree(source, models / source.name, dirs_exist_ok=True)
        titles.append(source.name)
    listed = [
        {
            "title": title,
            "folder": newest(models / title).relative_to(models.parent).as_posix(),
            "vanishes": title == VANISHING,
        }
        for title in [*titles, VANISHING]
    ]
    (models / "index.json").write_text(json.dumps(listed, indent=2) + "\n", "utf-8")


def write_runtime(folder: pathlib.Path) -> None:
    """Installs ONNX Runtime from its npm package and copies the two files in use."""
    subprocess.run(["npm", "ci", "--ignore-scripts", "--silent"], cwd=HERE, check=True)
    package = HERE / "node_modules" / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(package / "ort.wasm.bundle.min.mjs", folder / "ort.mjs")
    # Not named .gz, for which some servers declare an encoding that browsers undo.
    binary = (package / "ort-wasm-simd-threaded.wasm").read_bytes()
    (folder / "ort.wasm.gzip").write_bytes(gzip.compress(binary, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    output = parser.parse_args().output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    if output != HERE:
        for name in PAGE:
            shutil.copy(HERE / name, output / name)
    (output / "models").mkdir(exist_ok=True)
    write_runtime(output / "runtime")
    write_models(output / "models")
    files = [output / name for name in PAGE]
    files += [p for name in ("runtime", "models") for p in (output / name).rglob("*")]
    size = sum(path.stat().st_size for path in files if path.is_file())
    print(f"{output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
