"""Measures the weights for MNIST on test digits redrawn as people draw them.

`python benchmarks/redrawn_digits.py` draws 1,000 test digits in six styles on canvases
of 28 to 2,000 pixels, labels the files as `zoo predict` does, prints a table and writes
the accuracies to the cards.
"""

import argparse
import dataclasses
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

import zoo
from zoo.models.weights import PUBLISHED

INKS = [(30, 50, 160), (180, 30, 40), (20, 110, 50), (200, 100, 10)]


def place(digit: np.ndarray, rng: np.random.Generator, largest: int) -> np.ndarray:
    """Returns the ink of a digit, in [0, 1], somewhere on a canvas of random size."""
    height = int(np.exp(rng.uniform(np.log(28), np.log(largest))))
    width = int(np.clip(height * np.exp(rng.uniform(-0.4, 0.4)), 28, largest))
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    digit = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = rng.uniform(0.4, 0.9) * min(height / digit.shape[0], width / digit.shape[1])
    scale = max(scale, 12 / max(digit.shape))  # Smaller ones are not legible.
    size = [max(2, round(length * scale)) for length in digit.shape]
    large = Image.fromarray(digit).resize(size[::-1], Image.Resampling.BICUBIC)
    top, left = rng.integers(0, [height - size[0] + 1, width - size[1] + 1])
    ink = np.zeros((height, width), "float32")
    ink[top : top + size[0], left : left + size[1]] = np.asarray(large) / 255
    return ink


def on_paper(ink: np.ndarray, color: object, paper: object) -> Image.Image:
    color, paper = np.float32(color), np.float32(paper)
    pixels = paper * (1 - ink[..., None]) + color * ink[..., None]
    return Image.fromarray(pixels.clip(0, 255).round().astype("uint8"))


def drawing_pad(ink: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Draws hard black strokes on white."""
    return on_paper(np.float32(ink > 0.4), [0] * 3, [255] * 3)


def photograph(ink: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Shows dark ink on gray paper, with uneven light, blur, grain and JPEG noise."""
    height, width = ink.shape
    paper = rng.uniform(150, 235) * np.float32([1, 0.97, 0.92])
    color = rng.uniform(20, 70) * np.float32([1, 1, 1.2])
    picture = np.asarray(on_paper(ink, color, paper), "float32")
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, height)[:, None] * np.sin(angle)
    x = np.linspace(-1, 1, width)[None, :] * np.cos(angle)
    light = 1 - rng.uniform(0.05, 0.25) * (1 + (y + x) / 1.5)
    shaded = Image.fromarray((picture * light[..., None]).clip(0, 255).astype("uint8"))
    blurred = shaded.filter(ImageFilter.GaussianBlur(max(height, width) / 400))
    grain = rng.normal(0, rng.uniform(3, 12), (height, width, 1))
    noisy = (np.asarray(blurred, "float32") + grain).clip(0, 255).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "jpeg", quality=int(rng.integers(60, 96)))
    return Image.open(file)


def transparent(ink: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Draws black, white or colored ink on nothing."""
    color = [(0, 0, 0), (255, 255, 255), *INKS][rng.integers(2 + len(INKS))]
    pixels = np.zeros((*ink.shape, 4), "uint8")
    pixels[ink > 0, :3] = color
    pixels[..., 3] = (255 * ink.clip(0, 1)).round()
    return Image.fromarray(pixels)


STYLES: dict[str, Callable[[np.ndarray, np.random.Generator], Image.Image]] = {
    "drawing pad": drawing_pad,
    "white on black": lambda ink, rng: on_paper(ink, [255] * 3, [0] * 3),
    "black on white": lambda ink, rng: on_paper(ink, [0] * 3, [255] * 3),
    "phone photo": photograph,
    "transparent": transparent,
    "colored ink": lambda ink, rng: on_paper(
        ink, INKS[rng.integers(len(INKS))], [250, 240, 215]
    ),
}


def redraw(
    digit: np.ndarray, style: str, rng: np.random.Generator, largest: int = 2000
) -> io.BytesIO:
    """Returns the image file of a 28x28 digit in a style: a PNG file."""
    file = io.BytesIO()
    STYLES[style](place(digit, rng, largest), rng).save(file, "png", compress_level=1)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=int, default=1_000)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    data = zoo.load_dataset("mnist", "test", as_="numpy", data_dir=options.data_dir)
    images, labels = (array[: options.digits] for array in data)
    cards = zoo.list_weights(dataset="mnist")
    models = {card.id: zoo.create(card.model, weights=card) for card in cards}
    some = next(iter(models.values()))
    pixels = {"test images": images}
    for style in STYLES:
        rng = np.random.default_rng(0)
        files = (redraw(image[..., 0], style, rng) for image in images)
        pixels[style] = zoo.read_images(files, some)
    for card in cards:
        predict = models[card.id].predict
        accuracies = {
            name: float(np.mean(predict(x, verbose=0).argmax(-1) == labels))
            for name, x in pixels.items()
        }
        shown = ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items())
        print(f"{card.id}: {shown}")
        redrawn = {"digits": len(images), **accuracies}
        card = dataclasses.replace(card, metrics={**card.metrics, "redrawn": redrawn})
        (PUBLISHED / f"{card.id}.json").write_text(card.to_json(), "utf-8")


if __name__ == "__main__":
    main()
