"""Operations on images that run on NumPy and on TensorFlow.

`xp` is `NUMPY` or `TENSORFLOW`. A graph does not know the shapes of images.
"""

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

REDUCED_SIDE = 1024  # The longer side of a larger image becomes 1 to 2 times this.


def _fixed_point(function: Callable[[Any], Any], value: Any) -> Any:
    while not np.array_equal(value, following := function(value)):
        value = following
    return value


# Functions with the same name in NumPy and TensorFlow.
SHARED = "abs cumsum floor maximum minimum reshape round sort stack transpose where"
NUMPY = types.SimpleNamespace(
    **{name: getattr(np, name) for name in SHARED.split()},
    arange=lambda stop: np.arange(stop, dtype=np.float32),
    concat=np.concatenate,
    cond=lambda condition, then, otherwise: then() if condition else otherwise(),
    crop=lambda image, rows, columns: image[: int(rows), : int(columns)],
    fixed_point=_fixed_point,
    floats=np.float32,
    integers=lambda values: [int(value) for value in values],
    max=np.max,
    pad=lambda x, widths, value: np.pad(x, widths, constant_values=value),
    size=lambda image: (float(image.shape[0]), float(image.shape[1])),
    sum=np.sum,
    take=np.take,
)


class Box(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    top: Any
    bottom: Any
    left: Any
    right: Any

    def side(self, xp: Any) -> Any:
        return xp.maximum(self.bottom - self.top, self.right - self.left)

    def square(self, half: Any) -> "Box":
        """Returns the square around the center of this box, given half its side."""
        y, x = (self.top + self.bottom) / 2, (self.left + self.right) / 2
        return Box(y - half, y + half, x - half, x + half)

    def zoom(self, inner: "Box", points: float) -> "Box":
        """Converts a box in pixels to the points of a grid that covers this box."""
        y, x = self.bottom - self.top, self.right - self.left
        return Box(
            (inner.top - self.top) * points / y,
            (inner.bottom - self.top) * points / y,
            (inner.left - self.left) * points / x,
            (inner.right - self.left) * points / x,
        )


def bounds(mask: Any, view: Box, xp: Any) -> Box:
    """Returns the bounding box of a mask over `view`, or `view` if it is empty."""

    def ends(line: Any, start: Any, stop: Any) -> tuple[Any, Any]:
        points = line.shape[0]
        places = xp.arange(points)
        last = xp.max(line * (places + 1))
        first = points - xp.max(line * (points - places))
        last = last + points * xp.floats(last == 0)
        first = first - points * xp.floats(first == points)
        step = (stop - start) / points
        return start + first * step, start + last * step

    rows = ends(xp.max(mask, 1), view.top, view.bottom)
    return Box(*rows, *ends(xp.max(mask, 0), view.left, view.right))


def otsu(values: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Returns the threshold between two classes of values, and the mean of each."""
    values = xp.sort(xp.reshape(values, (-1,)))
    count = values.shape[0]
    below = np.arange(1, count, dtype=np.float32)
    above = count - below
    sums = xp.cumsum(values)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / above
    between = below * above * (high - low) ** 2
    best = xp.floats(between >= xp.max(between))
    best = best / xp.sum(best)
    return xp.sum(values[:-1] * best), xp.sum(low * best), xp.sum(high * best)


def resample(image: Any, box: Box, size: tuple[int, int], xp: Any) -> Any:
    """Resizes a part of an image `(h, w)` bilinearly, with antialiasing."""

    def weights(start: Any, stop: Any, points: int, length: Any) -> Any:
        step = (stop - start) / points
        places = start + (xp.arange(points) + 0.5) * step
        distance = xp.abs(places[:, None] - (xp.arange(length) + 0.5)[None, :])
        near = xp.maximum(1 - distance / xp.maximum(step, 1.0), 0.0)
        return near / xp.maximum(xp.sum(near, 1)[:, None], 1e-6)

    height, width = xp.size(image)
    rows = weights(box.top, box.bottom, size[0], height)
    columns = weights(box.left, box.right, size[1], width)
    return rows @ image @ xp.transpose(columns)


def reduce(image: Any, xp: Any) -> Any:
    """Averages square blocks of pixels of a large image, to save time and memory."""
    height, width = xp.size(image)
    factor = xp.maximum(xp.floor(xp.maximum(height, width) / REDUCED_SIDE), 1.0)
    factor = xp.maximum(xp.minimum(factor, xp.minimum(height, width)), 1.0)
    rows, columns = xp.floor(height / factor), xp.floor(width / factor)
    image = xp.crop(image, rows * factor, columns * factor)
    image = xp.reshape(image, xp.integers([rows, factor, columns, factor, 4]))
    return xp.sum(xp.sum(image, 3), 1) / (factor * factor)


def full_box(image: Any, xp: Any) -> Box:
    height, width = xp.size(image)
    return Box(0.0, height, 0.0, width)


def per_channel(image: Any, function: Callable[[Any], Any], xp: Any) -> Any:
    return xp.stack([function(image[..., channel]) for channel in range(3)], -1)


def clip(values: Any, xp: Any) -> Any:
    return xp.minimum(xp.maximum(values, 0.0), 1.0)


def dilate(image: Any, radius: int, xp: Any) -> Any:
    """Returns the maximum of each square of `2 * radius + 1` points."""
    rows = xp.transpose(dilate_rows(image, radius, xp))
    return xp.transpose(dilate_rows(rows, radius, xp))


def dilate_rows(image: Any, radius: int, xp: Any) -> Any:
    image = xp.pad(image, ((radius, radius), (0, 0)), -1e9)
    window, wanted = 1, 2 * radius + 1
    while window < wanted:
        shift = min(window, wanted - window)
        image = xp.maximum(image[:-shift], image[shift:])
        window += shift
    return image
