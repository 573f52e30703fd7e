"""Models, images and folders for the tests of exports."""

import functools
import io
import os
import pickle
import struct
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from paths import HELPERS
from PIL import Image, PngImagePlugin

ENVIRONMENT = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def lenet(name="lenet"):
    """A small convolutional classifier of ten classes that ends in softmax."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(10, name="logits", kernel_initializer="random_normal"),
            layers.Activation("softmax", dtype="float32"),
        ],
        name=name,
    )


def vector():
    return keras.Sequential(
        [keras.Input((784,)), layers.Rescaling(1 / 255), layers.Dense(10, "softmax")]
    )


def gray_without_channel():
    inputs = keras.Input((28, 28), dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(10)(x)))


def color_logits():
    inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def random_layers():
    """Layers that training and prediction run differently."""
    normalization = layers.BatchNormalization()
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.RandomRotation(0.5),
            layers.RandomTranslation(0.2, 0.2),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3),
            normalization,
            layers.GaussianNoise(0.3),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, "softmax"),
        ]
    )
    normalization.set_weights([np.full(4, value) for value in (2.0, 0.1, 0.3, 4.0)])
    return model


def mixed_precision():
    """Nested, with float16 in the inner and the outer model."""
    inner = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, activation="relu", dtype="mixed_float16"),
            layers.Flatten(dtype="mixed_float16"),
        ]
    )
    inputs = keras.Input((28, 28, 1))
    x = inner(layers.Rescaling(1 / 255, dtype="mixed_float16")(inputs))
    x = layers.Dense(10, dtype="mixed_float16")(x)
    return keras.Model(inputs, layers.Activation("softmax", dtype="float32")(x))


def random_pixels(model, n=12, seed=0):
    shape = (n, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


def in_form(pixels, dataset):
    """Makes black what images in the form of a dataset have black."""
    framed = np.zeros_like(pixels)
    part = slice(5, 24) if dataset == "mnist" else slice(1, 27)
    inner = pixels[:, part, part]
    # The center of mass of a symmetric image is its middle.
    framed[:, part, part] = np.maximum(inner, inner[:, ::-1, ::-1])
    return framed


def saved(image, format="png", **options):
    """The bytes of a Pillow image in a file format."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def encode(pixels, format="png"):
    return saved(Image.fromarray(np.squeeze(pixels)), format)


@functools.cache
def photograph(mode, size):
    """A smooth picture with an edge, of the given Pillow mode and (width, height)."""
    width, height = size
    y, x = np.mgrid[:height, :width] / max(size)
    channels = [128 + 120 * np.sin(9 * x), 255 * y, 255.0 * (x > y / 2), 255 * x]
    image = Image.fromarray(np.stack(channels, -1).round().astype("uint8"), "RGBA")
    return image.convert("RGB").convert(mode)


def png_of_size(width, height):
    """A PNG of 28 x 28 pixels whose header states another size."""
    file = saved(Image.new("L", (28, 28)))
    return file[:16] + struct.pack(">II", width, height) + file[24:]


def png_with_texts(count):
    """A PNG with compressed texts, some kilobytes each, of 8 MB each."""
    texts = PngImagePlugin.PngInfo()
    for _ in range(count):
        texts.add_text("Comment", "a" * 8_000_000, zip=True)
    return saved(Image.new("L", (28, 28)), pnginfo=texts)


def examples(feature, values, kind="bytes_list"):
    """Serialized `tf.Example` messages, one per value."""
    serialized = []
    for value in values:
        features = {feature: tf.train.Feature(**{kind: {"value": value}})}
        example = tf.train.Example(features={"feature": features})
        serialized.append(example.SerializeToString())
    return serialized


def tree(folder):
    """The contents of all files below a folder except locks, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def folders(base):
    """The names of the folders in `base`, hidden ones too."""
    return sorted(path.name for path in base.iterdir() if path.is_dir())


def answer_requests(folder, requests):
    """Sends (signature, array) pairs to a version; see `capi.py`."""
    process = subprocess.run(
        [sys.executable, HELPERS / "capi.py", folder],
        input=pickle.dumps(list(requests)),
        capture_output=True,
        env=ENVIRONMENT,
        timeout=1200,  # Against hangs only.
    )
    assert process.returncode == 0, process.stderr.decode()[-2000:]
    return pickle.loads(process.stdout)
