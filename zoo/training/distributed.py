"""Training on several machines with TensorFlow's strategy and `TF_CONFIG`."""

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` in a form that Keras 3 can use.

    Keras reduces tuples of tensors to find the shapes of a batch, and scalars along
    an axis for the logs of a step. TensorFlow's strategy can do neither.

    Reference: [keras#20585](https://github.com/keras-team/keras/issues/20585)
    """

    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        if isinstance(value, tuple | list | dict):
            return tf.nest.map_structure(self._local, value)
        if axis is not None and self._local(value).shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis=axis)

    def _local(self, value: Any) -> tf.Tensor:
        return tf.convert_to_tensor(self.experimental_local_results(value)[0])


def strategy(timeout: float = 20.0) -> tf.distribute.Strategy:
    """Returns the strategy for the workers in `TF_CONFIG`.

    Call it before TensorFlow computes anything, then build, compile and fit under its
    `scope()`. `zoo.train` does this itself. `TF_CONFIG` has the form `{"cluster":
    {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}`.

    Args:
        timeout: Float. Seconds to wait for the other workers. Defaults to 20.

    Returns:
        A `MultiWorkerStrategy`, or TensorFlow's current strategy for one worker.

    Raises:
        ValueError: If `TF_CONFIG` is wrong.
        OSError: If another process has this worker's port.
        TimeoutError: If not all workers connect within about `timeout` seconds.

    Example:

    >>> with strategy().scope():
    ...     model = zoo.LeNet5()
    """
    cluster = read_cluster(os.environ)
    if cluster is None or len(cluster[0]) == 1:
        return tf.distribute.get_strategy()
    if cluster not in _connected:
        _connected[cluster] = _connect(*cluster, timeout)
    return _connected[cluster]


# The strategy of a cluster. A process can make only one.
_connected: dict[Any, MultiWorkerStrategy] = {}


def read_cluster(environment: Mapping[str, str]) -> tuple[tuple[str, ...], int] | None:
    """Returns the `host:port` of all workers in `TF_CONFIG`, and the index of this one.

    Returns `None` if `TF_CONFIG` is not set, and raises a ValueError if it is wrong.
    """
    text = environment.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        chiefs = jobs.get("chief", [])
        addresses = [*chiefs, *jobs.get("worker", [])]
        index = int(task["index"]) + (len(chiefs) if task["type"] == "worker" else 0)
        is_valid = (
            task["type"] in jobs.keys() <= {"chief", "worker"}
            and 0 <= index < len(addresses) == len(set(addresses))
            and all(host and 0 < port < 65536 for host, port in map(_split, addresses))
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        is_valid = False
    if not is_valid:
        raise ValueError(
            '`TF_CONFIG` must be of the form {"cluster": {"worker": ["HOST:PORT", '
            '...]}, "task": {"type": "worker", "index": 0}}, with different addresses. '
            f"Received: TF_CONFIG={text}."
        )
    return tuple(addresses), index


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _connect(addresses: tuple[str, ...], index: int, timeout: float) -> Any:
    """Makes the strategy, which connects the workers."""
    from tensorflow.python.eager import context

    _, port = _split(addresses[index])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        message = f"Choose a free port in TF_CONFIG ({error.strerror}). Received: "
        raise OSError(error.errno, f"{message}port={port}.") from error
    # By default, the chief hangs if a worker is missing, and the others wait for an
    # hour. TensorFlow has no public function to change this.
    spec = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    jobs = sorted(spec.jobs)  # The chief comes before the workers.
    make_job = context.coordination_config_pb2.CoordinatedJob
    context.context().configure_coordination_service(
        "standalone",
        service_leader=f"/job:{jobs[0]}/replica:0/task:0",
        cluster_register_timeout_in_ms=round(1000 * timeout),
        coordinated_jobs=[
            make_job(name=job, num_tasks=spec.num_tasks(job)) for job in jobs
        ],
    )
    context.context().coordination_service.cluster_register_with_barrier = True
    try:
        if index > 0:
            _wait_for(addresses[0], timeout)
        return MultiWorkerStrategy()
    except (tf.errors.DeadlineExceededError, TimeoutError) as error:
        reason = str(error).partition("Additional GRPC")[0].splitlines()
        raise TimeoutError(
            "Not all workers of TF_CONFIG have connected. Start all of them, with the "
            "same TF_CONFIG except for `index`, and allow connections between them "
            f"both ways. Received: timeout={timeout:g}, addresses={addresses}, "
            f"reason={reason}."
        ) from error


def _wait_for(address: str, timeout: float) -> None:
    """Waits until the chief listens: TensorFlow 2.19 would wait for an hour."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(_split(address), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(f"no connection to {address}: {error}") from error
        time.sleep(0.1)
