"""The speed of training: `zoo.train`, Keras on two backends, and PyTorch.

    python benchmarks/training.py [--models lenet5 ...] [--rounds 9] [--images 12800]

Each framework trains the same network in a process of its own, with Adam on batches of
128. One process at a time trains some thousand images, and the order is shuffled in
each round. Prints the images per second relative to the fastest alternative to
`zoo.train`: the median over rounds of the ratio in a round, with its quartiles.
JAX and PyTorch are taken from `.venv-backends`, as `make bench` does.
"""

import argparse
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
BATCH = 128
DISTORTIONS = {"rotation": 10, "scale": 0.1, "shear": 0.1, "shift": 1, "elastic": 34}
# The environment of each framework, and Keras' backend in it.
FRAMEWORKS = {
    "zoo.train": (".venv", "tensorflow"),
    "zoo.train, distorted": (".venv", "tensorflow"),
    "zoo.train on JAX": (".venv-backends", "jax"),
    "keras fit": (".venv", "tensorflow"),
    "keras fit, XLA": (".venv", "tensorflow"),
    "keras fit on JAX": (".venv-backends", "jax"),
    "PyTorch": (".venv-backends", "torch"),
    "PyTorch, compiled": (".venv-backends", "torch"),
}


def examples(images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, 28, 28, 1), "uint8")
    return x, rng.integers(0, 10, images)


def pace() -> Any:
    """Returns a callback that waits for a line before each epoch, and times it."""
    import keras

    class Pace(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if not sys.stdin.readline():
                sys.exit()
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            print("seconds", time.perf_counter() - self.started, flush=True)

    return Pace()


def train_with_zoo(model: str, images: int, distorted: bool) -> None:
    import zoo

    # As many epochs as make a run for which `zoo.train` compiles.
    recipe = zoo.Recipe(
        model,
        "mnist",
        epochs=1_000,
        batch_size=BATCH,
        augmentation=DISTORTIONS if distorted else {},
    )
    data = examples(images)
    zoo.train(model, data, recipe, callbacks=[pace()], verbose=0)


def train_with_keras(model: str, images: int, jit: bool | str) -> None:
    import zoo

    net = zoo.create(model)
    net.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit)
    x, y = examples(images)
    net.fit(x, y, BATCH, epochs=1_000, callbacks=[pace()], verbose=0)


def train_with_torch(model: str, images: int, compiled: bool) -> None:
    import torch

    net = to_torch(model).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    forward = torch.compile(net) if compiled else net
    x, y = map(torch.from_numpy, examples(images))
    x = x.permute(0, 3, 1, 2)
    while sys.stdin.readline():
        started = time.perf_counter()
        order = torch.randperm(images)
        for start in range(0, images, BATCH):
            chosen = order[start : start + BATCH]
            optimizer.zero_grad()
            logits = forward(x[chosen])
            torch.nn.functional.cross_entropy(logits, y[chosen]).backward()
            optimizer.step()
        print("seconds", time.perf_counter() - started, flush=True)


def to_torch(model: str) -> Any:
    """Returns a model of the zoo as a `torch.nn.Module` that returns logits."""
    import keras
    import torch
    from torch import nn

    import zoo

    source = zoo.create(model, classifier_activation=None)

    def convert(layer: Any) -> Any:
        before, after = layer.input.shape[-1], layer.output.shape[-1]
        if isinstance(layer, keras.layers.BatchNormalization):
            kind = nn.BatchNorm2d if len(layer.output.shape) == 4 else nn.BatchNorm1d
            return kind(after, layer.epsilon, 1 - layer.momentum)
        if isinstance(layer, keras.layers.Dense):
            module: Any = nn.Linear(before, after, layer.use_bias)
        elif isinstance(layer, keras.layers.Conv2D):
            options = {"padding": layer.padding, "bias": layer.use_bias}
            module = nn.Conv2d(before, after, layer.kernel_size, **options)
        else:
            return {
                keras.layers.MaxPooling2D: nn.MaxPool2d(2),
                keras.layers.Activation: nn.ReLU(),
                keras.layers.Flatten: nn.Flatten(),
                keras.layers.Dropout: nn.Dropout(getattr(layer, "rate", 0)),
            }[type(layer)]
        is_relu = layer.activation is keras.activations.relu
        return nn.Sequential(module, nn.ReLU()) if is_relu else module

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict()
            self.sources: dict[str, list[str]] = {}
            for layer in source.layers[1:]:
                before = layer.input if isinstance(layer.input, list) else [layer.input]
                names = [tensor._keras_history.operation.name for tensor in before]
                self.sources[layer.name] = names
                if not isinstance(layer, keras.layers.Rescaling | keras.layers.Add):
                    self.parts[layer.name] = convert(layer)

        def forward(self, x: Any) -> Any:
            outputs = {source.layers[0].name: x}
            for name, names in self.sources.items():
                inputs = [outputs[before] for before in names]
                if name in self.parts:
                    outputs[name] = self.parts[name](inputs[0])
                elif len(inputs) == 2:
                    outputs[name] = inputs[0] + inputs[1]
                else:
                    outputs[name] = inputs[0].to(torch.float32) / 255
            return outputs[name]

    return Net().train()


def work(framework: str, model: str, images: int) -> None:
    """Trains an epoch for each line of the standard input, and prints its seconds."""
    if framework.startswith("zoo"):
        train_with_zoo(model, images, "distorted" in framework)
    elif framework.startswith("keras"):
        train_with_keras(model, images, True if "XLA" in framework else "auto")
    else:
        train_with_torch(model, images, "compiled" in framework)


def measure(model: str, rounds: int, images: int) -> dict[str, list[float]]:
    """Returns the images per second of each framework in each round."""
    workers = dict(start_workers(model, images))
    rates: dict[str, list[float]] = {name: [] for name in workers}
    names = list(workers)
    for turn in range(rounds + 2):  # Two to warm up and compile.
        random.Random(turn).shuffle(names)
        for name in names:
            workers[name].stdin.write("\n")
            workers[name].stdin.flush()
            for line in workers[name].stdout:
                if line.startswith("seconds"):
                    break
            else:
                raise RuntimeError(f"{name} has failed for {model}.")
            if turn > 1:
                rates[name].append(images / float(line.split()[1]))
    for worker in workers.values():
        worker.kill()
        worker.communicate()
    return rates


def start_workers(model: str, images: int) -> Iterator[tuple[str, Any]]:
    for name, (folder, backend) in FRAMEWORKS.items():
        python = ROOT / folder / "bin" / "python"
        if not python.exists():
            print(f"{name} is left out: {folder} does not exist.")
            continue
        command = [python, __file__, "--worker", name, "--models", model]
        command += ["--images", str(images)]
        yield (
            name,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "KERAS_BACKEND": backend},
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = ["shallow_mlp", "deep_mlp", "lenet5", "convnet"]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.models[0], options.images)
        return
    for model in options.models:
        rates = measure(model, options.rounds, options.images)
        others = [name for name in rates if not name.startswith("zoo")]
        speed = {name: statistics.median(rates[name]) for name in others}
        best = max(others, key=lambda name: speed[name])
        print(f"{model}: relative to {best}, {speed[best]:,.0f} images per second")
        for name, values in rates.items():
            ratios = [a / b for a, b in zip(values, rates[best], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"  {name:22} {middle:5.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
