"""Workers of `TF_CONFIG` that train a model together, as processes of this machine."""

import itertools
import json
import signal
import socket
import time

import numpy as np
import pytest
import tensorflow as tf
from paths import HELPERS
from worker_processes import (
    WORKER,
    assert_runs_equal,
    finish,
    free_ports,
    start,
    start_workers,
    tf_config,
    train,
)

import zoo
from zoo.training.distributed import read_cluster, strategy

OWN_WORKER = HELPERS / "own_worker.py"


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The folder of an undisturbed run of two workers."""
    folder = tmp_path_factory.mktemp("workers") / "two"
    train(folder, 4)
    return folder


@pytest.mark.endurance
def test_two_workers_equal_one(of_two, tmp_path):
    train(tmp_path / "one", 4, count=1)
    assert_runs_equal(tmp_path / "one", of_two, tolerance=1e-5)


@pytest.mark.endurance
@pytest.mark.parametrize(
    ("examples", "mirrored", "tolerance"),
    # TensorFlow's strategies give both halves of an odd batch the same weight.
    [(64, [], 1e-5), (71, ["mirrored"], 0)],
    ids=["as one process", "as MirroredStrategy"],
)
def test_a_custom_model(examples, mirrored, tolerance, tmp_path):
    finish(start_workers(OWN_WORKER, tmp_path / "workers", examples))
    finish(start_workers(OWN_WORKER, tmp_path / "beside", examples, *mirrored, count=1))
    received = np.load(tmp_path / "workers-0.npz")
    expected = np.load(tmp_path / "beside-0.npz")
    assert {"weight 0", "val_loss", "norm of dense", "predict"} <= {*expected}
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, 0, tolerance, err_msg=name)


def wait_for_checkpoints(folder, names, count):
    """Waits until a run has written `count` checkpoints more than `names`."""
    seen = set(names)
    deadline = time.monotonic() + 300
    while len(seen) < len(names) + count:
        assert time.monotonic() < deadline, "no checkpoint"
        seen.update(path.name for path in folder.glob("checkpoint/*.npz"))
        time.sleep(0.005)
    return seen


@pytest.mark.endurance
def test_lost_workers_end_the_others_and_nothing_is_lost(of_two, tmp_path):
    folder, names = tmp_path / "run", set()
    # The chief and another worker each lose the other in both ways. A stopped process
    # does not close its connections: to the other one, that is a cut network.
    for sent, lost in itertools.product((signal.SIGKILL, signal.SIGSTOP), (0, 1)):
        workers = start_workers(WORKER, folder, 4)
        names = wait_for_checkpoints(folder, names, 3)
        workers[lost].send_signal(sent)
        workers[1 - lost].communicate(timeout=300)
        assert workers[1 - lost].returncode != 0
        workers[lost].kill()
        workers[lost].communicate()
    assert not (folder / "trained.keras").exists()
    workers = start_workers(WORKER, folder, 4)
    wait_for_checkpoints(folder, names, 1)
    # A second without an answer, of the ten that TensorFlow waits, is harmless.
    workers[1].send_signal(signal.SIGSTOP)
    time.sleep(1)
    workers[1].send_signal(signal.SIGCONT)
    finish(workers)
    assert_runs_equal(of_two, folder)


@pytest.mark.parametrize("index", [0, 1])
def test_the_other_worker_is_missing(index):
    """By itself, TensorFlow would wait for an hour, or without end."""
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    program = "import zoo; zoo.distributed.strategy(timeout=1)"
    worker = start("-c", program, TF_CONFIG=tf_config(index, worker=addresses))
    _, errors = worker.communicate(timeout=300)
    assert worker.returncode == 1
    assert "TimeoutError: Not all workers of TF_CONFIG have connected" in errors


def test_a_port_in_use(monkeypatch):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        workers = [f"localhost:{port}", "localhost:1"]
        monkeypatch.setenv("TF_CONFIG", tf_config(worker=workers))
        with pytest.raises(OSError, match=rf"Choose a free port.*port={port}\."):
            zoo.distributed.strategy()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        tf_config(),
        tf_config(2, worker=["a:1", "b:1"]),
        tf_config(-1, worker=["a:1", "b:1"]),
        tf_config("x", worker=["a:1", "b:1"]),
        tf_config(worker=["a:1", "a:1"]),
        tf_config(worker=["a", "b"]),
        tf_config(worker=["a:0", "b:70000"]),
        tf_config(worker="a:1"),
        tf_config(task_type="ps", worker=["a:1"]),
        tf_config(worker=["a:1"], ps=["b:1"]),
        json.dumps({"cluster": {"worker": ["a:1"]}}),
    ],
)
def test_a_wrong_configuration(text):
    with pytest.raises(ValueError, match="`TF_CONFIG` must be of the form") as error:
        read_cluster({"TF_CONFIG": text})
    assert str(error.value).endswith(f"Received: TF_CONFIG={text}.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ", None),
        (tf_config(1, worker=["a:1", "b:1"]), (("a:1", "b:1"), 1)),
        (tf_config(0, chief=["a:1"], worker=["b:1"]), (("a:1", "b:1"), 1)),
    ],
)
def test_configurations(text, expected):
    assert read_cluster({"TF_CONFIG": text}) == expected


def test_one_worker_takes_no_strategy(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(worker=["a:1"]))
    assert strategy() is tf.distribute.get_strategy()


@pytest.mark.parametrize(
    "call",
    [
        lambda: zoo.publish("recipe.toml"),
        lambda: zoo.train(zoo.ShallowMLP(), "digits-sample", epochs=1),
    ],
    ids=["publish", "train"],
)
def test_workers_that_would_not_train_together(call, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(worker=["a:1", "b:1"]))
    with pytest.raises(ValueError, match="`TF_CONFIG`"):
        call()
