"""Generates the tables in README.md and docs/models/index.md, and docs/results.csv.

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
INDEX = ROOT / "docs" / "models" / "index.md"
# `make docs` writes what is between; docs/models/index.md includes that of README.md.
BEGIN, END = "<!-- --8<-- [start:{0}] -->\n", "<!-- --8<-- [end:{0}] -->"
DATASETS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
# The measures of a card on distorted images, and the units of their amounts.
DISTORTIONS = {
    "shifted": "pixels of shift",
    "rotated": "degrees of rotation",
    "scaled": "scale",
    "noisy": "noise, gray levels",
}
# The best published test accuracy found for one network of the kind, without an
# ensemble and without test-time augmentation.
PEERS = {
    "shallow_mlp.mnist": (
        "99.30%",
        "[800 hidden units, elastic distortions]"
        "(https://doi.org/10.1109/ICDAR.2003.1227801)",
    ),
    "deep_mlp.mnist": (
        "99.447% ± 0.020",
        "[three layers of 1024, 2.9 million parameters]"
        "(https://huggingface.co/tsilva/mnist-classifier-mlp)",
    ),
    "lenet5.mnist": ("99.2%", "[LeNet-5, distorted](https://doi.org/10.1109/5.726791)"),
    "convnet.mnist": (
        "99.68%",
        "[SimpleNet, 310,000 parameters](https://arxiv.org/abs/1608.06037)",
    ),
    "deep_mlp.fashion_mnist": (
        "91.63%",
        "[three layers of 1024](https://github.com/anokland/local-loss)",
    ),
    "lenet5.fashion_mnist": (
        "92.5%",
        "[two convolutions, 100,000 parameters]"
        "(https://github.com/zalandoresearch/fashion-mnist)",
    ),
    "convnet.fashion_mnist": (
        "94.76%",
        "[convolutions, 370,000 parameters and a head]"
        "(https://huggingface.co/tsilva/fashion-mnist-classifier-cnn)",
    ),
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


def peer_table() -> str:
    """Returns the table that compares the weights with published figures."""
    rows = []
    for card in zoo.list_weights():
        name = f"{card.model}.{card.dataset}"
        figure, source = PEERS.get(name, ("-", "none found"))
        rows.append([f"`{name}`", _mean(card), figure, source])
    return table(["Weights", "Mean", "Published elsewhere", "Source"], *rows)


def _accuracy(card: zoo.Weights) -> str:
    return f"{card.metrics['accuracy']:.2%} ({_mean(card)})"


def _mean(card: zoo.Weights) -> str:
    metrics = card.metrics
    return f"{metrics['mean_accuracy']:.2%} ± {metrics['sd_accuracy'] * 100:.2f}"


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


def replace_table(text: str, name: str, content: str) -> str:
    """Returns the text of a page with the named table replaced."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{content}{end}{after}"


def updated_files() -> dict[pathlib.Path, str]:
    """Returns the files with generated tables, and their contents."""
    readme = ROOT / "README.md"
    return {
        readme: replace_table(readme.read_text("utf-8"), "models", model_table()),
        INDEX: replace_table(INDEX.read_text("utf-8"), "peers", peer_table()),
        ROOT / "docs" / "results.csv": results_csv(),
    }


if __name__ == "__main__":
    for path, text in updated_files().items():
        path.write_text(text, "utf-8", newline="\n")
