"""Writes docs/models/<model>.md from the cards and the models: `make docs`."""

import inspect
import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import layers
from tables import DATASETS, DISTORTIONS, table

import zoo
from zoo.models.registry import builder

DOCS = pathlib.Path(__file__).parent
DRAWN = layers.InputLayer, layers.Dense, layers.Conv2D
POOLING = layers.MaxPooling2D, layers.AveragePooling2D


def draw(model: Any) -> str:
    """Returns an SVG of the layers that change the shape, feature maps as squares."""
    parts, x = [], 10.0
    for layer in model.layers:
        if isinstance(layer, DRAWN + POOLING):
            *size, channels = layer.output.shape[1:]
            if size:
                width = height = 10 + 3.5 * size[0]
                sheets = 1 + round(math.log2(channels))
            else:
                width, height, sheets = 12, 40 * math.log10(channels), 1
            slot = max(width + 3 * sheets, 66)
            middle = x + slot / 2
            for sheet in range(sheets):
                left, top = middle - width / 2, 70 - height / 2
                offset = 3 * (sheet - (sheets - 1) / 2)
                parts.append(
                    f'<rect x="{left + offset:.1f}" y="{top + offset:.1f}" '
                    f'width="{width}" height="{height:.1f}"/>'
                )
            shape = "x".join(map(str, [*size, channels]))
            for y, text in ((165, layer.name), (182, shape)):
                parts.append(f'<text x="{middle:.1f}" y="{y}">{text}</text>')
            x += slot + 10
    return (
        '<div class="architecture">'
        f'<svg viewBox="0 0 {x:.0f} 190" style="min-width: {0.8 * x:.0f}px" role="img" '
        f'aria-label="The layers of {model.name} and the shapes of their outputs">'
        f"{''.join(parts)}</svg></div>\n"
    )


def architecture(model: Any) -> str:
    """Returns the drawing and the table of the layers."""
    rows = [
        [
            f"`{layer.name}`",
            type(layer).__name__,
            " x ".join(map(str, layer.output.shape[1:])),
            f"{layer.count_params():,}",
        ]
        for layer in model.layers
    ]
    return f"{draw(model)}\n{table(['Layer', 'Type', 'Output', 'Parameters'], *rows)}"


def measures(card: zoo.Weights) -> Iterable[str]:
    """Yields the parts that the card has: figure, confusions, robustness, gradients."""
    if (DOCS / "cards" / f"{card.id}.png").exists():
        yield f"![Training, confusions and robustness](../cards/{card.id}.png)\n"
    metrics = card.metrics
    if "confusion" in metrics:
        counts = np.array(metrics["confusion"])
        np.fill_diagonal(counts, 0)
        pairs = [np.unravel_index(i, counts.shape) for i in np.argsort(-counts.ravel())]
        rows = [[*(card.categories[i] for i in p), counts[p]] for p in pairs[:5]]
        yield "The most frequent confusions:\n"
        yield table(["True", "Predicted", "Images"], *rows)
    for name, title in DISTORTIONS.items():
        if name in metrics:
            amounts, values = zip(*metrics[name].items(), strict=True)
            row = ["accuracy", *(f"{value:.1%}" for value in values)]
            yield table([title, *amounts], row)
    if "redrawn" in metrics:
        drawn = dict(metrics["redrawn"])
        count = drawn.pop("digits")
        yield f"Accuracy on {count:,} test digits, redrawn in the styles of drawings:\n"
        yield table(list(drawn), [f"{value:.1%}" for value in drawn.values()])
    if norms := card.training.get("gradient_norms"):
        rows = [[f"`{x}`", f"{y[0]:.1e}", f"{y[-1]:.1e}"] for x, y in norms.items()]
        yield "The gradient norm of each layer, as the median of an epoch:\n"
        yield table(["Layer", "First epoch", "Last epoch"], *rows)


def weights_section(card: zoo.Weights) -> str:
    """Returns the section of published weights."""
    metrics, training, data = card.metrics, card.training, card.data
    facts = [
        f"Test accuracy: {metrics['accuracy']:.2%}.",
        f"Mean and standard deviation of {len(metrics['seeds'])} seeds: "
        f"{metrics['mean_accuracy']:.2%} ± {100 * metrics['sd_accuracy']:.2f}.",
        f"Size of the file: {card.bytes / 1e6:.2f} MB.",
    ]
    if "calibration_error" in metrics:
        facts.append(f"Expected calibration error: {metrics['calibration_error']:.2%}.")
    if "seconds" in training:
        minutes, cores = training["seconds"] / 60, training["cores"]
        place = f"{cores} core{'s' * (cores > 1)} of an {training['cpu']}"
        facts.append(f"Training: {minutes:.0f} minutes per seed on {place}.")
    facts.append(f"Data: [{data['citation']}]({data['source']}), {data['license']}.")
    parts = [
        f"## {DATASETS[card.dataset]}\n",
        f'`weights="{card.dataset}"`, or `{card.id}` on the command line.\n',
        "".join(f"- {fact}\n" for fact in facts),
        *measures(card),
        "### Retrain\n",
        f"```sh\n{card.command}\n```\n",
        "This trains and evaluates every seed with this recipe, and replaces the "
        "published files:\n",
        f"```json\n{json.dumps(card.recipe, indent=2)}\n```\n",
    ]
    return "\n".join(parts)


def page(name: str) -> str:
    """Returns the page of a model."""
    build = builder(name)
    model = build()
    about = inspect.getdoc(build).partition("\nArgs:")[0].strip()
    cards = {card.dataset: card for card in zoo.list_weights(name)}
    flops = next(iter(cards.values())).flops / 1e6
    parts = [
        f"# {build.__name__}\n",
        about.replace("Reference:\n", "Reference:\n\n") + "\n",
        f"[All arguments](../api/zoo.md#zoo.{build.__name__}).\n",
        "## Architecture\n",
        f"{model.count_params():,} parameters, {flops:.2f} MFLOPs per image.\n",
        architecture(model),
        *(weights_section(cards[dataset]) for dataset in DATASETS),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    (DOCS / "models").mkdir(exist_ok=True)
    for name in zoo.list_models(weights="mnist"):
        (DOCS / "models" / f"{name}.md").write_text(page(name), "utf-8")
