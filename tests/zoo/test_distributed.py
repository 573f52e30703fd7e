"""Workers that train a model together, as processes of this machine."""

import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest

import zoo
from zoo import distributed
from zoo.distributed import Cluster, meet, read_cluster

WORKER = pathlib.Path(__file__).with_name("worker.py")
OWN_WORKER = pathlib.Path(__file__).with_name("own_worker.py")


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start_workers(*command, count=2):
    """Starts the workers of a cluster, all on this machine."""
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    workers = []
    for index in range(count):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        environment = {"TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1"}
        workers.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=os.environ | (environment if count > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return workers


def run_workers(*command, count=2):
    for worker in start_workers(*command, count=count):
        _, errors = worker.communicate(timeout=600)
        assert worker.returncode == 0, errors
        assert "seen no gradient" not in errors


def train(folder, epochs, count=2):
    run_workers(WORKER, folder, epochs, count=count)


def weights(folder):
    found = {}

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(folder / "trained.weights.h5") as file:
        file.visititems(collect)
    return found


def rows(path):
    return np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")


def assert_runs_equal(folder, other):
    """The records are of the whole batch, and written once."""
    expected, received = weights(folder), weights(other)
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, atol=1e-5, err_msg=name)
    for file in ("log.csv", "gradient_norms.csv"):
        one, two = rows(folder / file), rows(other / file)
        assert one.dtype.names == two.dtype.names
        assert len(one) == len(two)
        for name in one.dtype.names:
            if one[name].dtype.kind != "U":
                np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5)


def assert_runs_identical(folder, other):
    expected, received = weights(folder), weights(other)
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(received[name], value, err_msg=name)
    for file in ("log.csv", "gradient_norms.csv"):
        assert (folder / file).read_bytes() == (other / file).read_bytes(), file


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers") / "two"
    train(folder, 4)
    return folder


@pytest.mark.endurance
def test_two_workers_equal_one(of_two, tmp_path):
    train(tmp_path / "one", 4, count=1)
    assert_runs_equal(tmp_path / "one", of_two)


@pytest.mark.endurance
@pytest.mark.parametrize(
    ("examples", "mirrored", "tolerance"),
    # TensorFlow's strategies have halves of an odd batch count the same.
    [(64, [], 1e-5), (71, ["mirrored"], 0)],
    ids=["as one process", "as MirroredStrategy"],
)
def test_an_own_model(examples, mirrored, tolerance, tmp_path):
    run_workers(OWN_WORKER, tmp_path / "workers", examples)
    run_workers(OWN_WORKER, tmp_path / "beside", examples, *mirrored, count=1)
    received = np.load(tmp_path / "workers-0.npz")
    expected = np.load(tmp_path / "beside-0.npz")
    assert {"weight 0", "val_loss", "norm of dense", "predict"} <= {*expected}
    for name, value in expected.items():
        np.testing.assert_allclose(
            received[name], value, rtol=0, atol=tolerance, err_msg=name
        )


@pytest.mark.endurance
def test_a_killed_worker_ends_the_others_and_nothing_is_lost(of_two, tmp_path):
    choose = random.Random(0)
    folder = tmp_path / "run"
    saved = []
    for kill in range(3):
        workers = start_workers(WORKER, folder, 4)
        deadline = time.monotonic() + 300
        while len(saved) < 3 * (kill + 1) and time.monotonic() < deadline:
            saved = sorted({*saved, *(p.name for p in folder.glob("checkpoint/*.npz"))})
            time.sleep(0.005)
        workers[choose.randrange(2)].kill()
        for worker in workers:
            worker.communicate(timeout=300)
            assert worker.returncode != 0
    assert not (folder / "trained.weights.h5").exists()
    train(folder, 4)
    assert_runs_identical(of_two, folder)


@pytest.mark.endurance
@pytest.mark.parametrize("lost", [0, 1])
def test_a_worker_that_is_lost_once_they_have_met(lost):
    """TensorFlow alone would wait for it: an hour, or for ever."""
    addresses = tuple(f"localhost:{port}" for port in free_ports(2))
    names = json.loads(config(1 - lost, worker=addresses))
    joins = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "from zoo import distributed; distributed.strategy(timeout=20)",
        ],
        env=os.environ | {"TF_CONFIG": json.dumps(names), "CUDA_VISIBLE_DEVICES": "-1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        meet(Cluster(addresses, lost), timeout=300)
        # A try that TensorFlow begins just before the time is over is its last.
        _, errors = joins.communicate(timeout=300)
    finally:
        joins.kill()
    assert joins.returncode == 1
    assert "TimeoutError: A worker of TF_CONFIG was there" in errors


def test_workers_meet():
    addresses = tuple(f"localhost:{port}" for port in free_ports(4))
    errors = []

    def join(index):
        time.sleep(0.1 * index)
        try:
            meet(Cluster(addresses, index), timeout=300)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=join, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_worker_that_cannot_be_reached():
    first, second = (f"localhost:{port}" for port in free_ports(2))
    with pytest.raises(TimeoutError, match=f"not there after 1 s.*from {second}$"):
        meet(Cluster((first, second), 0), timeout=1)


def test_a_port_in_use():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}, which TF_CONFIG gives"):
            meet(Cluster((f"localhost:{port}", "localhost:1"), 0), timeout=1)


def config(index=0, task_type="worker", **cluster):
    task = {"type": task_type, "index": index}
    return json.dumps({"cluster": cluster, "task": task})


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "7",
        config(),
        config(2, worker=["a:1", "b:1"]),
        config(-1, worker=["a:1", "b:1"]),
        config("x", worker=["a:1", "b:1"]),
        config(worker=["a:1", "a:1"]),
        config(worker=["a", "b"]),
        config(worker=["a:0", "b:70000"]),
        config(worker="a:1"),
        config(task_type="ps", worker=["a:1"]),
        config(worker=["a:1"], ps=["b:1"]),
        json.dumps({"cluster": {"worker": ["a:1"]}}),
    ],
)
def test_a_wrong_configuration(text):
    with pytest.raises(ValueError, match="`TF_CONFIG` must be of the form") as error:
        read_cluster({"TF_CONFIG": text})
    assert str(error.value).endswith(f"Received: TF_CONFIG={text}")


def test_configurations():
    assert read_cluster({}) is None
    assert read_cluster({"TF_CONFIG": " "}) is None
    cluster = read_cluster({"TF_CONFIG": config(1, worker=["a:1", "b:1"])})
    assert cluster == Cluster(("a:1", "b:1"), 1)
    cluster = read_cluster({"TF_CONFIG": config(chief=["a:1"], worker=["b:1"])})
    assert cluster == Cluster(("a:1", "b:1"), 1)


def test_one_worker_takes_no_strategy(monkeypatch):
    import tensorflow as tf

    monkeypatch.setenv("TF_CONFIG", config(worker=["a:1"]))
    assert distributed.strategy() is tf.distribute.get_strategy()


@pytest.mark.parametrize(
    "call",
    [
        lambda: zoo.publish("recipe.toml"),
        lambda: zoo.train(zoo.ShallowMLP(), "digits-sample", epochs=1),
    ],
    ids=["publish", "train"],
)
def test_workers_that_would_not_train_together(call, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(worker=["a:1", "b:1"]))
    with pytest.raises(ValueError, match="`TF_CONFIG`"):
        call()
