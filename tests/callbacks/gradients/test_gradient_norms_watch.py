"""Tests of `GradientNorms.watch`, for custom loops and `train_on_batch`."""

import keras
import numpy as np
import pytest
from references import alike, batches, mse, norms, recorded, regression

from zoo.callbacks import GradientNorms

BACKEND = keras.backend.backend()


@pytest.fixture
def expected(points):
    """The norms of training by SGD on the batches of `points`."""
    return norms(alike(regression), keras.optimizers.SGD(0.01), mse, batches(points))


def test_watching_train_on_batch(expected, points, tmp_path):
    model = alike(regression)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.train_on_batch(*batches(points)[0])
    model.set_weights(alike(regression).get_weights())
    plain = model.train_function
    norms_in_file = GradientNorms(csv=tmp_path / "norms.csv")
    with norms_in_file.watch(model.optimizer, model) as gradients:
        for x, y in batches(points):
            model.train_on_batch(x, y)
    assert len((tmp_path / "norms.csv").read_text("utf-8").splitlines()) == 7
    assert model.train_function is plain
    model.train_on_batch(x, y)
    np.testing.assert_allclose(recorded(gradients), expected, rtol=1e-5)


def custom_loop(compiled):
    """Returns a model, its optimizer and a loop as users write it for each backend."""
    model, optimizer = alike(regression), keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    if not compiled:
        return model, optimizer, lambda data: norms(model, optimizer, mse, data)
    if BACKEND == "torch":
        pytest.skip("Compiled loops are those of TensorFlow and JAX.")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = mse(y, model(x))
            weights = model.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)

    else:
        import jax

        @jax.jit
        def update(weights, state, x, y):
            def loss(weights):
                return mse(y, model.stateless_call(weights, [], x)[0])

            return optimizer.stateless_apply(state, jax.grad(loss)(weights), weights)

        state = [
            [v.value for v in model.trainable_variables],
            [v.value for v in optimizer.variables],
        ]

        def step(x, y):
            state[:] = update(*state, x, y)

    return model, optimizer, lambda data: [step(x, y) for x, y in data]


@pytest.mark.parametrize("compiled", [True, False])
def test_watching_a_custom_loop(compiled, expected, points):
    model, optimizer, train = custom_loop(compiled)
    with GradientNorms().watch(optimizer, model) as gradients:
        train(batches(points))
    train(batches(points)[:1])
    np.testing.assert_allclose(recorded(gradients), expected, rtol=1e-5)
    assert not {"apply", "stateless_apply"} & vars(optimizer).keys()


def test_what_is_watched_has_to_be_an_optimizer(model):
    gradients = GradientNorms()
    with pytest.raises(TypeError, match="in this order"):
        gradients.watch(model, model.optimizer).__enter__()
    assert gradients._model is None


@pytest.mark.parametrize("compiled", [True, False])
def test_a_long_watch_keeps_a_buffer_and_ends_with_its_block(compiled, points):
    model, optimizer, train = custom_loop(compiled)
    with GradientNorms(buffer_size=4).watch(optimizer, model) as gradients:
        recorder = gradients._recorder
        for _ in range(11):
            train(batches(points)[:1])
            if compiled:
                gradients.flush()
        assert len(getattr(recorder, "queue", [])) < 4
    train(batches(points)[:3])
    assert len(gradients.steps) == 11
    assert len(getattr(recorder, "queue", [])) == 0


def test_watching_what_was_compiled_before_warns(model):
    with (
        pytest.warns(UserWarning, match="has seen no gradient"),
        GradientNorms().watch(keras.optimizers.SGD(0.01), model),
    ):
        pass
