"""The part of the served graph that turns PNG and JPEG files into pixels."""

from typing import Any

import tensorflow as tf

# A PNG file of a few kilobytes can hold gigabytes of pixels, so larger images are
# rejected before they are decoded. 4096 x 4096 pixels take 48 MiB in color. The sides
# are limited, too, because an image of one long row is enlarged before it is reduced.
MAX_IMAGE_PIXELS = 2**24
MAX_IMAGE_SIDE = 2**14
MAX_BATCH_PIXELS = 2**28
# Each compressed text of a PNG file can hold megabytes, and each scan of a progressive
# JPEG visits every pixel.
MAX_TEXT_CHUNKS = 8
MAX_SCANS = 100

# The camera's metadata, with the orientation, are at the start of a JPEG file.
_EXIF_BYTES = 4096

# The preparation of each input in the graph, for `export.json`.
PREPROCESSING = {
    "image": "raw pixels, as the model takes them",
    "image_bytes": f"PNG or JPEG of at most {MAX_IMAGE_PIXELS} pixels, "
    f"{MAX_IMAGE_SIDE} a side; turned upright (Exif in JPEG), without its alpha "
    "channel, resized bilinearly with antialiasing, converted to the model's channels "
    "(gray is the luma of ITU-R BT.601), rounded to whole numbers in [0, 255]",
}


def decode_images(files: Any, shape: tuple[int, ...]) -> Any:
    """Decodes PNG and JPEG files `(n,)` to whole float32 pixels `(n, *shape)`.

    `shape` is `(height, width)`, with or without 1 or 3 channels. Operations run on the
    whole batch where possible: for images of the size of digits, an operation per file
    costs more than its pixels.
    """
    height, width = shape[:2]
    sizes, orientations = _read_headers(files)
    pixels = tf.reduce_prod(sizes, axis=1)
    fits = tf.reduce_all((sizes > 0) & (sizes <= MAX_IMAGE_SIDE), axis=1)
    rule = f"is not of 1 to {MAX_IMAGE_PIXELS} pixels, at most {MAX_IMAGE_SIDE} a side"
    total = [f"`image_bytes` holds more than {MAX_BATCH_PIXELS} pixels in all."]
    checks = [
        _reject(~fits | (pixels > MAX_IMAGE_PIXELS), rule, sizes),
        tf.debugging.Assert(tf.reduce_sum(pixels) <= MAX_BATCH_PIXELS, total),
    ]
    with tf.control_dependencies(checks):
        files = tf.identity(files)

    def decode(file: Any) -> Any:
        return tf.io.decode_png(file, channels=3)  # It decodes JPEG files, too.

    def decode_and_fit(item: tuple[Any, Any]) -> Any:
        file, orientation = item
        # Exif 2.3, 4.6.4: rows and columns are swapped from 5 on.
        is_turned = orientation >= 5
        size = tf.where(is_turned, [width, height], [height, width])
        image = tf.image.resize(decode(file), size, antialias=True)
        image = tf.transpose(image, tf.where(is_turned, [1, 0, 2], [0, 1, 2]))
        is_upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
        is_mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
        dims = tf.stack([is_upside_down, is_mirrored, False])
        return tf.raw_ops.Reverse(tensor=image, dims=dims)

    def map_files(function: Any, items: Any, dtype: Any) -> Any:
        spec = tf.TensorSpec((height, width, 3), dtype)
        return tf.cast(tf.map_fn(function, items, fn_output_signature=spec), tf.float32)

    images = tf.cond(
        tf.reduce_all(sizes == [height, width]) & tf.reduce_all(orientations == 1),
        lambda: map_files(decode, files, tf.uint8),
        lambda: map_files(decode_and_fit, (files, orientations), tf.float32),
    )
    if shape[2:] != (3,):
        # Integer weights leave gray pixels exactly as they are.
        images = tf.tensordot(images, [[299.0], [587.0], [114.0]], 1) / 1000
    return tf.reshape(tf.round(images), (-1, *shape))


def _read_headers(files: Any) -> tuple[Any, Any]:
    """Reads the size, int64 `(n, 2)`, and orientation, int32 `(n,)`, of images."""
    # Width and height follow the name of the chunk IHDR as big-endian 32-bit integers.
    png_start = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    is_png = tf.strings.substr(files, 0, len(png_start)) == png_start
    is_jpeg = tf.strings.substr(files, 0, 3) == b"\xff\xd8\xff"

    def count(mark: bytes) -> Any:
        return tf.strings.split(files, mark).row_lengths() - 1

    texts = count(b"zTXt") + count(b"iTXt")
    scans = count(b"\xff\xda")
    checks = [
        _reject(~is_png & ~is_jpeg, "is neither a PNG nor a JPEG file"),
        _reject(is_png & (texts > MAX_TEXT_CHUNKS), "has too many text chunks"),
        _reject(is_jpeg & (scans > MAX_SCANS), "has too many scans"),
    ]
    with tf.control_dependencies(checks):
        header = tf.strings.substr(files, 0, len(png_start) + 8)
    words = tf.io.decode_raw(header, tf.int32, little_endian=False, fixed_length=24)
    sizes = tf.cast(tf.reverse(words[:, 4:], [1]), tf.int64)

    def read_jpeg(file: Any) -> tuple[Any, Any]:
        size = tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64)
        return size, _read_orientation(file)

    places = tf.where(is_jpeg)
    spec = (tf.TensorSpec((2,), tf.int64), tf.TensorSpec((), tf.int32))
    jpeg_sizes, jpeg_orientations = tf.map_fn(
        read_jpeg, tf.gather_nd(files, places), fn_output_signature=spec
    )
    sizes = tf.tensor_scatter_nd_update(sizes, places, jpeg_sizes)
    upright = tf.ones_like(is_jpeg, tf.int32)
    return sizes, tf.tensor_scatter_nd_update(upright, places, jpeg_orientations)


def _read_orientation(file: Any) -> Any:
    """Reads the Exif orientation of a JPEG file, from 1 (upright) to 8."""
    # A tag is followed by its type (3, 16 bits), its count (1) and its value.
    big_endian = b"\x01\x12\0\x03\0\0\0\x01"
    little_endian = b"\x12\x01\x03\0\x01\0\0\0"
    header = tf.strings.substr(file, 0, _EXIF_BYTES)
    exif = tf.strings.split([header], b"Exif\0\0").to_tensor(b"", shape=(1, 2))[0, 1]

    def value(tag: bytes, place: int) -> Any:
        after = tf.strings.split([exif], tag).to_tensor(b"", shape=(1, 2))[0, 1]
        return tf.io.decode_raw(after, tf.uint8, fixed_length=2)[place]

    found = tf.cast(value(big_endian, 1) + value(little_endian, 0), tf.int32)
    return tf.where((found >= 1) & (found <= 8), found, 1)


def _reject(rejected: Any, reason: str, *details: Any) -> Any:
    """Returns an assertion whose message lists the rejected files."""
    message = [f"`image_bytes` holds a file that {reason}. Received: files"]
    message += [tf.where(rejected)[:, 0]]
    message += [tf.boolean_mask(detail, rejected) for detail in details]
    return tf.debugging.Assert(~tf.reduce_any(rejected), message)
