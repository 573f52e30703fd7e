"""Trains a model on several processes with JAX, each of which runs this script.

    python examples/train_on_jax.py HOST:PORT PROCESSES INDEX

HOST:PORT is an address of the process whose INDEX is 0, with a free port. The processes
share each batch. A restarted run resumes from the last checkpoint in OUTPUT, a folder
that all processes can read.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when imported.

import keras
import typer

import zoo


def main(
    address: str,
    processes: int,
    index: int,
    model: str = "convnet",
    dataset: str = "mnist",
    epochs: int | None = None,
    output: str = "run",
) -> None:
    keras.distribution.initialize(address, processes, index)
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(auto_shard_dataset=False)
    )
    zoo.train(
        model, dataset, epochs=epochs, output_dir=output, save_freq=200, resume=True
    )


if __name__ == "__main__":
    typer.run(main)
