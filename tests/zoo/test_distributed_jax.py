"""The second way to train on several machines: JAX, with `DataParallel`."""

import subprocess
import sys

from test_distributed import WORKER, assert_runs_equal, free_ports


def train(folder, *places):
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, folder, "4", *place],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors


def test_two_processes_equal_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, [])
    address = f"localhost:{free_ports(1)[0]}"
    train(two, [address, "2", "0"], [address, "2", "1"])
    assert_runs_equal(one, two)
