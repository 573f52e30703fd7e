"""Workers on two hosts of our own making, whose link is cut.

The hosts are network namespaces, which Linux has any user make within a user namespace.
Processes hold them: once these and the workers have ended, nothing is left to remove.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.endurance

WORKER = pathlib.Path(__file__).with_name("worker.py")
ADDRESSES = ("10.0.0.1", "10.0.0.2")
OWN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")
LINK = ("ip", "link", "add", "link0", "type", "veth", "peer", "name", "link1")


class Hosts:
    """Two hosts, `link0` and `link1`, which join them, and the processes there.

    Args:
        stack: Ends all of them.
    """

    def __init__(self, stack):
        self._stack = stack
        self._holders = []
        self._hold(*OWN_NAMESPACE)
        self._hold(*self._at(0), "unshare", "--net")
        self._configure(0, *LINK, "netns", self._holders[1])
        for host, address in enumerate(ADDRESSES):
            device = f"link{host}"
            self._configure(
                host, "ip", "address", "add", f"{address}/24", "dev", device
            )
            self._configure(host, "ip", "link", "set", device, "up")
            self._configure(host, "ip", "link", "set", "lo", "up")

    def _hold(self, *command):
        """Starts what keeps a namespace until this process ends, however it does."""
        holder = subprocess.Popen(
            [*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._stack.callback(holder.communicate)
        holder.stdin.write(b"I am here\n")
        holder.stdin.flush()
        assert holder.stdout.readline()
        self._holders.append(str(holder.pid))

    def _at(self, host):
        flags = ("--user", "--preserve-credentials", "--net")
        return ("nsenter", "--target", self._holders[host], *flags)

    def _configure(self, host, *command):
        subprocess.run([*self._at(host), *command], check=True)

    def start(self, host, command, environment):
        process = subprocess.Popen(
            [*self._at(host), *command],
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        return process

    def cut(self, seconds=None):
        """Cuts the link, for good or for some time."""
        change = ("ip", "link", "set", "link0")
        self._configure(0, *change, "down")
        if seconds is not None:
            timer = threading.Timer(seconds, self._configure, (0, *change, "up"))
            self._stack.callback(timer.cancel)
            timer.start()


@contextlib.contextmanager
def make_hosts():
    try:
        subprocess.run([*OWN_NAMESPACE, *LINK], check=True, stderr=subprocess.PIPE)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(
            "Needs iproute2 and a Linux that lets this user make network namespaces: "
            f"{error}. {getattr(error, 'stderr', b'').decode()}"
        )
    with contextlib.ExitStack() as stack:
        yield Hosts(stack)


@pytest.fixture
def hosts():
    with make_hosts() as hosts:
        yield hosts


def start_workers(hosts, folder):
    workers = []
    for index in range(2):
        config = {
            "cluster": {"worker": [f"{address}:2222" for address in ADDRESSES]},
            "task": {"type": "worker", "index": index},
        }
        environment = {"TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, WORKER, folder, "4"]
        workers.append(hosts.start(index, command, environment))
    return workers


def begin_training(hosts, folder):
    """Starts workers, and waits until they are within the first epoch."""
    workers = start_workers(hosts, folder)
    deadline = time.monotonic() + 100
    while len(list(folder.glob("checkpoint/*.npz"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return workers


def wait(workers, timeout):
    """Waits until all have ended, and returns what each wrote on standard error."""
    deadline = time.monotonic() + timeout
    return [
        worker.communicate(timeout=deadline - time.monotonic())[1] for worker in workers
    ]


def results(folder):
    files = ("trained.weights.h5", "log.csv", "gradient_norms.csv")
    return {file: (folder / file).read_bytes() for file in files}


def finish(workers):
    errors = wait(workers, 150)
    assert [worker.returncode for worker in workers] == [0, 0], errors


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What workers write whose link nobody cuts."""
    folder = tmp_path_factory.mktemp("network") / "run"
    with make_hosts() as hosts:
        finish(start_workers(hosts, folder))
    return results(folder)


def test_training_goes_on_after_a_short_cut(hosts, undisturbed, tmp_path):
    workers = begin_training(hosts, tmp_path / "run")
    # Signs of life are 5 s apart, and missed after 10 s. TCP sends again what was lost
    # no later after the cut than that lasted.
    hosts.cut(seconds=1)
    finish(workers)
    assert results(tmp_path / "run") == undisturbed


def test_a_long_cut_ends_the_workers_and_nothing_is_lost(hosts, undisturbed, tmp_path):
    workers = begin_training(hosts, tmp_path / "run")
    hosts.cut(seconds=20)
    wait(workers, 30)
    assert 0 not in [worker.returncode for worker in workers]
    assert not (tmp_path / "run" / "trained.weights.h5").exists()
    # By whatever starts jobs there, while the link may still be cut.
    finish(start_workers(hosts, tmp_path / "run"))
    assert results(tmp_path / "run") == undisturbed


def test_a_link_that_stays_cut(hosts, tmp_path):
    workers = begin_training(hosts, tmp_path / "run")
    hosts.cut()
    wait(workers, 30)
    assert 0 not in [worker.returncode for worker in workers]
    workers = start_workers(hosts, tmp_path / "run")
    for errors, other in zip(wait(workers, 150), reversed(ADDRESSES), strict=True):
        assert f"Received nothing from {other}:2222" in errors
