"""What must hold for every model of the zoo, and what is particular to each."""

import pathlib
import re
import warnings

import h5py
import keras
import numpy as np
import pytest

import zoo

MODELS = zoo.list_models()
MLPS = zoo.list_models("*mlp")
CONVNETS = [name for name in MODELS if name not in MLPS]
BACKEND = keras.backend.backend()


def images(n=4, shape=(28, 28, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype("uint8")


def gradients(model, x, y):
    """The gradient of the mean cross-entropy, by hand on each backend."""
    loss_fn = keras.losses.SparseCategoricalCrossentropy()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        return [g.numpy() for g in tape.gradient(loss, model.trainable_weights)]
    if BACKEND == "jax":
        import jax

        def loss(trainable):
            fixed = [v.value for v in model.non_trainable_variables]
            outputs, _ = model.stateless_call(trainable, fixed, x, training=True)
            return loss_fn(y, outputs)

        values = [v.value for v in model.trainable_variables]
        return [np.asarray(g) for g in jax.grad(loss)(values)]
    loss_fn(y, model(x, training=True)).backward()
    return [v.value.grad.cpu().numpy() for v in model.trainable_weights]


@pytest.mark.parametrize("name", MODELS)
def test_forward_gives_probabilities(name):
    for dtype in ("uint8", "int32", "float32", "float64"):
        outputs = zoo.create(name).predict(images().astype(dtype), verbose=0)
        assert outputs.shape == (4, 10)
        assert outputs.dtype == "float32"
        np.testing.assert_allclose(outputs.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_gradient_is_finite_and_not_zero(name):
    model = zoo.create(name)
    found = gradients(model, images(8), np.arange(8))
    assert len(found) == len(model.trainable_weights)
    for gradient, variable in zip(found, model.trainable_weights, strict=True):
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.any(gradient), variable.path


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_a_float32_head(name, policy):
    full = zoo.create(name)
    keras.config.set_dtype_policy(policy)
    mixed = zoo.create(name)
    mixed.set_weights(full.get_weights())
    assert mixed.get_layer("logits").compute_dtype == "float32"
    assert mixed.get_layer(index=-3).compute_dtype == policy.removeprefix("mixed_")
    outputs = mixed.predict(images(), verbose=0)
    assert outputs.dtype == "float32"
    np.testing.assert_allclose(outputs, full.predict(images(), verbose=0), atol=0.03)


@pytest.mark.parametrize("name", MODELS)
def test_keras_file_needs_no_custom_objects(name, tmp_path):
    model = zoo.create(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={})
    assert type(loaded) is keras.Model or type(loaded).__name__ == "Functional"
    expected = model.predict(images(), verbose=0)
    np.testing.assert_array_equal(loaded.predict(images(), verbose=0), expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("file", ["own.weights.h5", "own.keras"])
def test_own_weights_round_trip(name, file, tmp_path):
    model = zoo.create(name)
    path = tmp_path / file
    if file.endswith(".keras"):
        model.save(path)
    else:
        model.save_weights(path)
    keras.utils.set_random_seed(1)
    for weights in (path, str(path)):
        loaded = zoo.create(name, weights=weights)
        np.testing.assert_array_equal(
            loaded.predict(images(), verbose=0), model.predict(images(), verbose=0)
        )
    features = zoo.create(name, weights=path, include_top=False)
    for layer in features.layers:
        for a, b in zip(
            layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", MODELS)
def test_config_round_trip(name):
    model = zoo.create(name)
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    assert [layer.name for layer in copy.layers] == [
        layer.name for layer in model.layers
    ]
    np.testing.assert_array_equal(
        copy.predict(images(), verbose=0), model.predict(images(), verbose=0)
    )


@pytest.mark.parametrize("name", MODELS)
def test_channels_first_computes_the_same(name, tmp_path):
    last = zoo.create(name)
    last.save_weights(tmp_path / "last.weights.h5")
    expected = last.predict(images(), verbose=0)

    keras.config.set_image_data_format("channels_first")
    first = zoo.create(name, weights=tmp_path / "last.weights.h5")
    assert first.input_shape == (None, 1, 28, 28)
    if BACKEND == "tensorflow":
        # XLA computes this layout on every CPU, TensorFlow's own kernels on some.
        first.compile(jit_compile=True)
    x = np.moveaxis(images(), -1, 1)
    np.testing.assert_allclose(first.predict(x, verbose=0), expected, atol=1e-5)
    again = zoo.create(name, input_shape=(1, 28, 28))
    assert again.count_params() == last.count_params()


@pytest.mark.parametrize("name", MODELS)
def test_input_tensor(name):
    inputs = keras.Input((28, 28, 1), dtype="uint8")
    model = zoo.create(name, input_tensor=inputs)
    assert model.input is inputs
    inverted = keras.ops.subtract(255, inputs)
    chained = zoo.create(name, input_tensor=inverted)
    chained.set_weights(model.get_weights())
    np.testing.assert_allclose(
        chained.predict(255 - images(), verbose=0),
        model.predict(images(), verbose=0),
        atol=1e-6,
    )
    for other in (np.zeros((1, 28, 28, 1)), [1]):
        with pytest.raises(TypeError, match=r"Keras tensor.*Received"):
            zoo.create(name, input_tensor=other)


@pytest.mark.parametrize("name", MODELS)
def test_head_arguments(name):
    assert zoo.create(name, classes=3).output.shape == (None, 3)
    logits = zoo.create(name, classifier_activation=None)
    assert logits.layers[-1].name == "logits"
    probabilities = zoo.create(name)
    probabilities.set_weights(logits.get_weights())
    exponentials = np.exp(logits.predict(images(), verbose=0))
    np.testing.assert_allclose(
        probabilities.predict(images(), verbose=0),
        exponentials / exponentials.sum(-1, keepdims=True),
        rtol=1e-4,
    )
    headless = zoo.create(name, include_top=False)
    assert "logits" not in [layer.name for layer in headless.layers]
    with pytest.raises(ValueError, match=r"include_top=False.*Received: classes=5"):
        zoo.create(name, include_top=False, classes=5)
    for classes in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="positive integer"):
            zoo.create(name, classes=classes)


@pytest.mark.parametrize("name", MODELS)
def test_preprocessing_is_in_the_graph(name):
    model = zoo.create(name)
    bare = zoo.create(name, include_preprocessing=False)
    bare.set_weights(model.get_weights())
    np.testing.assert_allclose(
        bare.predict(images() / np.float32(255), verbose=0),
        model.predict(images(), verbose=0),
        atol=1e-5,
    )


@pytest.mark.parametrize("name", MODELS)
def test_other_sizes_and_channels(name):
    model = zoo.create(name, input_shape=(32, 40, 3), classes=7)
    outputs = model.predict(images(2, (32, 40, 3)), verbose=0)
    assert outputs.shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "shape", [(), (0, 28, 1), (28, -28, 1), "28", (28.0, 28, 1), 784]
)
def test_impossible_input_shapes(name, shape):
    with pytest.raises(ValueError, match=r"input.*Received: input_shape="):
        zoo.create(name, input_shape=shape)


@pytest.mark.parametrize("name", MLPS)
def test_mlps_take_vectors(name):
    model = zoo.create(name, input_shape=(784,))
    assert model.predict(images().reshape(4, 784), verbose=0).shape == (4, 10)
    with pytest.raises(ValueError, match="one fixed size"):
        zoo.create(name, input_shape=(None, 28, 1))


@pytest.mark.parametrize(("name", "smallest"), [("lenet5", 12), ("convnet", 8)])
def test_smallest_image(name, smallest):
    model = zoo.create(name, input_shape=(smallest, smallest, 1))
    assert model.predict(images(1, (smallest, smallest, 1)), verbose=0).shape == (1, 10)
    too_small = (smallest, smallest - 1, 1)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels"):
        zoo.create(name, input_shape=too_small)
    with pytest.raises(ValueError, match=r"takes images.*\(784,\)"):
        zoo.create(name, input_shape=(784,))


@pytest.mark.parametrize("name", CONVNETS)
def test_feature_extractor_takes_any_size(name):
    extractor = zoo.create(name, include_top=False, input_shape=(None, None, 1))
    for size in (28, 64):
        maps = extractor.predict(images(1, (size, size, 1)), verbose=0)
        assert maps.ndim == 4
    with pytest.raises(ValueError, match="include_top=False"):
        zoo.create(name, input_shape=(None, None, 1))


def test_lenet5_is_the_classical_one():
    model = zoo.LeNet5()
    assert model.count_params() == 61_706
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}
    assert shapes["conv1"] == (28, 28, 6)
    assert shapes["pool1"] == (14, 14, 6)
    assert shapes["conv2"] == (10, 10, 16)
    assert shapes["pool2"] == (5, 5, 16)
    assert shapes["dense1"] == (120,)
    assert shapes["dense2"] == (84,)
    assert model.get_layer("conv2").kernel_size == (5, 5)
    assert model.get_layer("conv1").activation is keras.activations.tanh
    assert isinstance(model.get_layer("pool1"), keras.layers.AveragePooling2D)
    modern = zoo.LeNet5(pooling="max", activation="relu")
    assert isinstance(modern.get_layer("pool2"), keras.layers.MaxPooling2D)
    assert modern.get_layer("dense1").activation is keras.activations.relu
    with pytest.raises(ValueError, match=r"'average' or 'max'. Received: .*'sum'"):
        zoo.LeNet5(pooling="sum")


def test_convnet_stays_small():
    assert zoo.ConvNet().count_params() < 500_000
    assert zoo.ConvNet(filters=(8, 8, 4), dense_units=4).count_params() < 8_000
    for bad in (dict(filters=(32, 64)), dict(filters=(32, 64, 0)), dict(dense_units=0)):
        with pytest.raises(ValueError, match="Received"):
            zoo.ConvNet(**bad)


def test_shallow_mlp_without_hidden_units_is_logistic_regression():
    model = zoo.ShallowMLP(0)
    assert model.count_params() == 7_850
    model.set_weights([w + 0.01 for w in model.get_weights()])
    kernel, bias = model.get_layer("logits").get_weights()
    logits = images().reshape(4, -1) / 255 @ kernel + bias
    exponentials = np.exp(logits)
    np.testing.assert_allclose(
        model.predict(images(), verbose=0),
        exponentials / exponentials.sum(-1, keepdims=True),
        rtol=1e-4,
    )
    with pytest.raises(ValueError, match="positive integer"):
        zoo.ShallowMLP(-1)


@pytest.mark.parametrize(
    ("activation", "initializer"),
    [
        ("sigmoid", "GlorotUniform"),
        ("tanh", "GlorotUniform"),
        ("relu", "HeNormal"),
        ("gelu", "HeNormal"),
        ("selu", "LecunNormal"),
        (keras.activations.relu, "HeNormal"),
    ],
)
def test_deep_mlp_initialises_for_its_activation(activation, initializer):
    dense = zoo.DeepMLP([8, 8], activation=activation).get_layer("dense2")
    assert type(dense.kernel_initializer).__name__ == initializer
    given = zoo.DeepMLP([8], activation=activation, kernel_initializer="zeros")
    assert type(given.get_layer("dense1").kernel_initializer).__name__ == "Zeros"


@pytest.mark.parametrize("depth", [1, 2, 100])
def test_deep_mlp_depth(depth):
    model = zoo.DeepMLP([4] * depth, residual=True, normalization="layer", dropout=0.1)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert len(dense) == depth + 1
    assert model.predict(images(2), verbose=0).shape == (2, 10)


@pytest.mark.parametrize("hidden_units", [[], [4] * 101, 64, [64, 0], [64, -1], [2.5]])
def test_deep_mlp_refuses_bad_depths(hidden_units):
    with pytest.raises(ValueError, match=r"hidden_units.*Received"):
        zoo.DeepMLP(hidden_units)


def test_deep_mlp_tricks():
    names = [
        layer.name
        for layer in zoo.DeepMLP(
            [8, 8, 4], normalization="batch", residual=True, dropout=0.5
        ).layers
    ]
    block = ["dense2", "normalization2", "activation2", "dropout2", "add2"]
    assert names[names.index("dense2") :][:5] == block
    assert "add1" not in names, "the images are no hidden layer"
    assert "add3" not in names, "8 units cannot be added to 4"
    with pytest.raises(ValueError, match=r"'batch' or 'layer'. Received: .*'group'"):
        zoo.DeepMLP(normalization="group")


def test_sigmoids_let_the_gradient_vanish_and_the_tricks_bring_it_back():
    def ratio(model):
        found = gradients(model, images(64), np.arange(64) % 10)
        names = [v.path.split("/")[-2:] for v in model.trainable_weights]
        norm = {
            layer: np.linalg.norm(g)
            for (layer, kind), g in zip(names, found, strict=True)
            if kind == "kernel"
        }
        return norm["dense2"] / norm["dense10"]

    assert ratio(zoo.DeepMLP()) < 1e-3
    tricks = zoo.DeepMLP(activation="relu", normalization="batch", residual=True)
    assert ratio(tricks) > 0.1


def test_features_returns_every_feature_map():
    model = zoo.LeNet5()
    maps = zoo.features(model)
    outputs = maps.predict(images(), verbose=0)
    assert list(maps.output)[:3] == ["rescaling", "conv1", "pool1"]
    assert outputs.keys() == maps.output.keys()  # JAX sorts them.
    assert outputs["pool2"].shape == (4, 5, 5, 16)
    np.testing.assert_allclose(
        outputs["predictions"], model.predict(images(), verbose=0), atol=1e-6
    )
    assert list(zoo.features(model, ["pool1"]).output) == ["pool1"]
    with pytest.raises(ValueError, match=r"no layers \['pool9'\]. Available"):
        zoo.features(model, ["pool9"])


def test_convolutions_are_equivariant_to_translation():
    """Away from the border, an image shifted by 4 pixels shifts the maps by 1."""
    extractor = zoo.LeNet5(include_top=False, input_shape=(64, 64, 1))
    image = np.zeros((1, 64, 64, 1), "float32")
    image[0, 20:40, 20:40] = images(1, (20, 20, 1))
    shifted = np.roll(image, (4, 4), axis=(1, 2))
    maps = extractor.predict(image, verbose=0)
    moved = extractor.predict(shifted, verbose=0)
    np.testing.assert_allclose(maps[0, 1:-2, 1:-2], moved[0, 2:-1, 2:-1], atol=1e-5)


def test_unknown_model():
    with pytest.raises(ValueError, match=r"Did you mean 'lenet5'\?.*Received: 'lenet'"):
        zoo.create("lenet")


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("", ValueError, "Unknown weights"),
        (True, TypeError, "must be None, a name"),
        (1, TypeError, "must be None, a name"),
        (["mnist"], TypeError, "must be None, a name"),
        ({}, TypeError, "must be None, a name"),
        ("missing.h5", FileNotFoundError, "missing.h5"),
        ("a/missing", FileNotFoundError, "missing"),
        (
            pathlib.Path("mnist"),
            FileNotFoundError,
            str(pathlib.Path("mnist").absolute()),
        ),
    ],
)
def test_weights_argument_that_is_no_weights(weights, error, message):
    with pytest.raises(error, match=message):
        zoo.LeNet5(weights=weights)


def test_own_file_that_does_not_fit_names_the_layers(tmp_path):
    path = tmp_path / "own.weights.h5"
    zoo.DeepMLP([16, 8]).save_weights(path)
    with pytest.raises(ValueError, match=r"(?s)nothing was loaded.*dense2.*\(16, 8\)"):
        zoo.DeepMLP([16, 4], weights=path)
    with pytest.raises(ValueError, match=r"(?s)dense2: expected \[\], received"):
        zoo.DeepMLP([16], weights=path)
    with pytest.raises(ValueError, match=r"(?s)conv1: expected .* received \[\]"):
        zoo.LeNet5(weights=path)


def test_a_head_of_other_size_in_an_own_file_decides_the_classes(tmp_path):
    path = tmp_path / "own.weights.h5"
    zoo.LeNet5(classes=3).save_weights(path)
    assert zoo.LeNet5(weights=path).output.shape == (None, 3)
    with pytest.raises(ValueError, match="logits"):
        zoo.LeNet5(weights=path, classes=5)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + b"0" * 100])
def test_own_file_that_is_no_weights_file(content, tmp_path):
    path = tmp_path / "own.weights.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Not a whole Keras weights file"):
        zoo.LeNet5(weights=path)
    whole = tmp_path / "whole.weights.h5"
    zoo.LeNet5().save_weights(whole)
    path.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="Not a whole Keras weights file"):
        zoo.LeNet5(weights=path)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file["layers/conv2d/vars"].attrs.modify("name", b"\xff"),
        lambda file: file["layers/conv2d/vars"].attrs.pop("name"),
        lambda file: file["layers/conv2d/vars"].move("0", "first"),
        lambda file: file.move("layers/conv2d/vars/0", "layers/dense/vars/x"),
        lambda file: (file.pop("layers"), file.create_dataset("layers", data=[1.0])),
    ],
)
def test_own_file_of_other_structure_is_refused(change, tmp_path):
    path = tmp_path / "own.weights.h5"
    zoo.LeNet5().save_weights(path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        zoo.LeNet5(weights=path)


def test_sizes_may_be_integers_of_numpy():
    labels = np.arange(3)
    assert zoo.LeNet5(classes=labels.max() + 1).output.shape == (None, 3)
    assert zoo.DeepMLP(list(np.array([8, 4]))).get_layer("dense2").units == 4


def test_building_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in MODELS:
            zoo.create(name)
