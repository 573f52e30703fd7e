"""Two small TFDS datasets; only the second has a validation split.

As for MNIST and Fashion-MNIST, their source files have the same name.
"""

import gzip
import hashlib
import os
import pathlib
import time

import numpy as np
import tensorflow_datasets as tfds

SEEDS = {"tiny_flags": 1, "tiny_sails": 2}
PREPARE_TINY_FLAGS = """
import tiny_datasets
from zoo.data.datasets import prepare_dataset
prepare_dataset("tiny_flags", source_dir=sys.argv[1], data_dir=sys.argv[2])
"""


def tiny_images(seed):
    """Returns 35 images; the first pixel holds the label, the second the number."""
    images = np.random.default_rng(seed).integers(0, 256, (35, 4, 5, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(35) % 3
    images[:, 0, 0, 1] = np.arange(35)
    return images


def tiny_archive(seed):
    return gzip.compress(tiny_images(seed).tobytes(), mtime=0)


def tiny_url_infos(seed):
    url_info = tfds.core.download.checksums.UrlInfo(
        size=len(tiny_archive(seed)),
        checksum=hashlib.sha256(tiny_archive(seed)).hexdigest(),
        filename="tiny.bin.gz",
    )
    return {f"http://tiny.invalid/{seed}/tiny.bin.gz": url_info}


class TinyFlags(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    SPLITS = (("train", 0, 30), ("test", 30, 35))
    url_infos = tiny_url_infos(1)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Small flags.",
            homepage="http://tiny.invalid",
            citation="Nobody: Tiny flags.",
            license="CC0",
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
            split: self._generate_examples(images[start:end])
            for split, start, end in self.SPLITS
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
    SPLITS = (("train", 0, 24), ("validation", 24, 30), ("test", 30, 35))
    url_infos = tiny_url_infos(2)
