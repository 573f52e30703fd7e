"""Repeats the experiments on gradients of Glorot and Bengio, 2010, on MNIST.

Initializes an MLP of five tanh layers of 1,000 units as the paper does, by the standard
and by the normalized heuristic. Measures the gradients at initialization against the
paper's equations, then trains both networks on MNIST while `GradientNorms` records
them. A run that was interrupted is resumed. Writes glorot2010.md, .csv and .png.
"""

import math
import pathlib
from typing import Any

import keras
import numpy as np
import page
from matplotlib import pyplot

import zoo
from zoo.callbacks import GradientNorms
from zoo.training.recipes import Recipe

UNITS, DEPTH = 1000, 5
LAYERS = [f"dense{i}" for i in range(1, DEPTH + 1)]
# U[-1/sqrt(n), 1/sqrt(n)] has the variance 1 / (3n); U[-a, a] with a = sqrt(6) /
# sqrt(n + m), which is Glorot's uniform initializer, has 2 / (n + m).
HEURISTICS = {
    "standard": keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
    "normalized": keras.initializers.GlorotUniform(),
}
PAPER_ERROR = {"standard": 1.76, "normalized": 1.64}  # Table 1: MNIST, tanh.


def build(heuristic: str, units: int = UNITS) -> keras.Model:
    initializer = HEURISTICS[heuristic]
    return zoo.DeepMLP(
        (units,) * DEPTH,
        activation="tanh",
        kernel_initializer=initializer,
        normalization=None,
        residual=False,
        dropout=0,
        name=heuristic,
    )


def propagate(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Returns what passes through the layers, forward and backward.

    Returns:
        Dict with a list per layer of the outputs `z`, of the gradients `delta` of each
        image's cost with respect to the sums of the layer before its activation, and of
        the gradients `dw` of the mean cost with respect to the weights.
    """
    weights = [model.get_layer(name).get_weights() for name in [*LAYERS, "logits"]]
    z = [x.reshape(len(x), -1) / 255]
    for w, b in weights[:-1]:
        z.append(np.tanh(z[-1] @ w + b))
    w, b = weights[-1]
    e = np.exp(z[-1] @ w + b)
    delta = [e / e.sum(1, keepdims=True) - np.eye(e.shape[1])[y]]
    for i in range(DEPTH, 0, -1):
        delta.insert(0, (delta[0] @ weights[i][0].T) * (1 - z[i] ** 2))
    dw = [a.T @ d / len(x) for a, d in zip(z, delta, strict=False)]
    return {"z": z[1:], "delta": delta[:-1], "dw": dw[:-1]}


def measure(found: dict[str, Any], variance: float) -> list[dict[str, float]]:
    """Returns the ratios of variances between layers, predicted and measured.

    `variance` is n Var[W]. The predictions are those of layers of equal size with units
    in their linear range: equation 5 for the activations, 6 for the back-propagated
    gradients, and 14 for the gradients of the weights.
    """
    z, delta, dw = (list(map(np.var, found[name])) for name in ("z", "delta", "dw"))
    steps = DEPTH - 1
    pairs = {
        "activations, layer 5 / layer 1": (variance**steps, z[-1] / z[0]),
        "back-propagated, layer 1 / layer 5": (variance**steps, delta[0] / delta[-1]),
        "weights, layer 2 / layer 5": (1.0, dw[1] / dw[-1]),
    }
    return [
        {"ratio": name, "predicted": expected, "measured": float(ratio)}
        for name, (expected, ratio) in pairs.items()
    ]


def at_start(units: int = UNITS, images: int = 1000, data: Any = None) -> dict:
    """Returns the propagated values and the ratios of both heuristics, untrained."""
    x, y = data or zoo.load_dataset("mnist", as_="numpy")
    results = {}
    for name in HEURISTICS:
        keras.utils.set_random_seed(0)
        model = build(name, units)
        found = propagate(model, x[:images], y[:images])
        variance = units * np.var(model.get_layer("dense3").get_weights()[0])
        expected = 1 / 3 if name == "standard" else 1.0
        assert math.isclose(variance, expected, rel_tol=0.05)
        results[name] = found, measure(found, expected)
    return results


def train(
    heuristic: str,
    folder: pathlib.Path,
    *,
    epochs: int,
    units: int = UNITS,
    data: Any = "mnist",
    verbose: int = 2,
) -> zoo.Report:
    """Trains a network, or resumes its run, and records its gradient norms."""
    recipe = Recipe(
        "deep_mlp",
        "mnist",
        epochs=epochs,
        batch_size=100,
        optimizer={"name": "SGD", "learning_rate": 0.1},
        schedule="constant",
    )
    keras.utils.set_random_seed(0)
    return zoo.train(
        build(heuristic, units),
        data,
        recipe,
        split="train+validation" if isinstance(data, str) else "train",
        output_dir=folder,
        resume=True,
        gradient_norms=True,
        verbose=verbose,
    )


def deviations(norms: GradientNorms, units: int = UNITS) -> dict[str, np.ndarray]:
    """Returns the standard deviation of each layer's weight gradients at each step.

    The mean of these gradients is close to 0: their deviation is their norm, divided by
    the square root of their number. The first layer has other inputs, and other sizes.
    """
    sizes = {name: 784 * units if name == "dense1" else units**2 for name in LAYERS}
    return {
        name: norms.variables[f"{name}/kernel"] / math.sqrt(size)
        for name, size in sizes.items()
    }


def draw(starts: dict, trained: dict, path: pathlib.Path) -> None:
    """Draws the paper's figures: histograms at initialization, and training."""
    figure, axes = pyplot.subplots(
        2, 2, figsize=(11, 7), sharex="row", sharey="row", layout="constrained"
    )
    colors = pyplot.colormaps["viridis"](np.linspace(0, 0.9, DEPTH))
    limit = 4 * starts["normalized"][0]["delta"][-1].std()
    for column, name in enumerate(HEURISTICS):
        histograms, curves = axes[:, column]
        gradients = starts[name][0]["delta"]
        for i, (values, color) in enumerate(zip(gradients, colors, strict=True), 1):
            options = {"bins": 201, "range": (-limit, limit), "density": True}
            height, edges = np.histogram(values, **options)
            histograms.plot(edges[1:], height, color=color, label=f"layer {i}")
        for i, (values, color) in enumerate(
            zip(trained[name].values(), colors, strict=True), 1
        ):
            window = max(1, len(values) // 60)
            steps = len(values) // window * window
            medians = np.median(values[:steps].reshape(-1, window), axis=1)
            first_steps = np.arange(len(medians)) * window
            curves.semilogy(first_steps, medians, color=color, label=f"layer {i}")
        histograms.set(title=f"{name} initialization", yscale="log")
        histograms.set(xlabel="back-propagated gradient at initialization")
        curves.set(xlabel="step of training")
    axes[0, 0].set(ylabel="density")
    axes[1, 0].set(ylabel="standard deviation\nof the weights' gradients")
    for axis in axes[:, 1]:
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(epochs: int = 10) -> None:
    starts = at_start()
    predictions = [["variance of", "initialization", "predicted", "measured"]]
    results = [["initialization", "test error, paper", "test error, here", "spread"]]
    numbers, trained = [], {}
    for name, (_, rows) in starts.items():
        for row in rows:
            numbers.append({"initialization": name, **row})
            figures = f"{row['predicted']:.4f}", f"{row['measured']:.4f}"
            predictions.append([row["ratio"], name, *figures])
        report = train(name, page.RUNS / f"glorot2010-{name}", epochs=epochs)
        accuracy = zoo.evaluate(report.model, "mnist", verbose=0)["accuracy"]
        trained[name] = deviations(report.gradient_norms)
        medians = [np.median(values) for values in trained[name].values()][1:]
        errors = f"{PAPER_ERROR[name]:.2f} %", f"{100 * (1 - accuracy):.2f} %"
        results.append([name, *errors, f"{max(medians) / min(medians):.2f}"])
    page.write_csv(page.FOLDER / "glorot2010.csv", numbers)
    draw(starts, trained, page.FOLDER / "glorot2010.png")
    text = f"{page.table(predictions)}\n{page.table(results)}"
    page.write_page(page.FOLDER / "glorot2010.md", text)


if __name__ == "__main__":
    main()
