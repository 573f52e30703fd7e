"""Exports a model and classifies an image file with the SavedModel alone."""

import pathlib
import sys

import tensorflow as tf

import zoo


def main(base_path: str = "serving/lenet5") -> None:
    model = zoo.LeNet5(weights="mnist")
    path = zoo.export(model, base_path)

    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    png = pathlib.Path(base_path) / "digit.png"
    png.write_bytes(tf.io.encode_png(images[0]).numpy())

    # TF Serving runs the same signature for a request with an image file.
    served = tf.saved_model.load(str(path))
    answer = served.signatures["serving_bytes"](tf.constant([png.read_bytes()]))
    print(f"version {path.name}: {png.name} is a {answer['label'][0].numpy().decode()}")
    print(f"its label: {labels[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
