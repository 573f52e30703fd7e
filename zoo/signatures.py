"""The graph that TF Serving runs: from the bytes of a request to a label."""

from collections.abc import Sequence
from typing import Any

import keras

from zoo.inspection import ends_in_softmax

# A PNG of some kilobytes can unpack to gigabytes: larger images are refused before
# they are decoded. This many pixels, 4096 x 4096, take 48 MiB in colour. The sides have
# a limit too, since a long image of one row is made higher before it is made shorter.
MAX_IMAGE_PIXELS = 2**24
MAX_IMAGE_SIDE = 2**14
MAX_BATCH_PIXELS = 2**28
# What else a file can hold that takes far more than its bytes: a compressed text of a
# PNG unpacks to megabytes, and each scan of a progressive JPEG visits every pixel.
MAX_TEXT_CHUNKS = 8
MAX_SCANS = 100

# Where the metadata of a camera tell how it was held.
_EXIF_BYTES = 4096


def signature_functions(model: keras.Model, labels: Sequence[str]) -> dict[str, Any]:
    """Traces the signatures of an image classifier, on the TensorFlow backend.

    Args:
        model: Functional or Sequential model with one input and one output, as
            `zoo.export` takes it.
        labels: One label per class.

    Returns:
        A concrete function for each of the signatures that `zoo.export` describes.
    """
    import tensorflow as tf

    shape = tuple(model.inputs[0].shape[1:])
    takes_files = len(shape) == 2 or shape[2:] in ((1,), (3,))
    is_softmax = ends_in_softmax(model)
    # The same layers; the model itself may take or return a dict.
    bare_model = keras.Model(model.inputs[0], model.outputs[0])

    def finite(pixels: Any) -> Any:
        # `tf.debugging.check_numerics` takes five times as long.
        is_finite = tf.raw_ops.Assert(
            condition=tf.reduce_all(tf.math.is_finite(pixels)),
            data=["image: NaN or infinity"],
        )
        with tf.control_dependencies([is_finite]):
            return tf.identity(pixels)

    def probabilities_of(pixels: Any) -> Any:
        # Fused convolutions fail on an empty batch, and do not say that it is empty.
        is_filled = tf.raw_ops.Assert(
            condition=tf.shape(pixels)[0] > 0, data=["no images"]
        )
        with tf.control_dependencies([is_filled]):
            pixels = tf.identity(pixels)
        scores = tf.cast(bare_model(pixels, training=False), tf.float32)
        return scores if is_softmax else tf.nn.softmax(scores)

    def answer(pixels: Any) -> dict[str, Any]:
        probabilities = probabilities_of(pixels)
        class_id = tf.argmax(probabilities, axis=-1)
        label = tf.gather(tf.constant(labels), class_id)
        return {"probabilities": probabilities, "class_id": class_id, "label": label}

    # `ensure_shape` comes first: TF Serving passes on any shape, and some kernels abort
    # the process on a rank that they do not expect.
    def take_floats(image: Any) -> dict[str, Any]:
        return answer(finite(tf.ensure_shape(image, (None, *shape))))

    def take_bytes(image: Any) -> dict[str, Any]:
        return answer(tf.cast(tf.ensure_shape(image, (None, *shape)), tf.float32))

    def take_files(image_bytes: Any) -> dict[str, Any]:
        return answer(decode_images(tf.ensure_shape(image_bytes, (None,)), shape))

    def classify(inputs: Any) -> dict[str, Any]:
        examples = tf.ensure_shape(inputs, (None,))
        if takes_files:
            feature = tf.io.FixedLenFeature((), tf.string)
            parsed = tf.io.parse_example(examples, {"image/encoded": feature})
            pixels = decode_images(parsed["image/encoded"], shape)
        else:
            feature = tf.io.FixedLenFeature(shape, tf.float32)
            parsed = tf.io.parse_example(examples, {"image": feature})
            pixels = finite(parsed["image"])
        scores, class_ids = tf.math.top_k(probabilities_of(pixels), k=len(labels))
        return {"classes": tf.gather(tf.constant(labels), class_ids), "scores": scores}

    images = (None, *shape)
    functions = {
        "serving_default": (take_floats, tf.TensorSpec(images, tf.float32, "image")),
        "serving_uint8": (take_bytes, tf.TensorSpec(images, tf.uint8, "image")),
        "classify": (classify, tf.TensorSpec((None,), tf.string, "inputs")),
    }
    if takes_files:
        files = tf.TensorSpec((None,), tf.string, "image_bytes")
        functions["serving_bytes"] = (take_files, files)
    return {
        name: tf.function(function, autograph=False).get_concrete_function(spec)
        for name, (function, spec) in functions.items()
    }


def decode_images(files: Any, shape: tuple[int, ...]) -> Any:
    """Graph that turns PNG and JPEG files into raw pixels.

    What can be done for the whole batch at once is not done for each file: at the size
    of digits an operation costs more than its pixels.

    Args:
        files: string tensor `(n,)`.
        shape: `(height, width)`, `(height, width, 1)` or `(height, width, 3)`.

    Returns:
        float32 tensor `(n, *shape)` of whole numbers in [0, 255].
    """
    import tensorflow as tf

    height, width = shape[:2]
    sizes, orientations = _read_headers(files)
    pixels = tf.reduce_prod(sizes, axis=1)
    sides_fit = tf.reduce_all((sizes > 0) & (sizes <= MAX_IMAGE_SIDE), axis=1)
    limits = f"sides from 1 to {MAX_IMAGE_SIDE} and at most {MAX_IMAGE_PIXELS} pixels"
    checks = [
        _refuse(~sides_fit | (pixels > MAX_IMAGE_PIXELS), f"not of {limits}:", sizes),
        tf.debugging.Assert(
            tf.reduce_sum(pixels) <= MAX_BATCH_PIXELS,
            [f"image_bytes: more than {MAX_BATCH_PIXELS} pixels in all"],
        ),
    ]
    with tf.control_dependencies(checks):
        files = tf.identity(files)

    def decode(file: Any) -> Any:
        image = tf.io.decode_image(file, channels=3, expand_animations=False)
        return tf.ensure_shape(image, (None, None, 3))

    def decode_and_fit(item: tuple[Any, Any]) -> Any:
        file, orientation = item
        # The camera's orientation (Exif 2.3, 4.6.4): from 5 on, rows are columns.
        is_turned = orientation >= 5
        size = tf.where(is_turned, [width, height], [height, width])
        image = tf.image.resize(decode(file), size, antialias=True)
        image = tf.transpose(image, tf.where(is_turned, [1, 0, 2], [0, 1, 2]))
        is_upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
        is_mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
        dims = tf.stack([is_upside_down, is_mirrored, False])
        return tf.raw_ops.Reverse(tensor=image, dims=dims)

    def decode_as_they_are() -> Any:
        spec = tf.TensorSpec((height, width, 3), tf.uint8)
        images = tf.map_fn(decode, files, 4, fn_output_signature=spec)
        return tf.cast(images, tf.float32)

    def decode_and_fit_all() -> Any:
        spec = tf.TensorSpec((height, width, 3), tf.float32)
        items = (files, orientations)
        return tf.map_fn(decode_and_fit, items, 4, fn_output_signature=spec)

    fit = tf.reduce_all(sizes == [height, width]) & tf.reduce_all(orientations == 1)
    images = tf.cond(fit, decode_as_they_are, decode_and_fit_all)
    if shape[2:] != (3,):
        # Integer weights keep grey pixels exactly as they are.
        images = tf.tensordot(images, [[299.0], [587.0], [114.0]], 1) / 1000
    return tf.reshape(tf.round(images), (-1, *shape))


def _read_headers(files: Any) -> tuple[Any, Any]:
    """Reads the size, int64 `(n, 2)`, and orientation, int32 `(n,)`, of images."""
    import tensorflow as tf

    # Width and height follow the IHDR chunk's name, as big-endian 32-bit integers.
    png_start = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    is_png = tf.strings.substr(files, 0, len(png_start)) == png_start
    is_jpeg = tf.strings.substr(files, 0, 3) == b"\xff\xd8\xff"

    def count(mark: bytes) -> Any:
        return tf.strings.split(files, mark).row_lengths() - 1

    texts = count(b"zTXt") + count(b"iTXt")
    checks = [
        _refuse(~is_png & ~is_jpeg, "neither a PNG nor a JPEG file"),
        _refuse(is_png & (texts > MAX_TEXT_CHUNKS), "too many text chunks"),
        _refuse(is_jpeg & (count(b"\xff\xda") > MAX_SCANS), "too many scans"),
    ]
    with tf.control_dependencies(checks):
        header = tf.strings.substr(files, 0, len(png_start) + 8)
    words = tf.io.decode_raw(header, tf.int32, little_endian=False, fixed_length=24)
    sizes = tf.cast(tf.reverse(words[:, 4:], [1]), tf.int64)

    def read_jpeg(file: Any) -> tuple[Any, Any]:
        size = tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64)
        return size, _exif_orientation(file)

    places = tf.where(is_jpeg)
    spec = (tf.TensorSpec((2,), tf.int64), tf.TensorSpec((), tf.int32))
    jpeg_sizes, jpeg_orientations = tf.map_fn(
        read_jpeg, tf.gather_nd(files, places), fn_output_signature=spec
    )
    upright = tf.ones_like(is_jpeg, tf.int32)
    return (
        tf.tensor_scatter_nd_update(sizes, places, jpeg_sizes),
        tf.tensor_scatter_nd_update(upright, places, jpeg_orientations),
    )


def _exif_orientation(file: Any) -> Any:
    """How the camera was held, from 1, upright, to 8: int32 scalar."""
    import tensorflow as tf

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


def _refuse(refused: Any, reason: str, *details: Any) -> Any:
    """An assertion that says which files are refused, and why."""
    import tensorflow as tf

    message = [f"image_bytes: {reason}"]
    message += [tf.boolean_mask(detail, refused) for detail in details]
    message += ["in files", tf.where(refused)[:, 0]]
    return tf.debugging.Assert(~tf.reduce_any(refused), message)
