"""Training on several workers that Ray Train starts and restarts."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
import tempfile
from typing import Any

import keras

from zoo.data.catalog import DatasetUnavailableError, PathLike
from zoo.errors import require
from zoo.training.opening import open_model
from zoo.training.recipes import Recipe, load_recipe
from zoo.training.run import Report, check_output_dir, train


def train_on_workers(
    workers: int,
    model: str,
    dataset: str,
    recipe: Recipe | PathLike | None = None,
    *,
    output_dir: PathLike,
    max_failures: int = 10,
    resume: bool = False,
    **options: Any,
) -> Report:
    """Trains a model by a recipe on several workers, which share each batch.

    [Ray Train](https://docs.ray.io/en/latest/train/train.html) starts the workers, on
    the cluster of `ray job submit` or `RAY_ADDRESS`, or else on this machine. When a
    worker dies, all are restarted and resume; the final weights are bit-identical.

    Args:
        workers: Integer. Number of workers. Each gets a GPU if there are enough.
        model: String. Name of a model.
        dataset: String. Name of a dataset.
        recipe: As in `zoo.train`. Defaults to `None`.
        output_dir: Path. Folder for the files of `zoo.train`, shared by all workers.
        max_failures: Integer. Number of restarts that are allowed. Defaults to 10.
        resume: Boolean. As in `zoo.train`. Defaults to `False`.
        **options: Further arguments of `zoo.train`.

    Returns:
        A `Report` with the trained model.

    Raises:
        ValueError: If an argument is wrong, there are fewer CPUs than workers, or
            Keras' backend is not TensorFlow.
        FileExistsError: If there is a checkpoint and `resume` is false.
        ImportError: If Ray is not installed.
        RuntimeError: If the workers fail more than `max_failures` times.

    Example:

    ```python
    report = zoo.train_on_workers(2, "lenet5", "mnist", output_dir="run")
    ```
    """
    _check_arguments(workers, model, dataset)
    folder = pathlib.Path(output_dir).absolute()
    check_output_dir(folder, resume)
    if recipe is not None and not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if options.get("data_dir") is not None:  # Workers run in other folders.
        options["data_dir"] = pathlib.Path(options["data_dir"]).absolute()
    options |= {"output_dir": folder, "resume": True}
    arguments = {"model": model, "dataset": dataset, "recipe": recipe, **options}
    folder.mkdir(parents=True, exist_ok=True)
    # Ray writes the standard error of all workers, with the messages of native
    # libraries, to that of this process.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        outcome = _run_workers(workers, arguments, max_failures)
    if isinstance(outcome, Exception):
        raise outcome
    path = folder / "trained.weights.h5"
    trained, _ = open_model(path, data_dir=options.get("data_dir"))
    return dataclasses.replace(outcome, model=trained)


def _check_arguments(workers: int, model: str, dataset: str) -> None:
    if type(workers) is not int or workers < 1:
        raise ValueError(
            f"`workers` must be a positive integer. Received: workers={workers!r}."
        )
    if not isinstance(model, str) or not isinstance(dataset, str):
        raise ValueError(
            "Workers need names. For objects, use `zoo.distributed`. Received: model "
            f"of type {type(model).__name__}, dataset of type {type(dataset).__name__}."
        )
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ValueError(
            "Workers of Ray Train need TensorFlow as Keras' backend: set "
            f"`KERAS_BACKEND=tensorflow`. Received: backend={backend!r}."
        )
    require("ray", "distributed", "Training on workers")


def _run_workers(
    workers: int, arguments: dict[str, Any], max_failures: int
) -> Report | Exception:
    """Runs `train` on all workers; returns the result of the first."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker may share its GPU with this process.
    variables = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "KERAS_BACKEND": "tensorflow"}
    os.environ |= variables
    import ray.train
    from ray.train.tensorflow import TensorflowTrainer

    connection: Any = contextlib.nullcontext()
    if not ray.is_initialized():
        local = {"address": "local", "num_cpus": workers, "include_dashboard": False}
        connection = ray.init(
            **({} if "RAY_ADDRESS" in os.environ else local),
            logging_config=ray.LoggingConfig(log_level="ERROR"),
            runtime_env={"env_vars": variables},
        )
    folder = arguments["output_dir"]
    # Ray needs a folder that every worker can write.
    with connection, tempfile.TemporaryDirectory(dir=folder, prefix=".ray-") as storage:
        resources = ray.cluster_resources()
        if (cpus := resources.get("CPU", 0)) < workers:
            raise ValueError(
                "The cluster needs a CPU for every worker. Received: "
                f"workers={workers} for {cpus:g} CPUs."
            )
        trainer = TensorflowTrainer(
            _work,
            train_loop_config=arguments,
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=resources.get("GPU", 0) >= workers
            ),
            run_config=ray.train.RunConfig(
                storage_path=storage,
                failure_config=ray.train.FailureConfig(max_failures=max_failures),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            outcome: Report | Exception = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise RuntimeError(
                f"The workers failed too often: {error}. Received: "
                f"max_failures={max_failures}."
            ) from error
    return outcome


def _work(arguments: dict[str, Any]) -> Report | Exception:
    """Trains in a worker. Permanent errors are returned; Ray retries the rest."""
    # Ray sets it for `tf.keras`, which is not used here.
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        # Unlike standard error, the caller sees standard output.
        with contextlib.redirect_stderr(sys.stdout):
            report = train(**arguments)
    except (ValueError, TypeError, ImportError, DatasetUnavailableError) as error:
        return error
    return dataclasses.replace(report, model=None, gradient_norms=None)
