"""Workers that Ray Train starts and restarts on this machine."""

import random
import time

import psutil
import pytest
from paths import HELPERS, ROOT
from worker_processes import assert_runs_equal, start, train

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
def test_killed_workers_are_restarted(tmp_path):
    folder = tmp_path / "killed"
    words = ["--model", "shallow_mlp", "--data", "digits-sample", "--output", folder]
    words += ["--recipe", HELPERS / "worker_recipe.toml", "--epochs", EPOCHS]
    driver = start(ROOT / "examples/train_on_workers.py", *words, "--every", 5)
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
    assert f"shallow_mlp: {EPOCHS} epochs" in output
    train(tmp_path / "whole", EPOCHS)
    assert_runs_equal(tmp_path / "whole", folder)
