"""The graph decodes image files as Pillow does."""

import functools
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from exports import encode, photograph, saved
from keras import layers
from PIL import ExifTags, Image, ImageOps

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


def resized(image, channels):
    color = image.convert("RGB")
    image = color.convert("L") if channels == 1 else color
    return np.array(image.resize((8, 8), Image.Resampling.BILINEAR), "float64")


@pytest.mark.parametrize("size", [(8, 8), (31, 20), (300, 7), (5, 5), (1, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_files(decoders, channels, mode, size):
    image = photograph("RGB" if mode == "P" else mode, size)
    if mode == "P":
        image = image.quantize(64)
    expected = resized(image, channels)
    received = decoders[channels](expected, saved(image))
    assert np.abs(received - expected).max() < (1.1 if size != (8, 8) else 0.6)
    if size == (8, 8) and (channels == 3 or mode in ("L", "1", "LA")):
        assert np.abs(received - expected).max() < 0.01


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_files(decoders, channels, mode, options):
    file = saved(photograph(mode, (200, 120)), "jpeg", quality=95, **options)
    expected = resized(Image.open(io.BytesIO(file)), channels)
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
    expected = resized(ImageOps.exif_transpose(Image.open(io.BytesIO(file))), 3)
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
