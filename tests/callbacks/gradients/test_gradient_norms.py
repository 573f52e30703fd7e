"""Tests of `GradientNorms` against gradients computed without it."""

import itertools
import pickle

import keras
import numpy as np
import pytest
import references
from references import LOSS, alike, batches, norms, recorded

from zoo.callbacks import GradientNorms

BACKEND = keras.backend.backend()


def unbuilt():
    hidden = keras.layers.Dense(6, activation="tanh", name="hidden")
    return keras.Sequential([hidden, keras.layers.Dense(3, name="logits")])


def built():
    return keras.Sequential([keras.Input((8,)), *unbuilt().layers])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.logits = unbuilt().layers

    def call(self, inputs):
        return self.logits(self.hidden(inputs))


def convolutional():
    """Rounds differently in a `lax.scan`."""
    fold = keras.layers.Reshape((4, 2, 1))
    convolution = keras.layers.Conv2D(8, 3, padding="same")
    normalize = keras.layers.BatchNormalization()
    last = [keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential([fold, convolution, normalize, *last])


class Recurrent(keras.Model):
    """Dropout, batch normalization, attention and an LSTM in one model."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.fold = keras.layers.Reshape((4, 2))
        self.lstm = keras.layers.LSTM(4, return_sequences=True, name="lstm")
        self.attend = keras.layers.MultiHeadAttention(2, 3, name="attend")
        self.dropout = keras.layers.Dropout(dropout)
        self.normalize = keras.layers.BatchNormalization(name="normalize")
        self.flatten = keras.layers.Flatten()
        self.logits = keras.layers.Dense(3, name="logits")

    def call(self, inputs, training=False):
        hidden = self.lstm(self.fold(inputs))
        hidden = self.dropout(self.attend(hidden, hidden), training=training)
        return self.logits(self.flatten(self.normalize(hidden, training=training)))


# On torch, a compiled subclass orders its layers in another way.
BUILDS = [built, unbuilt, Subclassed]
CASES = [*itertools.product(BUILDS, [{}, {"run_eagerly": True}])]
CASES += [(x, {"jit_compile": True}) for x in BUILDS[: 3 if BACKEND == "torch" else 1]]


def compiled(build=built, optimizer="adam", **kwargs):
    model = alike(build)
    model.compile(optimizer, LOSS, metrics=["accuracy"], **kwargs)
    return model


def fit(model, data, *callbacks, **kwargs):
    return references.fit(model, data, *callbacks, **{"batch_size": 16, **kwargs})


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("build", "execution"), CASES)
def test_norms_are_those_of_the_training_gradient(build, execution, data):
    reference = alike(build)
    reference(data[0][:1])
    expected = norms(reference, keras.optimizers.Adam(), LOSS, batches(data, 16))
    model = alike(build)
    model.compile("adam", LOSS, **{"jit_compile": False, **execution})
    gradients = GradientNorms()
    fit(model, data, gradients)

    columns = ["hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias"]
    assert list(gradients.variables) == columns
    np.testing.assert_allclose(recorded(gradients), expected, rtol=1e-5)
    assert list(gradients.history) == ["hidden", "logits"]
    layers = np.sqrt(expected[:, ::2] ** 2 + expected[:, 1::2] ** 2)
    received = np.stack(list(gradients.history.values()), axis=1)
    np.testing.assert_allclose(received, layers, rtol=1e-5)
    whole = np.sqrt((expected**2).sum(axis=1))
    np.testing.assert_allclose(gradients.global_norm, whole, rtol=1e-5)
    assert gradients.global_norm.dtype == gradients.history["hidden"].dtype == "float64"
    np.testing.assert_array_equal(gradients.steps, range(8))
    assert set(gradients.optimizers) == {"optimizer"}


def test_norms_of_recurrent_and_attention_layers(data):
    def build():
        model = Recurrent(dropout=0.0)
        model(data[0])
        return model

    sgd = keras.optimizers.SGD()
    expected = norms(alike(build), sgd, LOSS, [data], training=True)
    gradients = GradientNorms()
    fit(compiled(build, "sgd"), data, gradients, batch_size=len(data[0]))
    layers = dict.fromkeys(path.split("/")[0] for path in gradients.history)
    assert list(layers) == ["lstm", "attend", "normalize", "logits"]
    assert "attend/query" in gradients.history
    # The softmax does not see the keys' bias, the normalization no bias before it:
    # their gradient is a rounding error.
    real = expected > 1e-4
    assert real.sum() == expected.size - 3
    np.testing.assert_allclose(recorded(gradients)[real], expected[real], rtol=1e-5)
    assert recorded(gradients)[~real].max() < 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile
@pytest.mark.parametrize(
    ("build", "rule", "options"),
    [
        (Recurrent, {}, {}),
        (unbuilt, {}, {"run_eagerly": True}),
        (unbuilt, {}, {"jit_compile": True}),
        (unbuilt, {"clipnorm": 0.1, "use_ema": True}, {}),
        (convolutional, {}, {"steps_per_execution": 3}),
    ],
)
def test_training_is_bit_for_bit_the_same(build, rule, options, data):
    if BACKEND == "torch" and "steps_per_execution" in options:
        return  # Keras refuses it.
    gradients, runs = GradientNorms(), []
    for callbacks in ([], [gradients]):
        model = compiled(build, keras.optimizers.Adam(**rule), **options)
        keras.utils.set_random_seed(1)
        history = fit(model, data, *callbacks, epochs=3, shuffle=True).history
        runs.append((model.variables + model.optimizer.variables, history))
    assert len(gradients.steps) == 24
    for pair in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_array_equal(*pair)
    assert list(runs[0][1]) == list(runs[1][1])
    assert runs[0][1]["loss"] == runs[1][1]["loss"]


@pytest.mark.skipif(BACKEND == "torch", reason="has no `steps_per_execution`")
def test_every_step_of_an_execution_is_recorded_in_order(data):
    expected, gradients = GradientNorms(), GradientNorms()
    fit(compiled(), data, expected, epochs=2)
    # The last of three executions per epoch has two steps.
    fit(compiled(steps_per_execution=3), data, gradients, epochs=2)
    assert len(expected.steps) == 16
    np.testing.assert_array_equal(gradients.steps, expected.steps)
    np.testing.assert_allclose(recorded(gradients), recorded(expected), rtol=1e-5)


def test_a_record_grows_in_each_fit_of_its_model_alone(data):
    model, gradients, other = compiled(), GradientNorms(), GradientNorms()
    fit(model, data, gradients)
    first = recorded(gradients)
    fit(model, data, gradients)
    fit(model, data)
    fit(model, data, other)
    assert len(gradients.steps) == 16
    assert len(other.steps) == 8
    np.testing.assert_array_equal(recorded(gradients)[:8], first)
    assert recorded(gradients)[8:].sum() != first.sum()
    fit(compiled(Subclassed), data, gradients)
    np.testing.assert_array_equal(gradients.steps, range(8))


def test_a_layer_between_others_keeps_their_records(data):
    a, b, logits = (keras.layers.Dense(8, name=name) for name in ("a", "b", "logits"))
    gradients = GradientNorms()
    model = keras.Sequential([keras.Input((8,)), a, logits])
    model.compile("sgd", LOSS)
    fit(model, data, gradients)
    model.pop()
    model.add(b)
    model.add(logits)
    model.compile("sgd", LOSS)
    fit(model, data, gradients)
    assert list(gradients.history) == ["a", "b", "logits"]
    assert np.isfinite(gradients.history["logits"]).all()
    missing = np.isnan(gradients.history["b"])
    np.testing.assert_array_equal(missing, [True] * 8 + [False] * 8)


def test_validation_and_class_weights(data):
    """The gradient is that of the weighted loss, and of no validation batch."""
    x, y = data[0][:16], data[1][:16]
    weights = {0: 1.0, 1: 3.0, 2: 0.0}
    of_samples = np.array([weights[label] for label in y], "float32")

    def loss(y, outputs):
        return LOSS(y, outputs, sample_weight=of_samples)

    expected = norms(alike(built), keras.optimizers.SGD(), loss, [(x, y)])
    model, gradients = compiled(optimizer="sgd"), GradientNorms()
    fit(model, (x, y), gradients, class_weight=weights, validation_data=data)
    np.testing.assert_allclose(recorded(gradients), expected, rtol=1e-5)


def test_two_callbacks_in_one_fit_both_record_once(data):
    model, first, second = compiled(), GradientNorms(), GradientNorms(buffer_size=3)
    fit(model, data, first, second, first)
    assert len(first.steps) == 8
    np.testing.assert_array_equal(recorded(first), recorded(second))
    fit(model, data, second)
    assert len(first.steps) == 8
    np.testing.assert_array_equal(second.steps, range(16))


def test_a_step_that_fails_after_its_optimizer_call_has_no_row(data):
    class Fails(Subclassed):
        calls = 0

        def train_step(self, *args):
            outputs = super().train_step(*args)
            self.calls += 1
            if self.calls == 5:
                raise ArithmeticError
            return outputs

    model, gradients = compiled(Fails, run_eagerly=True), GradientNorms()
    with pytest.raises(ArithmeticError):
        fit(model, data, gradients)
    assert len(gradients.steps) == 4
    fit(model, data, gradients)
    np.testing.assert_array_equal(gradients.steps, range(12))


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_layer_that_the_loss_does_not_reach_is_dead(data):
    inputs = keras.Input((8,))
    cut = keras.ops.stop_gradient(keras.layers.Dense(6, name="cut")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(cut))
    model.compile(keras.optimizers.SGD(clipnorm=1.0), LOSS)
    both = GradientNorms(), GradientNorms(applied=True)
    fit(model, data, *both, epochs=2)
    for gradients in both:
        assert not gradients.history["cut"].any()
        [finding] = gradients.diagnose()
        assert (finding.kind, finding.layer, finding.step) == ("dead", "cut", 0)


def test_compiling_within_a_fit_fails_as_without_the_callback(data):
    model = compiled()

    class Recompile(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                model.compile("adam", LOSS)

    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        fit(model, data, Recompile(), GradientNorms(), epochs=2)


def test_training_without_a_gradient_warns_once_a_fit(data):
    class Untrained(Subclassed):
        def train_step(self, *args):
            logs = {"loss": keras.ops.sum(args[-1][0])}
            return (logs, args[0]) if BACKEND == "jax" else logs

    model, gradients = alike(Untrained), GradientNorms()
    model.compile("adam", LOSS)
    for _ in range(2):
        with pytest.warns(UserWarning, match="has seen no gradient"):
            fit(model, data, gradients, epochs=2)
    assert gradients.history == {}


def test_printed_and_drawn_it_names_the_model_and_the_verdict(data, monkeypatch):
    gradients, restored = GradientNorms(), GradientNorms()
    assert str(gradients) == "GradientNorms: nothing is recorded yet."
    assert gradients._repr_html_() == f"<p>{gradients}</p>"
    model = keras.Sequential(built().layers, name="a>b")
    model.compile("sgd", LOSS)
    fit(model, (data[0] * np.nan, data[1]), gradients)
    summary = "GradientNorms of a>b: 8 steps, 2 layers, non-finite"
    restored.set_state(gradients.get_state())
    for each in (gradients, restored, pickle.loads(pickle.dumps(gradients))):
        assert str(each) == summary
    for figure in (restored.plot(gradients), restored.plot_profile([7])):
        assert figure.axes[0].get_title(loc="left") == "a>b: non-finite"
    html = "<p>" + summary.replace(">", "&gt;") + "</p><table><tr><th>finding</th>"
    assert gradients._repr_html_().startswith(html)
    monkeypatch.setattr(gradients._recorder, "read", lambda: 1 / 0)
    assert str(gradients) == summary
    with pytest.raises(TypeError, match=r"further runs\. Received: others=.'a',"):
        restored.plot("a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop_on", "dead"),
        ("stop_on", ["Dead"]),
        ("update_freq", 0),
        ("stop_on", 5),
        ("stop_on", [["dead"]]),
        ("buffer_size", 0),
        ("buffer_size", 2.5),
        ("buffer_size", True),
        ("buffer_size", "8"),
    ],
)
def test_arguments_that_make_no_sense_are_named(name, value):
    with pytest.raises(ValueError, match=f"Received: {name}="):
        GradientNorms(**{name: value})


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(NotImplementedError, match=r"Received.*numpy"):
        GradientNorms()
