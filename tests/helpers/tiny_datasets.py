"""Two small datasets that are prepared like MNIST and Fashion-MNIST.

As with these two, their source files have the same name.
"""

import gzip
import hashlib
import os
import pathlib
import time

import numpy as np
import tensorflow_datasets as tfds

from zoo.data.catalog import DatasetInfo, SourceFile

SEEDS = {"tiny_flags": 1, "tiny_sails": 2}
PREPARE_TINY_FLAGS = """
import tiny_datasets
from zoo.data import catalog, datasets
catalog.DESCRIBED |= tiny_datasets.DESCRIBED
datasets.prepare_dataset("tiny_flags", source_dir=sys.argv[1], data_dir=sys.argv[2])
"""


def tiny_images(seed):
    """Returns 35 images; the first pixel holds the label, the second the number."""
    images = np.random.default_rng(seed).integers(0, 256, (35, 4, 5, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(35) % 3
    images[:, 0, 0, 1] = np.arange(35)
    return images


def tiny_archive(seed):
    return gzip.compress(tiny_images(seed).tobytes(), mtime=0)


def describe_tiny(name):
    content, file = tiny_archive(SEEDS[name]), "tiny.bin.gz"
    checksum = hashlib.sha256(content).hexdigest()
    url = f"http://tiny.invalid/{name}/{file}"
    return DatasetInfo(
        name=name,
        version="1.2.0",
        classes=("red", "green", "blue"),
        image_shape=(4, 5, 3),
        splits={"train": 25, "validation": 5, "train+validation": 30, "test": 5},
        source="http://tiny.invalid",
        license="CC0",
        citation="Nobody: Tiny flags.",
        files=(SourceFile(file, url, len(content), checksum),),
    )


DESCRIBED = {name: describe_tiny(name) for name in SEEDS}


def tiny_url_infos(name):
    url_info = tfds.core.download.checksums.UrlInfo
    [file] = DESCRIBED[name].files
    return {file.url: url_info(file.size, file.sha256, file.name)}


class TinyFlags(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    url_infos = tiny_url_infos("tiny_flags")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            supervised_keys=("image", "label"),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(4, 5, 3)),
                    "label": tfds.features.ClassLabel(names=["red", "green", "blue"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        (url,) = self.url_infos
        path = dl_manager.download_and_extract(url)
        content = np.frombuffer(pathlib.Path(path).read_bytes(), np.uint8)
        images = content.reshape(-1, 4, 5, 3)
        return {
            "train": self._generate_examples(images[:30]),
            "test": self._generate_examples(images[30:]),
        }

    def _generate_examples(self, images):
        for number, image in enumerate(images):
            # A test that stops a preparation half-way waits for the file named here.
            if number == 3 and (half_way := os.environ.get("TINY_HALF_WAY")):
                with open(half_way, "a") as file:
                    file.write("half-way\n")
                time.sleep(float(os.environ["TINY_PAUSE_SECONDS"]))
            yield number, {"image": image, "label": int(image[0, 0, 0])}


class TinySails(TinyFlags):
    url_infos = tiny_url_infos("tiny_sails")
