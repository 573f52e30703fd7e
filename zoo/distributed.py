"""Training on several machines, by TensorFlow's strategy and its `TF_CONFIG`."""

import contextlib
import dataclasses
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy`, as Keras 3 can use it.

    Keras asks a strategy to reduce tuples of tensors, when it looks at a batch for its
    shapes, and scalars along an axis: the logs of a step. TensorFlow's takes neither
    (keras#20585).
    """

    reduce_batch_logs = True

    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        if isinstance(value, tuple | list | dict):
            return tf.nest.map_structure(self._local, value)
        if axis is not None and self._local(value).shape.rank == 0:
            if not self.reduce_batch_logs:
                return self._local(value)
            axis = None
        return super().reduce(reduce_op, value, axis=axis)

    def _local(self, value: Any) -> tf.Tensor:
        return tf.convert_to_tensor(self.experimental_local_results(value)[0])


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What `TF_CONFIG` says: everyone's `host:port`, and which is this process."""

    addresses: tuple[str, ...]
    index: int


def strategy(
    timeout: float = 20.0, *, reduce_batch_logs: bool = True
) -> tf.distribute.Strategy:
    """The strategy that the environment asks for.

    `TF_CONFIG` is JSON that names every worker, the same for all, and which of them
    this process is: `{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task":
    {"type": "worker", "index": 0}}`. The first is the chief. Call it before TensorFlow
    computes anything, then build, compile and fit under its `scope()`; `zoo.train` does
    so by itself.

    Reference: [Distributed training with Keras](
    https://www.tensorflow.org/guide/distributed_training#TF_CONFIG)

    Args:
        timeout: Seconds that the other workers may take to be there.
        reduce_batch_logs: Whether the logs that callbacks see after each step are of
            all workers, which takes longer than to sum a small model's gradients. If
            not, they are of the worker's own part of the data, and no callback may act
            on them, such as `TerminateOnNaN`, or workers part. The logs of an epoch,
            and of `evaluate`, are of all workers in either case, unless a `train_step`
            of one's own returns what is not in `model.metrics`. A process has one
            strategy, for which the last call decides.

    Returns:
        A `MultiWorkerStrategy`; without `TF_CONFIG`, or with one worker, TensorFlow's
        current strategy.

    Raises:
        ValueError: `TF_CONFIG` is wrong.
        OSError: another process has this worker's port.
        TimeoutError: other workers cannot be reached.

    Example:

    >>> with strategy().scope():
    ...     model = zoo.LeNet5()
    """
    cluster = read_cluster(os.environ)
    if cluster is None or len(cluster.addresses) == 1:
        return tf.distribute.get_strategy()
    joined = _join(cluster, timeout)
    joined.reduce_batch_logs = reduce_batch_logs
    return joined


@functools.cache
def _join(cluster: Cluster, timeout: float) -> MultiWorkerStrategy:
    """Makes the strategy, of which a process can have one."""
    meet(cluster, timeout)  # TensorFlow would wait for ever.
    _register_within(timeout)
    try:
        return MultiWorkerStrategy()
    except tf.errors.DeadlineExceededError as error:
        raise TimeoutError(
            "A worker of TF_CONFIG was there, and is not any more: it has died, or the "
            f"network. Received {error.message.partition(chr(10))[0]!r} after "
            f"{timeout:g} s"
        ) from error


def _register_within(timeout: float) -> None:
    """Sets how long TensorFlow waits for all workers to register with the first.

    The first would not wait, and then for ever at its first reduction, for a worker
    that was lost since `meet`; the others would wait for an hour. Whoever has
    registered is missed 10 s after the last sign of life. TensorFlow has no public
    way to set this.
    """
    from tensorflow.python.eager import context

    spec = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    jobs = sorted(spec.jobs)  # A chief comes before the workers.
    context.context().configure_coordination_service(
        "standalone",
        service_leader=f"/job:{jobs[0]}/replica:0/task:0",
        cluster_register_timeout_in_ms=round(1000 * timeout),
        coordinated_jobs=[
            context.coordination_config_pb2.CoordinatedJob(
                name=job, num_tasks=spec.num_tasks(job)
            )
            for job in jobs
        ],
    )
    context.context().coordination_service.cluster_register_with_barrier = True


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """Reads `TF_CONFIG`; None without it.

    Raises:
        ValueError: it does not say which worker this is, and where all of them are.
    """
    text = environment.get("TF_CONFIG", "")
    if not text.strip():
        return None
    form = (
        '{"cluster": {"worker": ["HOST:PORT", ...]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        jobs = config.get("cluster", {})
        task_type, index = config["task"]["type"], int(config["task"]["index"])
        addresses = [*jobs.get("chief", []), *jobs.get("worker", [])]
        if task_type == "worker":
            index += len(jobs.get("chief", []))
        is_right = (
            {task_type} <= {"chief", "worker"} & jobs.keys()
            and jobs.keys() <= {"chief", "worker"}
            and 0 <= index < len(addresses) == len(set(addresses))
            and all(0 < int(a.rpartition(":")[2]) < 65536 for a in addresses)
            and all(a.rpartition(":")[0] for a in addresses)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        is_right = False
    if not is_right:
        raise ValueError(
            f"`TF_CONFIG` must be of the form {form}, with an `index` from 0 and "
            f"addresses that differ. Received: TF_CONFIG={text}"
        )
    return Cluster(tuple(addresses), index)


def meet(cluster: Cluster, timeout: float) -> None:
    """Waits until every worker has reached every other one, at its own port.

    Args:
        cluster: The workers.
        timeout: Seconds that this may take.

    Raises:
        OSError: another process has this worker's port.
        TimeoutError: some workers have not been reached.
    """
    deadline = time.monotonic() + timeout
    others = set(range(len(cluster.addresses))) - {cluster.index}
    port = int(cluster.addresses[cluster.index].rpartition(":")[2])
    try:
        server = socket.create_server(("", port), backlog=len(cluster.addresses))
    except OSError as error:
        message = f"Cannot listen at port {port}, which TF_CONFIG gives this worker"
        raise OSError(error.errno, f"{message}: {error.strerror}") from error
    told, heard = set[int](), set[int]()
    done = threading.Event()

    def welcome() -> None:
        """Hears the index of each worker that calls, and answers with this one's."""
        while not done.is_set():
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(1)
                    if (index := connection.recv(16)).isdigit():
                        connection.sendall(str(cluster.index).encode())
                        heard.add(int(index))

    server.settimeout(0.1)
    listener = threading.Thread(target=welcome)
    listener.start()
    try:
        # A worker leaves when all others have answered it, and called.
        while not told & heard >= others:
            if time.monotonic() > deadline:
                missing = sorted(others - (told & heard))
                raise TimeoutError(
                    f"Workers of TF_CONFIG are not there after {timeout:g} s: do they "
                    "run, with the same TF_CONFIG but for `index`, and may this one "
                    "reach them, and they it? Received nothing from "
                    + ", ".join(cluster.addresses[index] for index in missing)
                )
            for index in others - told:
                host, _, port_there = cluster.addresses[index].rpartition(":")
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection((host, int(port_there)), 1) as connection,
                ):
                    connection.sendall(str(cluster.index).encode())
                    if connection.recv(16) == str(index).encode():
                        told.add(index)
            time.sleep(0.05)
    finally:
        done.set()
        listener.join()
        server.close()
