"""What an answer costs: each signature, each runtime, and what Keras itself exports.

    export PYTHONPATH=tests/serving
    taskset --cpu-list 0 python benchmarks/serving.py [--rounds 300] [--model ...]

One process on one core, so that every runtime has one thread. "C API" is how TF Serving
runs a SavedModel. Candidates take turns in random order; batch 1 and 128 are medians
over rounds of the ratio to `model.export` in the C API, with quartiles. `load` is the
median over loads, with the warm-up where there is one, as a ratio likewise; `first` is
the first answer after it, in multiples of the candidate's own median at batch 1.
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
from tensorflow.core.protobuf import saved_model_pb2

import zoo
from zoo import runtimes, warmup

BASELINE = "model.export, C API"
DEFAULT = "serving_default"
Run = Callable[[Any], Any]


def in_c_api(folder: pathlib.Path, signature: str) -> Run:
    """Loads a SavedModel as TF Serving does, and replays its warm-up."""
    content = (folder / "saved_model.pb").read_bytes()
    [graph] = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    session = capi.Session(folder, threads=1)

    def run(name: str, batch: Any) -> None:
        [argument] = graph.signature_def[name].inputs.values()
        outputs = graph.signature_def[name].outputs
        # One output of every graph, of numbers: it is Python that is slow with strings.
        fetched = next(n for n in ("probabilities", "scores", *outputs) if n in outputs)
        session.run({argument.name: batch}, [outputs[fetched].name])

    if (folder / warmup.WARMUP_FILE).exists():
        for name, inputs in warmup.read_warmup_requests(folder):
            [tensor] = inputs.values()
            run(name, tensor.numpy())
    return lambda batch: run(signature, batch)


def in_tensorflow(folder: pathlib.Path) -> Run:
    loaded = tf.saved_model.load(str(folder))

    def run(batch: Any) -> None:
        answer = loaded.signatures[DEFAULT](image=tf.constant(batch))
        answer["class_id"].numpy()

    return run


class Candidate(NamedTuple):
    """What to time: its files if it has any, how to load it, the kind of its input."""

    files: pathlib.Path | None
    load: Callable[[], Run]
    kind: str


def candidates(model: Any, folder: pathlib.Path) -> dict[str, Candidate]:
    """Exports the model in every way."""
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
    """The same images as every signature takes them."""
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
    """The median and the quartiles of the ratio, round by round."""
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
        for candidate in compared.values():  # What a library does once is not timed.
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
