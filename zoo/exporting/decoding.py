"""The part of the served graph that turns PNG and JPEG files into pixels."""

import functools
import types
from typing import Any

import tensorflow as tf

from zoo.data.arrays import SHARED
from zoo.data.normalization import fit

# Larger images are not decoded: a small PNG file can hold gigabytes of pixels.
MAX_IMAGE_PIXELS = 2**24
MAX_IMAGE_SIDE = 2**14
MAX_BATCH_PIXELS = 2**26
# A compressed text of a PNG can hold megabytes, and a scan of a JPEG visits all pixels.
MAX_TEXT_CHUNKS = 8
MAX_SCANS = 100
MAX_SEGMENTS = 1000  # that are searched for the Exif data of a file

# The preparation of each input in the graph, for `export.json`.
PREPROCESSING = {
    "image": "pixels, as the model takes them",
    "image_bytes": f"PNG or JPEG of at most {MAX_IMAGE_PIXELS} pixels, "
    f"{MAX_IMAGE_SIDE} per side; turned upright (Exif), composited over a "
    "background, converted to the form of the training data (`normalization`) or else "
    "resized bilinearly with antialiasing, converted to the model's channels (gray is "
    "the luma of ITU-R BT.601), rounded to whole numbers in [0, 255]",
}


def int32(x: Any) -> Any:
    return tf.cast(x, tf.int32)


def _fixed_point(function: Any, value: Any) -> Any:
    return tf.while_loop(
        lambda value, following: tf.reduce_any(value != following),
        lambda _, following: (following, function(following)),
        (value, function(value)),
    )[1]


# The functions of `zoo.data.arrays.NUMPY`.
TENSORFLOW = types.SimpleNamespace(
    **{name: getattr(tf, name) for name in SHARED.split()},
    arange=lambda stop: tf.range(tf.cast(stop, tf.float32)),
    concat=tf.concat,
    cond=tf.cond,
    crop=lambda x, rows, columns: x[: int32(rows), : int32(columns)],
    fixed_point=_fixed_point,
    floats=lambda x: tf.cast(x, tf.float32),
    integers=lambda values: tf.stack([int32(value) for value in values]),
    max=tf.reduce_max,
    pad=lambda x, widths, value: tf.pad(x, widths, constant_values=value),
    size=lambda x: tf.unstack(tf.cast(tf.shape(x)[:2], tf.float32)),
    sum=tf.reduce_sum,
    take=tf.gather,
)


def decode_images(files: Any, shape: tuple[int, ...], form: str | None) -> Any:
    """Decodes PNG and JPEG files `(n,)` to whole float32 pixels `(n, *shape)`.

    `shape` and `form` are those of `zoo.data.normalization.fit`.
    """
    files, is_png = _check_headers(files)
    has_exif = _count(files, b"Exif") + _count(files, b"eXIf") > 0
    has_transparency = _count(files, b"tRNS") > 0

    decode = _decoder(tuple(shape), form)
    return tf.map_fn(
        lambda item: decode(*item),
        (files, is_png, has_exif, has_transparency),
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
        parallel_iterations=1,  # A large image takes hundreds of megabytes.
    )


@functools.cache  # Signatures share the function, whose tracing takes seconds.
def _decoder(shape: tuple[int, ...], form: str | None) -> Any:
    """Returns the function that decodes one file."""

    def decode_opaque(file: Any) -> Any:
        # It decodes PNG files, too.
        color = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.pad(color, [(0, 0), (0, 0), (0, 1)], constant_values=255)

    def decode(file: Any, is_png: Any, has_exif: Any, has_transparency: Any) -> Any:
        # TensorFlow adds a wrong alpha channel to pixels of less than a byte.
        depth = tf.io.decode_raw(tf.strings.substr(file, 24, 1), tf.uint8)[0]
        rgba = tf.cond(
            is_png & (has_transparency | (depth >= 8)),
            lambda: tf.io.decode_png(file, channels=4),
            lambda: decode_opaque(file),
        )
        turned = tf.cond(
            has_exif, lambda: _turn(rgba, _read_orientation(file, is_png)), lambda: rgba
        )
        return fit(tf.cast(turned, tf.float32), shape, form, TENSORFLOW)

    specs = [tf.TensorSpec((), dtype) for dtype in (tf.string, *[tf.bool] * 3)]
    return tf.function(decode, autograph=False, input_signature=specs)


def _check_headers(files: Any) -> tuple[Any, Any]:
    """Returns the files and which are PNG; rejects other formats and large images."""
    # Width and height follow the name of the chunk IHDR as big-endian 32-bit integers.
    png_start = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    is_png = tf.strings.substr(files, 0, len(png_start)) == png_start
    is_jpeg = tf.strings.substr(files, 0, 3) == b"\xff\xd8\xff"
    texts = _count(files, b"zTXt") + _count(files, b"iTXt")
    scans = _count(files, b"\xff\xda")
    checks = [
        _reject(~is_png & ~is_jpeg, "is neither a PNG nor a JPEG file"),
        _reject(is_png & (texts > MAX_TEXT_CHUNKS), "has too many text chunks"),
        _reject(is_jpeg & (scans > MAX_SCANS), "has too many scans"),
    ]
    with tf.control_dependencies(checks):
        header = tf.strings.substr(files, 0, len(png_start) + 8)
    words = tf.io.decode_raw(header, tf.int32, little_endian=False, fixed_length=24)
    sizes = tf.cast(tf.reverse(words[:, 4:], [1]), tf.int64)
    places = tf.where(is_jpeg)
    jpeg_sizes = tf.map_fn(
        lambda file: tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64),
        tf.gather_nd(files, places),
        fn_output_signature=tf.TensorSpec((2,), tf.int64),
    )
    sizes = tf.tensor_scatter_nd_update(sizes, places, jpeg_sizes)
    pixels = tf.reduce_prod(sizes, axis=1)
    fits = tf.reduce_all((sizes > 0) & (sizes <= MAX_IMAGE_SIDE), axis=1)
    limits = f"1 to {MAX_IMAGE_PIXELS} pixels, at most {MAX_IMAGE_SIDE} per side"
    total = [f"`image_bytes` holds more than {MAX_BATCH_PIXELS} pixels in all."]
    checks = [
        _reject(~fits | (pixels > MAX_IMAGE_PIXELS), f"does not have {limits}", sizes),
        tf.debugging.Assert(tf.reduce_sum(pixels) <= MAX_BATCH_PIXELS, total),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(files), tf.identity(is_png)


def _turn(rgba: Any, orientation: Any) -> Any:
    """Turns an image upright. Exif 2.3, 4.6.4: from 5 on, its axes are swapped."""
    rgba = tf.transpose(rgba, tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2]))
    is_upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    is_mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    dims = tf.stack([is_upside_down, is_mirrored, False])
    return tf.raw_ops.Reverse(tensor=rgba, dims=dims)


def _read_orientation(file: Any, is_png: Any) -> Any:
    """Reads the Exif orientation of an image, from 1 (upright) to 8."""
    data = tf.pad(tf.io.decode_raw(file, tf.uint8), [(0, 16)])
    size = tf.size(data) - 16

    def integer(place: Any, length: int, little_endian: Any) -> Any:
        """Reads unsigned integers; those beyond the file are 0."""
        offsets = tf.where(little_endian, tf.range(length), tf.range(length)[::-1])
        places = tf.minimum(place[..., None] + offsets, size)
        scale = 256 ** tf.range(length)
        values = tf.reduce_sum(int32(tf.gather(data, places)) * scale, -1)
        # Offsets that overflow or point outside become the end of the file.
        return tf.where((values < 0) | (values > size), size, values)

    def kind(place: Any, length: int) -> Any:
        return tf.strings.substr(file, tf.minimum(place, size), length)

    def is_exif(place: Any) -> Any:
        jpeg = kind(place, 2) + kind(place + 4, 6) == b"\xff\xe1Exif\0\0"
        return tf.where(is_png, kind(place + 4, 4) == b"eXIf", jpeg)

    def following(place: Any) -> Any:
        chunk = place + 12 + integer(place, 4, False)
        return tf.where(is_png, chunk, place + 2 + integer(place + 2, 2, False))

    [place] = tf.while_loop(
        lambda place: (place < size) & ~is_exif(place),
        lambda place: [following(place)],
        [tf.where(is_png, 8, 2)],
        maximum_iterations=MAX_SEGMENTS,
    )
    start = place + tf.where(is_png, 8, 10)
    little = kind(start, 2) == b"II"
    directory = start + integer(start + 4, 4, little)
    count = tf.minimum(integer(directory, 2, little), MAX_SEGMENTS)
    entries = directory + 2 + 12 * tf.range(count)
    # The value follows the tag, its type and its count.
    values = integer(entries + 8, 2, little)
    found = tf.boolean_mask(values, integer(entries, 2, little) == 0x0112)
    orientation = tf.concat([found, [1]], 0)[0]
    is_valid = (place < size) & (orientation >= 1) & (orientation <= 8)
    return tf.where(is_valid, orientation, 1)


def _count(files: Any, mark: bytes) -> Any:
    return tf.strings.split(files, mark).row_lengths() - 1


def _reject(rejected: Any, reason: str, *details: Any) -> Any:
    """Returns an assertion whose message lists the rejected files."""
    message = [f"`image_bytes` holds a file that {reason}. Received: files"]
    message += [tf.where(rejected)[:, 0]]
    message += [tf.boolean_mask(detail, rejected) for detail in details]
    return tf.debugging.Assert(~tf.reduce_any(rejected), message)
