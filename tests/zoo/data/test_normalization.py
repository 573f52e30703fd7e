"""Images are brought into the form of the training data, however they were made."""

import numpy as np
import pytest
from PIL import Image
from redrawn_digits import STYLES, redraw

import zoo
from zoo.data.images import read_image
from zoo.data.normalization import fit

SHAPE = (28, 28, 1)


def as_rgba(pixels):
    image = Image.fromarray(np.squeeze(pixels)).convert("RGBA")
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_images_of_the_dataset_are_not_changed(name, prepared_data_dir):
    images, _ = zoo.load_dataset(name, "test", as_="numpy", data_dir=prepared_data_dir)
    for image in images:
        np.testing.assert_array_equal(fit(as_rgba(image), SHAPE, name), image)


@pytest.fixture(scope="module")
def convnet():
    return zoo.ConvNet(weights="mnist")


@pytest.mark.parametrize("style", STYLES)
def test_redrawn_digits_are_read_as_the_originals(style, convnet):
    """On training images: the accuracies on test images are in the cards."""
    images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    images, labels = images[:150], labels[:150]
    rng = np.random.default_rng(1)
    files = (redraw(image[..., 0], style, rng, largest=250) for image in images)
    redrawn = zoo.read_images(files, convnet)
    found = convnet.predict(redrawn, verbose=0).argmax(-1)
    assert (found != labels).sum() <= (5 if style == "phone photo" else 2)


@pytest.mark.parametrize("length", [60, 75, 120])
def test_a_short_stroke_is_a_one(length):
    page = Image.new("L", (280, 280), 255)
    page.paste(0, (130, 100, 150, 100 + length))
    pixels = fit(as_rgba(page), SHAPE, "mnist")
    [answer] = zoo.LeNet5(weights="mnist").predict(pixels[None], verbose=0)
    assert answer.argmax() == 1


def digit():
    page = Image.new("L", (200, 160), 255)
    seven = Image.new("L", (40, 60), 255)
    seven.paste(0, (0, 0, 40, 10))
    seven.paste(0, (30, 0, 40, 60))
    page.paste(seven, (120, 30))
    return page


def test_a_digit_has_the_size_and_the_place_of_those_of_mnist(tmp_path):
    digit().save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", SHAPE, "mnist")[..., 0].astype(float)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    assert rows[-1] - rows[0] + 1 in (20, 21, 22)
    assert columns[-1] - columns[0] + 1 in (13, 14, 15)
    for axis in (0, 1):
        mass = pixels.sum(axis) / pixels.sum()
        assert abs(mass @ np.arange(28) - 14) <= 0.6


TABLE = [(0, 0, 200, 9), (0, 0, 12, 160), (0, 150, 200, 160)]  # on three sides
WIDE = [(0, 0, 200, 22), (0, 0, 25, 160), (0, 138, 200, 160), (175, 0, 200, 160)]


def cut_out(page):
    """Makes the margin of a page transparent, as around the window of a screenshot."""
    opaque = Image.new("L", page.size)
    opaque.paste(255, (20, 16, 180, 144))
    page.putalpha(opaque)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda page: page.paste(90, (0, 0, 12, 160)),  # the edge of a table
        lambda page: [page.paste(90, box) for box in TABLE],
        lambda page: [page.paste(0, box) for box in WIDE],  # as dark as the ink
        cut_out,
        lambda page: page.paste(0, (20, 20, 23, 23)),  # a speck
        lambda page: page.putdata(
            [
                int(p * 0.6) if i % 200 < 70 else p
                for i, p in enumerate(page.get_flattened_data())
            ]
        ),
    ],
    ids=["edge", "table", "wide table", "window", "speck", "shadow"],
)
def test_what_is_not_the_digit_is_left_out(spoil, tmp_path):
    digit().save(tmp_path / "clean.png")
    page = digit()
    spoil(page)
    page.save(tmp_path / "x.png")
    expected = read_image(tmp_path / "clean.png", SHAPE, "mnist")
    received = read_image(tmp_path / "x.png", SHAPE, "mnist")
    assert np.abs(received - expected.astype(float)).mean() < 3


@pytest.mark.parametrize("light", [True, False])
def test_clothes_are_trimmed_and_negative_on_light_paper(light, tmp_path):
    page = Image.new("RGB", (300, 400), (240,) * 3 if light else (0,) * 3)
    page.paste((60,) * 3 if light else (192,) * 3, (80, 100, 180, 300))
    page.save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", SHAPE, "fashion_mnist")[..., 0]
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    assert rows[-1] - rows[0] + 1 == 28
    assert columns[-1] - columns[0] + 1 in (14, 15, 16)
    assert abs(int(pixels[14, 14]) - 191) <= 2


def test_small_clothes_on_white_paper_are_negated():
    page = np.full((28, 28), 255, np.uint8)
    page[:, 8:20] = 60
    page[10:20, 10:18] = 0  # Fashion-MNIST has as much black: in its background.
    pixels = fit(as_rgba(page), SHAPE, "fashion_mnist")[..., 0]
    assert (pixels[14, 14], pixels[14, 2]) == (255, 0)
