"""The graph that TF Serving runs, from the pixels of a request to the label."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from zoo.exporting.decoding import decode_images
from zoo.models.inspection import layer_outputs


def signature_functions(
    model: keras.Model,
    labels: Sequence[str] | None,
    is_softmax: bool,
    form: str | None,
    features: Sequence[str],
) -> dict[str, Any]:
    """Traces the signatures that `zoo.export` describes, as concrete functions.

    Without `labels`, there is no output `label` and no `classify`.
    """
    shape = tuple(model.inputs[0].shape[1:])
    accepts_files = len(shape) == 2 or shape[2:] in ((1,), (3,))
    # The model may take or return a dict.
    outputs = layer_outputs(model, features) | {"probabilities": model.outputs[0]}
    bare_model = keras.Model(model.inputs[0], outputs)

    def answer(pixels: Any) -> dict[str, Any]:
        # Convolutions fail on an empty batch with an unclear message.
        is_filled = tf.shape(pixels)[0] > 0
        pixels = _checked(pixels, is_filled, "The request holds no images.")
        outputs = bare_model(pixels, training=False)
        outputs = {name: tf.cast(x, tf.float32) for name, x in outputs.items()}
        if not is_softmax:
            outputs["probabilities"] = tf.nn.softmax(outputs["probabilities"])
        class_id = outputs["class_id"] = tf.argmax(outputs["probabilities"], axis=-1)
        if labels is not None:
            outputs["label"] = tf.gather(tf.constant(labels), class_id)
        return outputs

    # `ensure_shape` comes first: TF Serving passes on inputs of any shape, and some
    # kernels abort the process if the rank is wrong.
    def answer_floats(image: Any) -> dict[str, Any]:
        return answer(_finite(tf.ensure_shape(image, (None, *shape))))

    def answer_bytes(image: Any) -> dict[str, Any]:
        return answer(tf.cast(tf.ensure_shape(image, (None, *shape)), tf.float32))

    def answer_files(image_bytes: Any) -> dict[str, Any]:
        return answer(decode_images(tf.ensure_shape(image_bytes, (None,)), shape, form))

    def classify(inputs: Any) -> dict[str, Any]:
        examples = tf.ensure_shape(inputs, (None,))
        pixels = _parse_examples(examples, shape, accepts_files, form)
        probabilities = answer(pixels)["probabilities"]
        scores, class_ids = tf.math.top_k(probabilities, k=probabilities.shape[1])
        return {"classes": tf.gather(tf.constant(labels), class_ids), "scores": scores}

    images = (None, *shape)
    functions: dict[str, tuple[Any, Any]] = {
        "serving_default": (answer_floats, tf.TensorSpec(images, tf.float32, "image")),
        "serving_uint8": (answer_bytes, tf.TensorSpec(images, tf.uint8, "image")),
    }
    if accepts_files:
        files = tf.TensorSpec((None,), tf.string, "image_bytes")
        functions["serving_bytes"] = (answer_files, files)
    if labels is not None:
        functions["classify"] = classify, tf.TensorSpec((None,), tf.string, "inputs")
    return {
        name: tf.function(function, autograph=False).get_concrete_function(spec)
        for name, (function, spec) in functions.items()
    }


def _parse_examples(
    examples: Any, shape: tuple[int, ...], accepts_files: bool, form: str | None
) -> Any:
    """Reads pixels from serialized `tf.Example` messages."""
    if accepts_files:
        files = {"image/encoded": tf.io.FixedLenFeature((), tf.string)}
        parsed = tf.io.parse_example(examples, files)
        return decode_images(parsed["image/encoded"], shape, form)
    pixels = {"image": tf.io.FixedLenFeature(shape, tf.float32)}
    return _finite(tf.io.parse_example(examples, pixels)["image"])


def _finite(pixels: Any) -> Any:
    # `tf.debugging.check_numerics` takes five times as long.
    is_finite = tf.reduce_all(tf.math.is_finite(pixels))
    return _checked(pixels, is_finite, "`image` holds NaN or infinity.")


def _checked(pixels: Any, condition: Any, message: str) -> Any:
    """Returns the pixels once an assertion holds."""
    assertion = tf.raw_ops.Assert(condition=condition, data=[message])
    with tf.control_dependencies([assertion]):
        return tf.identity(pixels)
