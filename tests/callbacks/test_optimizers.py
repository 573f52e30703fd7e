"""Tests of models with several optimizers."""

import keras
import numpy as np
import pytest
from references import LOSS, fit

from zoo.callbacks import GradientNorms
from zoo.callbacks.optimizers import find_optimizers

BACKEND = keras.backend.backend()


class Adversarial(keras.Model):
    """Two critic steps for each generator step, as in a GAN."""

    def __init__(self):
        super().__init__()
        self.critic = keras.layers.Dense(3, name="critic")
        self.generator = keras.layers.Dense(4, name="generator")
        self.critic_optimizer = keras.optimizers.SGD(0.01)
        self.generator_optimizer = keras.optimizers.Adam(0.01)
        self.built = True

    def call(self, inputs):
        return self.critic(self.generator(inputs))

    def train_step(self, data):
        x, y = data
        critic = self.critic, self.critic_optimizer
        turns = critic, critic, (self.generator, self.generator_optimizer)
        for layer, optimizer in turns:
            weights = layer.trainable_weights
            if BACKEND == "tensorflow":
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = LOSS(y, self(x))
                gradients = tape.gradient(loss, weights)
            else:
                self.zero_grad()
                loss = LOSS(y, self(x))
                loss.backward()
                gradients = [w.value.grad for w in weights]
            optimizer.apply(gradients, weights)
        return {"loss": loss}


# On JAX, optimizers have no state of their own within a train step.
@pytest.mark.skipif(BACKEND == "jax", reason="needs stateful optimizers")
def test_every_call_of_every_optimizer_has_a_row_with_its_label(data):
    model = Adversarial()
    model(data[0][:1])
    model.compile(loss=LOSS)
    gradients = GradientNorms()
    model.fit(*data, batch_size=20, callbacks=[gradients], verbose=0)
    one_step = ["critic_optimizer", "critic_optimizer", "generator_optimizer"]
    assert list(gradients.optimizers) == one_step * 6
    assert list(gradients.history) == ["generator", "critic"]  # the data flow
    critic = np.isfinite(gradients.history["critic"])
    np.testing.assert_array_equal(critic, [True, True, False] * 6)
    np.testing.assert_array_equal(np.isfinite(gradients.history["generator"]), ~critic)
    assert gradients.diagnose() == ()


def test_optimizers_are_found_wherever_a_model_has_them_and_only_once():
    nested = keras.Sequential([keras.layers.Dense(1)], name="nested")
    nested.compile("sgd")
    model = keras.Sequential([nested, keras.layers.Dense(1)])
    inner = keras.optimizers.SGD()
    model.compile(keras.optimizers.LossScaleOptimizer(inner))
    first, second = keras.optimizers.SGD(), keras.optimizers.Adam()
    model.several, model.named = [first, inner], {"second": second, "again": first}
    model._private = keras.optimizers.SGD()
    assert find_optimizers(model) == [
        ("optimizer", model.optimizer),
        ("_private", model._private),
        ("several[0]", first),
        ("named['second']", second),
        ("nested.optimizer", nested.optimizer),
    ]


def test_a_layer_that_trains_by_keras_trainer_is_its_own_model(points):
    trainer = next(owner for owner in keras.Model.__mro__ if "fit" in vars(owner))

    class Trained(trainer, keras.layers.Dense):
        def __init__(self):
            keras.layers.Dense.__init__(self, 1)
            trainer.__init__(self)

    model, gradients = Trained(), GradientNorms()
    model.compile("sgd", "mse")
    fit(model, points, gradients)
    assert list(gradients.variables) == ["model/kernel", "model/bias"]
    assert len(gradients.steps) == 6
