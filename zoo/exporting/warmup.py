"""Requests that TF Serving replays when it loads a version, since first runs are slow.

If a request fails, TF Serving does not load the version.

Reference: [SavedModel Warmup](
https://www.tensorflow.org/tfx/serving/saved_model_warmup)
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


def write_warmup_requests(folder: pathlib.Path, functions: dict[str, Any]) -> None:
    """Adds requests for each of the `signature_functions` to a SavedModel."""
    [spec], _ = functions["serving_default"].structured_input_signature
    pixels = tf.zeros((1, *spec.shape[1:]))
    requests = [
        ("serving_default", "image", pixels),
        ("serving_uint8", "image", tf.cast(pixels, tf.uint8)),
    ]
    example = tf.train.Example()
    if "serving_bytes" in functions:
        height, width = spec.shape[1:3]
        png = tf.io.encode_png(tf.zeros((height, width, 1), tf.uint8))
        # The other branches of the graph: the other format, and an image to resize.
        jpeg = tf.io.encode_jpeg(tf.zeros((2 * height, 2 * width, 3), tf.uint8))
        requests += [("serving_bytes", "image_bytes", [x.numpy()]) for x in (png, jpeg)]
        feature = example.features.feature["image/encoded"]
        feature.bytes_list.value.append(png.numpy())
    else:
        feature = example.features.feature["image"]
        feature.float_list.value.extend(tf.reshape(pixels, [-1]).numpy())

    logs = []
    for signature, argument, batch in requests:
        inputs = {argument: tf.make_tensor_proto(batch)}
        request = {"model_spec": {"signature_name": signature}, "inputs": inputs}
        logs.append(PredictionLog(predict_log={"request": request}))
    examples = {"example_list": {"examples": [example]}}
    classify = {"model_spec": {"signature_name": "classify"}, "input": examples}
    logs.append(PredictionLog(classify_log={"request": classify}))
    (folder / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString(deterministic=True))


def read_warmup_requests(folder: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the warm-up requests of a version, as (signature, arrays by argument)."""
    records = tf.data.TFRecordDataset(str(folder / WARMUP_FILE))
    for record in records.as_numpy_iterator():
        log = PredictionLog.FromString(record)
        if log.HasField("classify_log"):
            request = log.classify_log.request
            examples = request.input.example_list.examples
            strings = [example.SerializeToString() for example in examples]
            inputs = {"inputs": np.array(strings, object)}
        else:
            request = log.predict_log.request
            inputs = {k: tf.make_ndarray(x) for k, x in request.inputs.items()}
        yield request.model_spec.signature_name, inputs
