"""Labels any number of images with Ray Data, on this machine or on a cluster.

Run `python examples/label_images.py IMAGES OUTPUT [WEIGHTS]`. Each row of the Parquet
files in OUTPUT has `path`, `label`, `probability` and `error`; `error` says why a file
could not be read, and is null otherwise.
"""

import io
import sys

import numpy as np
import pyarrow as pa
import ray.data

import zoo
from zoo.data.images import IMAGE_SUFFIXES


class Labeler:
    """Loads a model once per worker and labels batches of image files."""

    def __init__(self, weights: str) -> None:
        card = zoo.get_weights(weights)
        self.shape, self.labels = card.input_shape, card.categories
        self.model = zoo.create(card.model, weights=card)

    def __call__(self, files: pa.Table) -> pa.Table:
        pixels = np.zeros((len(files), *self.shape), "uint8")
        errors: list[str | None] = [None] * len(files)
        for i, content in enumerate(files["bytes"]):
            try:
                [pixels[i]] = zoo.read_images([io.BytesIO(content.as_py())], self.model)
            except OSError as error:
                errors[i] = str(error)
        probabilities = self.model.predict_on_batch(pixels)
        labels = [self.labels[i] for i in probabilities.argmax(axis=1)]
        unread = np.array([error is not None for error in errors])
        columns = {
            "path": files["path"],
            "label": pa.array(labels, pa.string(), mask=unread),
            "probability": pa.array(probabilities.max(axis=1), mask=unread),
            "error": pa.array(errors, pa.string()),
        }
        return pa.table(columns)


def main(images: str, output: str, weights: str = "convnet.mnist") -> None:
    extensions = [suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES]
    files = ray.data.read_binary_files(
        images, include_paths=True, file_extensions=extensions
    )
    labeled = files.map_batches(
        Labeler, fn_constructor_args=[weights], batch_size=256, batch_format="pyarrow"
    )
    labeled.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
