"""Requests that a server answers to itself before it serves.

The first run of a graph is slow. TF Serving replays this file when it loads a version,
so that no user waits; if a request fails, so does the load.

Reference: [SavedModel Warmup](
https://www.tensorflow.org/tfx/serving/saved_model_warmup)
"""

import pathlib
from collections.abc import Iterator
from typing import Any

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


def write_warmup_requests(folder: pathlib.Path, functions: dict[str, Any]) -> None:
    """Adds requests for each signature to the SavedModel in `folder`.

    Args:
        folder: Folder of the version.
        functions: The signatures, as `signature_functions` returns them.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    [spec], _ = functions["serving_default"].structured_input_signature
    pixels = tf.zeros((1, *spec.shape[1:]))
    batches = {
        "serving_default": [("image", pixels)],
        "serving_uint8": [("image", tf.cast(pixels, tf.uint8))],
    }
    if "serving_bytes" in functions:
        height, width = spec.shape[1:3]
        fitting = tf.io.encode_png(tf.zeros((height, width, 1), tf.uint8))
        # Another way through the graph: to be resized, and of the other format.
        other = tf.io.encode_jpeg(tf.zeros((2 * height, 2 * width, 3), tf.uint8))
        files = [("image_bytes", tf.stack(batch)) for batch in ([fitting], [other])]
        batches["serving_bytes"] = files
        content = tf.train.BytesList(value=[fitting.numpy()])
        features = {"image/encoded": tf.train.Feature(bytes_list=content)}
    else:
        numbers = tf.train.FloatList(value=tf.reshape(pixels, [-1]).numpy())
        features = {"image": tf.train.Feature(float_list=numbers)}

    logs = []
    for signature, requests in batches.items():
        for argument, batch in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.model_spec.signature_name = signature
            tensor = tf.make_tensor_proto(batch)
            log.predict_log.request.inputs[argument].CopyFrom(tensor)
            logs.append(log)
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.signature_name = "classify"
    examples = log.classify_log.request.input.example_list.examples
    examples.add(features=tf.train.Features(feature=features))
    logs.append(log)

    (folder / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString(deterministic=True))


def read_warmup_requests(folder: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads the requests that a version is warmed up with.

    Args:
        folder: Folder of the version.

    Yields:
        Each request in turn, as (signature, tensors by argument).

    Raises:
        ValueError: the file holds something else; the message names the record.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    path = str(folder / WARMUP_FILE)
    records = tf.data.TFRecordDataset(path).as_numpy_iterator()
    number = 0
    while True:
        number += 1
        try:
            log = prediction_log_pb2.PredictionLog.FromString(next(records))
        except StopIteration:
            return
        except (tf.errors.OpError, DecodeError) as error:
            raise ValueError(f"{path}: record {number} is damaged: {error}") from error
        if log.HasField("predict_log"):
            request = log.predict_log.request
            inputs = {
                name: tf.constant(tf.make_ndarray(tensor))
                for name, tensor in request.inputs.items()
            }
        elif log.HasField("classify_log"):
            request = log.classify_log.request
            examples = request.input.example_list.examples
            inputs = {"inputs": tf.constant([e.SerializeToString() for e in examples])}
        else:
            raise ValueError(
                f"{path}: record {number} is no Predict or Classify request. "
                f"Received: {log.WhichOneof('log_type')}"
            )
        yield request.model_spec.signature_name or "serving_default", inputs
