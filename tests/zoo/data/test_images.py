import numpy as np
import pytest
from PIL import Image

from zoo.data.images import find_images, read_image


def test_folders_are_searched_recursively_and_each_image_is_found_once(tmp_path):
    for name in ("b.png", "a/2.JPEG", "a/1.jpg", ".hidden/c.png", "a/.d.png", "x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    a, b = [tmp_path / "a" / "1.jpg", tmp_path / "a" / "2.JPEG"], tmp_path / "b.png"
    assert find_images([tmp_path]) == [*a, b]
    # A file that is named is kept, whatever its name.
    named = [tmp_path / "x.csv", tmp_path / ".hidden" / "c.png"]
    assert find_images([*named, str(b), tmp_path]) == [*named, b, *a]


@pytest.mark.parametrize("name", ["none.png", "empty"])
def test_a_path_without_images_is_named(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"Received: path='.*{name}'\.$"):
        find_images([tmp_path / name])


def test_pixels_are_raw(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    received = read_image(tmp_path / "x.png", (5, 4, 3))
    assert received.dtype == np.uint8
    np.testing.assert_array_equal(received, pixels)
    gray = read_image(tmp_path / "x.png", (5, 4, 1))
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(gray[..., 0], pixels @ weights, atol=1)
    assert read_image(tmp_path / "x.png", (28, 28, 1)).shape == (28, 28, 1)


def test_the_exif_orientation_is_applied(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotate by 90 degrees clockwise to display.
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    received = read_image(tmp_path / "x.png", (4, 3, 1))
    np.testing.assert_array_equal(received[..., 0], np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode, tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, :, 3] = 255
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(np.array([[1, 1], [0, 0]], np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.info["transparency"] = 0
    image.convert(mode).save(tmp_path / "x.png")
    received = read_image(tmp_path / "x.png", (2, 2, 1))
    np.testing.assert_array_equal(received[..., 0], [[0, 0], [255, 255]])


def test_16_bit_gray_keeps_its_range(tmp_path):
    pixels = np.array([[0, 257 * 100, 65_535]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    received = read_image(tmp_path / "x.png", (1, 3, 1))
    np.testing.assert_array_equal(received[..., 0], [[0, 100, 255]])


def test_other_formats_are_refused(tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "x.png", format="GIF")
    with pytest.raises(OSError, match="cannot identify image file"):
        read_image(tmp_path / "x.png", (2, 3, 1))
