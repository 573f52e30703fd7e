"""The graph decodes image files as Pillow does."""

import functools
import io
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from exports import encode, examples, photograph, saved
from keras import layers
from PIL import ExifTags, Image
from redrawn_digits import STYLES, redraw

import zoo
from zoo.data.images import read_image
from zoo.exporting.loading import load_exported
from zoo.exporting.versions import export


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    """By number of channels: a function from files to the pixels a model receives.

    The logits of the exported models are their pixels / 255. The logarithms of the
    probabilities are the logits up to a constant, which a known pixel gives.
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

    def pixels(exported, reference, file):
        logits = np.log(exported.predict([file])["probabilities"].astype("float64"))
        values = 255 * logits[0].reshape(reference.shape)
        return values + np.median(reference - values)

    return {channels: functools.partial(pixels, build(channels)) for channels in (1, 3)}


def decoded(file, channels):
    return read_image(io.BytesIO(file), (8, 8, channels)).astype("float64")


@pytest.mark.parametrize("size", [(8, 8), (31, 20), (300, 7), (5, 5), (1, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_files(decoders, channels, mode, size):
    image = photograph("RGB" if mode == "P" else mode, size)
    if mode == "P":
        image = image.quantize(64)
    expected = decoded(saved(image), channels)
    received = decoders[channels](expected, saved(image))
    assert np.abs(received - expected).max() < (1.1 if size != (8, 8) else 0.6)
    if size == (8, 8) and (channels == 3 or mode in ("L", "1", "LA")):
        assert np.abs(received - expected).max() < 0.01


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_files(decoders, channels, mode, options):
    file = saved(photograph(mode, (200, 120)), "jpeg", quality=95, **options)
    expected = decoded(file, channels)
    received = decoders[channels](expected, file)
    assert np.abs(received - expected).max() < 3  # Decoders of JPEG differ a little.


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_jpeg_files_are_turned_upright(decoders, orientation, endian):
    exif = Image.Exif()
    exif.endian = endian
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Software] = "1.0"
    file = saved(photograph("RGB", (64, 40)), "jpeg", quality=98, exif=exif)
    expected = decoded(file, 3)
    received = decoders[3](expected, file)
    assert np.abs(received - expected).max() < 6  # A wrong turn differs by 90 or more.


def test_png_of_16_bits(decoders):
    expected = np.array(photograph("L", (8, 8)))
    deep = tf.io.encode_png(expected[..., None].astype("uint16") * 257).numpy()
    received = decoders[1](expected, deep)
    assert np.abs(received - expected).max() < 0.01


def test_files_of_different_kinds_in_one_batch(model, exported, pixels):
    files = [encode(pixels[0]), encode(np.repeat(pixels[1], 3, -1)), encode(pixels[2])]
    expected = model.predict(pixels[:3], verbose=0)
    received = exported.predict(files)["probabilities"]
    np.testing.assert_allclose(received, expected, 0, 1e-6)


def test_files_become_the_same_pixels_in_the_graph_and_in_python(tmp_path):
    """On 500 redrawn digits: a wrong polarity would change nearly all pixels."""
    model = zoo.LeNet5(weights="mnist")
    exported = load_exported(export(model, tmp_path))
    assert exported._contract["normalization"] == "mnist"
    images, _ = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    rng, styles = np.random.default_rng(2), itertools.cycle(STYLES)
    files = [
        redraw(image[..., 0], style, rng, largest=150)
        for image, style in zip(images[:500], styles, strict=False)
    ]
    expected = model.predict(zoo.read_images(files, model), verbose=0)
    received = exported.predict([file.getvalue() for file in files])
    same = received["class_id"] == expected.argmax(-1)
    assert same.mean() >= 0.99
    difference = np.abs(received["probabilities"] - expected).max(1)
    assert np.quantile(difference, 0.99) < 0.05
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
    expected = decoded(file, 3)
    received = decoders[3](expected, file)
    assert np.abs(received - expected).max() < 6
