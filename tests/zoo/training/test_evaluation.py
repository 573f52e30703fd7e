"""Evaluation, and the data that it and training accept."""

import keras
import numpy as np
import pytest

import zoo


@pytest.fixture
def examples():
    return zoo.load_dataset("digits-sample", "validation", as_="numpy")


@pytest.mark.parametrize("activation", ["softmax", None])
def test_evaluate_agrees_with_keras(activation, examples):
    model = zoo.ShallowMLP(16, classifier_activation=activation)
    scores = zoo.evaluate(model, examples)
    assert scores == zoo.evaluate(model, "digits-sample", split="validation")
    images, labels = examples
    assert scores == zoo.evaluate(model, (images, labels[:, None]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not activation)
    model.compile(loss=loss, metrics=["accuracy"])
    expected = model.evaluate(*examples, verbose=0, return_dict=True)
    assert scores["accuracy"] == pytest.approx(expected["accuracy"])
    assert scores["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert scores["images"] == 1000


def test_scaled_pixels_give_a_warning(examples):
    scaled = examples[0] / 255, examples[1]
    for factor, high in ((1, "1"), (65535, r"6\.55e\+04")):
        with pytest.warns(UserWarning, match=rf"lie in \[0, {high}\], but the model t"):
            zoo.evaluate(zoo.ShallowMLP(8), (scaled[0] * factor, scaled[1]))
    with pytest.warns(UserWarning, match="Pass them unscaled"):
        zoo.train("shallow_mlp", scaled, epochs=1, batch_size=500, verbose=0)
    unscaled = zoo.ShallowMLP(8, include_preprocessing=False)
    zoo.evaluate(unscaled, scaled)
    recipe = zoo.Recipe("own", "mnist", epochs=1, teacher="lenet5.mnist")
    with pytest.warns(UserWarning, match="Pass them unscaled"):  # for the teacher
        zoo.train(unscaled, scaled, recipe, verbose=0)


def test_outputs_that_are_nan_are_refused(examples):
    model = zoo.ShallowMLP(8)
    model.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(ValueError, match="are NaN for some images"):
        zoo.evaluate(model, examples)


def test_a_subclassed_model_says_what_it_returns(examples):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = zoo.ShallowMLP(8)

        def call(self, x):
            return self.net(x)

    assert zoo.evaluate(Own(), examples, from_logits=False)["images"] == 1000
    report = zoo.train(
        Own(), examples, epochs=1, from_logits=False, batch_size=500, verbose=0
    )
    assert report.history["loss"]
    some = examples[1] < 9
    recipe = zoo.Recipe("own", "mnist", epochs=1, label_smoothing=0.1, batch_size=500)
    data = {"data": (examples[0][some], examples[1][some]), "validation_data": examples}
    assert zoo.train(Own(), recipe=recipe, **data, from_logits=False, verbose=0)


def test_logits_can_be_declared(examples):
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Dense(10)(keras.layers.Flatten()(inputs / 255))
    model = keras.Model(inputs, keras.layers.Activation("log_softmax")(x))
    with pytest.raises(ValueError, match="pass `from_logits`"):
        zoo.evaluate(model, examples)
    clear = zoo.ShallowMLP(8)  # Its last layers decide.
    expected = zoo.evaluate(clear, examples)
    assert zoo.evaluate(clear, examples, from_logits=True) == expected
    of_dict = keras.Model(clear.inputs, {"probabilities": clear.outputs[0]})
    assert zoo.evaluate(of_dict, examples) == expected
    loss = zoo.evaluate(model, examples, from_logits=True)["loss"]
    assert loss == pytest.approx(np.log(10), rel=0.2)
    report = zoo.train(model, examples, epochs=1, from_logits=True, verbose=0)
    assert report.history["loss"][0] < 2.5


def test_a_model_without_labels_takes_no_part_of_the_classes(tmp_path):
    arrays = {"x": np.zeros((4, 28, 28, 1)), "y": np.arange(4) % 2}
    np.savez(tmp_path / "x.npz", **arrays, categories=["8", "9"])
    with pytest.raises(ValueError, match=r"10 classes without labels.*\['8', '9'\]"):
        zoo.evaluate(zoo.ShallowMLP(8), tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((6, 28, 28, 1), np.zeros(5, int), r"\(6, 28, 28, 1\), int64 .* \(5,\)"),
        ((6, 28, 28, 1), np.eye(6, 10), r"float64 labels of shape \(6, 10\)"),
        ((6, 28, 28, 1), np.zeros(6), r"float64 labels of shape \(6,\)"),
        ((0, 28, 28, 1), np.zeros(0, int), r"images of shape \(0, 28, 28, 1\)"),
        ((6, 28, 28, 1), np.arange(-1, 5), r"integer labels from 0"),
        ((6, 14, 56, 1), np.zeros(6, int), r"\(28, 28, 1\).*Received: .*\(14, 56, 1\)"),
    ],
)
def test_other_data_are_refused(shape, labels, message):
    data = np.zeros(shape, "uint8"), labels
    model = zoo.ShallowMLP(8)
    with pytest.raises(ValueError, match=message):
        zoo.evaluate(model, data)
    with pytest.raises(ValueError, match=message):
        zoo.train(model, data)
    with pytest.raises(ValueError, match=message):
        zoo.train(model, "digits-sample", validation_data=data)
