"""Measures the cost of training on two processes: images per second, and an all-reduce.

    python benchmarks/distributed.py [--model lenet5] [--rounds 5]

Every process has one core. Each round trains the same batches with plain Keras in one
process, and with two workers. Prints medians over the rounds, with quartiles, and the
number of machines with one core each from which a step is faster than on one machine.
This assumes that the overhead of a step, its time beyond half of the work, is the same
for any number of workers.
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

BATCHES = (128, 1024)
STEPS = 30
KINDS = ("plain", "together")


def work(kind: str, model_name: str, batch_size: int) -> dict[str, float]:
    """Measures the seconds of a step, and of an all-reduce of the gradients."""
    import keras
    import numpy as np
    import tensorflow as tf

    import zoo

    strategy = zoo.distributed.strategy()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size * STEPS, 28, 28, 1), "uint8")
    labels = rng.integers(0, 10, len(images))
    data = zoo.callbacks.ShuffledBatches(images, labels, batch_size)
    times = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: times.append(time.perf_counter())
    )
    with strategy.scope():
        model = zoo.create(model_name)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(data, epochs=4, steps_per_epoch=STEPS, verbose=0, callbacks=[note])
    steps = [(b - a) / STEPS for a, b in itertools.pairwise(times)]
    measured = {"step": min(steps)}
    if kind == "together":
        gradients = [tf.zeros(v.shape) for v in model.trainable_variables]

        @tf.function
        def reduce() -> Any:
            def in_replica() -> Any:
                context = tf.distribute.get_replica_context()
                return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)

            return strategy.run(in_replica)

        reduce()
        start = time.perf_counter()
        for _ in range(50):
            reduce()
        measured["all_reduce"] = (time.perf_counter() - start) / 50
        measured["bytes"] = 4 * model.count_params()
    return measured


def run(kind: str, model: str, batch_size: int) -> dict[str, float]:
    """Starts the processes; returns the measurements of the first."""
    count = 1 if kind == "plain" else 2
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    workers = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    cores = sorted(os.sched_getaffinity(0))
    processes = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": workers}, "task": task}
        core = {cores[index % len(cores)]}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, "--work", kind, model, str(batch_size)],
                env=os.environ
                | ({"TF_CONFIG": json.dumps(config)} if count > 1 else {})
                | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        os.sched_setaffinity(processes[-1].pid, core)
    outputs = [process.communicate()[0] for process in processes]
    found: dict[str, float] = json.loads(outputs[0].splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        kind, model, batch_size = arguments.work
        print(json.dumps(work(kind, model, int(batch_size))))
        return
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for batch_size in BATCHES:
            for kind in KINDS:
                measured = run(kind, arguments.model, batch_size)
                found.setdefault((kind, batch_size), []).append(measured)
    print(f"{arguments.model}, {arguments.rounds} rounds, one core per process")
    for batch_size in BATCHES:
        plain = [m["step"] for m in found["plain", batch_size]]
        together = found["together", batch_size]
        reduces = [m["all_reduce"] / p for m, p in zip(together, plain, strict=True)]
        print(
            f"batch {batch_size}: an all-reduce of {together[0]['bytes'] / 1e3:.0f} kB "
            f"takes {statistics.median(reduces):.2f} of a step in one process"
        )
        ratios = [p / m["step"] for m, p in zip(together, plain, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        overhead = max(1 / ratio - 1 / 2, 0)
        print(
            f"batch {batch_size}, together: {ratio:.2f} ({low:.2f} to {high:.2f}) x "
            "the images per second of plain Keras in one process; overhead "
            f"{overhead:.2f} of a step: "
            + (
                f"pays from {int(1 / (1 - overhead)) + 1} machines"
                if overhead < 1
                else "never pays"
            )
        )


if __name__ == "__main__":
    main()
