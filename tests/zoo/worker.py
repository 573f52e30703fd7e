"""One worker of `test_distributed.py`: python worker.py FOLDER EPOCHS."""

import pathlib
import sys

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
