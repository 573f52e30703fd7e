"""Exported models in TensorFlow's C API without XLA, as TF Serving runs them."""

import numpy as np
import pytest
import tensorflow as tf
from exports import answer_requests, encode, in_form

import zoo


@pytest.mark.parametrize(
    ("name", "weights"), [("lenet5", "mnist"), ("convnet", "fashion_mnist")]
)
def test_answers_are_those_of_predict_to_the_bit(name, weights, tmp_path):
    model = zoo.create(name, weights=weights)
    folder = zoo.export(model, tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), "uint8")
    pixels = in_form(noise, weights)
    # XLA rounds differently, in the seventh digit, and TF Serving runs without it.
    model.compile(jit_compile=False)
    # So do TensorFlow's kernels on some CPUs for a batch of another size.
    expected = model.predict(pixels, batch_size=len(pixels), verbose=0)
    in_batches = model.predict(pixels, verbose=0)
    labels = [model.categories[class_id] for class_id in expected.argmax(-1)]
    assert len(set(labels)) > 1

    files = np.array([encode(image) for image in pixels], object)
    requests = [
        ("serving_default", pixels.astype("float32")),
        ("serving_uint8", pixels),
        ("serving_bytes", files),
    ]
    for answer, _ in answer_requests(folder, requests):
        np.testing.assert_array_equal(answer["probabilities"], expected)
        np.testing.assert_allclose(answer["probabilities"], in_batches, 0, 1e-5)
        np.testing.assert_array_equal(answer["class_id"], expected.argmax(-1))
        assert [label.decode() for label in answer["label"]] == labels


def test_xla_is_disabled(tmp_path):
    """A graph that XLA must compile does not run, as it would not in TF Serving."""
    module = tf.Module()
    module.add = tf.function(lambda image: {"label": image + 1}, jit_compile=True)
    spec = tf.TensorSpec((None,), tf.float32, "image")
    signatures = {"serving_default": module.add.get_concrete_function(spec)}
    tf.saved_model.save(module, str(tmp_path / "1"), signatures)
    request = ("serving_default", np.zeros(3, "float32"))
    [((code, message), _)] = answer_requests(tmp_path / "1", [request])
    assert code == tf.errors.INTERNAL
    assert "XLA compilation disabled" in message
