"""Tests of the findings on real runs, healthy and faulty, and on made-up norms."""

from xml.etree import ElementTree

import faulty_networks  # noqa: F401
import healthy_networks  # noqa: F401  registers networks
import keras
import numpy as np
import pytest
from networks import NETWORKS, SEEDS, examine
from references import LOSS, record_of

import zoo
from zoo.callbacks import GradientNorms
from zoo.callbacks.gradients.diagnosis import diagnose
from zoo.callbacks.gradients.findings import Diagnosis, Finding
from zoo.callbacks.gradients.record import Column, Layout, Record


@pytest.fixture(scope="module")
def images():
    """512 images of 12x12 in [0, 1], ten classes: a pattern each, and noise."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 512)
    patterns = random.uniform(size=(10, 12, 12, 1))
    noise = random.normal(scale=0.3, size=(512, 12, 12, 1))
    return np.clip(patterns[labels] + noise, 0, 1).astype("float32"), labels


def mlp(depth, activation, initializer="glorot_uniform", units=32):
    model = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Flatten()])
    for name in [f"dense{index}" for index in range(1, depth)]:
        options = {"kernel_initializer": initializer, "name": name}
        model.add(keras.layers.Dense(units, activation, **options))
    model.add(keras.layers.Dense(10, name="logits"))
    return model


def lenet(activation="tanh"):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(6, 3, activation=activation, name="conv1"),
            layers.Conv2D(16, 3, activation=activation, name="conv2"),
            layers.Flatten(),
            layers.Dense(32, activation, name="dense1"),
            layers.Dense(10, name="logits"),
        ]
    )


def record(model, optimizer, images, epochs=3, shuffle=True):
    # TensorFlow takes longer to compile than to train; JAX trains slowly otherwise.
    model.compile(optimizer, LOSS, jit_compile=keras.backend.backend() == "jax")
    gradients = GradientNorms()
    options = {"epochs": epochs, "shuffle": shuffle, "verbose": 0}
    model.fit(*images, callbacks=[gradients], **options)
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
    assert gradients.diagnose(vanishing=1e12) == ()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.endurance)])
@pytest.mark.parametrize(
    ("build", "optimizer"),
    [
        (lambda: mlp(10, "relu", "he_normal"), lambda: "sgd"),
        (lambda: mlp(10, "relu", "he_normal"), lambda: "adam"),
        (lambda: mlp(3, "sigmoid"), lambda: "adam"),
        (lambda: mlp(2, "tanh"), lambda: "adam"),
        (lenet, lambda: "adam"),
        (lambda: lenet("relu"), lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    ],
)
def test_healthy_runs_have_no_finding(build, optimizer, seed, images):
    keras.utils.set_random_seed(seed)
    diagnosis = record(build(), optimizer(), images, epochs=4).diagnose()
    assert diagnosis == ()
    assert diagnosis.verdict == "healthy"
    assert str(diagnosis) == "No fault found: the gradient is healthy."


# Networks from reports, and a word of the remedy for the faulty ones.
REPORTED = {
    "ten relu layers of large weights": "initializer",
    "recurrent matrix above one": "clipnorm",
    "recurrent net without clipping": "clipnorm",
    "subclassed sigmoid net": "ReLU-like",
    "layer cut off by stop gradient": "stop_gradient",
    "tanh of raw pixels and large weights": "inputs scaled",
    "kernels of ones": "initializer",
    "fine tuning a published model": None,
    "imbalanced classes": None,
}


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # As intended.
@pytest.mark.parametrize(("name", "remedy"), REPORTED.items())
def test_verdicts_of_networks_from_reports(name, remedy):
    diagnosis, is_right = examine(name, seed=0)
    assert is_right, str(diagnosis)
    assert remedy is None or remedy in diagnosis[0].advice


@pytest.mark.endurance
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a GAN in TensorFlow"
)
@pytest.mark.parametrize("name", [n for n in NETWORKS if NETWORKS[n].half == "B"])
def test_verdicts_of_networks_that_set_no_threshold(name):
    for seed in SEEDS["B"]:
        diagnosis, is_right = examine(name, seed)
        assert is_right, f"{seed}: {diagnosis}"


def test_notebooks_show_a_table_of_findings():
    finding = Finding("dead", "a<b>", 7, {}, "1 < 2.", "later")
    table = ElementTree.fromstring(Diagnosis([finding])._repr_html_())
    head, row = (["".join(cell.itertext()) for cell in row] for row in table)
    assert head == ["finding", "layer", "since step", "figures", "remedy"]
    assert row == ["dead", "a<b>", "7", "1 < 2.", finding.advice.replace("`", "")]
    assert [code.text for code in table.iter("code")] == ["leaky_relu", "gelu", "relu"]
    assert Diagnosis()._repr_html_() == f"<p>{Diagnosis()}</p>"


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
    # propagation"): gradients grow by a factor per layer toward the input.
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


def test_kernels_may_be_frozen(images):
    model = mlp(3, "tanh", "glorot_uniform")
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.trainable = False
    assert record(model, "sgd", images).diagnose().verdict == "healthy"


def test_a_bad_image_is_found_at_the_step_that_met_it(images):
    x, y = images[0].copy(), images[1]
    x[40] = np.nan
    gradients = record(lenet(), "sgd", (x, y), epochs=1, shuffle=False)
    (finding,) = gradients.diagnose()
    assert (finding.kind, finding.layer, finding.step) == ("non_finite", "logits", 1)
    assert np.isfinite(gradients.global_norm[0])
    assert np.isnan(gradients.global_norm[1:]).all()


@pytest.mark.endurance
def test_underflow_in_a_very_deep_net_is_vanishing_not_dead(images):
    model = mlp(100, "sigmoid", units=8)
    (finding,) = record(model, "sgd", images, epochs=1).diagnose()
    assert finding.kind == "vanishing"
    assert (finding.layer, finding.figures["norm"]) == ("dense1", 0.0)


def test_an_explosion_is_found_after_a_first_call_that_overflowed():
    norms = np.ones((60, 1))
    norms[0], norms[50:] = np.inf, 1e9
    (finding,) = diagnose(record_of(norms, dynamic_scale=True))
    assert (finding.kind, finding.step) == ("exploding", 50)


ONES = np.ones((30, 4))


@pytest.mark.parametrize(
    ("norms", "verdict"),
    [
        (ONES * np.nan, "non-finite"),
        (ONES * [1, 1, 1, 0], "dead"),
        (ONES * 0, "dead"),
        (np.ones((30, 1)) * np.logspace(-160, 150, 700), "vanishing"),
        (np.ones((30, 1)) * np.logspace(100, -160, 700), "exploding"),
        (np.where(np.arange(30)[:, None] % 10 == 9, 1e6, ONES), "healthy"),  # bursts
        (np.where(np.arange(30)[:, None] > 28, 1e9, ONES), "healthy"),
        (np.where(np.arange(30)[:, None] > 15, 1e9, ONES), "exploding"),
        (np.where(np.arange(30)[:, None] % 3 == 1, 0, ONES), "healthy"),
    ],
)
def test_verdicts_of_made_up_norms(norms, verdict):
    assert diagnose(record_of(norms)).verdict == verdict


STEP = np.arange(60)[:, None]
BURST = np.where((STEP > 20) & (STEP < 24), 1e5, 1.0)


@pytest.mark.parametrize(
    ("kernels", "biases", "verdict"),
    [
        ([1, 1, 1], [1, 1, 1e-8], "healthy"),  # a bias in front of a softmax over items
        ([1, 1, 1], [1, 1e-8, 1], "healthy"),  # or of normalization without weights
        ([1, 1, 1e-5], [0.2, 0.2, 4e-6], "healthy"),  # a head with a small weight
        ([10, 1e3, 1e4], [1, 1, 1], "healthy"),  # two layers make no trend
        ([10, 1e4, 1e7, 1e10, 1], [1, 1, 1, 1, 1], "exploding"),  # inputs grow
        (BURST * [1, 1, 1], BURST * [1, 1, 1], "healthy"),  # a burst of the error
        (BURST * [1, 1, 1], [1, 1, 1], "exploding"),
        (
            np.where(STEP > 23, [0, 0, 1], BURST),
            np.where(STEP > 23, [0, 0, 1], 1),
            "exploding, dead",
        ),
        (
            np.where(STEP < 20, [0, 1, 1], 1),
            np.where(STEP < 20, [0, 1, 1], 1),
            "healthy",
        ),  # dead at first, then alive
        (np.where(STEP > 40, [0, 0, 1], 1), np.where(STEP > 40, [0, 0, 1], 1), "dead"),
        (np.where(STEP > 1, 0, 1), np.where(STEP > 1, 0, 1), "dead"),  # suddenly
        (0.5**STEP * (STEP < 40), 0.5**STEP * (STEP < 40), "healthy"),  # all is learned
    ],
)
def test_verdicts_of_made_up_kernels_and_biases(kernels, biases, verdict):
    layers = max(np.shape(kernels)[-1], 3)
    kernels, biases = (np.broadcast_to(v, (60, layers)) for v in (kernels, biases))
    columns = [Column(f"dense{i}", "kernel", (8, 8)) for i in range(layers)]
    columns += [column._replace(name="bias", shape=(8,)) for column in columns]
    positions = tuple((i % layers, i) for i in range(2 * layers))
    record = Record()
    layout = Layout("optimizer", tuple(columns), positions, False)
    record.add(layout, np.arange(60), np.hstack([kernels, biases]))
    assert diagnose(record).verdict == verdict


def test_a_diagnosis_needs_gradients_and_thresholds_above_one():
    with pytest.raises(ValueError, match="No gradient is recorded"):
        diagnose(Record())
    for name, value in (("vanishing", 1.0), ("exploding", 1.0), ("dead", 0)):
        with pytest.raises(ValueError, match=f"Received.*{name}={value}"):
            diagnose(record_of(np.ones((20, 3))), **{name: value})


# With more seeds, a threshold that healthy runs often cross is noticed.
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses zoo.train")
@pytest.mark.endurance
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", zoo.list_models())
def test_the_default_models_have_no_finding(name, seed):
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    gradients = GradientNorms()
    settings = {"epochs": 3, "seed": seed, "batch_size": 16, "verbose": 0}
    zoo.train(name, (images[:256], labels[:256]), callbacks=[gradients], **settings)
    assert len(gradients.steps) == 48
    assert gradients.diagnose() == ()
