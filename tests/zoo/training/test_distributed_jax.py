"""Training on several machines on JAX, with Keras' `DataParallel`."""

import pytest
from paths import ROOT
from worker_processes import WORKER, assert_runs_equal, finish, free_ports, start


@pytest.mark.endurance
def test_two_processes_equal_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    finish([start(WORKER, one, 4)])
    address = f"localhost:{free_ports(1)[0]}"
    finish([start(WORKER, two, 4, address, 2, index) for index in range(2)])
    assert_runs_equal(one, two, tolerance=1e-5)


@pytest.mark.endurance
def test_example(tmp_path):
    address = f"localhost:{free_ports(1)[0]}"
    script = ROOT / "examples" / "train_on_jax.py"
    options = "--model", "lenet5", "--dataset", "digits-sample", "--epochs", 1
    options += "--output", tmp_path
    finish([start(script, address, 2, index, *options) for index in range(2)])
    assert (tmp_path / "trained.keras").exists()
