"""Random distortions of images, batched, in NumPy: the same on every Keras backend."""

import functools

import numpy as np


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
    """Distorts each image of a batch at random, resampling it once.

    An affine map and an elastic displacement field are drawn for each image, uniformly
    within plus or minus the amounts given, and combined into one map from which the
    image is interpolated bilinearly; what comes from outside the image is 0.

    Reference:
    - [Simard, Steinkraus and Platt, 2003](https://doi.org/10.1109/ICDAR.2003.1227801):
      elastic distortions with `elastic=34, elastic_sigma=4` on MNIST.
    - [Zhong et al., 2020](https://arxiv.org/abs/1708.04896): random erasing, with
      `erase=0.5` on Fashion-MNIST.

    Args:
        images: `[n, height, width, channels]`, any numeric dtype.
        rng: source of randomness; the same state gives the same distortions.
        rotation: degrees.
        scale: fraction by which height and width grow or shrink, each on its own.
        shear: horizontal shift per vertical pixel.
        shift: pixels, horizontally and vertically.
        elastic: strength of the elastic field, Simard's alpha: uniform noise in
            [-1, 1], smoothed by a Gaussian, times this is the displacement in pixels.
        elastic_sigma: standard deviation of that Gaussian in pixels.
        flip: whether to mirror every other image, at random, left to right.
        erase: probability that a rectangle of 2 to 33 % of an image's area is set to 0.

    Returns:
        float32 array of the shape of `images`, in the range of its values.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> distort(np.ones((2, 28, 28, 1), "uint8"), rng, rotation=10).shape
    (2, 28, 28, 1)
    """
    n, height, width, _ = images.shape

    def uniform(amount: float, *shape: int) -> np.ndarray:
        return np.float32(amount) * (2 * rng.random((n, *shape), "float32") - 1)

    angle = uniform(np.deg2rad(rotation))
    cos, sin = np.cos(angle), np.sin(angle)
    scale_y, scale_x = 1 + uniform(scale), 1 + uniform(scale)
    if flip:
        scale_x = scale_x * rng.choice(np.array([-1, 1], "float32"), n)
    slant = uniform(shear)

    # Where each pixel of the result comes from, relative to the centre of the image.
    y = np.arange(height, dtype="float32")[:, None] - (height - 1) / 2
    x = np.arange(width, dtype="float32")[None, :] - (width - 1) / 2
    sheared = x + _per_image(slant) * y
    from_y = _per_image(scale_y) * (_per_image(sin) * sheared + _per_image(cos) * y)
    from_x = _per_image(scale_x) * (_per_image(cos) * sheared - _per_image(sin) * y)
    from_y += _per_image(uniform(shift)) + (height - 1) / 2
    from_x += _per_image(uniform(shift)) + (width - 1) / 2
    if elastic:
        smooth_y = _gaussian(height, elastic_sigma)
        smooth_x = _gaussian(width, elastic_sigma)
        field = smooth_y @ uniform(elastic, 2, height, width) @ smooth_x
        from_y += field[:, 0]
        from_x += field[:, 1]
    distorted = _interpolate(images, from_y, from_x)
    if erase:
        distorted[_rectangles(rng, erase, images.shape)] = 0
    return distorted


def _per_image(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1, 1)


def _rectangles(
    rng: np.random.Generator, probability: float, shape: tuple[int, ...]
) -> np.ndarray:
    """A rectangle in some of the images, bool [n, h, w]."""
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
    """The matrix that smooths a line of `size` pixels, with zeros beyond its ends."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    kernel = np.exp(-0.5 * (distance / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return np.asarray(kernel, "float32")


def _interpolate(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples of each image at the places `(y, x)`, float32 [n, h, w]."""
    n, height, width, channels = images.shape
    padded = np.zeros((n, height + 2, width + 2, channels), "float32")
    padded[:, 1:-1, 1:-1] = images
    pixels = padded.reshape(-1, channels)

    # Beyond the border of zeros all is zero, so that clipping to it changes nothing.
    y = np.clip(y + 1, 0, height + 0.999)
    x = np.clip(x + 1, 0, width + 0.999)
    top, left = y.astype("int32"), x.astype("int32")
    y, x = (y - top)[..., None], (x - left)[..., None]
    corner = top * (width + 2) + left
    corner += np.arange(n, dtype="int32")[:, None, None] * ((height + 2) * (width + 2))

    def line(start: np.ndarray) -> np.ndarray:
        first, second = pixels.take(start, 0), pixels.take(start + 1, 0)
        second -= first
        second *= x
        second += first
        return second

    upper, lower = line(corner), line(corner + width + 2)
    lower -= upper
    lower *= y
    lower += upper
    return lower
