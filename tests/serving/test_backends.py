"""A model trained on the Keras backend in use answers the same when it is served."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import zoo

# TensorFlow's C API with XLA disabled, as TF Serving has it.
ANSWER = """
import sys
sys.path.insert(0, sys.argv[1])
import capi
import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
session = capi.Session(sys.argv[2])
graph = meta_graph_pb2.MetaGraphDef.FromString(session.meta_graph)
signature = graph.signature_def["serving_default"]
feeds = {signature.inputs["image"].name: np.load(sys.argv[3])}
[probabilities] = session.run(feeds, [signature.outputs["probabilities"].name])
np.save(sys.argv[3], probabilities)
"""


@pytest.mark.parametrize("name", ["lenet5", "convnet"])
def test_a_trained_model_answers_the_same(name, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (256, 28, 28, 1), "uint8")
    labels = images.mean((1, 2, 3)).argsort().argsort() * 10 // 256
    model = zoo.create(name)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=2, verbose=0)
    folder = zoo.export(model, tmp_path / "served")
    file = tmp_path / "images.npy"
    np.save(file, images.astype("float32"))
    here = pathlib.Path(__file__).parent
    command = [sys.executable, "-c", ANSWER, here, folder, file]
    subprocess.run(command, check=True, capture_output=True)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(np.load(file), expected, rtol=0, atol=1e-5)
