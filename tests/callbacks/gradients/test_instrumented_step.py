"""Tests of the norms that an instrumented step records in special train steps."""

import keras
import numpy as np
import pandas as pd
import pytest
from references import alike, batches, fit, mse, norms, recorded, regression
from references import gradients as gradients_of

from zoo.callbacks import GradientNorms
from zoo.callbacks.gradients import instrumented_step


def sizes(gradients):
    return [np.sqrt((gradient**2).sum()) for gradient in gradients]


@pytest.mark.parametrize("eagerly", [True, False])
@pytest.mark.parametrize("policy", ["mixed_float16", "float32"])
def test_norms_are_unscaled(policy, eagerly, points):
    keras.config.set_dtype_policy(policy)
    # The same arithmetic, with the loss scaled by hand.
    sgd = keras.optimizers.SGD(0.01 / 256)
    scaled = norms(alike(regression), sgd, lambda *x: 256 * mse(*x), batches(points))
    optimizer = keras.optimizers.SGD(0.01, loss_scale_factor=256.0)
    if policy == "mixed_float16":
        inner = keras.optimizers.SGD(0.01)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=256)
    model, gradients = alike(regression), GradientNorms()
    model.compile(optimizer, "mse", run_eagerly=eagerly)
    fit(model, points, gradients)
    rtol = 1e-5 if eagerly or policy == "float32" else 5e-3
    np.testing.assert_allclose(recorded(gradients), scaled / 256, rtol=rtol)


def test_an_overflow_keeps_its_row_and_halves_the_scale(model, points):
    x, y = points[0], points[1].copy()
    y[8] = np.inf
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    model.compile(optimizer, "mse")
    gradients = GradientNorms()
    fit(model, (x, y), gradients)
    assert list(np.isfinite(gradients.global_norm)) == [True, False] + [True] * 4
    assert float(keras.ops.convert_to_numpy(optimizer.dynamic_scale)) == 2.0**14
    # One step that is skipped is how loss scaling works, not a fault.
    assert gradients.diagnose() == ()


@pytest.mark.parametrize(
    ("argument", "clip"),
    [
        ({"clipnorm": 0.1}, lambda g, whole: g * min(1, 0.1 / sizes([g])[0])),
        ({"clipvalue": 0.05}, lambda g, whole: np.clip(g, -0.05, 0.05)),
        ({"global_clipnorm": 0.1}, lambda g, whole: g * min(1, 0.1 / whole)),
    ],
)
def test_norms_before_and_after_clipping(argument, clip, points):
    taken = gradients_of(alike(regression), mse, points[0][:8], points[1][:8])
    before = sizes(taken)
    after = sizes(clip(g, np.sqrt(np.square(before).sum())) for g in taken)
    assert not np.allclose(before, after)
    given, applied = GradientNorms(), GradientNorms(applied=True)
    model = alike(regression)
    model.compile(keras.optimizers.SGD(0.01, **argument), "mse")
    fit(model, points, given, applied)
    np.testing.assert_allclose(recorded(given)[0], before, rtol=1e-5)
    np.testing.assert_allclose(recorded(applied)[0], after, rtol=1e-5)


def test_accumulation_gives_micro_batches_or_the_mean_that_is_applied(points):
    reference, model = alike(regression), alike(regression)
    micro = [gradients_of(reference, mse, x, y) for x, y in batches(points)[:3]]
    means = [np.mean(parts, axis=0) for parts in zip(*micro, strict=True)]
    model.compile(keras.optimizers.Adam(0.01, gradient_accumulation_steps=3), "mse")
    given, applied = GradientNorms(), GradientNorms(applied=True)
    fit(model, points, given, applied)
    assert recorded(given).shape == (6, 4)
    expected = [sizes(gradients) for gradients in micro]
    np.testing.assert_allclose(recorded(given)[:3], expected, rtol=1e-5)
    assert recorded(applied).shape == (2, 4)
    np.testing.assert_allclose(recorded(applied)[0], sizes(means), rtol=1e-5)
    np.testing.assert_array_equal(applied.steps, [0, 1])


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none yet"
)
def test_each_part_of_several_optimizers_clips_its_own(points):
    model, given, applied = (
        alike(regression),
        GradientNorms(),
        GradientNorms(applied=True),
    )
    parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.01))
    parts["hidden/kernel"] = keras.optimizers.SGD(0.01, clipnorm=1e-3)
    model.compile(keras.optimizers.MultiOptimizer(parts), "mse")
    fit(model, points, given, applied)
    expected = recorded(given)
    expected[:, list(given.variables).index("hidden/kernel")] = 1e-3
    np.testing.assert_allclose(recorded(applied), expected, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, keras.backend.backend() != "torch"])
def test_an_embedding_sums_repeated_rows_before_the_norm(jit_compile):
    tokens, labels = np.array([[1, 1, 1, 2], [1, 2, 1, 1]]), np.ones((2, 1))

    def build():
        inputs = keras.Input((4,), dtype="int32")
        vectors = keras.layers.Embedding(6, 3, name="embedding")(inputs)
        pooled = keras.layers.GlobalAveragePooling1D()(vectors)
        return keras.Model(inputs, keras.layers.Dense(1, name="output")(pooled))

    expected = sizes(gradients_of(alike(build), mse, tokens, labels))
    model, gradients = alike(build), GradientNorms()
    model.compile("sgd", mse, jit_compile=jit_compile)
    fit(model, (tokens, labels), gradients)
    np.testing.assert_allclose(recorded(gradients), [expected], rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e22])
def test_norms_of_extreme_size_are_right(scale, points):
    x, y = batches(points)[0]
    expected = scale * np.array(sizes(gradients_of(alike(regression), mse, x, y)))
    model, gradients = alike(regression), GradientNorms()
    model.compile("sgd", lambda y, outputs: mse(y, outputs) * scale)
    fit(model, (x, y), gradients)
    np.testing.assert_allclose(recorded(gradients), [expected], rtol=1e-4)
    whole = np.sqrt(np.square(expected).sum())
    np.testing.assert_allclose(gradients.global_norm, [whole], rtol=1e-4)


def test_frozen_layers_have_no_row_until_they_are_unfrozen(model, points, tmp_path):
    path = tmp_path / "norms.csv"
    gradients = GradientNorms(csv=path)
    for trainable, layers in ((False, ["output"]), (True, ["hidden", "output"])):
        model.get_layer("hidden").trainable = trainable
        model.compile("sgd", "mse")
        fit(model, points, gradients)
        assert list(gradients.history) == list(pd.read_csv(path))[3:] == layers
    missing = np.isnan(gradients.history["hidden"])
    np.testing.assert_array_equal(missing, [True] * 6 + [False] * 6)
    np.testing.assert_array_equal(pd.read_csv(path)["hidden"].isna(), missing)
    assert np.isfinite(gradients.history["output"]).all()
    assert np.isfinite(gradients.global_norm).all()
    assert gradients.diagnose() == ()


@pytest.mark.parametrize("owner", range(3))
def test_the_error_names_what_keras_lacks(owner, model, monkeypatch):
    names = [""] * 3
    names[owner] = "moved_elsewhere"
    monkeypatch.setattr(instrumented_step, "NAMES", names)
    with pytest.raises(RuntimeError, match=r"moved_elsewhere.*with, Keras 3"):
        instrumented_step.check_private_names(model)
