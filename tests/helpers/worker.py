"""One of several workers: python worker.py FOLDER EPOCHS [ADDRESS COUNT INDEX].

TensorFlow reads the place of the worker from `TF_CONFIG`; JAX gets it as arguments.
"""

import sys

import keras
from paths import HELPERS

import zoo

if __name__ == "__main__":
    folder, epochs, *place = sys.argv[1:]
    if place:
        keras.distribution.initialize(place[0], int(place[1]), int(place[2]))
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
    zoo.train(
        "shallow_mlp",
        "digits-sample",
        HELPERS / "worker_recipe.toml",
        epochs=int(epochs),
        output_dir=folder,
        save_freq=5,
        resume=True,
        gradient_norms=True,
        verbose=0,
    )
