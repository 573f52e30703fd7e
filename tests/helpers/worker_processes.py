"""Starts workers as processes of this machine, and compares the runs they write."""

import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import zipfile

import h5py
import numpy as np
from paths import HELPERS

WORKER = HELPERS / "worker.py"


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def tf_config(index=0, task_type="worker", **cluster):
    task = {"type": task_type, "index": index}
    return json.dumps({"cluster": cluster, "task": task})


def start(*command, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=os.environ | environment | {"CUDA_VISIBLE_DEVICES": "-1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_workers(*command, count=2):
    """Starts the workers of a cluster; a single one gets no `TF_CONFIG`."""
    if count == 1:
        return [start(*command)]
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    configs = [tf_config(index, worker=addresses) for index in range(count)]
    return [start(*command, TF_CONFIG=config) for config in configs]


def finish(workers):
    for worker in workers:
        _, errors = worker.communicate(timeout=600)
        assert worker.returncode == 0, errors
        assert "seen no gradient" not in errors


def train(folder, epochs, count=2):
    finish(start_workers(WORKER, folder, epochs, count=count))


def read_run(folder):
    """Reads the columns of a run's logs, and all arrays of its model."""
    found = {}

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with zipfile.ZipFile(pathlib.Path(folder, "trained.keras")) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        file.visititems(collect)
    for name in ("log.csv", "gradient_norms.csv"):
        options = {"delimiter": ",", "names": True, "encoding": "utf-8"}
        rows = np.genfromtxt(folder / name, dtype=None, **options)
        found |= {f"{name} {column}": rows[column] for column in rows.dtype.names}
    return found


def assert_runs_equal(folder, other, tolerance=0.0):
    """Checks that two runs have the same weights, optimizer state and logs."""
    expected, received = read_run(folder), read_run(other)
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        if value.dtype.kind == "U" or not tolerance:
            np.testing.assert_array_equal(received[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(
                received[name], value, 10 * tolerance, tolerance, err_msg=name
            )
