"""Reproduces the trainable depth of Schoenholz et al., 2017, on a coarser grid.

Computes the depth scale of mean field theory by Gaussian quadrature, then trains
networks of width 300 for a fixed number of steps over a grid of depths and variances of
the weights. Each network adds a line to schoenholz2017.csv; a run that was interrupted
skips the networks in it. Writes schoenholz2017.md and .png.
"""

import csv
import pathlib
from typing import Any

import keras
import numpy as np
import page
from matplotlib import pyplot

import zoo

BIAS_VARIANCE = 0.05
WIDTH, STEPS, BATCH = 300, 300, 32
COMPILED = True  # By XLA: this takes longer than a few steps, but not than hundreds.
LEARNING_RATE = 0.01
DEPTHS = (5, 10, 15, 20, 30, 40, 60, 80, 100)
VARIANCES = {
    "tanh": (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0),
    "relu": (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0),
}
FIELDS = ("activation", "variance", "depth", "accuracy")

NODES, MASSES = np.polynomial.hermite_e.hermegauss(101)
MASSES = MASSES / MASSES.sum()


def tanh_slope(x: np.ndarray) -> np.ndarray:
    return 1 / np.cosh(x) ** 2


def fixed_variance(variance: float, bias: float) -> float:
    """Returns q*, the variance of a tanh unit's sum, iterated over layers from 1."""
    q = 1.0
    for _ in range(2000):
        q = variance * MASSES @ np.tanh(np.sqrt(q) * NODES) ** 2 + bias
    return q


def fixed_points(variance: float, bias: float = BIAS_VARIANCE) -> tuple[float, float]:
    """Returns q*, the variance of a tanh unit's sum, and c*, the correlation.

    Both are iterated over the layers of an infinitely wide network, from the variance 1
    and the correlation 0.5 of two inputs: equations 3 and 5 of the paper.
    """
    q, c = fixed_variance(variance, bias), 0.5
    for _ in range(2000):
        first, second = _pair(q, c)
        product = MASSES @ (np.tanh(first) * np.tanh(second)) @ MASSES
        c = min(1.0, (variance * product + bias) / q)
    return q, c


def _pair(q: float, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes of two Gaussian variables of variance q and correlation c."""
    first = np.sqrt(q) * NODES[:, None]
    other = c * NODES[:, None] + np.sqrt(1 - c**2) * NODES[None, :]
    return first + 0 * other, np.sqrt(q) * other


def depth_scale(activation: str, variance: float, bias: float = BIAS_VARIANCE) -> float:
    """Returns xi_c, over which the correlation of two inputs approaches its limit.

    1 / xi_c = -log of the factor by which a small difference from c* changes per layer.
    It is infinite at the edge of chaos. A ReLU network of positive bias has c* = 1.
    """
    if activation == "relu":
        factor = variance / 2
    else:
        q, c = fixed_points(variance, bias)
        first, second = _pair(q, c)
        product = MASSES @ (tanh_slope(first) * tanh_slope(second)) @ MASSES
        factor = variance * product
    with np.errstate(divide="ignore"):
        return float(1 / np.abs(np.log(factor)))


def edge_of_chaos(bias: float = BIAS_VARIANCE) -> float:
    """Returns the variance at which a difference neither shrinks nor grows (tanh)."""

    def growth(variance: float) -> float:
        q = fixed_variance(variance, bias)
        return variance * MASSES @ tanh_slope(np.sqrt(q) * NODES) ** 2

    low, high = 1.0, 4.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if growth(middle) < 1 else (low, middle)
    return low


def build(activation: str, depth: int, width: int = WIDTH) -> keras.Model:
    """Builds a network that is compiled once, and trained for every variance."""
    model = zoo.DeepMLP(
        (width,) * depth,
        activation=activation,
        normalization=None,
        residual=False,
        dropout=0,
        include_preprocessing=False,
        input_shape=(784,),
    )
    optimizer = keras.optimizers.SGD(LEARNING_RATE)
    options = {"metrics": ["accuracy"], "jit_compile": COMPILED}
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.compile(optimizer, loss, **options)
    return model


def initialize(model: keras.Model, variance: float, seed: int = 0) -> None:
    """Draws weights of variance `variance` / fan-in and biases of BIAS_VARIANCE."""
    rng = np.random.default_rng(seed)
    weights = []
    for shape in (w.shape for w in model.get_weights()):
        deviation = np.sqrt(variance / shape[0] if len(shape) == 2 else BIAS_VARIANCE)
        weights.append(rng.normal(0, deviation, shape).astype("float32"))
    model.set_weights(weights)


def train(model: keras.Model, variance: float, data: Any, steps: int = STEPS) -> float:
    """Trains from new weights; returns the accuracy on images that it trained on."""
    initialize(model, variance)
    x, y = data
    n = steps * BATCH
    model.fit(x[:n], y[:n], BATCH, epochs=1, shuffle=False, verbose=0)
    return model.evaluate(x[:2000], y[:2000], 500, verbose=0, return_dict=True)[
        "accuracy"
    ]


def prepare(images: np.ndarray) -> np.ndarray:
    """Returns images as vectors of mean 0 and mean square 1, the q of the theory."""
    x = images.reshape(len(images), -1).astype("float32")
    x -= x.mean(1, keepdims=True)
    return x / np.sqrt((x**2).mean(1, keepdims=True))


def run(
    path: pathlib.Path,
    data: Any,
    *,
    depths: Any = DEPTHS,
    variances: Any = VARIANCES,
    width: int = WIDTH,
    steps: int = STEPS,
) -> list[dict[str, str]]:
    """Trains the networks of the grid that are not in the file yet; returns all."""
    if not path.exists():
        path.write_text(",".join(FIELDS) + "\n", "utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    done = {(row["activation"], row["variance"], row["depth"]) for row in rows}
    for activation, values in variances.items():
        for depth in depths:
            keys = [(activation, str(value), str(depth)) for value in values]
            left = [key for key in keys if key not in done]
            if not left:
                continue
            keras.utils.clear_session()
            model = build(activation, depth, width)
            for key in left:
                accuracy = train(model, float(key[1]), data, steps)
                rows.append(dict(zip(FIELDS, (*key, f"{accuracy:.4f}"), strict=True)))
                with path.open("a", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                    writer.writerow(rows[-1])
                print(*rows[-1].values(), flush=True)
    return rows


def accuracies(rows: list[dict[str, str]], activation: str) -> tuple[Any, Any, Any]:
    """Returns the depths, the variances, and the accuracy of each pair."""
    own = [row for row in rows if row["activation"] == activation]
    depths = sorted({int(row["depth"]) for row in own})
    variances = sorted({float(row["variance"]) for row in own})
    grid = np.full((len(depths), len(variances)), np.nan)
    for row in own:
        place = depths.index(int(row["depth"])), variances.index(float(row["variance"]))
        grid[place] = float(row["accuracy"])
    return depths, variances, grid


def trained_depth(depths: Any, column: np.ndarray, least: float = 0.5) -> int:
    """Returns the greatest depth up to which all networks learned, or 0."""
    learned = np.cumprod(column >= least)
    return int(depths[learned.sum() - 1]) if learned.any() else 0


def draw(rows: list[dict[str, str]], path: pathlib.Path) -> None:
    """Draws the accuracies with six depth scales over them, as the paper's figure 5."""
    kinds = list(dict.fromkeys(row["activation"] for row in rows))
    figure, axes = pyplot.subplots(
        1, len(kinds), figsize=(11, 4.5), squeeze=False, layout="constrained"
    )
    for axis, activation in zip(axes[0], kinds, strict=True):
        depths, variances, grid = accuracies(rows, activation)
        shown = axis.pcolormesh(
            variances, depths, grid, shading="nearest", cmap="inferno", vmin=0.1, vmax=1
        )
        line = np.linspace(variances[0], variances[-1], 61)
        scales = [6 * depth_scale(activation, value) for value in line]
        axis.plot(line, scales, "w--", label=r"$6\,\xi_c$")
        axis.set(ylim=(0, depths[-1] + 5), title=activation)
        axis.set(
            xlabel=r"variance of the weights, $\sigma_w^2$", ylabel="hidden layers"
        )
        axis.legend(labelcolor="white", facecolor="gray")
    figure.colorbar(shown, ax=axes, label="accuracy")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def summary(rows: list[dict[str, str]]) -> str:
    """Returns the table of predicted and trained depths."""
    header = "activation", "variance", "depth scale", "6 depth scales", "trained up to"
    lines = [[*header, "in depth scales"]]
    for activation in dict.fromkeys(row["activation"] for row in rows):
        depths, variances, grid = accuracies(rows, activation)
        for variance, column in zip(variances, grid.T, strict=True):
            scale = depth_scale(activation, variance)
            depth = trained_depth(depths, column)
            reached = f"{depth}{' or more' if depth == depths[-1] else ''}"
            scales = (f"{scale:.1f}", f"{6 * scale:.0f}")
            figures = f"{variance:.2f}", *(x.replace("inf", "∞") for x in scales)
            ratio = "-" if np.isinf(scale) else f"{depth / scale:.1f}"
            lines.append([activation, *figures, reached, ratio])
    return page.table(lines)


def main() -> None:
    images, labels = zoo.load_dataset("mnist", as_="numpy", shuffle=True, seed=0)
    path = page.FOLDER / "schoenholz2017.csv"
    rows = run(path, (prepare(images), labels))
    draw(rows, page.FOLDER / "schoenholz2017.png")
    edge = f"The edge of chaos of tanh is at a variance of {edge_of_chaos():.2f}.\n"
    page.write_page(page.FOLDER / "schoenholz2017.md", f"{edge}\n{summary(rows)}")


if __name__ == "__main__":
    main()
