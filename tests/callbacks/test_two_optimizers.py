"""A train step with two optimizers, written for the backends with stateful ones."""

import keras
import numpy as np

from zoo.callbacks import GradientNorms

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_every_call_of_every_optimizer_has_a_row_with_its_label(data):
    class TwoOptimizers(keras.Model):
        """Two critic steps for one of the generator, as in a GAN."""

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
            for layer, optimizer in (
                (self.critic, self.critic_optimizer),
                (self.critic, self.critic_optimizer),
                (self.generator, self.generator_optimizer),
            ):
                if keras.backend.backend() == "tensorflow":
                    import tensorflow as tf

                    with tf.GradientTape() as tape:
                        loss = LOSS(y, self(x))
                    weights = layer.trainable_weights
                    optimizer.apply(tape.gradient(loss, weights), weights)
                else:
                    self.zero_grad()
                    loss = LOSS(y, self(x))
                    loss.backward()
                    weights = layer.trainable_weights
                    optimizer.apply([w.value.grad for w in weights], weights)
            return {"loss": loss}

    model = TwoOptimizers()
    model(data[0][:1])
    model.compile(loss=LOSS)
    gradients = GradientNorms()
    model.fit(*data, batch_size=20, callbacks=[gradients], verbose=0)
    one_step = ["critic_optimizer", "critic_optimizer", "generator_optimizer"]
    assert list(gradients.optimizers) == one_step * 6
    critic = np.isfinite(gradients.history["critic"])
    np.testing.assert_array_equal(critic, [True, True, False] * 6)
    np.testing.assert_array_equal(np.isfinite(gradients.history["generator"]), ~critic)
    assert gradients.diagnose() == ()
