# %% [markdown]
# # 3. The tricks
#
# Lesson 2 showed why deep sigmoid nets did not learn: on its way back from the output
# to the input, the gradient is multiplied by a small factor in every layer. Four tricks
# change this factor: a better initialization, another activation, normalization, and
# residual connections. This lesson derives each of them, checks the derivation by
# measurement, and adds them to a deep sigmoid net one at a time, until it is the
# `DeepMLP` of the zoo.
#
# Formulas are written as in the code: `@` is the matrix product, `*` multiplies element
# by element. `assert` statements in the code check most of them.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from keras.initializers import VarianceScaling

import zoo
from zoo.callbacks import GradientNorms

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# %% [markdown]
# ## Initialization
#
# A dense layer with `n_in` inputs and `n_out` units computes `z = a @ w`. Its input
# `a`, the *signal*, is the output of the layer before. Suppose that the weights are
# drawn independently with mean 0 and variance `var_w`. Each element of `z` is then a
# sum of `n_in` uncorrelated terms with mean 0, so their variances add up:
#
# `mean(z**2) = n_in * var_w * mean(a**2)`
#
# In the other direction, the layer receives the gradient of the loss with respect to
# `z`. This is `d` of lesson 2, here called the *error*. The layer passes `error @ w.T`
# on to its input. Here each element is a sum of `n_out` terms:
#
# `mean((error @ w.T)**2) = n_out * var_w * mean(error**2)`
#
# Three choices of `var_w` are common. The last two follow from these lines:
#
# - **Classical**: weights between `-1 / sqrt(n_in)` and `1 / sqrt(n_in)`, all equally
#   likely. A uniform distribution between `-r` and `r` has the variance `r**2 / 3`, so
#   `var_w = 1 / (3 * n_in)`. The signal keeps only a third of its mean square.
# - **[Glorot and Bengio (2010)](https://proceedings.mlr.press/v9/glorot10a.html)**: the
#   signal keeps its mean square if `var_w = 1 / n_in`, the error if `var_w = 1 /
#   n_out`. The compromise is `var_w = 2 / (n_in + n_out)`. It assumes that the
#   activation is close to the identity, as tanh is around 0.
# - **[He et al. (2015)](https://arxiv.org/abs/1502.01852)**: ReLU sets the negative
#   half of its inputs to 0. Since `z` is symmetric around 0, `mean(relu(z)**2)` is
#   `mean(z**2) / 2`. To make up for this factor, `var_w = 2 / n_in`.

# %%
INITIALIZERS = {
    "classical": VarianceScaling(1 / 3, "fan_in", "uniform", seed=0),
    "Glorot": keras.initializers.GlorotUniform(seed=0),
    "He": keras.initializers.HeNormal(seed=0),
}
n_in, n_out = 800, 400
variances = {"classical": 1 / (3 * n_in), "Glorot": 2 / (n_in + n_out), "He": 2 / n_in}
a = rng.normal(size=(1000, n_in))
error = rng.normal(size=(1000, n_out))

print("initializer  variance of w   signal: predicted, measured   error: pred., meas.")
for name, initializer in INITIALIZERS.items():
    w = np.array(initializer((n_in, n_out)), "float64")
    var_w = variances[name]
    assert np.isclose(w.var(), var_w, rtol=0.02)

    z = a @ w
    forward = (z**2).mean() / (a**2).mean()
    assert np.isclose(forward, n_in * var_w, rtol=0.05)
    assert np.isclose((np.maximum(z, 0) ** 2).mean(), (z**2).mean() / 2, rtol=0.05)

    backward = ((error @ w.T) ** 2).mean() / (error**2).mean()
    assert np.isclose(backward, n_out * var_w, rtol=0.05)
    print(
        f"{name:11} {w.var():13.5f} {n_in * var_w:17.3f} {forward:9.3f}"
        f" {n_out * var_w:17.3f} {backward:7.3f}"
    )

# %% [markdown]
# ## Activation
#
# The activation lies between two dense layers. The chain rule multiplies the error by
# its slope, so a whole layer multiplies the mean square of the error by
#
# `n_out * var_w * mean(slope**2)`
#
# and the norm of the error by the square root of this. The slope of the sigmoid is at
# most 1/4, that of tanh at most 1. The slope of ReLU is 1 for half of the inputs and 0
# for the other half, so that `mean(slope**2)` is 1/2. In a net of equal layers this
# predicts the factor of ReLU, and an upper bound for that of tanh and sigmoid. The code
# measures it in a random net.


# %%
def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# The function, its slope, and the mean of slope**2 or an upper bound of it.
ACTIVATIONS = {
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z)), 1 / 16),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2, 1),
    "relu": (lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0), 1 / 2),
}


def measure_factor(activation, var_w, units=500, depth=10):
    """Measures the factor by which one layer multiplies the norm of the error."""
    function, slope, _ = ACTIVATIONS[activation]
    a = rng.normal(size=(200, units))
    layers = []
    for _ in range(depth):
        w = rng.normal(0, np.sqrt(var_w), (units, units))
        z = a @ w
        a = function(z)
        layers.append((w, slope(z)))
    last = error = rng.normal(size=a.shape)
    for w, slopes in reversed(layers):
        error = (error * slopes) @ w.T
    return (np.linalg.norm(error) / np.linalg.norm(last)) ** (1 / depth)


units = 500  # n_in and n_out, so Glorot's variance is 1 / units
print("activation  initializer  factor per layer: predicted, measured  in 10 layers")
for activation, (_, _, square) in ACTIVATIONS.items():
    at_most = " " if activation == "relu" else "<"
    for name, var_w in [
        ("classical", 1 / (3 * units)),
        ("Glorot", 1 / units),
        ("He", 2 / units),
    ]:
        predicted = np.sqrt(units * var_w * square)
        measured = measure_factor(activation, var_w, units)
        if activation == "relu":
            assert np.isclose(measured, predicted, rtol=0.05)
        else:
            assert measured < predicted * 1.01
        print(
            f"{activation:11} {name:12} {at_most:>19} {predicted:.3f} {measured:10.3f}"
            f" {measured**10:13.1e}"
        )

# %% [markdown]
# With ReLU, the weights of the Glorot initialization are too small by a factor of
# `sqrt(2)` per layer, and those of the He initialization are right.
#
# With tanh and Glorot initialization, a part of the norm is lost in the first layers,
# where the signal is large and the slope is below 1. (In lesson 2, the signal is
# smaller, so less of the norm is lost.) In ten layers, He initialization looks better.
# The next table shows deeper nets. With Glorot initialization, the signal shrinks from
# layer to layer, and the factor approaches 1. With He initialization, the factor stays
# above 1, and the gradient explodes.
#
# The sigmoid has no good initializer here. Even with He initialization, each layer
# divides the norm by about 3. With weights of variance `16 / units`, the factor would
# be 1 if all `z` were near 0. But the outputs of sigmoids are all positive, so such
# weights push the next `z` far from 0, where the slope is small. The last line of the
# table shows the result.

# %%
print("tanh     factor per layer: Glorot     He   in all layers: Glorot      He")
for depth in (10, 30, 100):
    glorot, he = (measure_factor("tanh", v / units, units, depth) for v in (1, 2))
    print(
        f"{depth:3} layers {glorot:24.3f} {he:6.3f} {glorot**depth:23.2f}"
        f" {he**depth:7.2f}"
    )
assert glorot < 1 < he
assert he**depth > 50
large = measure_factor("sigmoid", 16 / units, units)
print(f"sigmoid, variance 16 / units: {large:.3f} per layer")
assert large < 0.7

# %% [markdown]
# ## Normalization
#
# The initialization sets the scale of the signal at the first step only.
# *Normalization* sets it at every step. It subtracts a mean and divides by a standard
# deviation:
#
# `(z - mean) / sqrt(variance + epsilon)`
#
# The small constant `epsilon` prevents a division by 0.
#
# **Batch normalization** ([Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167))
# takes mean and variance of each unit over the images of the batch. **Layer
# normalization** ([Ba et al., 2016](https://arxiv.org/abs/1607.06450)) takes them over
# the units of the layer, for each image on its own. Both then apply a learned scale and
# offset per unit, which are 1 and 0 at first. After training, batch normalization uses
# running averages of the means and variances, so that the output for an image does not
# depend on the other images.

# %%
z = rng.normal(3, 2, size=(64, 30)).astype("float32")
options = {"epsilon": 1e-5}

batch_norm = keras.layers.BatchNormalization(**options)
by_hand = (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + options["epsilon"])
assert np.allclose(batch_norm(z, training=True), by_hand, atol=1e-4)

layer_norm = keras.layers.LayerNormalization(**options)
mean, variance = z.mean(axis=1, keepdims=True), z.var(axis=1, keepdims=True)
by_hand = (z - mean) / np.sqrt(variance + options["epsilon"])
assert np.allclose(layer_norm(z), by_hand, atol=1e-4)

# %% [markdown]
# The result does not depend on the scale of the weights: `normalize(a @ (c * w))`
# equals `normalize(a @ w)` for every `c > 0`, except for the small `epsilon`. What the
# layer passes on, forward and backward, is the same for large and small weights. And
# the gradient of the weights is divided by `c`: in gradient descent, large weights move
# slowly, small ones fast.

# %%
a = rng.normal(size=(64, 40)).astype("float32")
w = rng.normal(size=(40, 30)).astype("float32")
target = rng.normal(size=(64, 30)).astype("float32")
c = 5.0


def gradients(normalize, w):
    """Returns the output of the layer, and the gradients of its input and weights."""
    x, kernel = tf.constant(a), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        output = normalize(x @ kernel, training=True)
        loss = tf.reduce_sum(output * target)
    return output, *tape.gradient(loss, [x, kernel])


for normalize in (batch_norm, layer_norm):
    output, to_input, to_weights = gradients(normalize, w)
    output_c, to_input_c, to_weights_c = gradients(normalize, c * w)
    assert np.allclose(output_c, output, atol=1e-3)
    assert np.allclose(to_input_c, to_input, atol=1e-3 * np.abs(to_input).max())
    assert np.allclose(
        c * to_weights_c, to_weights, atol=1e-3 * np.abs(to_weights).max()
    )
    ratio = np.linalg.norm(to_weights) / np.linalg.norm(to_weights_c)
    print(f"{normalize.name}: weights times {c:.0f}, gradient divided by {ratio:.3f}")

# %% [markdown]
# ## Residual connections
#
# A residual block adds its input to the output of its layers: `y = x + f(x)` ([He et
# al., 2016](https://arxiv.org/abs/1512.03385)). In `DeepMLP`, `f` is a dense layer,
# then the normalization, then the activation. The first layer has no residual
# connection, because its input has another size. By the chain rule, its Jacobian, the
# matrix of all derivatives of `y` with respect to `x`, is
#
# `identity + jacobian of f`
#
# The error passes through the block along two paths, and on the path of the identity
# its factor is exactly 1, whatever `f` does. Even if the Jacobian of `f` is small, as
# that of a sigmoid layer is, the gradient arrives.

# %%
dense = keras.layers.Dense(40, activation="sigmoid")
dense.build((None, 40))


def jacobian(block):
    """Returns the derivatives of the outputs with respect to the inputs."""
    x = tf.constant(a)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = block(x)
    return tape.batch_jacobian(y, x).numpy()


of_layer, of_block = jacobian(dense), jacobian(lambda x: x + dense(x))
assert np.allclose(of_block, np.eye(40) + of_layer, atol=1e-6)

error = rng.normal(size=(64, 40))
for name, matrix in [("f(x)", of_layer), ("x + f(x)", of_block)]:
    passed_on = np.einsum("no,noi->ni", error, matrix)
    factor = np.linalg.norm(passed_on) / np.linalg.norm(error)
    print(f"{name:9} the norm of the error is multiplied by {factor:.2f}")

# %% [markdown]
# ## One change at a time
#
# Now we train a net with all of these tricks. The start is a net of 20 sigmoid layers
# with classical weights. Each row of the table makes one change to the net of the row
# before, and keeps the earlier ones. The last row is `zoo.DeepMLP()` with its default
# arguments. `GradientNorms` records the norm of each layer's gradient, over its weights
# and biases. The table shows this norm at the first step: that of the first hidden
# layer, and its ratio to that of the last one. The last columns are the accuracy on the
# training images in the fourth epoch, and on the validation images after it.

# %%
train = zoo.load_dataset("digits-sample", "train", as_="numpy")
validation = zoo.load_dataset("digits-sample", "validation", as_="numpy")
DEPTH = 20
STEPS = {
    "sigmoid, classical weights": {
        "hidden_units": (128,) * DEPTH,
        "activation": "sigmoid",
        "kernel_initializer": VarianceScaling(1 / 3, "fan_in", "uniform"),
        "normalization": None,
        "residual": False,
    },
    "+ Glorot initialization": {"kernel_initializer": "glorot_uniform"},
    "+ tanh": {"activation": "tanh"},
    "+ ReLU": {"activation": "relu"},
    "+ He initialization": {"kernel_initializer": "he_normal"},
    "+ layer normalization": {"normalization": "layer"},
    "+ batch instead of layer norm.": {"normalization": "batch"},
    "+ residual connections": {"residual": True},
    "+ fewer, wider layers: DeepMLP()": {"hidden_units": (384,) * 6},
}


def measure(arguments, epochs=4):
    """Trains a net; returns its gradient norms, and both accuracies."""
    keras.utils.set_random_seed(0)
    model = zoo.DeepMLP(**arguments)
    # The string "accuracy" would do, but then TensorFlow traces the first step twice.
    accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=[accuracy])
    norms = GradientNorms()
    options = {"batch_size": 64, "epochs": epochs, "verbose": 0}
    history = model.fit(*train, callbacks=[norms], **options).history
    return norms, history["accuracy"][-1], zoo.evaluate(model, validation)["accuracy"]


print(f"{'':33} {'gradient norm':^24} {'accuracy':>15}")
print(f"{'net':33} {'first layer':>11} {'first / last':>12} {'train':>8} {'val':>6}")
records, profiles, arguments = {}, {}, {}
for name, change in STEPS.items():
    arguments = {**arguments, **change}
    norms, trained, accuracy = measure(arguments)
    hidden = range(1, len(arguments["hidden_units"]) + 1)
    profile = np.array([norms.history[f"dense{i}"][0] for i in hidden])
    records[name], profiles[name] = norms, profile
    print(
        f"{name:33} {profile[0]:11.1e} {profile[0] / profile[-1]:12.1e}"
        f" {trained:8.1%} {accuracy:6.1%}",
        flush=True,
    )

default = zoo.DeepMLP().count_params()
assert zoo.DeepMLP(**arguments).count_params() == default
deviation = np.sqrt(accuracy * (1 - accuracy) / len(validation[0]))
print(
    f"Standard error of the last accuracy, from the number of images: {deviation:.1%}"
)

# %%
# Each panel begins with the last net of the panel before.
PANELS = {
    "Glorot initialization suits tanh;\nHe initialization suits ReLU": {
        "sigmoid, classical weights": ("#000000", "o", "-"),
        "+ Glorot initialization": ("#E69F00", "s", "-"),
        "+ tanh": ("#CC79A7", "^", "--"),
        "+ ReLU": ("#D55E00", "v", "-"),
        "+ He initialization": ("#009E73", "D", "-"),
    },
    "Layer normalization keeps the line flat;\nbatch normalization does not": {
        "+ He initialization": ("#009E73", "D", "-"),
        "+ layer normalization": ("#777777", "<", "-."),
        "+ batch instead of layer norm.": ("#56B4E9", "P", "--"),
    },
    "Residual connections limit the growth": {
        "+ batch instead of layer norm.": ("#56B4E9", "P", "--"),
        "+ residual connections": ("#0072B2", "X", "-"),
        "+ fewer, wider layers: DeepMLP()": ("#000000", "o", ":"),
    },
}
figure, axes = plt.subplots(1, 3, figsize=(13, 4.8), layout="constrained")
for axis, (title, nets) in zip(axes, PANELS.items(), strict=True):
    for name, (color, marker, line) in nets.items():
        profile = profiles[name]
        hidden = range(1, len(profile) + 1)
        style = {"color": color, "marker": marker, "ms": 5, "label": name}
        on_top = 3 if name == "+ tanh" else 2  # It covers another line.
        axis.plot(hidden, profile, line, **style, zorder=on_top)
    axis.set(
        title=title,
        xlabel="hidden layer, from the input to the output",
        yscale="log",
        xticks=(1, *range(5, DEPTH + 1, 5)),
    )
    axis.grid(alpha=0.3)
    axis.legend()
axes[0].set_ylabel("norm of the gradient at the first step")
axes[1].set_ylabel("the same norm, on another scale")
for axis in axes[1:]:
    axis.set_ylim(0.3, 200)
plt.show()

# %% [markdown]
# For the net with ReLU and Glorot initialization, the next lines separate the gradient
# of the weights from that of the biases.

# %%
print("ReLU, Glorot initialization: norm of the gradient of the")
variables = records["+ ReLU"].variables
for i in (1, 10, 20):
    weights, biases = (variables[f"dense{i}/{name}"][0] for name in ("kernel", "bias"))
    print(f"layer {i:2}   weights {weights:.1e}   biases {biases:.1e}")
    assert weights < 0.01
assert biases > 100 * weights

# %% [markdown]
# Read the rows in order:
#
# - **Sigmoid.** The norm falls by many orders of magnitude, and the accuracy is that of
#   a guess. Glorot initialization helps, but the slope of the sigmoid remains.
# - **Tanh** with Glorot initialization is the remedy of 2010. The line is flat.
# - **ReLU** with Glorot initialization is a step back in a net this deep. The gradient
#   of a layer's weights is `a.T @ error`, the product of its input and its error. The
#   signal shrinks on its way forward, the error on its way back. In the first layers
#   the error is small, in the last layers the signal, so all gradients of weights are
#   small. The gradient of a bias is the sum of the errors, without the signal: in the
#   last layers, it is larger. So look at the norm itself, not only at the ratio.
# - **He initialization** raises the whole line.
# - **Layer normalization** keeps the line flat.
# - **Batch normalization** makes the gradient *grow* toward the input. The next section
#   explains the growth. The accuracy falls, also on the training images.
# - **Residual connections** limit this growth. The input of a block is the sum of the
#   outputs of all earlier blocks, so in the deeper layers one more block changes it
#   little.
# - **Fewer, wider layers** complete the net. It has more parameters, and a shorter way
#   from the loss to the input.
#
# The first hidden layer is a special case in all nets: it reads 784 pixels, the others
# read the units of the layer before.
#
# ## The price of batch normalization
#
# Suppose that `z` has a normal distribution with mean 0 and variance 1, as it nearly
# has after batch normalization of a wide layer. The mean square of `relu(z)` is 1/2.
# Its mean is `1 / sqrt(2 * pi)`, so its variance is `1/2 - 1 / (2 * pi)`. Batch
# normalization divides by the standard deviation, not by the root of the mean square.
#
# Let the next layer have `n` inputs and `n` units. Over a large batch, the variance of
# its pre-activations is `n * var_w` times the variance of `relu(z)`. Batch
# normalization divides the signal by the root of this, and on its way back the error,
# too. So the factor for the mean square of the error, `n * var_w * 1/2`, is divided by
# `n * var_w * (1/2 - 1 / (2 * pi))`. `n * var_w` cancels, and the factor becomes
#
# `(1/2) / (1/2 - 1 / (2 * pi)) = pi / (pi - 1)`
#
# for large batches and wide layers ([Yang et al.,
# 2019](https://arxiv.org/abs/1902.08129)). It is larger than 1 for any weights. In a
# deep ReLU net with batch normalization and no residual connections, the gradient
# explodes at initialization.

# %%
normalized = np.maximum(rng.normal(size=1_000_000), 0)
assert np.isclose((normalized**2).mean(), 1 / 2, rtol=0.01)
assert np.isclose(normalized.mean(), 1 / np.sqrt(2 * np.pi), rtol=0.01)
assert np.isclose(normalized.var(), 1 / 2 - 1 / (2 * np.pi), rtol=0.01)
assert np.isclose((1 / 2) / (1 / 2 - 1 / (2 * np.pi)), np.pi / (np.pi - 1))


def growth(name):
    """Returns the growth of the norm per layer toward the input, without the first."""
    profile = profiles[name]
    return (profile[1] / profile[-1]) ** (1 / (len(profile) - 2))


without = growth("+ batch instead of layer norm.")
residual = growth("+ residual connections")
predicted = np.sqrt(np.pi / (np.pi - 1))
print(f"growth of the norm per layer, predicted: {predicted:.3f}")
print(f"measured: {without:.3f}; with residual connections: {residual:.3f}")
assert np.isclose(without, predicted, rtol=0.1)
assert residual < without

# %% [markdown]
# Small differences of accuracy may be chance: these are single runs, and the
# validation images are few. The training images are few, too: the last two nets have
# nearly all of them right, but fewer of the validation images.
#
# The table shows one order of the tricks. To try another, change `STEPS`, or build a
# net directly: `zoo.DeepMLP((128,) * 20, activation="tanh", normalization="layer",
# residual=False)`.
#
# The tricks do not change what an MLP sees: a list of pixels without neighbors. Lesson
# 4 is about the net that knows where the pixels are.
