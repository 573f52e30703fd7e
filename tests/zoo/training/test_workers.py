"""Workers that Ray Train starts and restarts on this machine."""

import random
import time

import psutil
import pytest
from paths import HELPERS
from worker_processes import assert_runs_equal, start, train

import zoo

pytestmark = pytest.mark.endurance

EPOCHS = 8  # Three kills take place within the first four.


def find_workers(driver):
    """Returns the processes that train, in the order in which they were started."""
    found = [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    return sorted(found, key=lambda process: process.create_time())


def wait_for_checkpoint(driver, folder, after):
    """Waits until a checkpoint is newer than a time."""
    while driver.poll() is None:
        if any(p.stat().st_mtime > after for p in folder.glob("checkpoint/*.npz")):
            return
        time.sleep(0.01)
    raise AssertionError(driver.communicate()[1])


@pytest.mark.alone
def test_killed_workers_are_restarted(tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    words = ["train", "shallow_mlp", "--recipe", HELPERS / "worker_recipe.toml"]
    words += ["--epochs", EPOCHS, "--output", folder, "--every", 5, "--workers", 2]
    # The command itself makes TensorFlow quiet.
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    driver = start("-m", "zoo", *words, "--gradient-norms")
    choose = random.Random(0)
    wait_for_checkpoint(driver, folder, 0)
    # The kills hit both workers, and a run that has been restarted before.
    for lost in (0, 1, 0):
        time.sleep(choose.uniform(0, 0.5))
        find_workers(driver)[lost].kill()
        # The chief may still have been saving: only a restarted one saves later.
        wait_for_checkpoint(driver, folder, time.time() + 1)
    output, errors = driver.communicate(timeout=1200)
    assert driver.returncode == 0, errors
    assert errors == ""
    assert f"shallow_mlp: {EPOCHS} epochs" in output
    monkeypatch.undo()
    train(tmp_path / "whole", EPOCHS)
    assert_runs_equal(tmp_path / "whole", folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_a_permanent_error_is_not_retried(tmp_path):
    optimizer = {"name": "Adm", "learning_rate": 1e-3}
    recipe = zoo.Recipe("shallow_mlp", "mnist", optimizer=optimizer)
    # If the error were retried, Ray would raise a RuntimeError.
    options = {"output_dir": tmp_path, "max_failures": 0}
    with pytest.raises(ValueError, match=r"Unknown optimizer\. Did you mean 'adam'"):
        zoo.train_on_workers(2, "shallow_mlp", "digits-sample", recipe, **options)
