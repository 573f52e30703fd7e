"""The tour of `zoo demo`: published weights, gradients, a figure, an export."""

import functools
import pathlib
from typing import Any

import keras
import numpy as np

import zoo
from zoo.callbacks import GradientNorms
from zoo.cli import terminal
from zoo.errors import require
from zoo.files import PathLike, atomic_write, expand
from zoo.training.publishing import golden_images


def run(output: PathLike = "demo", *, epochs: int = 3, images: int = 4_000) -> None:
    """Shows what the zoo does; writes a figure and an export to the folder `output`."""
    require("matplotlib", "gradzoo[demo]", "The tour")
    folder = expand(output)
    folder.mkdir(parents=True, exist_ok=True)
    x, y = zoo.load_dataset("digits-sample", as_="numpy")
    validation = zoo.load_dataset("digits-sample", "validation", as_="numpy")

    print("\n1. The published weights, loaded from the package\n")
    show_published_weights()

    print(f"\n2. Four models, trained on {images:,} digits with GradientNorms\n")
    gradients = train_and_compare((x[:images], y[:images]), validation, epochs)
    first, *others = gradients.values()

    print("\n3. Their gradients, layer by layer and step by step\n")
    with atomic_write(folder / "gradients.png") as unfinished:
        first.plot(*others).savefig(unfinished)
    print(folder / "gradients.png")
    print("A gradient that vanishes is dark toward the input, which is at the top.")

    print("\n4. LeNet5, exported for TF Serving and loaded back\n")
    export_and_reload(folder / "serving" / "lenet5", validation[0])

    print("\n5. What to try next\n")
    print(
        "zoo list                          the models and their weights\n"
        "zoo info lenet5.mnist             a card: data, recipe, accuracy\n"
        "zoo predict IMAGE                 the label of an image file\n"
        "zoo train lenet5 --data digits-sample --epochs 5 --gradient-norms\n"
        "python -c 'import zoo; zoo.LeNet5(weights=\"mnist\").summary()'"
    )


def show_published_weights() -> None:
    """Loads all published weights and compares the models' outputs with the cards."""
    rows = []
    for card in zoo.list_weights():
        model = zoo.create(card.model, weights=card)
        outputs = model.predict(golden_images(card.input_shape), verbose=0)
        same = np.allclose(outputs, card.golden["probabilities"], rtol=0, atol=1e-3)
        row = {"weights": card.id, "parameters": card.parameters}
        row["test accuracy"] = f"{card.metrics['accuracy']:.2%}"
        row["outputs"] = "as published" if same else "DIFFERENT"
        rows.append(row)
    terminal.show(rows)


def train_and_compare(
    training: Any, validation: Any, epochs: int
) -> dict[str, GradientNorms]:
    """Trains four models and prints what happened to their gradients."""
    deep = functools.partial(zoo.DeepMLP, (128,) * 10)
    fault = {"activation": "sigmoid", "normalization": None, "residual": False}
    builders: dict[str, Any] = {
        "ShallowMLP": zoo.ShallowMLP,
        "DeepMLP, sigmoid": functools.partial(deep, **fault),
        "DeepMLP": deep,
        "LeNet5": zoo.LeNet5,
    }
    rows, recorded = [], {}
    for name, build in builders.items():
        print(name, flush=True)
        keras.utils.set_random_seed(0)
        model = build(name=name.replace(", ", "-"))
        # TensorFlow would trace the first step twice for the string "accuracy".
        accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
        model.compile("adam", "sparse_categorical_crossentropy", metrics=[accuracy])
        gradients = recorded[name] = GradientNorms()
        options = {"validation_data": validation, "verbose": terminal.progress()}
        fitted = model.fit(*training, epochs=epochs, callbacks=[gradients], **options)
        norms = [np.median(norm) for norm in gradients.history.values()]
        row = {"model": name, "parameters": model.count_params()}
        row["validation accuracy"] = f"{fitted.history['val_accuracy'][-1]:.1%}"
        row["gradient, first layer"] = f"{norms[0]:.1e}"
        row["gradient, last layer"] = f"{norms[-1]:.1e}"
        rows.append(row | {"diagnosis": gradients.diagnose().verdict})
    terminal.show(rows)
    for name, gradients in recorded.items():
        for finding in gradients.diagnose():
            print(f"{name}: {finding}")
    return recorded


def export_and_reload(base: pathlib.Path, images: np.ndarray) -> None:
    """Exports LeNet5, loads the export and compares its labels with the model's."""
    model = zoo.LeNet5(weights="mnist")
    version = zoo.export(model, base)
    answer = zoo.load_exported(version).predict(images)
    expected = model.predict(images, verbose=0)
    same = np.mean(answer["class_id"] == expected.argmax(-1))
    print(f"{version} gives the same label for {same:.2%} of {len(images):,} digits.")
