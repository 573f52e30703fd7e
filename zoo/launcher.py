"""Training on several workers that Ray Train starts, watches and restarts."""

import contextlib
import dataclasses
import os
import pathlib
import sys
import tempfile
from typing import Any

import keras

from zoo import terminal
from zoo.datasets import DatasetUnavailableError, dataset_info
from zoo.ray_cluster import prepare_ray, ray_cluster
from zoo.recipes import Recipe, load_recipe
from zoo.registry import create
from zoo.training import Report, find_checkpoint_dir, train


def train_on_workers(
    workers: int,
    model: str,
    dataset: str,
    recipe: Any = None,
    *,
    output_dir: str | os.PathLike[str],
    max_failures: int = 10,
    resume: bool = False,
    **options: Any,
) -> Report:
    """Trains a model by a recipe on several workers, which share out each batch.

    Ray Train starts them: on the cluster that `ray job submit` or `RAY_ADDRESS` leads
    to, or else as processes of this machine. When a worker dies, all are started again
    and go on from the last checkpoint, so that the weights are those of a run that was
    not disturbed. See `zoo.distributed` for how they train together.

    Reference: [Ray Train](https://docs.ray.io/en/latest/train/train.html)

    Args:
        workers: number of them, with a GPU each if the cluster has as many.
        model, dataset: names, as in `zoo.train`.
        recipe: as in `zoo.train`.
        output_dir: folder for all that `zoo.train` writes, which every worker can read
            and the first can write.
        max_failures: how many times the workers are started again.
        resume: as in `zoo.train`.
        options: further arguments of `zoo.train`.

    Returns:
        A `Report`, with the trained model.

    Raises:
        ValueError: an argument is wrong, the cluster has fewer CPUs than workers, or
            Keras' backend is not TensorFlow.
        FileExistsError: there is a checkpoint and `resume` is false.
        ImportError: Ray is not installed.
        RuntimeError: the workers failed more often than `max_failures`.

    Example:

    ```python
    report = zoo.train_on_workers(2, "lenet5", "mnist", output_dir="run")
    ```
    """
    if type(workers) is not int or workers < 1:
        raise ValueError(
            f"`workers` must be a positive integer. Received: workers={workers!r}."
        )
    for name, value in (("model", model), ("dataset", dataset)):
        if not isinstance(value, str):
            raise ValueError(
                f"Workers find the {name} by its name. Received: "
                f"{name}={type(value).__name__}."
            )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Ray Train's workers train with TensorFlow as Keras' backend: set "
            "`KERAS_BACKEND=tensorflow`. Received: backend "
            f"{keras.backend.backend()!r}."
        )
    prepare_ray()
    folder = pathlib.Path(output_dir).absolute()
    find_checkpoint_dir(folder, options.get("checkpoint_dir"), resume)
    if recipe is not None and not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    for name in ("checkpoint_dir", "data_dir"):  # Workers run in other folders.
        if options.get(name) is not None:
            options[name] = pathlib.Path(options[name]).absolute()
    arguments = {"model": model, "dataset": dataset, "recipe": recipe, **options}
    folder.mkdir(parents=True, exist_ok=True)
    with (
        # Ray wants a folder, too, that every worker can write.
        tempfile.TemporaryDirectory(dir=folder, prefix=".ray-") as storage,
        ray_cluster(workers, show_output=True),
        # Where the native libraries of every process write.
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
    ):
        import ray.train
        from ray.train.tensorflow import TensorflowTrainer

        if (cores := ray.cluster_resources().get("CPU", 0)) < workers:
            raise ValueError(
                "Every worker takes a CPU of the cluster, or waits for one. Received: "
                f"workers={workers}, a cluster of {cores:g} CPUs."
            )
        trainer = TensorflowTrainer(
            _work,
            train_loop_config={**arguments, "output_dir": folder, "resume": True},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=ray.cluster_resources().get("GPU", 0) >= workers,
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
                f"The workers failed more than {max_failures} times. {error}"
            ) from error
    if isinstance(outcome, Exception):
        raise outcome
    about = dataset_info(dataset, data_dir=options.get("data_dir"))
    trained = create(
        model,
        weights=folder / "trained.weights.h5",
        input_shape=about.image_shape,
        classes=len(about.classes),
        **outcome.recipe.arguments,
    )
    return dataclasses.replace(outcome, model=trained)


def _work(arguments: dict[str, Any]) -> Report | Exception:
    """What a worker runs. A mistake that every try would repeat is no failure."""
    # Ray means it for `tf.keras`, with which there is nothing to do here.
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    terminal.be_quiet()
    try:
        with contextlib.redirect_stderr(sys.stdout):  # Which the caller sees.
            report = train(**arguments)
    except (ValueError, TypeError, ImportError, DatasetUnavailableError) as error:
        return error
    return dataclasses.replace(report, model=None, gradient_norms=None)
