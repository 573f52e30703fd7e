"""What `GradientNorms` records, against gradients written out by hand."""

import copy
import pickle
import types

import keras
import numpy as np
import pytest
from references import norms

from zoo.callbacks import GradientNorms
from zoo.callbacks.capture import check_private_names

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batches(data, size=16):
    x, y = data
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def functional():
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(6, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))


def sequential():
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def unbuilt():
    return keras.Sequential(
        [
            keras.layers.Dense(6, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(6, activation="tanh", name="hidden")
        self.logits = keras.layers.Dense(3, name="logits")

    def call(self, inputs):
        return self.logits(self.hidden(inputs))


def alike(build):
    """A new model, with the weights of every other one from here."""
    keras.utils.set_random_seed(0)
    return build()


def fit(model, data, callbacks, **kwargs):
    kwargs = {"batch_size": 16, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(*data, callbacks=callbacks, **kwargs)


def recorded(gradients):
    return np.stack(list(gradients.variables.values()), axis=1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("execution", ["eager", "graph", "jit"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("build", [functional, sequential, unbuilt, Subclassed])
def test_norms_are_those_of_the_training_gradient(build, optimizer, execution, data):
    model, reference = alike(build), alike(build)
    reference(data[0][:1])
    expected = norms(reference, keras.optimizers.get(optimizer), LOSS, batches(data))

    model.compile(
        optimizer,
        LOSS,
        run_eagerly=execution == "eager",
        jit_compile=execution == "jit",
    )
    gradients = GradientNorms()
    fit(model, data, [gradients])

    assert list(gradients.variables) == [
        "hidden/kernel",
        "hidden/bias",
        "logits/kernel",
        "logits/bias",
    ]
    np.testing.assert_allclose(recorded(gradients), expected, rtol=1e-5)
    layers = np.sqrt(expected[:, ::2] ** 2 + expected[:, 1::2] ** 2)
    assert list(gradients.history) == ["hidden", "logits"]
    np.testing.assert_allclose(
        np.stack(list(gradients.history.values()), axis=1), layers, rtol=1e-5
    )
    np.testing.assert_allclose(
        gradients.global_norm, np.sqrt((expected**2).sum(axis=1)), rtol=1e-5
    )
    assert gradients.global_norm.dtype == gradients.history["hidden"].dtype == "float64"
    np.testing.assert_array_equal(gradients.steps, range(8))
    assert set(gradients.optimizers) == {"optimizer"}


def compiled(build=functional, optimizer="adam", loss=LOSS, **kwargs):
    model = alike(build)
    model.compile(optimizer, loss, metrics=["accuracy"], **kwargs)
    return model


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


def test_norms_of_recurrent_and_attention_layers(data):
    def build():
        model = Recurrent(dropout=0.0)
        model(data[0])
        return model

    model, reference = alike(build), alike(build)
    expected = norms(reference, keras.optimizers.SGD(), LOSS, [data], training=True)
    model.compile("sgd", LOSS)
    gradients = GradientNorms()
    fit(model, data, [gradients], batch_size=len(data[0]))
    layers = dict.fromkeys(path.split("/")[0] for path in gradients.history)
    assert list(layers) == ["lstm", "attend", "normalize", "logits"]
    assert "attend/query" in gradients.history
    # The softmax does not see the keys' bias, the normalization no bias before it:
    # their gradient is a rounding error.
    real = expected > 1e-4
    assert real.sum() == expected.size - 3
    np.testing.assert_allclose(recorded(gradients)[real], expected[real], rtol=1e-5)
    assert recorded(gradients)[~real].max() < 1e-5


def clipping():
    return keras.optimizers.Adam(clipnorm=0.1, use_ema=True)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute:UserWarning"
)  # of torch.compile
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (unbuilt, {}),
        (Recurrent, {}),
        (unbuilt, {"run_eagerly": True}),
        (unbuilt, {"jit_compile": True}),
        (unbuilt, {"clipping": True}),
        (unbuilt, {"steps_per_execution": 3}),
    ],
)
def test_training_is_bit_for_bit_the_same(build, options, data):
    if keras.backend.backend() == "torch" and "steps_per_execution" in options:
        return  # Keras refuses it.
    options = dict(options)
    optimizer = clipping if options.pop("clipping", False) else keras.optimizers.Adam
    plain = compiled(build, optimizer(), **options)
    watched = compiled(build, optimizer(), **options)
    keras.utils.set_random_seed(1)
    history = fit(plain, data, [], epochs=7, shuffle=True).history
    keras.utils.set_random_seed(1)
    gradients = GradientNorms()
    watched_history = fit(watched, data, [gradients], epochs=7, shuffle=True).history
    assert len(gradients.steps) == 56
    for expected, received in zip(
        plain.get_weights(), watched.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(received, expected)
    assert list(watched_history) == list(history)
    assert watched_history["loss"] == history["loss"]


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_every_step_of_an_execution_is_recorded_in_order(steps, data):
    expected, gradients = GradientNorms(), GradientNorms()
    model = compiled(steps_per_execution=steps)
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):
            fit(model, data, [gradients])
        return
    fit(compiled(), data, [expected], epochs=2)
    fit(model, data, [gradients], epochs=2)
    assert len(expected.steps) == 16
    np.testing.assert_array_equal(gradients.steps, expected.steps)
    np.testing.assert_allclose(recorded(gradients), recorded(expected), rtol=1e-5)


def test_fits_are_recorded_one_after_another(data):
    model, gradients, other = compiled(), GradientNorms(), GradientNorms()
    fit(model, data, [gradients])
    first = recorded(gradients)
    fit(model, data, [gradients])
    fit(model, data, [])
    fit(model, data, [other])
    assert len(gradients.steps) == 16
    assert len(other.steps) == 8
    np.testing.assert_array_equal(recorded(gradients)[:8], first)
    assert recorded(gradients)[8:].sum() != first.sum()


def test_another_model_begins_a_new_recording(data):
    gradients = GradientNorms()
    fit(compiled(), data, [gradients])
    fit(compiled(Subclassed), data, [gradients])
    np.testing.assert_array_equal(gradients.steps, range(8))


def test_a_layer_between_others_keeps_their_records(data):
    hidden, logits = (keras.layers.Dense(8, name=name) for name in ("a", "logits"))
    gradients = GradientNorms()
    model = keras.Sequential([keras.Input((8,)), hidden, logits])
    model.compile("sgd", LOSS)
    fit(model, data, [gradients])
    model.pop()
    model.add(keras.layers.Dense(8, name="b"))
    model.add(logits)
    model.compile("sgd", LOSS)
    fit(model, data, [gradients])
    assert list(gradients.history) == ["a", "b", "logits"]
    assert np.isfinite(gradients.history["logits"]).all()
    np.testing.assert_array_equal(
        np.isnan(gradients.history["b"]), [True] * 8 + [False] * 8
    )


def test_validation_and_class_weights(data):
    """The gradient is that of the weighted loss, and of no validation batch."""
    x, y = data[0][:16], data[1][:16]
    weights = {0: 1.0, 1: 3.0, 2: 0.0}
    of_samples = np.array([weights[label] for label in y], "float32")

    def loss(y, outputs):
        each = keras.losses.sparse_categorical_crossentropy(
            y, outputs, from_logits=True
        )
        return keras.ops.mean(each * keras.ops.convert_to_tensor(of_samples))

    expected = norms(alike(functional), keras.optimizers.SGD(), loss, [(x, y)])
    model, gradients = compiled(optimizer="sgd"), GradientNorms()
    fit(model, (x, y), [gradients], class_weight=weights, validation_data=data)
    np.testing.assert_allclose(recorded(gradients), expected, rtol=1e-5)


def test_the_same_callback_twice_records_once(data):
    gradients = GradientNorms()
    fit(compiled(), data, [gradients, gradients])
    np.testing.assert_array_equal(gradients.steps, range(8))


def test_two_callbacks_in_one_fit_both_record(data):
    model, first, second = compiled(), GradientNorms(), GradientNorms()
    fit(model, data, [first, second])
    assert len(first.steps) == 8
    np.testing.assert_array_equal(recorded(first), recorded(second))
    fit(model, data, [second])
    assert len(first.steps) == 8
    assert len(second.steps) == 16


class StopError(Exception):
    """Raised by the tests."""


class Raises(keras.callbacks.Callback):
    """Raises in one of its methods, at batch or epoch `at`."""

    def __init__(self, method, error, at):
        super().__init__()

        def fail(index, logs=None):
            if index == at:
                raise error

        setattr(self, method, fail)


@pytest.mark.parametrize(
    ("method", "at", "rows", "error"),
    [
        ("on_train_batch_begin", 5, 5, KeyboardInterrupt),
        ("on_train_batch_end", 5, 6, KeyboardInterrupt),
        ("on_epoch_end", 0, 8, StopError),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_exception_leaves_nothing_behind(method, at, rows, error, first, data):
    model, gradients = compiled(), GradientNorms()
    fit(model, data, [])
    before = dict(vars(model)), dict(vars(model.optimizer))
    failing = Raises(method, error, at)
    callbacks = [failing, gradients] if first else [gradients, failing]
    with pytest.raises(error):
        fit(model, data, callbacks)
    assert len(gradients.steps) == rows
    assert vars(model).keys() == before[0].keys()
    assert vars(model.optimizer).keys() == before[1].keys()
    if first or method != "on_train_batch_begin":
        assert model.train_function is before[0]["train_function"]
    fit(model, data, [])
    assert len(gradients.steps) == rows
    assert model.train_function is before[0]["train_function"]
    fit(model, data, [gradients])
    assert len(gradients.steps) == rows + 8


def test_an_error_in_the_data_keeps_the_rows_of_the_steps_before(data):
    def generate():
        yield from batches(data)[:3]
        raise StopError("no more data")

    model, gradients = compiled(), GradientNorms()
    expected = GradientNorms()
    fit(compiled(), data, [expected])
    with pytest.raises(Exception, match="no more data"):
        model.fit(generate(), callbacks=[gradients], shuffle=False, verbose=0)
    np.testing.assert_allclose(recorded(gradients), recorded(expected)[:3], rtol=1e-6)
    assert not {"apply", "stateless_apply"} & vars(model.optimizer).keys()


def test_a_step_that_fails_after_its_optimizer_call_has_no_row(data):
    class Fails(Subclassed):
        def train_step(self, *args):
            outputs = super().train_step(*args)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 5:
                raise StopError
            return outputs

    model, gradients = alike(Fails), GradientNorms()
    model.compile("adam", LOSS, run_eagerly=True)
    with pytest.raises(StopError):
        fit(model, data, [gradients])
    assert len(gradients.steps) == 4
    fit(model, data, [gradients])
    np.testing.assert_array_equal(gradients.steps, range(12))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_generator_of_unknown_size(data):
    gradients = GradientNorms()
    compiled().fit(
        (batch for batch in batches(data)),
        callbacks=[gradients],
        shuffle=False,
        verbose=0,
    )
    assert len(gradients.steps) == 8


def test_training_without_a_gradient_warns_once_a_fit(data):
    class Untrained(keras.Model):
        def __init__(self):
            super().__init__()
            self.logits = keras.layers.Dense(3)

        def call(self, inputs):
            return self.logits(inputs)

        def train_step(self, *args):
            if keras.backend.backend() == "jax":
                state, (x, _) = args
                return {"loss": x.sum()}, state
            return {"loss": keras.ops.sum(args[0][0])}

    gradients = GradientNorms()
    model = alike(Untrained)
    model.compile("adam", LOSS)
    for _ in range(2):
        with pytest.warns(UserWarning, match="has seen no gradient"):
            fit(model, data, [gradients], epochs=2)
    assert gradients.history == {}


def test_a_full_ring_is_read_before_it_overflows(data):
    expected, gradients = GradientNorms(), GradientNorms(buffer_size=3)
    fit(compiled(), data, [expected], epochs=2)
    fit(compiled(), data, [gradients], epochs=2)
    np.testing.assert_array_equal(recorded(gradients), recorded(expected))


def test_arguments_that_make_no_sense_are_refused(data):
    with pytest.raises(ValueError, match="Received: buffer_size=0"):
        GradientNorms(buffer_size=0)
    with pytest.raises(ValueError, match="No gradient is recorded"):
        GradientNorms().diagnose()
    gradients = GradientNorms()
    fit(compiled(), data, [gradients])
    with pytest.raises(ValueError, match="Received: vanishing"):
        gradients.diagnose(vanishing=1.0)


def test_the_error_names_what_keras_lacks():
    model = types.SimpleNamespace(train_function=None, optimizer=None)
    with pytest.raises(RuntimeError, match=r"make_train_function.*tested with Keras 3"):
        check_private_names(model)


@pytest.mark.parametrize("backend", ["numpy", "openvino"])
def test_other_backends_are_refused(backend, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(NotImplementedError, match=f"Received.*{backend}"):
        GradientNorms()


def test_a_model_lives_on_after_a_crash(data, tmp_path):
    model, gradients = compiled(), GradientNorms()
    failing = Raises("on_train_batch_begin", KeyboardInterrupt(), 5)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, [gradients, failing])
    outputs = model.predict(data[0], verbose=0)
    model.save(tmp_path / "model.keras")
    for copied in (
        keras.models.load_model(tmp_path / "model.keras"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ):
        np.testing.assert_array_equal(copied.predict(data[0], verbose=0), outputs)
    keras.models.clone_model(model)
    if keras.backend.backend() == "tensorflow":
        model.export(tmp_path / "exported", verbose=False)
    model.evaluate(*data, verbose=0)
    model.compile("sgd", LOSS)
    fit(model, data, [])
    assert len(gradients.steps) == 5


def test_checkpoints_are_the_same(data, tmp_path):
    for name, callbacks in (("plain", []), ("watched", [GradientNorms()])):
        path = str(tmp_path / name) + "_{batch}.keras"
        save = keras.callbacks.ModelCheckpoint(path, save_freq=1)
        fit(compiled(), data, [*callbacks, save])
    for batch in range(1, 9):
        plain = keras.models.load_model(tmp_path / f"plain_{batch}.keras")
        watched = keras.models.load_model(tmp_path / f"watched_{batch}.keras")
        for expected, received in zip(
            plain.get_weights() + [v.numpy() for v in plain.optimizer.variables],
            watched.get_weights() + [v.numpy() for v in watched.optimizer.variables],
            strict=True,
        ):
            np.testing.assert_array_equal(received, expected)
