"""LeNet1998: the figures of the paper, layer by layer."""

import keras
import numpy as np
import pytest
from noise import images, softmax

import zoo
from zoo.callbacks import GradientNorms
from zoo.models.lenet1998 import BITMAPS, CONNECTIONS, MAPCriterion, scaled_tanh

# Section II-B of the paper: the size of the output, the trainable parameters and the
# connections of each layer. The sum of the connections includes the 10 x 84 of the
# output, which the paper does not count separately.
PRINTED = {
    "C1": ((28, 28, 6), 156, 122_304),
    "S2": ((14, 14, 6), 12, 5_880),
    "C3": ((10, 10, 16), 1_516, 151_600),
    "S4": ((5, 5, 16), 32, 2_000),
    "C5": ((1, 1, 120), 48_120, 48_120),
    "F6": ((84,), 10_164, 10_164),
    "logits": ((10,), 0, 840),
}


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def count_connections(layer):
    """Counts the pairs of units of which one changes the other, and the biases."""
    shape = layer.input.shape[1:]
    pixels = np.eye(np.prod(shape), dtype="float32").reshape(-1, *shape)
    at_rest = numpy(layer(pixels[:1] * 0))
    connected = sum(
        np.count_nonzero(numpy(layer(block)) != at_rest)
        for block in np.array_split(pixels, 8)
    )
    return connected + (at_rest.size if hasattr(layer, "bias") else 0)


def test_parameters_and_connections_of_the_paper():
    model = zoo.LeNet1998()
    found = {}
    for name in PRINTED:
        layer = model.get_layer(name)
        trained = sum(np.prod(v.shape) for v in layer.trainable_variables)
        found[name] = (layer.output.shape[1:], trained, count_connections(layer))
    assert found == PRINTED
    _, parameters, connections = zip(*found.values(), strict=True)
    assert sum(parameters) == 60_000
    assert sum(connections) == 340_908
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == 60_000


def test_input_is_padded_and_scaled():
    model = zoo.LeNet1998()
    assert zoo.features(model, ["rescaling"]).output["rescaling"].shape[1:3] == (32, 32)
    x = np.zeros((1, 28, 28, 1), "uint8")
    x[0, 0, 0] = 255
    scaled = numpy(zoo.features(model, ["rescaling"])(x)["rescaling"])
    np.testing.assert_allclose(scaled[0, 2, 2, 0], 1.175, rtol=1e-6)
    scaled[0, 2, 2, 0] = -0.1
    np.testing.assert_allclose(scaled, -0.1, rtol=1e-6)
    bare = zoo.LeNet1998(include_preprocessing=False)
    assert bare.input.shape == (None, 32, 32, 1)
    bare.set_weights(model.get_weights())
    x = images()
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))) / 255 * 1.275 - 0.1
    same = bare.predict(padded, verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), same, atol=1e-5)


def test_layers_compute_what_the_paper_prints():
    model = zoo.LeNet1998(classifier_activation=None)
    model.set_weights([w + 0.01 for w in model.get_weights()])
    maps = zoo.features(model).predict(images(2), verbose=0)
    layers = {layer.name: layer.get_weights() for layer in model.layers}

    def squash(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    coefficient, bias = layers["S2"]
    total = maps["C1"].reshape(2, 14, 2, 14, 2, 6).sum((2, 4))
    expected = squash(coefficient * total + bias)
    np.testing.assert_allclose(maps["S2"], expected, rtol=1e-4, atol=1e-5)

    kernel, bias = layers["C3"]
    windows = np.lib.stride_tricks.sliding_window_view(maps["S2"], (5, 5), (1, 2))
    first = 0
    for i, connected in enumerate(CONNECTIONS):
        own = kernel[:, :, first : first + len(connected)]
        first += len(connected)
        total = np.einsum("nyxcij,ijc->nyx", windows[:, :, :, connected], own)
        expected = squash(total + bias[i])
        np.testing.assert_allclose(maps["C3"][..., i], expected, rtol=1e-4, atol=1e-5)
    assert first == kernel.shape[-1]

    [bitmaps] = layers["logits"]
    distance = ((maps["F6"][:, None] - bitmaps) ** 2).sum(-1)
    np.testing.assert_allclose(maps["logits"], -distance, rtol=1e-4)
    np.testing.assert_allclose(numpy(scaled_tanh(np.array([1.0, -1]))), [1, -1], 1e-4)


def test_bitmaps_differ():
    assert BITMAPS.shape == (10, 7 * 12)
    assert set(np.unique(BITMAPS)) == {-1, 1}
    differing = (BITMAPS[:, None] != BITMAPS).sum(-1)
    assert np.all(differing[~np.eye(10, dtype=bool)] >= 5)


def test_initial_weights_are_those_of_appendix_a():
    model = zoo.LeNet1998()
    fan_in = {"C1": 25, "S2": 4, "S4": 4, "C5": 400, "F6": 120}
    for name, inputs in fan_in.items():
        weights = model.get_layer(name).get_weights()[0]
        assert 0.5 * 2.4 / inputs < np.abs(weights).max() <= 2.4 / inputs
    kernel = np.abs(model.get_layer("C3").get_weights()[0]).max((0, 1))
    inputs = [25 * len(maps) for maps in CONNECTIONS for _ in maps]
    assert np.all((kernel > 0.5 * 2.4 / np.array(inputs)) & (kernel <= 2.4 / 75))
    assert np.all(kernel * inputs <= 2.4 * (1 + 1e-6))


def test_it_learns_and_every_gradient_is_recorded():
    model = zoo.LeNet1998()
    bitmaps = model.get_layer("logits").get_weights()[0]
    x = images(64)
    y = np.arange(64) % 10
    model.compile("adam", "sparse_categorical_crossentropy")
    norms = GradientNorms()
    losses = model.fit(x, y, epochs=3, callbacks=[norms], verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert list(norms.history) == ["C1", "S2", "C3", "S4", "C5", "F6"]
    for norm in norms.history.values():
        assert np.all(np.isfinite(norm) & (norm > 0))
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], bitmaps)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_keras_files(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = zoo.LeNet1998(name="mine")
    x = images()
    expected = model.predict(x, verbose=0)
    assert (model.name, expected.dtype) == ("mine", "float32")
    model.save(tmp_path / "model.keras")
    loaded = zoo.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    assert loaded.categories == tuple("0123456789")
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy.predict(x, verbose=0), expected)


def test_logits_are_negative_distances():
    model = zoo.LeNet1998(classifier_activation=None)
    trained = zoo.LeNet1998()
    trained.set_weights(model.get_weights())
    logits = model.predict(images(), verbose=0)
    assert np.all(logits < 0)
    expected = trained.predict(images(), verbose=0)
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-6)


def test_map_criterion(tmp_path):
    z = -np.random.default_rng(0).uniform(0, 30, (5, 10)).astype("float32")
    y = np.arange(5)
    for j in (1.0, 10.0):
        expected = np.log(np.exp(-j) + np.exp(z).sum(1)) - z[y, y]
        loss = MAPCriterion(j, reduction=None)
        np.testing.assert_allclose(numpy(loss(y, z)), expected, rtol=1e-5)
        column = numpy(loss(y[:, None], z))
        np.testing.assert_allclose(column, expected, rtol=1e-5)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(MAPCriterion(1e9)(y, z), entropy(y, z), rtol=1e-5)
    model = zoo.LeNet1998(classifier_activation=None)
    model.compile("adam", MAPCriterion(3.0))
    model.train_on_batch(images(), np.arange(4))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.j == 3.0


def test_export(tmp_path):
    model = zoo.LeNet1998(include_preprocessing=False)
    x = images(4, (32, 32, 1))
    answer = zoo.load_exported(zoo.export(model, tmp_path)).predict(x)["probabilities"]
    np.testing.assert_allclose(answer, model.predict(x, verbose=0), atol=1e-5)


def test_image_data_format_has_no_effect():
    expected = zoo.LeNet1998().predict(images(), verbose=0)
    keras.utils.set_random_seed(0)
    keras.config.set_image_data_format("channels_first")
    found = zoo.LeNet1998().predict(images(), verbose=0)
    np.testing.assert_array_equal(found, expected)
