"""Measures the latency of each model for one image, relative to ShallowMLP.

Each model runs on the CPU as the SavedModel written by `zoo.export`. The models take
turns, so that changes in the speed of the machine affect all of them. The result is the
median of the ratios within each round, with quartiles.
"""

import json
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf

import zoo

ROUNDS = 2000
WARM_UP = 100


def main() -> None:
    """Prints the table and writes latency.json."""
    image = tf.zeros((1, 28, 28, 1))
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in zoo.list_models(weights="mnist"):
            path = zoo.export(zoo.create(name, weights="mnist"), f"{folder}/{name}")
            loaded = tf.saved_model.load(str(path))
            calls[name] = loaded.signatures["serving_default"]

        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(WARM_UP + ROUNDS):
            for name, call in calls.items():
                started = time.perf_counter()
                call(image=image)["class_id"].numpy()
                seconds[name].append(time.perf_counter() - started)

    rows = {name: np.array(times[WARM_UP:]) for name, times in seconds.items()}
    ratios = {name: times / rows["shallow_mlp"] for name, times in rows.items()}
    print(f"{'model':12} {'median':>7} {'quartiles':>13}   (shallow_mlp = 1)")
    for name, ratio in ratios.items():
        low, median, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        print(f"{name:12} {median:7.2f} {low:6.2f} {high:6.2f}")
    relative = {name: round(float(np.median(r)), 1) for name, r in ratios.items()}
    result = {"batch": 1, "rounds": ROUNDS, "relative": relative}
    path = pathlib.Path(__file__).with_name("latency.json")
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
