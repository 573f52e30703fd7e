"""Which trick brings the gradient back to a deep sigmoid MLP?

Trains ten hidden layers with one trick after the other, and prints the gradient norm of
the first hidden layer relative to the last, as the median over the first epoch.
"""

import numpy as np

import zoo
from zoo.callbacks import GradientNorms

TRICKS = {
    "none": {},
    "tanh": {"activation": "tanh"},
    "relu, He": {"activation": "relu"},
    "batch normalisation": {"normalization": "batch"},
    "residual paths": {"residual": True},
    "all but tanh": {"activation": "relu", "normalization": "batch", "residual": True},
}


def main(epochs: int = 3) -> None:
    train = zoo.load_dataset("digits-sample", "train", as_="numpy")
    validation = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    print(f"{'trick':20} {'first / last':>12} {'accuracy':>9}  verdict")
    for trick, arguments in TRICKS.items():
        model = zoo.DeepMLP(**arguments)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        norms = GradientNorms()
        model.fit(*train, epochs=epochs, callbacks=[norms], verbose=0)
        ratio = np.median(norms.history["dense1"] / norms.history["dense10"])
        accuracy = zoo.evaluate(model, validation)["accuracy"]
        verdict = norms.diagnose().verdict
        print(f"{trick:20} {ratio:12.1e} {accuracy:9.1%}  {verdict}")


if __name__ == "__main__":
    main()
