"""The graph decodes image files as Pillow does."""

import functools
import io
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from exports import examples, photograph, saved
from keras import layers
from PIL import ExifTags, Image
from redrawn_digits import STYLES, redraw

import zoo
from zoo.data.images import read_image
from zoo.exporting.loading import load_exported
from zoo.exporting.versions import export


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    """By number of channels: a function that decodes files in Pillow and in the graph.

    It returns the largest difference of each file in gray levels. The logits of the
    exported models are their pixels / 255. The logarithms of the probabilities are the
    logits up to a constant, which a known pixel gives.
    """

    def build(channels):
        model = keras.Sequential(
            [
                keras.Input((8, 8, channels)),
                layers.Rescaling(1 / 255),
                layers.Flatten(),
                layers.Dense(64 * channels, kernel_initializer="identity"),
            ]
        )
        return load_exported(export(model, tmp_path_factory.mktemp("decoder")))

    def differences(exported, channels, files):
        answers = exported.predict(files)["probabilities"].astype("float64")
        expected = np.stack([decoded(file, channels) for file in files])
        off = 255 * np.log(answers).reshape(expected.shape) - expected
        return np.abs(off - np.median(off, (1, 2, 3), keepdims=True)).max((1, 2, 3))

    return {c: functools.partial(differences, build(c), c) for c in (1, 3)}


def decoded(file, channels):
    return read_image(io.BytesIO(file), (8, 8, channels)).astype("float64")


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files(decoders, channels):
    """One batch holds files of all modes and several sizes."""
    modes = ["L", "RGB", "RGBA", "P", "1", "LA"]
    sizes = [(8, 8), (31, 20), (300, 7), (5, 5), (1, 1)]

    def draw(mode, size):
        image = photograph("RGB" if mode == "P" else mode, size)
        return image.quantize(64) if mode == "P" else image

    files = [saved(draw(mode, size)) for mode in modes for size in sizes]
    differences = decoders[channels](files).reshape(len(modes), len(sizes))
    for mode, (same_size, *others) in zip(modes, differences, strict=True):
        is_exact = channels == 3 or mode in ("L", "1", "LA")
        assert same_size < (0.01 if is_exact else 0.6), mode
        assert np.max(others) < 1.1, mode


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_files(decoders, channels, mode):
    image = photograph(mode, (200, 120))
    files = [saved(image, "jpeg", quality=95, progressive=p) for p in (False, True)]
    assert decoders[channels](files).max() < 3  # Decoders of JPEG differ a little.


@pytest.mark.parametrize("endian", "<>")
def test_jpeg_files_are_turned_upright(decoders, endian):
    files = []
    for orientation in range(10):
        exif = Image.Exif()
        exif.endian = endian
        exif[ExifTags.Base.Make] = "A camera"
        exif[ExifTags.Base.Orientation] = orientation
        exif[ExifTags.Base.Software] = "1.0"
        image = photograph("RGB", (64, 40))
        files.append(saved(image, "jpeg", quality=98, exif=exif))
    assert decoders[3](files).max() < 6  # A wrong turn differs by 90 or more.


def test_png_of_16_bits(decoders):
    pixels = np.array(photograph("L", (8, 8)))[..., None]
    deep = tf.io.encode_png(pixels.astype("uint16") * 257).numpy()
    assert (decoded(deep, 1) == pixels).all()
    assert decoders[1]([deep]) < 0.01


def test_files_become_the_same_pixels_in_the_graph_and_in_python(tmp_path):
    """On 120 redrawn digits: a wrong polarity would change nearly all pixels."""
    model = zoo.LeNet5(weights="mnist")
    exported = load_exported(export(model, tmp_path))
    assert exported._contract["normalization"] == "mnist"
    images, _ = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    rng, styles = np.random.default_rng(2), itertools.cycle(STYLES)
    files = [
        redraw(image[..., 0], style, rng, largest=150)
        for image, style in zip(images[:120], styles, strict=False)
    ]
    expected = model.predict(zoo.read_images(files, model), verbose=0)
    received = exported.predict([file.getvalue() for file in files])
    same = received["class_id"] == expected.argmax(-1)
    assert (~same).sum() <= 1
    difference = np.abs(received["probabilities"] - expected).max(1)
    assert np.sort(difference)[-2] < 0.05
    messages = examples("image/encoded", [[file.getvalue()] for file in files[:6]])
    classified = exported._run("classify", {"inputs": np.array(messages, object)})
    np.testing.assert_allclose(
        classified["scores"][:, 0], received["probabilities"][:6].max(1), atol=1e-6
    )


@pytest.mark.parametrize("name", ["png", "jpeg"])
def test_the_orientation_is_that_of_the_image(decoders, name):
    """Not one behind a long comment, or that of a thumbnail."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    options = {"exif": exif}
    if name == "jpeg":
        options["comment"] = b"x" * 60_000  # It comes before the Exif data.
    thumbnail = exif.get_ifd(ExifTags.IFD.IFD1)
    thumbnail[ExifTags.Base.Orientation] = 3
    file = saved(photograph("RGB", (64, 40)), name, **options)
    assert decoders[3]([file]) < 6
