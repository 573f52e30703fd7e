"""The networks without a fault."""

import keras
import numpy as np
from keras import applications, layers, ops
from networks import digits, fit, mlp, network, raw_digits, sequence, sgd

import zoo


def train_zoo_model(name, callback):
    options = {"epochs": 2, "batch_size": 32, "verbose": 0}
    options["seed"] = int(np.random.randint(1000))  # from the global seed
    zoo.train(name, raw_digits(), callbacks=[callback], **options)


@network("A")
def zoo_shallow_mlp(callback):
    train_zoo_model("shallow_mlp", callback)


@network("B")
def zoo_deep_mlp(callback):
    train_zoo_model("deep_mlp", callback)


@network("B")
def zoo_lenet5(callback):
    train_zoo_model("lenet5", callback)


@network("A")
def zoo_convnet(callback):
    train_zoo_model("convnet", callback)


def train_application(build, callback):
    model = build(weights=None, input_shape=(32, 32, 3), classes=10)
    images, labels = digits(480)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, axis=-1)
    images = images * 2 - 1 if build is applications.ResNet50V2 else images * 255
    options = {"batch_size": 16, "epochs": 1}
    loss = "sparse_categorical_crossentropy"
    fit(model, (images, labels), callback, loss=loss, **options)


@network("A")
def mobilenet_v3_small(callback):
    train_application(applications.MobileNetV3Small, callback)


@network("A")
def resnet50_v2(callback):
    train_application(applications.ResNet50V2, callback)


@network("B")
def efficientnet_b0(callback):
    train_application(applications.EfficientNetB0, callback)


@network("B")
def densenet121(callback):
    train_application(applications.DenseNet121, callback)


@network("B")
def convnext_tiny(callback):
    train_application(applications.ConvNeXtTiny, callback)


class EncoderBlock(layers.Layer):
    """A pre-norm block of a transformer encoder."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.feed = keras.Sequential([layers.Dense(64, "gelu"), layers.Dense(32)])
        self.attention = layers.MultiHeadAttention(4, 8)
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def call(self, x):
        normed = self.norms[0](x)
        x = x + self.attention(normed, normed)
        return x + self.feed(self.norms[1](x))


@network("A")
def transformer_encoder(callback):
    tokens = np.random.default_rng(0).integers(1, 500, (1600, 24))
    labels = (tokens[:, :12].sum(axis=1) > tokens[:, 12:].sum(axis=1)).astype(int)
    blocks = [EncoderBlock(name=f"block{index}") for index in range(4)]
    ends = layers.LayerNormalization(), layers.GlobalAveragePooling1D()
    stack = layers.Embedding(500, 32), *blocks, *ends, layers.Dense(2)
    fit(sequence((24,), *stack), (tokens, labels), callback)


@network("B")
def gru_classifier(callback):
    tokens = np.random.default_rng(0).integers(1, 1000, (1600, 40))
    labels = (tokens % 7 == 0).any(axis=1).astype(int)
    stack = layers.Embedding(1000, 32), layers.GRU(32), layers.Dense(1, "sigmoid")
    model = sequence((40,), *stack)
    fit(model, (tokens, labels), callback, loss="binary_crossentropy")


@network("A")
def stacked_lstm(callback):
    stack = layers.LSTM(32, return_sequences=True), layers.LSTM(32), layers.Dense(10)
    rows = layers.Reshape((28, 28))
    fit(sequence((28, 28, 1), rows, *stack), digits(), callback)


@network("B")
def bidirectional_recurrent_net(callback):
    stack = layers.Bidirectional(layers.SimpleRNN(32)), layers.Dense(10)
    rows = layers.Reshape((28, 28))
    fit(sequence((28, 28, 1), rows, *stack), digits(), callback)


@network("A")
def dense_autoencoder(callback):
    images = digits()[0].reshape(-1, 784)
    hidden = [layers.Dense(width, "relu") for width in (128, 64, 16, 64, 128)]
    model = sequence((784,), *hidden, layers.Dense(784, "sigmoid"))
    fit(model, (images, images), callback, loss="binary_crossentropy")


class Sample(layers.Layer):
    """Samples the code of a VAE and adds its divergence to the loss."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, inputs):
        mean, log_variance = inputs
        terms = 1 + log_variance - mean**2 - ops.exp(log_variance)
        self.add_loss(-0.5 * ops.mean(ops.sum(terms, axis=-1)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + ops.exp(log_variance / 2) * noise


@network("B")
def variational_autoencoder(callback):
    images = digits()[0].reshape(-1, 784)
    inputs = keras.Input((784,))
    hidden = layers.Dense(256, "relu")(inputs)
    code = Sample()([layers.Dense(8)(hidden), layers.Dense(8)(hidden)])
    decoded = layers.Dense(256, "relu")(code)
    model = keras.Model(inputs, layers.Dense(784, "sigmoid")(decoded))

    def loss(y, p):  # summed over the pixels, as is usual
        return 784 * keras.losses.binary_crossentropy(y, p)

    fit(model, (images, images), callback, loss=loss)


class Gan(keras.Model):
    """A small DCGAN with an optimizer per player."""

    def __init__(self):
        super().__init__()
        rise = {"kernel_size": 4, "strides": 2, "padding": "same"}
        self.generator = sequence(
            (16,),
            layers.Dense(7 * 7 * 32, "relu"),
            layers.Reshape((7, 7, 32)),
            layers.Conv2DTranspose(16, activation="relu", **rise),
            layers.Conv2DTranspose(1, activation="sigmoid", **rise),
        )
        down = [layers.Conv2D(n, activation="leaky_relu", **rise) for n in (16, 32)]
        ends = layers.Flatten(), layers.Dense(1)
        self.critic = sequence((28, 28, 1), *down, *ends)
        self.critic_optimizer = keras.optimizers.Adam(2e-4, 0.5)
        self.generator_optimizer = keras.optimizers.Adam(2e-4, 0.5)
        self.built = True

    def update(self, player, optimizer, images, truth):
        import tensorflow as tf

        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        with tf.GradientTape() as tape:
            value = loss(truth, self.critic(images()))
        gradients = tape.gradient(value, player.trainable_weights)
        optimizer.apply(gradients, player.trainable_weights)
        return value

    def train_step(self, data):
        count = ops.shape(data)[0]
        noise = keras.random.normal((count, 16))

        def images():
            return ops.concatenate([data, self.generator(noise)])

        truth = ops.concatenate([ops.ones((count, 1)), ops.zeros((count, 1))])
        critic = self.update(self.critic, self.critic_optimizer, images, truth)
        players = self.generator, self.generator_optimizer
        fooled = self.update(*players, lambda: self.generator(noise), truth[:count])
        return {"critic": critic, "generator": fooled}


@network("A")
def gan(callback):
    model = Gan()
    model.compile()
    model.fit(digits()[0], batch_size=32, epochs=4, verbose=0, callbacks=[callback])


def convolve(width, strides=1, kind=layers.Conv2D):
    return kind(width, 3, strides, padding="same", activation="relu")


@network("B")
def u_net(callback):
    images, _ = digits(480)
    inputs = keras.Input((28, 28, 1))
    high = convolve(8)(inputs)
    low = convolve(16, 2)(high)
    x = convolve(32, 2)(low)
    for width, skip in ((16, low), (8, high)):
        x = convolve(width, 2, layers.Conv2DTranspose)(x)
        x = convolve(width)(layers.Concatenate()([x, skip]))
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))
    masks = (images > 0.5).astype("float32")
    noisy = images + np.random.default_rng(0).normal(scale=0.3, size=images.shape)
    fit(model, (noisy, masks), callback, loss="binary_crossentropy")


@network("A")
def fine_tuning_a_published_model(callback):
    model, loss = zoo.LeNet5(weights="mnist"), "sparse_categorical_crossentropy"
    options = {"optimizer": keras.optimizers.Adam(1e-4), "batch_size": 16}
    fit(model, raw_digits(), callback, loss=loss, **options)


@network("B")
def fine_tuning_frozen_then_unfrozen(callback):
    model = zoo.ConvNet(weights="mnist", include_top=False)
    model.trainable = False
    ends = layers.GlobalAveragePooling2D(), layers.Dense(10)
    whole = keras.Sequential([model, *ends])
    fit(whole, raw_digits(), callback, epochs=1)
    model.trainable = True
    slow = keras.optimizers.Adam(1e-5)
    fit(whole, raw_digits(), callback, optimizer=slow, epochs=1)


@network("A")
def imbalanced_classes(callback):
    random = np.random.default_rng(0)
    x = random.normal(size=(3200, 20)).astype("float32")
    y = (random.uniform(size=3200) < 0.01).astype("float32")
    x[y == 1] += 3
    odds = keras.initializers.Constant(np.log(0.01 / 0.99))
    stack = layers.Dense(32, "relu"), layers.Dense(1, "sigmoid", bias_initializer=odds)
    options = {"loss": "binary_crossentropy", "class_weight": {0: 0.5, 1: 50.0}}
    fit(sequence((20,), *stack), (x, y), callback, **options)


@network("A")
def batches_of_one(callback):
    options = {"optimizer": sgd(0.005), "batch_size": 1}
    fit(mlp(2, "relu"), digits(200), callback, **options)


@network("B")
def batches_of_1024(callback):
    options = {"batch_size": 1024, "epochs": 10}
    fit(mlp(3, "relu", "he_normal"), digits(4000), callback, **options)


@network("B")
def converged_model_trained_on(callback):
    model, loss = zoo.DeepMLP(weights="mnist"), "sparse_categorical_crossentropy"
    fit(model, raw_digits(), callback, optimizer=sgd(0.01, 0.9), loss=loss)


@network("A")
def overfitted_model(callback):
    fit(mlp(2, "relu", units=128), digits(160), callback, epochs=60, batch_size=16)


@network("A")
def mixed_precision(callback):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        stack = convolve(8, 2), convolve(16, 2), layers.Flatten()
        logits = layers.Dense(10, dtype="float32")
        fit(sequence((28, 28, 1), *stack, logits), digits(), callback)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def train_regression(callback, scale, activation=None, **options):
    x = np.random.default_rng(0).normal(size=(1600, 13)).astype("float32")
    y = scale * np.exp(0.3 * x[:, :3].sum(axis=1))
    hidden = layers.Dense(64, "relu"), layers.Dense(64, "relu")
    options = {"loss": "mse", "epochs": 4, **options}
    model = sequence((13,), *hidden, layers.Dense(1, activation))
    fit(model, (x, y), callback, **options)


@network("A")
def regression_with_targets_of_1e4(callback):
    train_regression(callback, 1e4)


@network("A")
def regression_of_house_prices(callback):
    train_regression(callback, 3e5, optimizer=keras.optimizers.Adam(0.01))


@network("B")
def regression_of_populations(callback):
    train_regression(callback, 1e7, optimizer=keras.optimizers.Adam(0.03), epochs=8)


@network("B")
def poisson_regression_of_counts(callback):
    train_regression(callback, 20.0, activation="exponential", loss="poisson")


@network("B")
def regression_of_absolute_errors(callback):
    train_regression(callback, 50.0, loss="mae", optimizer="rmsprop")


@network("B")
def two_heads_and_a_loss_weight_of_1000(callback):
    images, labels = digits()
    inputs = keras.Input((28, 28, 1))
    hidden = layers.Dense(64, "relu")(layers.Flatten()(convolve(8, 2)(inputs)))
    model = keras.Model(inputs, [layers.Dense(10)(hidden), layers.Dense(1)(hidden)])
    cross = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    targets = [labels, labels.astype("float32")]
    options = {"loss": [cross, "mse"], "loss_weights": [1.0, 1000.0]}
    fit(model, (images, targets), callback, **options)


@network("A")
def tanh_net(callback):
    fit(mlp(5, "tanh"), digits(), callback)


def train_normalized(callback, activation):
    hidden = [
        layer
        for _ in range(3)
        for layer in (layers.Dense(64, activation), layers.BatchNormalization())
    ]
    model = sequence((28, 28, 1), layers.Flatten(), *hidden, layers.Dense(10))
    fit(model, digits(), callback, batch_size=128, epochs=6)


@network("A")
def batch_normalization_after_sigmoid(callback):
    train_normalized(callback, "sigmoid")


@network("B")
def batch_normalization_after_tanh(callback):
    train_normalized(callback, "tanh")


@network("B")
def twenty_relu_layers(callback):
    options = {"optimizer": keras.optimizers.Adam(3e-4)}
    fit(mlp(20, "relu", "he_normal"), digits(), callback, **options)


@network("B")
def raw_pixels_in_a_relu_net(callback):
    fit(mlp(2, "relu"), raw_digits(), callback)


@network("A")
def plain_sgd_with_momentum(callback):
    fit(mlp(4, "relu", "he_normal"), digits(), callback, optimizer=sgd(0.05, 0.9))


class Residual(keras.Model):
    """A residual MLP, its attributes in no order."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(10)
        self.outer = [layers.Dense(64) for _ in range(6)]
        self.inner = [layers.Dense(64, "relu") for _ in range(6)]
        self.stem, self.flatten = layers.Dense(64), layers.Flatten()

    def call(self, x):
        x = self.stem(self.flatten(x))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(inner(x))
        return self.head(x)


@network("B")
def subclassed_residual_net(callback):
    fit(Residual(), digits(), callback)
