"""The arguments that all builders share, for every model."""

import itertools
import pathlib

import h5py
import keras
import numpy as np
import pytest
from noise import images, softmax
from references import gradients

import zoo
from zoo.models.weights import card_of

MODELS = zoo.list_models()
CARDS = {card.model: card for card in zoo.list_weights(dataset="mnist")}

each_model = pytest.mark.parametrize("name", MODELS)


def predict(model, x=None):
    """Calls a model without compiling it, as `model.predict` does."""
    outputs = model(images() if x is None else x, training=False)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def save_legacy(model, path):
    """Writes a whole model, or its weights, as Keras 2 did."""
    with h5py.File(path, "w") as layers:
        if path.name == "whole.h5":
            layers.attrs["model_config"] = model.to_json()
            layers = layers.create_group("model_weights")
        layers.attrs["layer_names"] = np.array([x.name for x in model.layers], "S")
        for layer in model.layers:
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group = layers.create_group(layer.name)
            group.attrs["weight_names"] = np.array(names, "S")
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array


def assert_same_weights(layers, others):
    for layer, other in zip(layers, others, strict=True):
        for a, b in zip(layer.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@each_model
def test_forward_gives_probabilities(name):
    model = zoo.create(name)
    for dtype in ("uint8", "int32", "float32", "float64"):
        outputs = model.predict(images().astype(dtype), verbose=0)
        assert outputs.shape == (4, 10)
        assert outputs.dtype == "float32"
        np.testing.assert_allclose(outputs.sum(-1), 1, rtol=1e-5)


@each_model
def test_every_gradient_is_finite_and_not_zero(name):
    model = zoo.create(name)
    loss = keras.losses.SparseCategoricalCrossentropy()
    found = gradients(model, loss, images(8), np.arange(8), training=True)
    for gradient, variable in zip(found, model.trainable_variables, strict=True):
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.any(gradient), variable.path


@pytest.mark.parametrize(
    ("name", "policy"),
    [("lenet5", "mixed_bfloat16"), *((name, "mixed_float16") for name in MODELS)],
)
def test_mixed_precision_keeps_a_float32_head(name, policy):
    full = zoo.create(name)
    keras.config.set_dtype_policy(policy)
    mixed = zoo.create(name)
    mixed.set_weights(full.get_weights())
    assert mixed.get_layer("logits").compute_dtype == "float32"
    assert mixed.get_layer(index=-3).compute_dtype == policy.removeprefix("mixed_")
    outputs = predict(mixed)
    assert outputs.dtype == "float32"
    np.testing.assert_allclose(outputs, predict(full), atol=0.03)


@each_model
def test_keras_file_and_config_need_no_custom_objects(name, tmp_path):
    model = zoo.create(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={})
    assert type(loaded) is keras.Model or type(loaded).__name__ == "Functional"
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    for other in (loaded, copy):
        names, others = ([x.name for x in each.layers] for each in (model, other))
        assert names == others
        np.testing.assert_array_equal(predict(other), predict(model))


@each_model
def test_channels_first_computes_the_same(name, tmp_path):
    last = zoo.create(name)
    last.save_weights(tmp_path / "last.weights.h5")
    expected = predict(last)

    keras.config.set_image_data_format("channels_first")
    first = zoo.create(name, weights=tmp_path / "last.weights.h5")
    assert first.input_shape == (None, 1, 28, 28)
    if keras.backend.backend() == "tensorflow":
        # XLA computes this layout on every CPU, TensorFlow's own kernels on some.
        first.compile(jit_compile=True)
    x = np.moveaxis(images(), -1, 1)
    outputs = first.predict(x, verbose=0)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    again = zoo.create(name, input_shape=(1, 28, 28))
    assert again.count_params() == last.count_params()


@each_model
def test_input_tensor(name):
    inputs = keras.Input((28, 28, 1), dtype="uint8")
    model = zoo.create(name, input_tensor=inputs)
    assert model.input is inputs
    inverted = keras.ops.subtract(255, inputs)
    chained = zoo.create(name, input_tensor=inverted)
    chained.set_weights(model.get_weights())
    outputs = predict(chained, 255 - images())
    np.testing.assert_allclose(outputs, predict(model), atol=1e-6)
    for other in (np.zeros((1, 28, 28, 1)), [1]):
        with pytest.raises(TypeError, match=r"Keras tensor.*Received: input_tensor="):
            zoo.create(name, input_tensor=other)


@each_model
def test_head_arguments(name):
    sizes = np.arange(4)
    assert zoo.create(name, classes=sizes.max()).output.shape == (None, 3)
    logits = zoo.create(name, classifier_activation=None)
    assert logits.layers[-1].name == "logits"
    probabilities = zoo.create(name)
    probabilities.set_weights(logits.get_weights())
    expected = softmax(predict(logits))
    np.testing.assert_allclose(predict(probabilities), expected, rtol=1e-4)
    headless = zoo.create(name, include_top=False)
    assert "logits" not in [layer.name for layer in headless.layers]
    with pytest.raises(ValueError, match=r"include_top=False.*Received: classes=5"):
        zoo.create(name, include_top=False, classes=5)
    for classes in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="positive integer"):
            zoo.create(name, classes=classes)


@each_model
def test_preprocessing_is_in_the_graph(name):
    model = zoo.create(name)
    bare = zoo.create(name, include_preprocessing=False)
    bare.set_weights(model.get_weights())
    scaled = images() / np.float32(255)
    np.testing.assert_allclose(predict(bare, scaled), predict(model), atol=1e-5)


@each_model
def test_input_shapes(name):
    model = zoo.create(name, input_shape=(32, 40, 3), classes=7)
    assert predict(model, images(2, (32, 40, 3))).shape == (2, 7)
    for shape in (np.array([32, 40, 3]), (np.int64(32), np.uint8(40), 3)):
        assert zoo.create(name, input_shape=shape).input_shape == model.input_shape
    wrong = ((), (0, 28, 1), (28, -28, 1), "28", (28.0, 28, 1), 784, (28, 28, True))
    for shape in (*wrong, np.array([28.0, 28, 1]), np.array(28)):
        with pytest.raises(ValueError, match=r"input.*Received: input_shape="):
            zoo.create(name, input_shape=shape)


@each_model
def test_names_of_the_same_weights(name):
    card = CARDS[name]
    expected = zoo.create(name, weights="mnist")
    forms = ("mnist.v1", f"{name}.mnist", f"{name}.mnist.v1", card, card.path)
    for weights in forms:
        model = zoo.create(name, weights=weights)
        assert_same_weights(model.layers, expected.layers)
        assert model.categories == card.categories


@each_model
def test_feature_extractor_has_the_trained_layers(name):
    whole = zoo.create(name, weights="mnist")
    extractor = zoo.create(name, weights="mnist", include_top=False)
    last = extractor.layers[-1].name
    expected = predict(zoo.features(whole, [last]))[last]
    np.testing.assert_allclose(predict(extractor), expected, atol=1e-5)


@pytest.mark.parametrize("published", ["name", "file"])
def test_architecture_must_agree_with_published_weights(published):
    card = CARDS["deep_mlp"]
    weights = card.id if published == "name" else card.path
    relu, free = keras.activations.relu, {"kernel_initializer": "zeros", "dropout": 0.5}
    same = zoo.DeepMLP([384] * 6, weights=weights, activation=relu, **free)
    assert same.count_params() == card.parameters
    for other in (
        {"activation": "tanh"},
        {"residual": False},
        {"normalization": None},
        {"hidden_units": [9]},
    ):
        (argument,) = other
        message = rf"`{argument}` differs.*Expected: {argument}=.*Received: {argument}="
        with pytest.raises(ValueError, match=message):
            zoo.DeepMLP(**other, weights=weights)
    with pytest.raises(ValueError, match="`pooling_layer` differs"):
        zoo.LeNet5(weights="mnist", pooling_layer="average")


@pytest.mark.parametrize("include_top", [True, False])
def test_architecture_must_agree_with_a_keras_file(include_top, tmp_path):
    path = tmp_path / "own.keras"
    for build, argument, value, other in (
        (zoo.LeNet5, "pooling_layer", "average", "max"),
        (zoo.LeNet5, "activation", "tanh", "relu"),
        (zoo.ConvNet, "activation", keras.activations.tanh, "relu"),
        (zoo.DeepMLP, "residual", False, True),
        (zoo.DeepMLP, "residual", True, False),
    ):
        build(**{argument: value}).save(path)
        options = {"weights": path, "include_top": include_top}
        message = rf"`{argument}` differs.*Received: {argument}={other!r}"
        with pytest.raises(ValueError, match=message):
            build(**{argument: other}, **options)
        with pytest.raises(ValueError, match="`include_preprocessing` differs"):
            build(**{argument: value}, **options, include_preprocessing=False)
        # The layers in front of a model do not count.
        inputs = keras.layers.Activation("tanh")(keras.Input((28, 28, 1)))
        assert build(**{argument: value}, **options, input_tensor=inputs)


def test_own_file_that_does_not_fit_names_the_layers(tmp_path):
    path = tmp_path / "own.weights.h5"
    zoo.DeepMLP([16, 8], normalization=None).save_weights(path)
    headless = {"include_top": False}
    for build, message in (
        (lambda **w: zoo.DeepMLP([16, 4], normalization=None, **w), r"dense2.*\(16, 8"),
        (lambda **w: zoo.ShallowMLP(16, **headless, **w), r"dense2: expected \[\]"),
        (lambda **w: zoo.DeepMLP([16], **headless, **w), r"dense2: expected \[\]"),
        (lambda **w: zoo.DeepMLP([16], **w), r"dense2: expected \[\], received"),
        (lambda **w: zoo.LeNet5(**w), r"conv1: expected .* received \[\]"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)nothing was loaded.*{message}"):
            build(weights=path)


def test_a_head_of_another_size_in_an_own_file_decides_the_classes(tmp_path):
    path = tmp_path / "own.weights.h5"
    zoo.LeNet5(classes=3).save_weights(path)
    assert zoo.LeNet5(weights=path).output.shape == (None, 3)
    with pytest.raises(ValueError, match="logits"):
        zoo.LeNet5(weights=path, classes=5)


def test_number_of_classes():
    kept = zoo.LeNet5(weights="mnist", classes=10)
    assert kept.categories == CARDS["lenet5"].categories
    with pytest.warns(UserWarning, match="'logits' is untrained: it has 3") as warned:
        fresh = zoo.LeNet5(weights="mnist", classes=3)
    (warning,) = (w for w in warned if w.category is UserWarning)
    assert pathlib.Path(warning.filename) == pathlib.Path(__file__)
    assert fresh.output.shape == (None, 3)
    assert (fresh.categories, fresh.normalization) == (None, "mnist")
    names = [layer.name for layer in kept.layers if layer.name != "logits"]
    assert_same_weights(*([m.get_layer(n) for n in names] for m in (kept, fresh)))


def test_logits_of_trained_weights():
    model = zoo.LeNet5(weights="mnist", classifier_activation=keras.activations.softmax)
    logits = zoo.LeNet5(weights="mnist", classifier_activation=None)
    np.testing.assert_allclose(softmax(predict(logits)), predict(model), atol=1e-5)
    with pytest.raises(ValueError, match="Received: classifier_activation='sigmoid'"):
        zoo.LeNet5(weights="mnist", classifier_activation="sigmoid")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet5", (32, 32, 1)),
        ("lenet5", (28, 28, 3)),
        ("shallow_mlp", (56, 14, 1)),
        ("shallow_mlp", (14, 14, 4)),
    ],
)
def test_input_shape_that_does_not_fit(name, shape):
    message = r"Expected: input_shape=\(28, 28, 1\).*Received: input_shape="
    with pytest.raises(ValueError, match=message):
        zoo.create(name, weights="mnist", input_shape=shape)


def test_other_input_shapes_that_fit():
    options = {"include_top": False, "input_shape": (None, None, 1)}
    extractor = zoo.LeNet5(weights="mnist", **options)
    assert predict(extractor, np.zeros((1, 64, 40, 1))).shape[1:3] == (14, 8)
    flat = zoo.ShallowMLP(weights="mnist", input_shape=(784,))
    expected = predict(zoo.ShallowMLP(weights="mnist"))
    outputs = predict(flat, images().reshape(4, 784))
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_published_weights_after_other_layers():
    inputs = keras.Input((28, 28, 1))
    adapter = keras.layers.Conv2D(1, 1, kernel_initializer="ones", name="adapter")
    model = zoo.LeNet5(weights="mnist", input_tensor=adapter(inputs))
    assert model.get_layer("adapter").count_params() == 2
    expected = predict(zoo.LeNet5(weights="mnist"))
    np.testing.assert_allclose(predict(model), expected, atol=1e-6)


def test_a_layer_as_activation_is_compared_by_its_settings(tmp_path):
    zoo.LeNet5(activation=keras.layers.LeakyReLU(0.3)).save(tmp_path / "x.keras")
    leaky = keras.layers.LeakyReLU
    assert zoo.LeNet5(activation=leaky(0.3), weights=tmp_path / "x.keras")
    with pytest.raises(ValueError, match="`activation` differs"):
        zoo.LeNet5(activation=leaky(0.1), weights=tmp_path / "x.keras")


def test_models_share_a_graph():
    x, names = keras.Input((28, 28, 1)), [*MODELS, "lenet5"]
    models = [
        zoo.create(model, weights="mnist", input_tensor=x, name=f"net_{i}")
        for i, model in enumerate(names)
    ]
    average = keras.layers.Average()([model.output for model in models])
    each = [predict(zoo.create(model, weights="mnist")) for model in names]
    expected = np.mean(each, axis=0)
    np.testing.assert_allclose(predict(keras.Model(x, average)), expected, atol=1e-6)
    # The layer avg_pool has the prefix of a model called "avg" already.
    pooled = zoo.LeNet5(input_tensor=x, include_top=False, pooling="avg", name="avg")
    assert all(layer.name.startswith("avg_") for layer in pooled.layers[1:])
    assert pooled.get_layer("avg_conv1")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *itertools.product(MODELS, ["own.weights.h5", "own.keras"]),
        *itertools.product(["deep_mlp", "lenet5"], ["whole.h5", "bare.h5"]),
    ],
)
def test_published_weights_in_an_own_file(name, file, tmp_path):
    """Labels and architecture are those of the weights, with and without prefixes."""
    forms = [{}, {"input_tensor": keras.Input((28, 28, 1)), "name": "a_b"}]
    path, card = tmp_path / file, CARDS[name]
    for saved, built in (forms, forms[::-1]):
        model = zoo.create(name, weights="mnist", **saved)
        save = {"own.weights.h5": model.save_weights, "own.keras": model.save}.get(file)
        save(path) if save else save_legacy(model, path)
        options = {"weights": str(path), **built}
        loaded = zoo.create(name, **options)
        assert_same_weights(loaded.layers[1:], model.layers[1:])
        assert loaded.categories == card.categories
        copy = keras.models.clone_model(loaded)
        copy.set_weights(loaded.get_weights())
        assert card_of(copy) == card
        assert zoo.create(name, **options, include_top=False)
        with pytest.raises(ValueError, match=rf"differs.*{card.id}.*'tanh'"):
            zoo.create(name, **options, activation="tanh")
        if file in ("own.keras", "whole.h5"):
            with pytest.raises(ValueError, match="`include_preprocessing` differs"):
                zoo.create(name, **options, include_preprocessing=False)
