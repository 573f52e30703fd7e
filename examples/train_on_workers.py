"""Trains a model on several workers with Ray Train, which restarts those that die.

    pip install '.[distributed]'
    python examples/train_on_workers.py --workers 2

The workers share each batch. After a restart they resume from the last checkpoint, and
the final weights are bit-identical to those of an undisturbed run. They run on this
machine, or on the Ray cluster at `RAY_ADDRESS`, which needs a folder that all nodes
share.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when imported.

import typer
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer


def work(arguments: dict) -> None:
    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # Ray sets it for `tf.keras`.
    import zoo

    report = zoo.train(**arguments)
    print(report)


def main(
    model: str = "lenet5",
    data: str = "mnist",
    recipe: str | None = None,
    epochs: int | None = None,
    output: str = "run",
    every: int = 200,
    workers: int = 2,
    use_gpu: bool = False,
) -> None:
    output = os.path.abspath(output)
    arguments = {"model": model, "data": data, "recipe": recipe, "epochs": epochs}
    arguments |= {"output_dir": output, "save_freq": every, "resume": True}
    TensorflowTrainer(
        work,
        train_loop_config={**arguments, "gradient_norms": True, "verbose": 2},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(
            storage_path=os.path.join(output, "ray"),
            failure_config=FailureConfig(max_failures=10),
        ),
    ).fit()


if __name__ == "__main__":
    typer.run(main)
