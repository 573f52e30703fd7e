"""A model trained on the Keras backend in use answers the same when it is served."""

import keras
import numpy as np
import pytest
from exports import answer_requests

import zoo

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="test_signatures does this"
)


@pytest.mark.parametrize("name", ["lenet5", "convnet"])
def test_a_trained_model_answers_the_same(name, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (256, 28, 28, 1), "uint8")
    labels = images.mean((1, 2, 3)).argsort().argsort() * 10 // 256
    model = zoo.create(name)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=2, verbose=0)
    folder = zoo.export(model, tmp_path / "served")
    [(answer, _)] = answer_requests(folder, [("serving_uint8", images)])
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-5)
