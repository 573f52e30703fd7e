"""Searches for the learning rate and weight decay of a recipe, with Ray Tune.

    pip install '.[distributed]'
    python examples/sweep.py

Every trial is a `zoo.train`, scored on the validation images. The trials run in
parallel, on this machine or on the Ray cluster at `RAY_ADDRESS`.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when imported.

from ray import tune

import zoo


def main(
    model: str = "lenet5",
    dataset: str = "mnist",
    epochs: int = 5,
    trials: int = 20,
    output_dir: str = "sweep",
) -> zoo.Recipe:
    def make_recipe(config: dict) -> zoo.Recipe:
        optimizer = {"name": "AdamW", **config}
        return zoo.Recipe(model, dataset, epochs=epochs, optimizer=optimizer)

    def train(config: dict) -> None:
        report = zoo.train(model, dataset, make_recipe(config), verbose=0)
        tune.report({"val_accuracy": report.history["val_accuracy"][-1]})

    tuner = tune.Tuner(
        train,
        param_space={
            "learning_rate": tune.loguniform(1e-4, 1e-2),
            "weight_decay": tune.loguniform(1e-4, 1e-1),
        },
        tune_config=tune.TuneConfig(
            metric="val_accuracy", mode="max", num_samples=trials
        ),
        run_config=tune.RunConfig(storage_path=os.path.abspath(output_dir), verbose=0),
    )
    results = tuner.fit()
    table = results.get_dataframe().sort_values("val_accuracy", ascending=False)
    columns = ["config/learning_rate", "config/weight_decay", "val_accuracy"]
    print(table[columns].to_string(index=False))
    best = make_recipe(results.get_best_result().config)
    print(f"best: {best.optimizer}")
    return best


if __name__ == "__main__":
    main()
