"""Converts images to the form of the data that a model was trained on.

The same code runs on NumPy and, in exported graphs, on TensorFlow (see `arrays`).

Reference:
- [LeCun et al., 1998](https://doi.org/10.1109/5.726791), section III.A: MNIST.
- [Xiao et al., 2017](https://arxiv.org/abs/1708.07747), section 2: Fashion-MNIST.
- [Otsu, 1979](https://doi.org/10.1109/TSMC.1979.4310076): threshold of ink and paper.
"""

from typing import Any

import numpy as np

from zoo.data.arrays import (
    NUMPY,
    Box,
    bounds,
    clip,
    dilate,
    dilate_rows,
    full_box,
    otsu,
    per_channel,
    reduce,
    resample,
)

SIDE = 28  # of the images of both datasets
DIGIT_SIDE = 20  # of the box of a digit in MNIST
GRID = 64  # Images are analyzed on a grid of 64x64 points.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601

WIDEST_STROKE = 11  # half of it, in points of the grid; what is wider is shadow
MNIST_INK = 0.87  # the mean of the ink in MNIST's strokes; 1 is white
THIN = 0.06  # Strokes are thin if a one-pixel erosion leaves less of their ink.
SPECK = 8.0  # points of the grid
LEAST_CONTRAST = 12.0  # gray levels; less is noise
TRIMMED = 12.75  # Xiao et al. trim edges that differ by less than 5 % of 255.


def fit(rgba: Any, shape: tuple[int, ...], form: str | None, xp: Any = NUMPY) -> Any:
    """Converts an image to the pixels that a model takes.

    Args:
        rgba: float32 array `(height, width, 4)`. Color and opacity in [0, 255].
        shape: Tuple. `(height, width)`, optionally with 1 or 3 channels.
        form: `"mnist"`, `"fashion_mnist"` or `None`. An image that has this form
            already is not changed. Without a form, the image is only resized.
        xp: The namespace of array functions.

    Returns:
        float32 array of shape `shape`, whole numbers in [0, 255].
    """
    if form is None:
        return xp.reshape(xp.round(_resize(rgba, shape, xp)), shape)
    if form not in FORMS or not is_form_shape(shape):
        raise ValueError(
            f"The `normalization` of a model must be one of {[*FORMS]} for gray images "
            f"of 28x28 pixels, and `None` for others. Received: normalization={form!r} "
            f"for images of shape {shape}."
        )
    height, width = xp.size(rgba)
    normalize, has_form = FORMS[form]

    def check() -> Any:
        color = xp.reshape(rgba, (SIDE, SIDE, 4))
        gray = color[..., 0]
        is_gray = xp.max(xp.abs(color[..., :3] - gray[..., None])) == 0
        is_opaque = xp.max(255 - color[..., 3]) == 0
        return is_gray & is_opaque & has_form(gray, xp)

    is_small = (height == SIDE) & (width == SIDE)
    pixels = xp.cond(
        xp.cond(is_small, check, lambda: is_small),
        lambda: xp.reshape(rgba, (SIDE, SIDE, 4))[..., 0],
        lambda: xp.round(255 * normalize(rgba, xp)),
    )
    return xp.reshape(pixels, shape)


def is_form_shape(shape: tuple[Any, ...]) -> bool:
    """Returns `True` if images of a shape, without their number, can have a form."""
    return [d for d in shape if d != 1] == [SIDE, SIDE]


def _resize(rgba: Any, shape: tuple[int, ...], xp: Any) -> Any:
    image, _ = _flatten(rgba, xp)
    whole, size = full_box(image, xp), (shape[0], shape[1])
    if shape[2:] != (3,):
        return resample(xp.sum(image * LUMA, -1), whole, size, xp)
    return per_channel(image, lambda x: resample(x, whole, size, xp), xp)


def _normalize_digit(rgba: Any, xp: Any) -> Any:
    """Draws a digit in white on black, as in MNIST.

    Its ink fits into 20x20 pixels with unchanged proportions, and its center of mass
    is the image's center.
    """
    image, overview = _flatten(rgba, xp, largest=0.5)
    paper, direction, table = _find_ink_color(overview, xp)
    ink = xp.sum((image - paper) * direction, -1)
    view = whole = full_box(ink, xp)
    for _ in range(3):
        seen = view
        levels = resample(ink, seen, (GRID, GRID), xp)
        covered = resample(table, whole.zoom(seen, GRID), (GRID, GRID), xp)
        box, background, strokes, black = _find_strokes(
            levels * (1 - covered), seen, xp
        )
        side = box.side(xp)
        # A square view does not widen the strokes of a narrow digit.
        square = box.square(0.7 * side + 1)
        view = Box(
            xp.maximum(square.top, 0.0),
            xp.minimum(square.bottom, whole.bottom),
            xp.maximum(square.left, 0.0),
            xp.minimum(square.right, whole.right),
        )
    step = side / DIGIT_SIDE
    middle = SIDE / 2

    def draw(down: Any, right: Any) -> Any:
        top = (box.top + box.bottom) / 2 - (middle + down) * step
        left = (box.left + box.right) / 2 - (middle + right) * step
        frame = Box(top, top + SIDE * step, left, left + SIDE * step)
        inner = seen.zoom(frame, GRID)
        size = (SIDE, SIDE)
        levels = resample(ink, frame, size, xp)
        levels = levels - resample(background, inner, size, xp)
        near = xp.minimum(2 * resample(strokes, inner, size, xp), 1.0)
        _, _, mean = otsu(levels * near, xp)
        contrast = xp.maximum((mean - black) / MNIST_INK, LEAST_CONTRAST)
        digit = clip((levels - black) / contrast, xp) * near
        return _thicken(digit, xp)

    digit = draw(0.0, 0.0)
    mass = xp.maximum(xp.sum(digit), 1e-6)
    places = xp.arange(SIDE)
    down = xp.round(middle - xp.sum(xp.sum(digit, 1) * places) / mass)
    right = xp.round(middle - xp.sum(xp.sum(digit, 0) * places) / mass)
    most_down = middle - (box.bottom - box.top) / step / 2
    most_right = middle - (box.right - box.left) / step / 2
    down = xp.minimum(xp.maximum(down, -most_down), most_down)
    right = xp.minimum(xp.maximum(right, -most_right), most_right)
    return draw(down, right)


def _normalize_clothing(rgba: Any, xp: Any) -> Any:
    """Shows an article on black, as in Fashion-MNIST: trimmed, centered, inverted."""
    image, overview = _flatten(rgba, xp)
    paper = _median(_border(overview, xp), xp)
    difference = xp.max(xp.abs(image - paper), -1)
    box = full_box(difference, xp)
    for _ in range(2):
        seen = resample(difference, box, (GRID, GRID), xp)
        box = bounds(xp.floats(seen > TRIMMED), box, xp)
    gray, gray_paper = xp.sum(image * LUMA, -1), xp.sum(paper * LUMA)
    # Photos on light paper are inverted.
    light = xp.floats(gray_paper > 127)
    ink = light * (gray_paper - gray) / xp.maximum(gray_paper, 1.0)
    ink = ink + (1 - light) * (gray - gray_paper) / xp.maximum(255 - gray_paper, 1.0)
    return clip(resample(ink, box.square(box.side(xp) / 2), (SIDE, SIDE), xp), xp)


def _is_digit(gray: Any, xp: Any) -> Any:
    """Checks the size of the ink and its center of mass, as in all images of MNIST."""
    box = bounds(xp.floats(gray > 0), Box(0, SIDE, 0, SIDE), xp)
    side = box.side(xp)
    places, mass = xp.arange(SIDE) - SIDE / 2, xp.maximum(xp.sum(gray), 1.0)
    y = xp.sum(xp.sum(gray, 1) * places) / mass
    x = xp.sum(xp.sum(gray, 0) * places) / mass
    is_central = xp.maximum(xp.abs(y), xp.abs(x)) < 0.6
    return is_central & (side <= DIGIT_SIDE) & (side >= DIGIT_SIDE - 1)


def _is_clothing(gray: Any, xp: Any) -> Any:
    """Checks the box of the article, and that more of the image is black than white."""
    box = bounds(xp.floats(gray > 0), Box(0, SIDE, 0, SIDE), xp)
    side = box.side(xp)
    y = xp.abs(box.top + box.bottom - SIDE)
    x = xp.abs(box.left + box.right - SIDE)
    black, white = xp.sum(xp.floats(gray == 0)), xp.sum(xp.floats(gray == 255))
    is_dark = black >= xp.maximum(white, float(SIDE))
    return (side >= SIDE - 2) & (xp.maximum(x, y) <= 2) & is_dark


FORMS = {
    "mnist": (_normalize_digit, _is_digit),
    "fashion_mnist": (_normalize_clothing, _is_clothing),
}


def _flatten(rgba: Any, xp: Any, largest: float = 1.0) -> tuple[Any, Any]:
    """Composites an image on paper; returns it, and its overview on the grid.

    If a quarter of the border is transparent, the paper is white for dark ink and black
    for light ink. Otherwise, or if more than the part `largest` of the image is opaque,
    it has the mean color of the image.
    """
    alpha = rgba[..., 3:] / 255
    reduced = reduce(xp.concat([rgba[..., :3] * alpha, alpha], -1), xp)
    color, alpha = reduced[..., :3], reduced[..., 3:]
    whole, size = full_box(color, xp), (GRID, GRID)
    opacity = resample(alpha[..., 0], whole, size, xp)[..., None]
    overview = per_channel(color, lambda x: resample(x, whole, size, xp), xp)
    amount = xp.sum(opacity)
    mean = xp.sum(xp.reshape(overview, (-1, 3)), 0) / xp.maximum(amount, 1e-3)
    is_cut_out = (amount <= largest * GRID**2) & (
        xp.sum(_border(opacity, xp)) < 0.75 * len(BORDER)
    )
    is_dark = xp.floats(xp.sum(mean * LUMA) < 128)
    paper = xp.where(is_cut_out, 255 * is_dark * np.ones(3, np.float32), mean)
    return color + (1 - alpha) * paper, overview + (1 - opacity) * paper


def _find_ink_color(overview: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Returns the color of the paper, the direction to that of the ink, and a mask.

    Ink covers less than half of an image. The mask marks a tabletop, which
    differs from the paper, too, and covers a good part of the border. Without a table,
    pixels that differ both from the paper and from the border around them are ink, and
    not a shadow that the border shows, too.
    """
    paper = _median(xp.reshape(overview, (GRID * GRID, -1)), xp)
    around = per_channel(
        overview, lambda x: FROM_BORDER @ (x * ON_BORDER) @ FROM_BORDER, xp
    )
    around = around / BORDER_WEIGHT

    def squared(difference: Any) -> Any:
        return xp.sum(difference * difference, -1)[..., None]

    near, far = overview - around, overview - paper
    differs = xp.floats(squared(far) > 0.2 * xp.max(squared(far)))[..., 0]
    table = xp.fixed_point(
        lambda found: xp.minimum(dilate(found, 1, xp), differs), differs * ON_BORDER
    )
    has_table = (xp.sum(table * ON_BORDER) > 0.2 * len(BORDER)) & (
        xp.sum(differs - table) > SPECK
    )
    table = table * xp.floats(has_table)
    either = xp.where(squared(near) < squared(far), near, far)
    difference = xp.where(has_table, far * (differs - table)[..., None], either)
    weighted = xp.reshape(squared(difference) ** 2 * difference, (-1, 3))
    direction = xp.sum(weighted, 0)
    length = xp.maximum(xp.sum(direction * direction) ** 0.5, 1e-3)
    return paper, direction / length, table


def _find_strokes(levels: Any, view: Box, xp: Any) -> tuple[Box, Any, Any, Any]:
    """Returns the bounding box of the strokes in a part of an image, and three arrays.

    `levels` is the ink in this part. The arrays are the background and a mask that is 1
    near the strokes, both on the grid, and the level of ink below which all is noise.
    """
    smooth = SMOOTH @ levels @ SMOOTH.T
    # An opening removes what is narrower than its window, the strokes.
    eroded = -dilate(-smooth, WIDEST_STROKE, xp)
    background = dilate(eroded, WIDEST_STROKE, xp)
    rest = levels - background
    threshold, low, high = otsu(rest, xp)
    share = clip((rest - low) / xp.maximum(high - low, 1e-3), xp)
    mask = xp.floats(SMOOTH @ share @ SMOOTH.T > 0.35)
    # The strokes are the region with the most ink, and those across gaps of a few
    # points. Specks and anything the border cuts off are left out.
    likely = BLUR @ share @ BLUR.T * CENTRAL * mask
    reach = dilate(mask, 3, xp)
    strokes = xp.fixed_point(
        lambda found: xp.minimum(dilate(found, 2, xp), reach),
        xp.floats(likely >= xp.max(likely)),
    )
    paper = xp.floats(rest < threshold)
    variance = xp.sum((rest - low) ** 2 * paper) / xp.maximum(xp.sum(paper), 1.0)
    black = low + xp.minimum(2 * variance**0.5, 0.3 * (high - low))
    return bounds(mask * strokes, view, xp), background, strokes, black


def _thicken(digit: Any, xp: Any) -> Any:
    """Widens strokes that are thinner than nearly all in MNIST."""
    core = -dilate(-digit, 1, xp)
    part = xp.sum(core) / xp.maximum(xp.sum(digit), 1e-6)
    amount = 0.6 * xp.maximum(1 - part / THIN, 0.0)
    across = xp.transpose(dilate_rows(xp.transpose(digit), 1, xp))
    wide = xp.maximum(dilate_rows(digit, 1, xp), across)
    return xp.maximum(digit, amount * wide)


def _border(overview: Any, xp: Any) -> Any:
    """Returns the points on the border of the grid, `(points, channels)`."""
    return xp.take(xp.reshape(overview, (GRID * GRID, -1)), BORDER, axis=0)


def _median(colors: Any, xp: Any) -> Any:
    return xp.sort(colors, axis=0)[colors.shape[0] // 2]


def _gaussian(sigma: float) -> np.ndarray:
    distance = np.subtract.outer(np.arange(GRID), np.arange(GRID)) / sigma
    return np.exp(-0.5 * distance**2, dtype=np.float32)


def _smoothing(sigma: float) -> np.ndarray:
    kernel = _gaussian(sigma)
    return np.asarray(kernel / kernel.sum(1, keepdims=True))


_DEPTH = np.minimum(np.arange(GRID), np.arange(GRID)[::-1])
ON_BORDER = np.float32(np.minimum.outer(_DEPTH, _DEPTH) < 2)
BORDER = np.flatnonzero(ON_BORDER)
FROM_BORDER = _gaussian(GRID / 6)
BORDER_WEIGHT = (FROM_BORDER @ ON_BORDER @ FROM_BORDER)[..., None]
SMOOTH = _smoothing(0.7)
BLUR = _smoothing(GRID / 10)
_SINE = np.sin(np.pi * (np.arange(GRID) + 0.5) / GRID)
CENTRAL = np.float32(np.outer(_SINE, _SINE))
