"""Mixed precision, clipping, accumulation, embeddings, and several optimizers."""

import keras
import numpy as np
import pytest
from references import gradients as reference_gradients
from references import norms

from zoo.callbacks import GradientNorms

BACKEND = keras.backend.backend()


def regression(loss="mse", units=(5, 1), **layer):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(units[0], "tanh", name="hidden", **layer)(inputs)
    outputs = keras.layers.Dense(units[1], dtype="float32", name="output")(hidden)
    return keras.Model(inputs, outputs)


@pytest.fixture
def points():
    random = np.random.default_rng(1)
    x = random.normal(size=(48, 4)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) ** 2).astype("float32")


def mse(y, outputs):
    return keras.ops.mean(keras.ops.square(outputs - y))


def fit(model, data, gradients, **kwargs):
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs}
    model.fit(*data, callbacks=[gradients], **kwargs)
    return np.stack(list(gradients.variables.values()), axis=1)


def batches(data):
    return [(data[0][i : i + 8], data[1][i : i + 8]) for i in range(0, 48, 8)]


def alike(build, *args):
    keras.utils.set_random_seed(0)
    return build(*args)


@pytest.mark.parametrize("eagerly", [True, False])
def test_norms_are_unscaled_under_mixed_precision(eagerly, points):
    keras.config.set_dtype_policy("mixed_float16")
    model, reference = alike(regression), alike(regression)
    # The same float16 arithmetic, with the loss scaled by hand.
    scaled = norms(
        reference,
        keras.optimizers.SGD(0.01 / 256),
        lambda y, outputs: 256 * mse(y, outputs),
        batches(points),
    )
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=256
    )
    model.compile(optimizer, "mse", run_eagerly=eagerly)
    np.testing.assert_allclose(
        fit(model, points, GradientNorms()),
        scaled / 256,
        rtol=1e-5 if eagerly else 5e-3,
    )


@pytest.mark.parametrize("eagerly", [True, False])
def test_norms_are_unscaled_with_a_fixed_loss_scale(eagerly, points):
    model, reference = alike(regression), alike(regression)
    scaled = keras.optimizers.SGD(0.01, loss_scale_factor=1024.0)
    model.compile(scaled, "mse", run_eagerly=eagerly)
    expected = norms(reference, keras.optimizers.SGD(0.01), mse, batches(points))
    np.testing.assert_allclose(fit(model, points, GradientNorms()), expected, rtol=1e-5)


def test_an_overflow_keeps_its_row_and_halves_the_scale(points):
    x, y = points[0], points[1].copy()
    y[8] = np.inf
    model = regression()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    model.compile(optimizer, "mse")
    gradients = GradientNorms()
    fit(model, (x, y), gradients)
    assert list(np.isfinite(gradients.global_norm)) == [True, False] + [True] * 4
    assert float(keras.ops.convert_to_numpy(optimizer.dynamic_scale)) == 2.0**14
    # One step that is skipped is how loss scaling works, not a fault.
    assert gradients.diagnose() == ()


CLIPPING = [
    ({"clipnorm": 0.1}, lambda g: g * min(1, 0.1 / np.sqrt((g**2).sum()))),
    ({"clipvalue": 0.05}, lambda g: np.clip(g, -0.05, 0.05)),
    ({"global_clipnorm": 0.1}, None),
]


@pytest.mark.parametrize(("argument", "clip"), CLIPPING)
def test_norms_before_and_after_clipping(argument, clip, points):
    reference, model = alike(regression), alike(regression)
    taken = reference_gradients(reference, mse, points[0][:8], points[1][:8])
    before = [np.sqrt((g**2).sum()) for g in taken]
    if clip is None:
        after = np.array(before) * min(1, 0.1 / np.sqrt(np.square(before).sum()))
    else:
        after = [np.sqrt((clip(g) ** 2).sum()) for g in taken]
    assert not np.allclose(before, after)

    model.compile(keras.optimizers.SGD(0.01, **argument), "mse")
    given, applied = GradientNorms(), GradientNorms(applied=True)
    model.fit(
        *points, batch_size=8, shuffle=False, verbose=0, callbacks=[given, applied]
    )
    first = [values[0] for values in given.variables.values()]
    np.testing.assert_allclose(first, before, rtol=1e-5)
    first = [values[0] for values in applied.variables.values()]
    np.testing.assert_allclose(first, after, rtol=1e-5)


def test_accumulation_gives_micro_batches_or_the_mean_that_is_applied(points):
    reference, model = alike(regression), alike(regression)
    micro = [reference_gradients(reference, mse, x, y) for x, y in batches(points)[:3]]
    sizes = [[np.sqrt((g**2).sum()) for g in taken] for taken in micro]
    means = [np.mean(parts, axis=0) for parts in zip(*micro, strict=True)]

    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)
    model.compile(optimizer, "mse")
    given, applied = GradientNorms(), GradientNorms(applied=True)
    model.fit(
        *points, batch_size=8, shuffle=False, verbose=0, callbacks=[given, applied]
    )
    recorded = np.stack(list(given.variables.values()), axis=1)
    assert recorded.shape == (6, 4)
    np.testing.assert_allclose(recorded[:3], sizes, rtol=1e-5)
    recorded = np.stack(list(applied.variables.values()), axis=1)
    assert recorded.shape == (2, 4)
    expected = [np.sqrt((mean**2).sum()) for mean in means]
    np.testing.assert_allclose(recorded[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(applied.steps, [0, 1])


@pytest.mark.parametrize("jit_compile", [False, BACKEND != "torch"])
def test_an_embedding_sums_repeated_rows_before_the_norm(jit_compile):
    tokens = np.array([[1, 1, 1, 2], [1, 2, 1, 1]])
    labels = np.array([[1.0], [1.0]])

    def build():
        inputs = keras.Input((4,), dtype="int32")
        vectors = keras.layers.Embedding(6, 3, name="embedding")(inputs)
        pooled = keras.layers.GlobalAveragePooling1D()(vectors)
        return keras.Model(inputs, keras.layers.Dense(1, name="output")(pooled))

    model, reference = alike(build), alike(build)
    taken = reference_gradients(reference, mse, tokens, labels)
    model.compile("sgd", mse, jit_compile=jit_compile)
    gradients = GradientNorms()
    model.fit(tokens, labels, callbacks=[gradients], verbose=0)
    expected = np.sqrt((taken[0] ** 2).sum())
    np.testing.assert_allclose(gradients.history["embedding"], [expected], rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e22])
def test_norms_of_extreme_size_are_right(scale, points):
    def loss(y, outputs):
        return mse(y, outputs) * scale

    model, reference = alike(regression), alike(regression)
    x, y = points[0][:8], points[1][:8]
    expected = [
        scale * np.sqrt((g**2).sum()) for g in reference_gradients(reference, mse, x, y)
    ]
    model.compile(keras.optimizers.SGD(0.0), loss)
    gradients = GradientNorms()
    model.fit(x, y, callbacks=[gradients], verbose=0)
    recorded = [values[0] for values in gradients.variables.values()]
    np.testing.assert_allclose(recorded, expected, rtol=1e-4)
    np.testing.assert_allclose(
        gradients.global_norm, [np.sqrt(np.square(expected).sum())], rtol=1e-4
    )


def test_frozen_layers_have_no_row_until_they_are_unfrozen(points):
    model, gradients = regression(), GradientNorms()
    model.get_layer("hidden").trainable = False
    model.compile("sgd", "mse")
    fit(model, points, gradients)
    assert list(gradients.history) == ["output"]
    model.get_layer("hidden").trainable = True
    model.compile("sgd", "mse")
    fit(model, points, gradients)
    assert list(gradients.history) == ["hidden", "output"]
    missing = np.isnan(gradients.history["hidden"])
    np.testing.assert_array_equal(missing, [True] * 6 + [False] * 6)
    assert np.isfinite(gradients.history["output"]).all()
    assert np.isfinite(gradients.global_norm).all()
    assert gradients.diagnose() == ()


def test_shared_and_nested_layers_are_named_once_by_their_path(points):
    def build():
        shared = keras.layers.Dense(4)
        encoder = keras.Sequential([keras.layers.Dense(4), shared], name="encoder")
        inputs = keras.Input((4,))
        outputs = keras.layers.Dense(1)(shared(encoder(inputs)))
        return keras.Model(inputs, outputs)

    keras.backend.clear_session()
    names = []
    for _ in range(2):
        model, gradients = build(), GradientNorms()
        model.compile("sgd", "mse")
        fit(model, points, gradients)
        names.append(list(gradients.history))
        assert gradients.global_norm.shape == (6,)
    assert names[0] == names[1]
    assert sorted(names[0]) == ["dense_1", "encoder/dense", "encoder/dense_1"]


def test_the_directions_of_a_layer_built_twice_have_equal_names():
    names = []
    for _ in range(2):
        layers = [keras.layers.Bidirectional(keras.layers.LSTM(2))]
        model = keras.Sequential([keras.Input((3, 4)), *layers, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        gradients = GradientNorms()
        model.fit(np.ones((8, 3, 4)), np.ones((8, 1)), callbacks=[gradients], verbose=0)
        names.append(list(gradients.history))
    assert names[0] == names[1]
    assert names[0] == [
        "bidirectional/forward_lstm/lstm_cell",
        "bidirectional/backward_lstm/lstm_cell",
        "dense",
    ]


@pytest.mark.parametrize("made_before", [0, 1, 5])
def test_names_that_were_given_are_kept(made_before, points):
    keras.backend.clear_session()  # Keras has made no name up yet.
    for _ in range(made_before):
        keras.layers.Dense(1)
    names = ["dense_1", "dense_2", "output"]
    model = keras.Sequential([keras.layers.Dense(1, name=name) for name in names])
    model.compile("sgd", "mse")
    gradients = GradientNorms()
    fit(model, points, gradients)
    assert list(gradients.history) == names


def test_names_outlive_the_process_that_made_them_up(points, tmp_path):
    model = keras.Sequential([keras.layers.Dense(1), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    gradients, later = GradientNorms(), GradientNorms()
    fit(model, points, gradients)
    model.save(tmp_path / "model.keras")
    keras.backend.clear_session()
    fit(keras.models.load_model(tmp_path / "model.keras"), points, later)
    assert list(later.history) == list(gradients.history) == ["dense", "dense_1"]


def test_watching_train_on_batch(points):
    model, reference = alike(regression), alike(regression)
    expected = norms(reference, keras.optimizers.SGD(0.01), mse, batches(points))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.train_on_batch(*batches(points)[0])
    model.set_weights(alike(regression).get_weights())
    plain = model.train_function
    with GradientNorms().watch(model.optimizer, model) as gradients:
        for x, y in batches(points):
            model.train_on_batch(x, y)
    assert model.train_function is plain
    model.train_on_batch(x, y)
    recorded = np.stack(list(gradients.variables.values()), axis=1)
    np.testing.assert_allclose(recorded, expected, rtol=1e-5)


@pytest.mark.parametrize("compiled", [True, False])
def test_watching_a_custom_loop(compiled, points):
    model, reference = alike(regression), alike(regression)
    expected = norms(reference, keras.optimizers.SGD(0.01), mse, batches(points))
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    step = custom_step(model, optimizer, compiled)
    with GradientNorms().watch(optimizer, model) as gradients:
        for x, y in batches(points):
            step(x, y)
    step(x, y)
    recorded = np.stack(list(gradients.variables.values()), axis=1)
    np.testing.assert_allclose(recorded, expected, rtol=1e-5)
    assert not {"apply", "stateless_apply"} & vars(optimizer).keys()


def custom_step(model, optimizer, compiled):
    """A train step as one writes it by hand for each backend."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def step(x, y):
            with tf.GradientTape() as tape:
                loss = mse(y, model(x))
            weights = model.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)

        return tf.function(step) if compiled else step
    if BACKEND == "torch":

        def step(x, y):
            model.zero_grad()
            mse(keras.ops.convert_to_tensor(y), model(x)).backward()
            weights = model.trainable_variables
            optimizer.apply([w.value.grad for w in weights], weights)

        return step
    import jax

    def update(weights, state, x, y):
        def loss(weights):
            return mse(y, model.stateless_call(weights, [], x)[0])

        return optimizer.stateless_apply(state, jax.grad(loss)(weights), weights)

    update = jax.jit(update) if compiled else update
    state = [
        [v.value for v in model.trainable_variables],
        [v.value for v in optimizer.variables],
    ]

    def step(x, y):
        state[:] = update(*state, x, y)

    return step


def test_a_step_that_fails_within_watch_has_no_row(points, tmp_path):
    class Fails(keras.Sequential):
        fails = False

        def train_step(self, *args):
            outputs = super().train_step(*args)
            if self.fails:
                raise StopIteration
            return outputs

    model = Fails([keras.layers.Dense(1, name="dense")])
    model.compile("sgd", "mse", run_eagerly=True)
    gradients = GradientNorms(csv=tmp_path / "norms.csv")
    with gradients.watch(model.optimizer, model):
        model.train_on_batch(*points)
        model.fails = True
        with pytest.raises((StopIteration, RuntimeError)):
            model.train_on_batch(*points)
        model.fails = False
        model.train_on_batch(*points)
    np.testing.assert_array_equal(gradients.steps, [0, 1])
    assert len((tmp_path / "norms.csv").read_text("utf-8").splitlines()) == 3


def test_what_is_watched_has_to_be_an_optimizer(points):
    model, gradients = regression(), GradientNorms()
    model.compile("sgd", "mse")
    fit(model, points, gradients)
    with (
        pytest.raises(TypeError, match="in this order"),
        gradients.watch(model, model.optimizer),
    ):
        pass
    assert len(gradients.steps) == 6


@pytest.mark.parametrize("compiled", [True, False])
def test_a_long_watch_keeps_a_buffer_and_ends_with_its_block(compiled, points):
    model, optimizer = regression(), keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    step = custom_step(model, optimizer, compiled)
    with GradientNorms(buffer_size=4).watch(optimizer, model) as gradients:
        recorder = gradients._recorder
        for _ in range(11):
            step(*batches(points)[0])
            len(gradients.steps)
        assert len(getattr(recorder, "queue", [])) < 4
    for _ in range(3):
        step(*batches(points)[0])
    assert len(gradients.steps) == 11
    assert len(getattr(recorder, "queue", [])) == 0


def test_watching_what_was_compiled_before_warns(points):
    model = regression()
    optimizer = keras.optimizers.SGD(0.01)
    with (
        pytest.warns(UserWarning, match="has seen no gradient"),
        GradientNorms().watch(optimizer, model),
    ):
        pass
