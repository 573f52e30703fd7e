"""Random distortions of batches of images, in NumPy: the same on each Keras backend."""

import functools
from typing import Any

import numpy as np

BLOCK = 16  # Images whose intermediate arrays fit into the cache of a core.


def distort(
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    rotation: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    shift: float = 0.0,
    elastic: float = 0.0,
    elastic_sigma: float = 4.0,
    flip: bool = False,
    erase: float = 0.0,
) -> np.ndarray:
    """Distorts each image of a batch at random, and resamples it once.

    For each image, an affine map and an elastic displacement field are drawn uniformly
    within plus or minus the given amounts. The image is interpolated bilinearly from
    their combination; pixels from outside the image are 0. All amounts default to 0.

    Args:
        images: Array of shape `(n, height, width, channels)`, of any numeric dtype.
        rng: `numpy.random.Generator`. The same state gives the same distortions.
        rotation: Float. Degrees.
        scale: Float. Fraction by which height and width change independently.
        shear: Float. Horizontal shift per vertical pixel.
        shift: Float. Horizontal and vertical shift in pixels.
        elastic: Float. Simard's alpha: the displacement in pixels is uniform noise in
            [-1, 1], smoothed by a Gaussian and multiplied by this value.
        elastic_sigma: Float. Standard deviation of that Gaussian. Defaults to 4 pixels.
        flip: Boolean. Mirror each image with probability 0.5. Defaults to `False`.
        erase: Float. Probability that a rectangle of 2 to 33% of an image is set to 0.

    Returns:
        float32 array of the shape of `images`, in the range of their values and 0.

    Reference:
    - [Simard, Steinkraus and Platt, 2003](https://doi.org/10.1109/ICDAR.2003.1227801):
      elastic distortions with `elastic=34, elastic_sigma=4` on MNIST.
    - [Zhong et al., 2020](https://arxiv.org/abs/1708.04896): random erasing with
      `erase=0.5` on Fashion-MNIST.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> distort(np.ones((2, 28, 28, 1), "uint8"), rng, rotation=10).shape
    (2, 28, 28, 1)
    """
    n, height, width, _ = images.shape

    def uniform(amount: float, *shape: int) -> np.ndarray:
        values = rng.random((n, *(shape or (1, 1))), "float32")
        values *= 2
        values -= 1
        values *= np.float32(amount)
        return values

    angle, scale_y, scale_x = uniform(rotation), 1 + uniform(scale), 1 + uniform(scale)
    if flip:
        scale_x *= rng.choice(np.array([-1, 1], "float32"), (n, 1, 1))
    affine = angle, scale_y, scale_x, uniform(shear), uniform(shift), uniform(shift)
    noise = uniform(elastic, 2, height, width) if elastic else None
    smooth = _gaussian(height, elastic_sigma), _gaussian(width, elastic_sigma)
    distorted = np.empty(images.shape, "float32")
    for start in range(0, n, BLOCK):
        block = slice(start, start + BLOCK)
        y, x = _affine_grid(images.shape, *(values[block] for values in affine))
        if noise is not None:
            field = smooth[0] @ noise[block] @ smooth[1]
            y += field[:, 0]
            x += field[:, 1]
        distorted[block] = _interpolate(images[block], y, x)
    if erase:
        distorted[_rectangles(rng, erase, images.shape)] = 0
    return distorted


def can_distort(images: np.ndarray) -> bool:
    """Returns `True` for `(n, height, width, channels)`, with few channels."""
    return images.ndim == 4 and images.shape[3] <= min(images.shape[1:3])


def transform(
    images: np.ndarray, rotation: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    """Rotates images by degrees and enlarges them by a factor, about their centers."""
    angle, inverse = np.full((len(images), 1, 1), rotation, "float32"), 1 / scale
    return _interpolate(images, *_affine_grid(images.shape, angle, inverse, inverse))


def _affine_grid(
    shape: tuple[int, ...],
    angle: np.ndarray,
    scale_y: Any,
    scale_x: Any,
    shear: Any = 0,
    shift_y: Any = 0,
    shift_x: Any = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coordinates from which each pixel of an affine map is read."""
    _, height, width, _ = shape
    angle = np.deg2rad(angle)
    cos, sin = np.cos(angle), np.sin(angle)
    y = np.arange(height, dtype="float32")[:, None] - (height - 1) / 2
    x = np.arange(width, dtype="float32")[None, :] - (width - 1) / 2
    sheared = x + shear * y
    from_y = scale_y * (sin * sheared + cos * y) + (shift_y + (height - 1) / 2)
    from_x = scale_x * (cos * sheared - sin * y) + (shift_x + (width - 1) / 2)
    return from_y, from_x


def _rectangles(
    rng: np.random.Generator, probability: float, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns a bool mask `(n, h, w)` with a rectangle in some of the images."""
    n, height, width, _ = shape
    area = rng.uniform(0.02, 0.33, n) * (rng.random(n) < probability)
    root = np.sqrt(np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3), n)))

    def span(size: int, part: np.ndarray) -> np.ndarray:
        length = np.minimum(np.round(size * part), size)
        start = np.floor(rng.random(n) * (size - length + 1))[:, None]
        place = np.arange(size) - start
        return np.asarray((place >= 0) & (place < length[:, None]))

    rows = span(height, np.sqrt(area) * root)
    columns = span(width, np.sqrt(area) / root)
    return np.asarray(rows[:, :, None] & columns[:, None, :])


@functools.cache
def _gaussian(size: int, sigma: float) -> np.ndarray:
    """Returns the matrix that smooths a line of pixels, padded with zeros."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    kernel = np.exp(-0.5 * (distance / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return np.asarray(kernel, "float32")


def _interpolate(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns bilinear samples of each image at `(y, x)`, float32 `(n, h, w, c)`."""
    n, height, width, channels = images.shape
    padded = np.zeros((n, height + 2, width + 2, channels), "float32")
    padded[:, 1:-1, 1:-1] = images
    pixels = padded.reshape(-1, channels)

    # Coordinates are clipped to the border of zeros; everything beyond it is 0, too.
    y, x = np.clip(y + 1, 0, height + 1), np.clip(x + 1, 0, width + 1)
    top, left = y.astype("int32"), x.astype("int32")
    y -= top
    x -= left
    corner = top * (width + 2) + left
    corner += np.arange(n, dtype="int32")[:, None, None] * ((height + 2) * (width + 2))

    def interpolate(
        first: np.ndarray, second: np.ndarray, part: np.ndarray
    ) -> np.ndarray:
        second -= first
        second *= part[..., None]
        second += first
        return second

    def read(offset: int) -> np.ndarray:
        # The mode "raise" is slower.
        return np.asarray(pixels.take(corner + offset, 0, mode="clip"))

    upper = interpolate(read(0), read(1), x)
    lower = interpolate(read(width + 2), read(width + 3), x)
    return interpolate(upper, lower, y)
