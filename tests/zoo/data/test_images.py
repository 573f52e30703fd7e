import sys
from unittest import mock

import numpy as np
import pytest
from exports import photograph
from PIL import Image

from zoo.data.images import draw_images, find_images, read_image


def test_folders_are_searched_recursively(tmp_path):
    for name in ("b.png", "a/2.JPEG", "a/1.jpg", ".hidden/c.png", "a/.d.png", "x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    a, b = [tmp_path / "a" / "1.jpg", tmp_path / "a" / "2.JPEG"], tmp_path / "b.png"
    assert find_images(str(tmp_path)) == ([*a, b], 1)
    # A file that is named is kept, whatever its name.
    for named in (tmp_path / "x.csv", tmp_path / ".hidden" / "c.png"):
        assert find_images(named) == ([named], 0)


@pytest.mark.parametrize("name", ["none.png", "empty"])
def test_a_path_without_images_is_named(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"Received: path='.*{name}'\.$"):
        find_images(tmp_path / name)


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


@pytest.mark.parametrize(
    ("dtype", "white"),
    [("uint16", 65_535), ("int32", 65_535), ("int32", 255), ("f", 255), ("f", 1)],
)
def test_deep_gray_keeps_its_range(dtype, white, tmp_path):
    pixels = (np.array([[0, 100, 255]]) * white / 255).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    received = read_image(tmp_path / "x.tiff", (1, 3, 1))
    np.testing.assert_array_equal(received[..., 0], [[0, 100, 255]])


@pytest.mark.parametrize("form", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("color", ["#fff", "#000", "#808080", "#0000"])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (90, 60)])
def test_an_image_without_ink_gives_a_warning(size, color, form, tmp_path):
    Image.new("RGBA", size, color).save(tmp_path / "x.png")
    with pytest.warns(UserWarning, match=r"No ink was found.*file='.*x\.png'\.$"):
        assert not read_image(tmp_path / "x.png", (28, 28, 1), form).any()
    read_image(tmp_path / "x.png", (28, 28, 1))  # Warnings are errors.


def test_what_is_no_file_is_shortened():
    with pytest.raises(OSError, match=r"cannot be read.*Received: file=arr") as error:
        read_image(np.zeros((28, 28)), (28, 28, 1))
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("format", ["webp", "bmp", "tiff", "gif"])
def test_other_formats_are_read(format, tmp_path):
    image = Image.new("RGB", (3, 2), (200, 10, 30))
    options = {"lossless": True} if format == "webp" else {}
    if format == "gif":  # The first frame counts.
        options = {"save_all": True, "append_images": [Image.new("RGB", (3, 2))]}
    image.save(tmp_path / f"x.{format}", **options)
    received = read_image(tmp_path / f"x.{format}", (2, 3, 3))
    np.testing.assert_array_equal(received, np.asarray(image))


@pytest.mark.parametrize("size", [(31, 20), (300, 7), (5, 5)])
def test_images_are_resized_as_by_pillow(size, tmp_path):
    image = photograph("RGB", size)
    image.save(tmp_path / "x.png")
    expected = image.resize((8, 8), Image.Resampling.BILINEAR)
    received = read_image(tmp_path / "x.png", (8, 8, 3))
    np.testing.assert_allclose(received, np.asarray(expected), atol=1)


def test_a_large_image_is_reduced_first(tmp_path):
    image = photograph("RGB", (2100, 1540))
    image.save(tmp_path / "x.png")
    expected = image.resize((8, 8), Image.Resampling.BOX)
    received = read_image(tmp_path / "x.png", (8, 8, 3))
    assert np.abs(received - np.float32(expected)).mean() < 12


def test_linked_folders_are_searched_once(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert find_images(tmp_path) == ([tmp_path / "a" / "x.png"], 0)


def test_heif_is_registered_by_reading(tmp_path, monkeypatch):
    heif = mock.Mock()
    monkeypatch.setitem(sys.modules, "pillow_heif", heif)
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    assert read_image("~/x.png", (2, 2, 1)).shape == (2, 2, 1)
    heif.register_heif_opener.assert_called_once_with()


def test_a_sheet_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_text("old", "utf-8")
    monkeypatch.setattr(Image.Image, "save", mock.Mock(side_effect=OSError(28, "Full")))
    with pytest.raises(OSError, match=f"Full: '{tmp_path / 'x.png'}'"):
        draw_images(tmp_path / "x.png", [np.zeros((2, 2, 1), np.uint8)], ["数"])
    assert [path.read_text("utf-8") for path in tmp_path.iterdir()] == ["old"]
