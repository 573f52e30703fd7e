"""The interface of a served model, called with TF Serving's stubs and with JSON.

The tests run against server.py, or against the real server at TF_SERVING_URL, which
must serve `zoo.export(zoo.LeNet5(weights="mnist"), ".../lenet5")` as `lenet5`.
"""

import base64
import re

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from served_images import FILES, PIXELS, check_answer
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def b64(file):
    return {"b64": base64.b64encode(file).decode()}


# For each signature: the name of the input, and the images over gRPC and over REST.
IMAGES = {
    "serving_default": ("image", PIXELS.astype("float32"), PIXELS.tolist()),
    "serving_uint8": ("image", PIXELS, PIXELS.tolist()),
    "serving_bytes": ("image_bytes", np.array(FILES, object), [*map(b64, FILES)]),
}


def check_classes(classifications, expected):
    """Checks that each image has every class, the most probable first."""
    assert len(classifications) == len(PIXELS)
    for classes, probabilities in zip(
        classifications, expected["probabilities"], strict=True
    ):
        labels, scores = zip(*classes, strict=True)
        assert labels[0] == str(probabilities.argmax())
        assert sorted(labels) == [str(label) for label in range(10)]
        np.testing.assert_allclose(scores, np.sort(probabilities)[::-1], 0, 1e-6)
        by_label = [probabilities[int(label)] for label in labels]
        np.testing.assert_allclose(scores, by_label, 0, 1e-6)


# gRPC


@pytest.fixture(scope="module")
def predictions(serving):
    with grpc.insecure_channel(serving.grpc_url) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict_request(serving, images, signature):
    return predict_pb2.PredictRequest(
        model_spec={"name": serving.model, "signature_name": signature},
        inputs={IMAGES[signature][0]: tf.make_tensor_proto(images)},
    )


@pytest.mark.parametrize("signature", IMAGES)
def test_grpc_predict(serving, predictions, expected, signature):
    request = predict_request(serving, IMAGES[signature][1], signature)
    response = predictions.Predict(request)
    assert response.model_spec.name == serving.model
    assert response.model_spec.signature_name == signature
    outputs = {name: tf.make_ndarray(x) for name, x in response.outputs.items()}
    outputs["label"] = np.array([label.decode() for label in outputs["label"]])
    check_answer(outputs, expected)
    dtypes = {name: tensor.dtype for name, tensor in response.outputs.items()}
    assert dtypes == {
        "probabilities": tf.float32.as_datatype_enum,
        "class_id": tf.int64.as_datatype_enum,
        "label": tf.string.as_datatype_enum,
    }


def test_grpc_classify(serving, predictions, expected):
    request = classification_pb2.ClassificationRequest(
        model_spec={"name": serving.model, "signature_name": "classify"}
    )
    for file in FILES:
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(file)
    result = predictions.Classify(request).result
    check_classes(
        [[[x.label, x.score] for x in one.classes] for one in result.classifications],
        expected,
    )


# REST


def post(serving, body, verb="predict", version=""):
    url = f"{serving.rest_url}/v1/models/{serving.model}{version}:{verb}"
    return requests.post(url, json=body, timeout=600)


@pytest.mark.parametrize("named", [False, True], ids=["plain", "named"])
@pytest.mark.parametrize("signature", IMAGES)
def test_rest_rows_and_columns(serving, expected, signature, named):
    argument, _, images = IMAGES[signature]
    instances = [{argument: image} for image in images] if named else images
    body = {"signature_name": signature, "instances": instances}
    response = post(serving, body, version="/versions/1")
    assert response.status_code == 200, response.text
    rows = response.json()["predictions"]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    check_answer(columns, expected)

    inputs = {argument: images} if named else images
    response = post(serving, {"signature_name": signature, "inputs": inputs})
    assert response.status_code == 200, response.text
    columns = {name: np.array(x) for name, x in response.json()["outputs"].items()}
    check_answer(columns, expected)


def test_rest_classify(serving, expected):
    examples = [{"image/encoded": b64(file)} for file in FILES]
    body = {"signature_name": "classify", "examples": examples}
    response = post(serving, body, "classify")
    assert response.status_code == 200, response.text
    check_classes(response.json()["results"], expected)


# Errors, the same over both protocols

ZEROS = np.zeros((2, 28, 28, 1), "uint8")
NO_IMAGE = np.array([FILES[0], b"text"], object)
CUT = np.array([FILES[0][:60]], object)
BAD_REQUESTS = {
    "rank": ("serving_uint8", ZEROS[0], r"\[28,28,1\] is not compatible with expected"),
    "size": ("serving_uint8", ZEROS[:, 1:], r"\[2,27,28,1\] is not compatible with"),
    "dtype": ("serving_uint8", ZEROS / 2, "uint8.*double|double.*uint8|type: uint8"),
    "no image": ("serving_bytes", NO_IMAGE, "neither a PNG nor a JPEG file"),
    "cut": ("serving_bytes", CUT, "PNG"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(serving, predictions, case):
    signature, images, message = BAD_REQUESTS[case]
    request = predict_request(serving, images, signature)
    with pytest.raises(grpc.RpcError, match=message) as error:
        predictions.Predict(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    values = [b64(x) for x in images] if images.dtype == object else images.tolist()
    response = post(serving, {"signature_name": signature, "inputs": values})
    assert response.status_code == 400
    assert re.search(message, response.text)
