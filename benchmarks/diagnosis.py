"""Measures the diagnosis of `GradientNorms` on networks, healthy and faulty.

    python benchmarks/diagnosis.py [--half A]

Prints a line per network and the verdicts of its seeds, then the confusion table. The
verdict on a healthy network is right if there is no finding; on a faulty one, if the
first finding has the kind, layer and step of the fault. Half A was used to set the
thresholds of the diagnosis, half B was not.
"""

import argparse
import collections

import faulty_networks  # noqa: F401
import healthy_networks  # noqa: F401  registers networks
import keras
from networks import NETWORKS, SEEDS, examine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--half", choices=SEEDS, default="B")
    half = parser.parse_args().half
    confusion: collections.Counter[tuple[str, str]] = collections.Counter()
    print(f"{'network':38} {'truth':11} {'right':5}  verdicts")
    for name, network in NETWORKS.items():
        if network.half != half:
            continue
        truth = network.fault.kind if network.fault else "healthy"
        right, verdicts = 0, []
        for seed in SEEDS[half]:
            keras.backend.clear_session()
            diagnosis, is_right = examine(name, seed)
            right += is_right
            verdicts.append(diagnosis.verdict)
            found = diagnosis[0].kind if diagnosis else "healthy"
            confusion[truth, found if is_right or found != truth else "elsewhere"] += 1
        counts = f"{right}/{len(SEEDS[half])}"
        print(f"{name:38} {truth:11} {counts:5}  {'; '.join(dict.fromkeys(verdicts))}")
    columns = sorted({found for _, found in confusion})
    print(f"\n{'truth':11}" + "".join(f"{column:>12}" for column in columns))
    for row in dict.fromkeys(truth for truth, _ in confusion):
        cells = "".join(f"{confusion[row, column]:12}" for column in columns)
        print(f"{row:11}{cells}")


if __name__ == "__main__":
    main()
