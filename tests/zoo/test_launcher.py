"""Workers that Ray Train starts, watches and restarts, on this machine."""

import random
import subprocess
import sys
import time

import psutil
import pytest
from test_distributed import assert_runs_identical, train

import zoo

pytestmark = pytest.mark.endurance

EPOCHS = 20
RECIPE = f"""
model = "deep_mlp"
dataset = "digits-sample"
epochs = {EPOCHS}
batch_size = 100
arguments = {{ hidden_units = [32, 32], activation = "relu" }}
augmentation = {{ rotation = 10 }}
"""


def find_workers(driver):
    """The processes that train, in the order in which they were started."""
    found = [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    return sorted(found, key=lambda process: process.create_time())


def wait_for_checkpoint(driver, folder, after):
    """Waits until a checkpoint is newer than a time, and returns its time."""
    while driver.poll() is None:
        for path in folder.glob("checkpoint/*.npz"):
            if path.stat().st_mtime > after:
                return path.stat().st_mtime
        time.sleep(0.01)
    raise AssertionError(driver.communicate()[1])


@pytest.mark.alone
def test_killed_workers_are_restarted(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    folder = tmp_path / "killed"
    words = ["train", "deep_mlp", "--recipe", tmp_path / "recipe.toml"]
    words += ["--output", folder, "--every", "5", "--workers", "2", "--gradient-norms"]
    driver = subprocess.Popen(
        [sys.executable, "-c", "from zoo.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    choose = random.Random(0)
    recoveries = []
    wait_for_checkpoint(driver, folder, 0)
    for _ in range(10):
        time.sleep(choose.uniform(0, 0.5))
        choose.choice(find_workers(driver)).kill()
        killed = time.time()
        # The other one may still have been saving.
        wait_for_checkpoint(driver, folder, killed + 1)
        recoveries.append(time.time() - killed)
    output, errors = driver.communicate(timeout=1200)
    assert driver.returncode == 0, errors
    assert f"deep_mlp: {EPOCHS} epochs" in output
    print("seconds to recover:", *map(round, recoveries))
    assert max(recoveries) <= 600
    train(tmp_path / "whole", EPOCHS)
    assert_runs_identical(tmp_path / "whole", folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_a_mistake_is_not_repeated(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown optimizer 'Adm'\. Did you mean"):
        zoo.train_on_workers(
            2,
            "deep_mlp",
            "digits-sample",
            zoo.Recipe(
                "deep_mlp", "mnist", optimizer={"name": "Adm", "learning_rate": 1e-3}
            ),
            output_dir=tmp_path,
        )
