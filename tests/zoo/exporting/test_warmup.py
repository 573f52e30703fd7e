import hashlib
import json
import shutil

import pytest
import tensorflow as tf
from exports import vector
from tensorflow_serving.apis import prediction_log_pb2

from zoo.exporting.loading import check_exported
from zoo.exporting.versions import export
from zoo.exporting.warmup import WARMUP_FILE, read_warmup_requests


def test_every_signature_is_warmed_up(folder, tmp_path):
    names = [signature for signature, _ in read_warmup_requests(folder)]
    # A PNG of the model's size and a larger JPEG take different branches.
    assert names == [
        *("serving_default", "serving_uint8"),
        *("serving_bytes", "serving_bytes", "classify"),
    ]
    requests = read_warmup_requests(export(vector(), tmp_path))
    names = [signature for signature, _ in requests]
    assert names == ["serving_default", "serving_uint8", "classify"]


def request(signature, argument, value):
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs[argument].CopyFrom(tf.make_tensor_proto(value))
    return log.SerializeToString()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"no protocol buffer", "its warm-up requests.*Received: signature=None, "),
        (b"", "Received: signature='', "),
        (request("serving_bytes", "image_bytes", [b"text"]), "signature='serving_byt"),
        (request("missing", "image", [1.0]), "signature='missing'"),
    ],
    ids=["no message", "empty", "no image", "no signature"],
)
def test_check_exported_finds_a_broken_request(folder, tmp_path, record, message):
    copy = shutil.copytree(folder, tmp_path / "1")
    with tf.io.TFRecordWriter(str(copy / WARMUP_FILE)) as writer:
        writer.write(record)
    contract = json.loads((copy / "export.json").read_text("utf-8"))
    checksum = hashlib.sha256((copy / WARMUP_FILE).read_bytes()).hexdigest()
    contract["files"][WARMUP_FILE] = checksum
    (copy / "export.json").write_text(json.dumps(contract))
    with pytest.raises(ValueError, match=message):
        check_exported(copy)
