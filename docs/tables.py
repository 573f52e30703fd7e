"""Generates the table in README.md and docs/results.csv from the cards.

Run `make docs` after publishing weights. A test fails if a file is out of date.
"""

import csv
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import zoo
from zoo.models.registry import builder

ROOT = pathlib.Path(__file__).parent.parent
LATENCY = ROOT / "benchmarks" / "latency.json"
# `make docs` writes what is between; docs/models/index.md includes it.
BEGIN, END = "<!-- --8<-- [start:models] -->\n", "<!-- --8<-- [end:models] -->"
DATASETS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
# The measures of a card on distorted images, and the units of their amounts.
DISTORTIONS = {
    "shifted": "pixels of shift",
    "rotated": "degrees of rotation",
    "scaled": "scale",
    "noisy": "noise, gray levels",
}


def table(*rows: Sequence[Any]) -> str:
    """Returns a table in Markdown. Columns of numbers are aligned to the right."""
    header, *rest = [[str(cell) for cell in row] for row in rows]
    marks = ["--:" if cell[:1].isdigit() else ":--" for cell in rest[0]]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, marks, *rest))


def model_table() -> str:
    """Returns the table of models for README.md."""
    latency = json.loads(LATENCY.read_text("utf-8"))["relative"]
    header = ["Model", "Parameters", "MFLOPs", *DATASETS.values(), "Size", "Latency"]
    rows = []
    for model in zoo.list_models(weights="mnist"):
        cards = {card.dataset: card for card in zoo.list_weights(model)}
        card = cards["mnist"]
        rows.append(
            [
                f"`{builder(model).__name__}`",
                f"{card.parameters:,}",
                f"{card.flops / 1e6:.2f}",
                *(_accuracy(cards[dataset]) for dataset in DATASETS),
                f"{card.bytes / 1e6:.2f} MB",
                f"{latency[model]:.1f}",
            ]
        )
    return table(header, *rows)


def _accuracy(card: zoo.Weights) -> str:
    metrics = card.metrics
    return (
        f"{metrics['accuracy']:.2%} ({metrics['mean_accuracy']:.2%} "
        f"± {metrics['sd_accuracy'] * 100:.2f})"
    )


def results_csv() -> str:
    """Returns the content of docs/results.csv: one line per published weight."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    figures = ["accuracy", "loss", "mean_accuracy", "sd_accuracy"]
    writer.writerow(["id", "parameters", "flops", "bytes", "seed", "seeds", *figures])
    for card in zoo.list_weights():
        metrics = card.metrics
        writer.writerow(
            [
                card.id,
                card.parameters,
                card.flops,
                card.bytes,
                metrics["seed"],
                len(metrics["seeds"]),
                *(f"{metrics[figure]:.6f}" for figure in figures),
            ]
        )
    return file.getvalue()


def readme(text: str) -> str:
    """Returns the text of README.md with the table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{model_table()}{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text("utf-8")), "utf-8", newline="\n")
    (ROOT / "docs" / "results.csv").write_text(results_csv(), "utf-8", newline="\n")
