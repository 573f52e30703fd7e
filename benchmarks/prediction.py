"""What a million predictions cost: `zoo.predict_files` beside `model.predict`.

    python benchmarks/prediction.py [--images 1000000] [--rounds 1] [--files 20000]

The images are random digits of `digits-sample`, in one `.npy` file. Three ways take
turns, each in a process of its own that has built the model already:

- `predict_files`: as it is;
- `batches of 32`: `np.load`, `model.predict` and pandas' `to_parquet`;
- `batches of 1024`: the same with `batch_size=1024`.

Wall and CPU seconds (user and system, of all threads) run from the path of the images
to the Parquet file on disk, the tracing of the model included; memory is by how much
the peak of the resident set grows in that time. Medians over rounds. Then `--files` PNG
files are read by `predict_files`.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

WAYS = ("predict_files", "batches of 32", "batches of 1024")


def run(way: str, name: str, source: str, out: str, policy: str) -> dict[str, float]:
    """Predicts once, in this process, and measures it."""
    import keras
    import numpy as np
    import pandas as pd

    import zoo

    keras.config.set_dtype_policy(policy)
    model: Any = zoo.create(name, weights="mnist")
    labels = np.array(model.categories)
    before, memory, started = cpu_seconds(), peak_mebibytes(), time.perf_counter()
    if way == "predict_files":
        zoo.predict_files(model, source, out, verbose=0)
    else:
        size = int(way.split()[-1])
        outputs = model.predict(np.load(source), batch_size=size, verbose=0)
        class_id = outputs.argmax(axis=1)
        columns = {"index": np.arange(len(outputs)), "label": labels[class_id]}
        columns |= {"class_id": class_id, "probability": outputs.max(axis=1)}
        pd.DataFrame({**columns, "probabilities": list(outputs)}).to_parquet(out)
    return {
        "wall": time.perf_counter() - started,
        "cpu": cpu_seconds() - before,
        "memory": peak_mebibytes() - memory,
    }


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(
    way: str, name: str, source: str, folder: str, policy: str
) -> dict[str, float]:
    """Predicts once, in a process of its own."""
    out = pathlib.Path(folder, "out.parquet")
    command = [sys.executable, __file__, "--run", way, name, source, str(out)]
    command.append(policy)
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    out.unlink()
    figures: dict[str, float] = json.loads(answer)
    return figures


def write_images(folder: str, count: int) -> str:
    import numpy as np

    import zoo

    images, _ = zoo.load_dataset("digits-sample", as_="numpy")
    shape = (count, *images.shape[1:])
    path = f"{folder}/images.npy"
    array = np.lib.format.open_memmap(path, "w+", "uint8", shape)
    rng = np.random.default_rng(0)
    for start in range(0, count, 10_000):
        block = array[start : start + 10_000]
        block[:] = images[rng.integers(0, len(images), len(block))]
    return path


def write_files(folder: str, count: int) -> str:
    from PIL import Image

    import zoo

    images, _ = zoo.load_dataset("digits-sample", as_="numpy")
    path = pathlib.Path(folder, "files")
    path.mkdir()
    for i in range(count):
        Image.fromarray(images[i % len(images), :, :, 0]).save(path / f"{i:07}.png")
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--files", type=int, default=20_000)
    models = ["shallow_mlp", "lenet5", "convnet"]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--policy", default="float32", help="mixed_bfloat16, say")
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    policy = arguments.policy
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.run:
        print(json.dumps(run(*arguments.run)))
        return
    heads = ("wall s", "CPU s", "images/s", "MiB")
    print(f"{'':12}{'':17}" + "".join(f"{head:>10}" for head in heads))
    with tempfile.TemporaryDirectory() as folder:
        if arguments.images:
            source = write_images(folder, arguments.images)
            for name in arguments.models:
                rounds: dict[str, list[dict[str, float]]] = {}
                for _ in range(arguments.rounds):
                    for way in arguments.ways:
                        figures = measure(way, name, source, folder, policy)
                        rounds.setdefault(way, []).append(figures)
                for way, results in rounds.items():
                    show(name, way, arguments.images, results)
        if arguments.files:
            source = write_files(folder, arguments.files)
            results = [
                measure("predict_files", "lenet5", source, folder, policy)
                for _ in range(arguments.rounds)
            ]
            show("lenet5", "PNG files", arguments.files, results)


def show(name: str, way: str, images: int, results: list[dict[str, float]]) -> None:
    wall, cpu, memory = (
        statistics.median(figures[key] for figures in results)
        for key in ("wall", "cpu", "memory")
    )
    rate = images / wall
    print(f"{name:12}{way:17}{wall:10.1f}{cpu:10.1f}{rate:10,.0f}{memory:10.0f}")


if __name__ == "__main__":
    main()
