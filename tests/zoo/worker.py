"""One of several workers: python worker.py FOLDER EPOCHS [ADDRESS COUNT INDEX].

On TensorFlow, `TF_CONFIG` says which of them this is; on JAX, the last three words.
"""

import pathlib
import sys

import keras

import zoo

RECIPE = zoo.Recipe(
    model="deep_mlp",
    dataset="digits-sample",
    epochs=int(sys.argv[2]),
    batch_size=100,
    arguments={"hidden_units": [32, 32], "activation": "relu"},
    augmentation={"rotation": 10},
)

if __name__ == "__main__":
    if place := sys.argv[3:]:
        keras.distribution.initialize(place[0], int(place[1]), int(place[2]))
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
    zoo.train(
        "deep_mlp",
        "digits-sample",
        RECIPE,
        output_dir=pathlib.Path(sys.argv[1]),
        save_freq=5,
        resume=True,
        gradient_norms=True,
        verbose=0,
    )
