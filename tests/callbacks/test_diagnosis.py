"""Findings on real runs, healthy and faulty, and on tables written by hand."""

import keras
import matplotlib.figure
import numpy as np
import pytest

from zoo.callbacks import GradientNorms

LAYERS = keras.layers


@pytest.fixture(scope="module")
def images():
    """512 images of 12x12 in [0, 1], ten classes: a pattern each, and noise."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 512)
    patterns = random.uniform(size=(10, 12, 12, 1))
    noise = random.normal(scale=0.3, size=(512, 12, 12, 1))
    return np.clip(patterns[labels] + noise, 0, 1).astype("float32"), labels


def mlp(depth, activation, initializer="glorot_uniform", units=32):
    hidden = [
        LAYERS.Dense(
            units, activation, kernel_initializer=initializer, name=f"dense{index}"
        )
        for index in range(1, depth)
    ]
    logits = LAYERS.Dense(10, name="logits")
    return keras.Sequential(
        [keras.Input((12, 12, 1)), LAYERS.Flatten(), *hidden, logits]
    )


def lenet(activation="tanh"):
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            LAYERS.Conv2D(6, 3, activation=activation, name="conv1"),
            LAYERS.AveragePooling2D(2),
            LAYERS.Conv2D(16, 3, activation=activation, name="conv2"),
            LAYERS.Flatten(),
            LAYERS.Dense(32, activation, name="dense1"),
            LAYERS.Dense(10, name="logits"),
        ]
    )


def record(model, optimizer, images, epochs=3):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # TensorFlow takes longer to compile than to train; JAX trains slowly otherwise.
    model.compile(optimizer, loss, jit_compile=keras.backend.backend() == "jax")
    gradients = GradientNorms()
    model.fit(*images, epochs=epochs, callbacks=[gradients], verbose=0)
    return gradients


def test_ten_sigmoid_layers_vanish(images):
    gradients = record(mlp(10, "sigmoid"), "sgd", images)
    (finding,) = gradients.diagnose()
    assert (finding.kind, finding.layer, finding.step) == ("vanishing", "dense1", 0)
    # A sigmoid's slope is a quarter at most, a Glorot kernel keeps the rest as it is.
    assert 3 < finding.figures["factor_per_layer"] < 5
    assert finding.figures["norm"] < 1e-4 * finding.figures["norm_at_output"]
    report = str(gradients.diagnose())
    assert report.startswith("vanishing gradient at dense1 from step 0: its norm is ")
    assert "he_normal" in report
    assert gradients.diagnose().verdict == "vanishing"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("build", "optimizer"),
    [
        (lambda: mlp(10, "relu", "he_normal"), "sgd"),
        (lambda: mlp(10, "relu", "he_normal"), "adam"),
        (lambda: mlp(3, "sigmoid"), "adam"),
        (lambda: mlp(2, "tanh"), "adam"),
        (lenet, "adam"),
        (lambda: lenet("relu"), keras.optimizers.SGD(0.05, momentum=0.9)),
    ],
)
def test_healthy_runs_have_no_finding(build, optimizer, seed, images):
    keras.utils.set_random_seed(seed)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer = optimizer.from_config(optimizer.get_config())
    diagnosis = record(build(), optimizer, images, epochs=4).diagnose()
    assert diagnosis == ()
    assert diagnosis.verdict == "healthy"
    assert str(diagnosis) == "No fault found: the gradient is healthy."


def test_a_far_too_large_learning_rate_explodes(images):
    optimizer = keras.optimizers.SGD(30.0)
    gradients = record(mlp(4, "relu", "he_normal"), optimizer, images)
    finding = gradients.diagnose()[0]
    assert finding.kind == "exploding"
    assert 1 <= finding.step <= 5
    assert gradients.history[finding.layer][finding.step] == finding.figures["norm"]
    assert finding.figures["norm"] > 100 * finding.figures["norm_at_first"]
    assert "smaller learning rate" in finding.advice


def test_saturated_layers_explode_in_depth(images):
    # The chaotic phase of a tanh net (Schoenholz et al., 2017, "Deep information
    # propagation"): gradients grow by a factor per layer towards the input.
    large = keras.initializers.RandomNormal(stddev=0.5)
    optimizer = keras.optimizers.SGD(1e-6)
    gradients = record(mlp(30, "tanh", large), optimizer, images, epochs=2)
    (finding,) = gradients.diagnose()
    assert finding.kind == "exploding"
    assert finding.figures["norm"] > 100 * finding.figures["norm_at_output"]
    assert 1.2 < finding.figures["factor_per_layer"] < 2


def test_a_layer_without_active_units_is_dead(images):
    model = mlp(5, "relu", "he_normal")
    model.get_layer("dense3").bias.assign(-1000.0 * np.ones(32))
    model.get_layer("dense4").bias.assign(0.1 * np.ones(32))
    (finding,) = record(model, "sgd", images).diagnose()
    assert (finding.kind, finding.layer, finding.step) == ("dead", "dense3", 0)
    assert finding.figures == {"layers": 3, "calls": 48}


def test_a_bad_image_is_found_at_the_step_that_met_it(images):
    x, y = images[0].copy(), images[1]
    x[40] = np.nan
    model = lenet()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    gradients = GradientNorms()
    model.fit(x, y, callbacks=[gradients], shuffle=False, verbose=0)
    (finding,) = gradients.diagnose()
    assert (finding.kind, finding.layer, finding.step) == ("non_finite", "logits", 1)
    assert np.isfinite(gradients.global_norm[0])
    assert np.isnan(gradients.global_norm[1:]).all()


@pytest.fixture(scope="module")
def very_deep(images):
    """A run of 100 sigmoid layers."""
    keras.utils.set_random_seed(0)
    return record(mlp(100, "sigmoid", units=8), "sgd", images, epochs=1)


def test_underflow_in_a_very_deep_net_is_vanishing_not_dead(very_deep):
    (finding,) = very_deep.diagnose()
    assert finding.kind == "vanishing"
    assert (finding.layer, finding.figures["norm"]) == ("dense1", 0.0)


def test_thresholds_are_arguments(images):
    gradients = record(mlp(10, "sigmoid"), "sgd", images, epochs=1)
    assert gradients.diagnose(vanishing=1e12) == ()
    assert [f.kind for f in gradients.diagnose(vanishing=1e3)] == ["vanishing"]


@pytest.mark.parametrize("depth", [3, 100])
def test_the_picture_shows_every_layer_and_finding(depth, images, very_deep, tmp_path):
    gradients = very_deep if depth == 100 else record(mlp(3, "relu"), "sgd", images)
    figure = gradients.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.savefig(tmp_path / "gradients.png")
    axes = figure.axes[0]
    assert axes.get_title(loc="left").endswith(gradients.diagnose().verdict)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "dense1"
    assert len(labels) == (3 if depth == 3 else 34)
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == [str(n + 1) for n in range(len(gradients.diagnose()))]
    # Colours are log10 of the norms, from the input at the top to the output.
    shown = axes.collections[0].get_array()
    last = np.log10(gradients.history["logits"])
    np.testing.assert_allclose(np.ma.getdata(shown)[-1], last)


def test_an_explosion_is_found_after_a_first_call_that_overflowed():
    from zoo.callbacks.diagnosis import diagnose
    from zoo.callbacks.recording import Column, Layout, Recording, Rows

    norms = np.ones((60, 1))
    norms[0], norms[50:] = np.inf, 1e9
    layout = Layout("optimizer", (Column("dense", "kernel", 2),), ((0, 0),), True)
    recording = Recording()
    recording.add(Rows(layout, np.arange(60), norms))
    (finding,) = diagnose(recording)
    assert (finding.kind, finding.step) == ("exploding", 50)


def test_the_picture_of_a_long_run_keeps_a_single_bad_step():
    from zoo.callbacks.diagnosis import Diagnosis
    from zoo.callbacks.plotting import MOST_COLUMNS, plot
    from zoo.callbacks.recording import Column, Layout, Recording, Rows

    norms = np.ones((10 * MOST_COLUMNS, 1))
    norms[1234] = np.nan
    layout = Layout("optimizer", (Column("dense", "kernel", 2),), ((0, 0),), False)
    recording = Recording()
    recording.add(Rows(layout, np.arange(len(norms)), norms))
    axes = plot(recording, Diagnosis()).axes[0]
    norms, bad = (mesh.get_array() for mesh in axes.collections)
    assert norms.shape == (1, MOST_COLUMNS)
    np.testing.assert_array_equal(np.flatnonzero(~np.ma.getmaskarray(bad)), [123])
