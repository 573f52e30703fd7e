"""The time to 99 % test accuracy on MNIST.

    python benchmarks/time_to_accuracy.py [--seeds 5]

Compares the recipe `fast` with Keras' example "Simple MNIST convnet", which is trained
until it reaches 99 %, and with a speed run for PyTorch that takes one epoch. Every run
has a process of its own, one at a time, in random order. The time includes building and
compiling the network, but neither imports, reading the images, nor the evaluation.
PyTorch is taken from `.venv-backends`, as `make bench` does.

Reference:
- https://keras.io/examples/vision/mnist_convnet
- https://github.com/tuomaso/train_mnist_fast: the architecture and the settings.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
GOAL = 0.99


def train_with_zoo(seed: int) -> tuple[float, float]:
    """Returns the seconds and the test accuracy of a run."""
    import zoo

    data, train = zoo.load_dataset("mnist", "train+validation", as_="numpy"), zoo.train
    started = time.perf_counter()
    model = train("convnet", data, "fast", seed=seed, verbose=0).model
    seconds = time.perf_counter() - started
    return seconds, zoo.evaluate(model, "mnist", split="test")["accuracy"]


def train_with_keras(seed: int) -> tuple[float, float]:
    import keras
    from keras import layers

    import zoo

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        x, y = zoo.load_dataset("mnist", split, as_="numpy")
        return x.astype("float32") / 255, keras.utils.to_categorical(y, 10)

    # The example, too, keeps a tenth of the training images for validation.
    x, y = read("train+validation")
    train, validation = (x[:54_000], y[:54_000]), (x[54_000:], y[54_000:])
    test = read("test")
    keras.utils.set_random_seed(seed)
    seconds = accuracy = 0.0
    started = time.perf_counter()
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    while accuracy < GOAL:
        model.fit(*train, 128, validation_data=validation, verbose=0)
        seconds += time.perf_counter() - started
        accuracy = model.evaluate(*test, verbose=0)[1]
        started = time.perf_counter()
    return seconds, accuracy


def train_with_torch(seed: int) -> tuple[float, float]:
    import torch
    from torch import nn

    import zoo

    def read(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = zoo.load_dataset("mnist", split, as_="numpy")
        x = (x.reshape(-1, 1, 28, 28).astype("float32") / 255 - 0.1307) / 0.3081
        return torch.from_numpy(x), torch.from_numpy(np.asarray(y, "int64"))

    x, y = read("train+validation")
    x_test, y_test = read("test")
    torch.manual_seed(seed)
    started = time.perf_counter()
    net = nn.Sequential(
        nn.Conv2d(1, 24, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(800, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    starts = range(0, len(x), 256)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.7, 0.9))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.01, total_steps=len(starts), cycle_momentum=False
    )
    for start in starts:
        optimizer.zero_grad()
        logits = net(x[start : start + 256])
        nn.functional.cross_entropy(logits, y[start : start + 256]).backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        right = net(x_test).argmax(1) == y_test
    return seconds, right.double().mean().item()


# The environment of each contestant, Keras' backend in it, and its run.
CONTESTANTS = {
    "zoo.train, fast": (".venv", "tensorflow", train_with_zoo),
    "Keras' example": (".venv", "tensorflow", train_with_keras),
    "PyTorch speed run": (".venv-backends", "torch", train_with_torch),
}


def run(contestant: str, seed: int) -> tuple[float, float]:
    """Returns the seconds and the test accuracy of a run in a process of its own."""
    folder, backend, _ = CONTESTANTS[contestant]
    command = [ROOT / folder / "bin" / "python", __file__, "--run", contestant]
    output = subprocess.run(
        [*command, "--seeds", str(seed)],
        # The command line of the zoo sets oneDNN, too. Here, both runs on Keras get it.
        env={**os.environ, "KERAS_BACKEND": backend, "TF_ENABLE_ONEDNN_OPTS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    ).stdout
    seconds, accuracy = json.loads(output.splitlines()[-1])
    print(f"{contestant}, seed {seed}: {seconds:.1f} s, {accuracy:.2%}", flush=True)
    return seconds, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        *_, train = CONTESTANTS[options.run]
        print(json.dumps(train(options.seeds)))
        return
    runs = [(name, seed) for seed in range(options.seeds) for name in CONTESTANTS]
    random.Random(0).shuffle(runs)
    results: dict[str, dict[int, tuple[float, float]]] = {x: {} for x in CONTESTANTS}
    for name, seed in runs:
        results[name][seed] = run(name, seed)
    first = next(iter(CONTESTANTS))
    for name, of_seed in results.items():
        ratios = [of_seed[seed][0] / results[first][seed][0] for seed in of_seed]
        accuracy = statistics.mean(accuracy for _, accuracy in of_seed.values())
        time_ratio = f"{statistics.median(ratios):.2f}"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:18} accuracy {accuracy:.2%}, time {time_ratio} ({spread})")


if __name__ == "__main__":
    main()
