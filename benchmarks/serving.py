"""The time of an answer: each signature, each runtime, and the export of Keras itself.

    export PYTHONPATH=tests/helpers
    taskset --cpu-list 0 python benchmarks/serving.py [--rounds 300] [--model ...]

Runs in one process on one core, so that every runtime has one thread. "C API" is that
of TensorFlow, which runs the same session as TF Serving. Candidates take turns in
random order. Batch 1 and 128 are the medians over all rounds, with quartiles, of the
ratio to `model.export` in the C API. `load` is the median ratio of the load times,
warm-up included. `first` is the first answer after the load, in multiples of the
candidate's median at batch 1.
"""

import argparse
import functools
import io
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import capi
import numpy as np
import tensorflow as tf
from PIL import Image

import zoo
from zoo.exporting import runtimes, warmup

BASELINE = "model.export, C API"
DEFAULT = "serving_default"
Run = Callable[[Any], Any]


def in_c_api(folder: pathlib.Path, signature: str) -> Run:
    """Loads a SavedModel as TF Serving does, and replays its warm-up."""
    session = capi.Session(folder, threads=1)

    def run(name: str, batch: Any) -> None:
        [argument] = session.signatures[name].inputs.values()
        outputs = session.signatures[name].outputs
        # One numeric output per graph, because Python is slow with strings.
        fetched = next(n for n in ("probabilities", "scores", *outputs) if n in outputs)
        session.run({argument.name: batch}, [outputs[fetched].name])

    if (folder / warmup.WARMUP_FILE).exists():
        for name, inputs in warmup.read_warmup_requests(folder):
            [batch] = inputs.values()
            run(name, batch)
    return lambda batch: run(signature, batch)


def in_tensorflow(folder: pathlib.Path) -> Run:
    loaded = tf.saved_model.load(str(folder))

    def run(batch: Any) -> None:
        answer = loaded.signatures[DEFAULT](image=tf.constant(batch))
        answer["class_id"].numpy()

    return run


class Candidate(NamedTuple):
    """A way to run the model: its files, its loader and the kind of its input."""

    files: pathlib.Path | None
    load: Callable[[], Run]
    kind: str


def candidates(model: Any, folder: pathlib.Path) -> dict[str, Candidate]:
    """Exports the model in every format."""
    plain = folder / "keras"
    model.export(str(plain), verbose=False)
    version = zoo.export(model, folder / "saved_model")
    load = functools.partial
    found = {BASELINE: Candidate(plain, load(in_c_api, plain, DEFAULT), "float32")}
    for signature, kind in (
        (DEFAULT, "float32"),
        ("serving_uint8", "uint8"),
        ("serving_bytes", "files"),
        ("classify", "examples"),
    ):
        found[f"zoo.export, C API, {signature}"] = Candidate(
            version, load(in_c_api, version, signature), kind
        )
    found["zoo.export, tf.saved_model.load"] = Candidate(
        version, load(in_tensorflow, version), "float32"
    )
    for format in runtimes.FORMATS:
        path = zoo.export(model, folder / format, format=format)
        found[f"zoo.export, {format}"] = Candidate(
            path, load(runtimes.load, format, path), "float32"
        )

    def predict(batch: Any) -> Any:
        return model.predict(batch, batch_size=len(batch), verbose=0)

    found["model.predict"] = Candidate(None, lambda: predict, "float32")
    return found


def inputs(shape: tuple[int, ...], count: int) -> dict[str, Any]:
    """Returns the same images in the form that each signature takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), "uint8")
    files, examples = np.empty(count, object), np.empty(count, object)
    for index, image in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(np.squeeze(image)).save(file, "png")
        files[index] = file.getvalue()
        example = tf.train.Example()
        feature = example.features.feature["image/encoded"]
        feature.bytes_list.value.append(files[index])
        examples[index] = example.SerializeToString()
    return {
        "float32": pixels.astype("float32"),
        "uint8": pixels,
        "files": files,
        "examples": examples,
    }


def seconds(run: Run, batch: Any) -> float:
    start = time.perf_counter()
    run(batch)
    return time.perf_counter() - start


def compare(own: list[float], base: list[float]) -> str:
    """Formats the median and the quartiles of the ratios of all rounds."""
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:6.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--model", default="lenet5.mnist")
    arguments = parser.parse_args()
    name, weights = arguments.model.split(".", 1)
    model = zoo.create(name, weights=weights)
    one, many = (inputs(model.input_shape[1:], count) for count in (1, 128))
    with tempfile.TemporaryDirectory() as folder:
        compared = candidates(model, pathlib.Path(folder))
        for candidate in compared.values():  # Libraries initialize at first use.
            candidate.load()(one[candidate.kind])
        runs: dict[str, Run] = {}
        loads, firsts, ones, manies = (
            {label: [] for label in compared} for _ in range(4)
        )
        for _ in range(arguments.loads):
            for label in random.sample(list(compared), len(compared)):
                _, load, kind = compared[label]
                start = time.perf_counter()
                runs[label] = load()
                loads[label].append(time.perf_counter() - start)
                firsts[label].append(seconds(runs[label], one[kind]))
        for _ in range(arguments.rounds):
            for label in random.sample(list(compared), len(compared)):
                kind = compared[label].kind
                ones[label].append(seconds(runs[label], one[kind]))
                manies[label].append(seconds(runs[label], many[kind]))
        sizes = {
            label: sum(f.stat().st_size for f in files.rglob("*") if f.is_file())
            for label, (files, _, _) in compared.items()
            if files is not None
        }
    print(f"{arguments.model}, {arguments.rounds} rounds; ratios to {BASELINE}")
    print(f"{'':38} {'bytes':>9} {'load':>6} {'first':>6}  batch 1, batch 128")
    median = statistics.median
    for label in compared:
        print(
            f"{label:38} {sizes.get(label, '-'):>9}"
            f" {median(loads[label]) / median(loads[BASELINE]):6.2f}"
            f" {median(firsts[label]) / median(ones[label]):6.1f}"
            f"  {compare(ones[label], ones[BASELINE])}"
            f"  {compare(manies[label], manies[BASELINE])}"
        )


if __name__ == "__main__":
    main()
