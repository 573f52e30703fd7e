"""Compares remedies for the vanishing gradient in a deep sigmoid MLP.

Trains ten hidden layers with one remedy after the other. Prints the gradient norm of
the first hidden layer relative to the last, as the median over training, and the
verdict.
"""

import numpy as np

import zoo
from zoo.callbacks import GradientNorms

FAULT = {"activation": "sigmoid", "normalization": None, "residual": False}
REMEDIES = {
    "none": {},
    "tanh": {"activation": "tanh"},
    "relu, He": {"activation": "relu"},
    "batch normalization": {"normalization": "batch"},
    "residual connections": {"residual": True},
    "all but tanh": {"activation": "relu", "normalization": "batch", "residual": True},
}


def main(epochs: int = 3) -> None:
    train = zoo.load_dataset("digits-sample", "train", as_="numpy")
    validation = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    print(f"{'remedy':20} {'first / last':>12} {'accuracy':>9}  verdict")
    for remedy, arguments in REMEDIES.items():
        model = zoo.DeepMLP((128,) * 10, **{**FAULT, **arguments})
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        norms = GradientNorms()
        model.fit(*train, epochs=epochs, callbacks=[norms], verbose=0)
        ratio = np.median(norms.history["dense1"] / norms.history["dense10"])
        accuracy = zoo.evaluate(model, validation)["accuracy"]
        verdict = norms.diagnose().verdict
        print(f"{remedy:20} {ratio:12.1e} {accuracy:9.1%}  {verdict}")


if __name__ == "__main__":
    main()
