"""Ray, which starts processes on this machine or on those of a cluster."""

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator

import keras

# Read when Ray is imported or starts.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # reports to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",  # serves a dashboard
    "RAY_TRAIN_METRICS_ENABLED": "0",  # likewise
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # logs beside those of `train`
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # waits for the runs upon Ctrl-C
}

# Processes may share a GPU with each other, and with the one that starts them.
GPU_SETTINGS = {
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def prepare_ray() -> None:
    """Sets what Ray reads, and what TensorFlow and JAX read before they see a GPU.

    Raises:
        ImportError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ImportError(
            "Workers and sweeps are started by the package ray: "
            '`pip install "gradzoo[distributed]"`.'
        )
    for name, value in (SETTINGS | GPU_SETTINGS).items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def ray_cluster(cores: int = 1, *, show_output: bool = False) -> Iterator[None]:
    """Ray, as it runs already, on the cluster at `RAY_ADDRESS`, or started here.

    Args:
        cores: how many to act as having, at the least, if it is started here.
        show_output: whether to print what the processes print.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    here = {
        "address": "local",
        "num_cpus": max(cores, os.cpu_count() or 1),
        "include_dashboard": False,
    }
    backend = {"KERAS_BACKEND": keras.backend.backend()}
    with warnings.catch_warnings():
        # JAX warns of forks, which here only start other programs.
        warnings.filterwarnings("ignore", r"os\.fork\(\)", RuntimeWarning)
        ray.init(
            **({} if "RAY_ADDRESS" in os.environ else here),
            log_to_driver=show_output,
            logging_level=logging.CRITICAL,
            logging_config=ray.LoggingConfig(log_level="ERROR"),
            runtime_env={"env_vars": GPU_SETTINGS | backend},
        )
    try:
        yield
    finally:
        ray.shutdown()
