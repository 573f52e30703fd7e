# %% [markdown]
# # 2. Why deep nets did not learn
#
# Lesson 1 ended with one hidden layer. With more layers, a net can build features from
# features. For a long time, deep nets of sigmoid units did not learn. This lesson shows
# why: the gradient shrinks by a factor at each layer on its way from the loss to the
# input. The lesson predicts the factor and measures it.

# %%
import functools

import keras
import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.callbacks import GradientNorms

images, labels = zoo.load_dataset("digits-sample", "train", as_="numpy")
validation = zoo.load_dataset("digits-sample", "validation", as_="numpy")
# Color, marker and line: readable without colors, too.
STYLES = {
    "sigmoid": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "tanh": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "relu": {"color": "#009E73", "marker": "^", "linestyle": ":"},
}
WIDTH = 100


def build(activation, depth):
    """Builds a plain net: no normalization, no residual connections."""
    keras.utils.set_random_seed(0)
    plain = {"normalization": None, "residual": False, "name": activation}
    return zoo.DeepMLP((WIDTH,) * depth, activation=activation, **plain)


@functools.cache  # the net of the first section occurs again later
def train(activation, depth):
    """Trains a net; returns it with the gradient norms of each step."""
    model, norms = build(activation, depth), GradientNorms()
    model.compile("adam", "sparse_categorical_crossentropy")
    options = {"batch_size": 128, "epochs": 4, "verbose": 0}
    model.fit(images, labels, callbacks=[norms], **options)
    return model, norms


# %% [markdown]
# ## A net that does not learn
#
# Here is a net of ten sigmoid layers, trained for four epochs. The ten classes are
# about equally frequent, so a guess is right in about 10% of the cases. This net is no
# better: it gives the same answer for every image. `GradientNorms` records the norm of
# the gradient of each layer at each step, and `diagnose` tells you what is wrong.

# %%
model, norms = train("sigmoid", 10)
answers = np.unique(model.predict(validation[0], verbose=0).argmax(axis=1))
shares = np.bincount(validation[1]) / len(validation[1])
assert len(answers) == 1
assert np.allclose(shares, 0.1, atol=0.02)
print(f"accuracy {zoo.evaluate(model, validation)['accuracy']:.1%}")
print(f"answer: always {answers[0]}, like {shares[answers[0]]:.1%} of the images")
print(norms.diagnose())
assert norms.diagnose()[0].kind == "vanishing"

# %% [markdown]
# Lesson 3 explains these remedies. `kernel_initializer="he_normal"` is called *He
# initialization* there.
#
# ## The chain rule, layer by layer
#
# Let `z[l]` be the pre-activations of layer `l` for one image, and `d[l]` the
# derivative of the loss with respect to them. As in lesson 1, it passes from layer
# `l + 1` to layer `l` through the weights of layer `l + 1` and the slope of the
# activation:
#
# `d[l] = (d[l + 1] @ w[l + 1].T) * slope(z[l])`
#
# The *singular values* of a matrix are the factors by which it stretches vectors in its
# main directions. It stretches no vector by more than the largest of them. So the norm
# of `d` grows at most by this factor:
#
# `norm(d[l]) / norm(d[l + 1]) <= max(slope) * largest_singular_value(w[l + 1])`
#
# The slope of the sigmoid is at most 1/4. `tanh(z) = 2 * sigmoid(2 * z) - 1` has the
# same shape as the sigmoid, but goes from -1 to 1. The slopes of tanh and ReLU reach 1.

# %%
FUNCTIONS = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
}
SLOPES = {
    "sigmoid": lambda z: FUNCTIONS["sigmoid"](z) * (1 - FUNCTIONS["sigmoid"](z)),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "relu": lambda z: np.where(z > 0, 1.0, 0.0),
}
z = np.linspace(-4, 4, 800)  # without 0, where ReLU has no slope
step = 1e-6
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, slope in SLOPES.items():
    f = FUNCTIONS[name]
    assert np.allclose(slope(z), (f(z + step) - f(z - step)) / (2 * step))
    axis.plot(z, slope(z), **STYLES[name] | {"marker": ""}, label=name)
assert np.allclose(np.tanh(z), 2 * FUNCTIONS["sigmoid"](2 * z) - 1)
assert SLOPES["sigmoid"](0) == 1 / 4
assert SLOPES["tanh"](0) == SLOPES["relu"](1) == 1
axis.set(xlabel="pre-activation z", ylabel="slope", yticks=[0, 0.25, 0.5, 0.75, 1])
axis.set_title("The slope of the sigmoid is at most 1/4")
axis.grid(alpha=0.3)
axis.legend()
plt.show()

# %% [markdown]
# ## Measuring `d`
#
# The gradient of a bias is the sum of `d` over the batch. So with one image per batch,
# the norm of the bias gradient is the norm of `d`, and `GradientNorms` records it. The
# learning rate is 0, so the net does not change between the 200 images.

# %%
DEPTH, SAMPLE = 10, 200


def measure(activation):
    """Returns the initial net, and the norm of `d`, `(images, layers)`."""
    model, norms = build(activation, DEPTH), GradientNorms()
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    data = images[:SAMPLE], labels[:SAMPLE]
    model.fit(*data, batch_size=1, callbacks=[norms], verbose=0)
    layers = [norms.variables[f"dense{i}/bias"] for i in range(1, DEPTH + 1)]
    return model, np.stack(layers, axis=1)


nets = {name: measure(name) for name in STYLES}

# %% [markdown]
# The table shows the bound, and the largest and the median factor of the 200 images.
# The bound holds for every image and every layer. It is not tight: the largest singular
# value belongs to a single direction, and `d` has parts in all directions.

# %%
model, sigmoid_norms = nets["sigmoid"]
print("from layer   to layer   bound   largest   typical")
for i in range(1, DEPTH):
    kernel = model.get_layer(f"dense{i + 1}").get_weights()[0]
    bound = 1 / 4 * np.linalg.svd(kernel, compute_uv=False).max()
    factors = sigmoid_norms[:, i - 1] / sigmoid_norms[:, i]
    assert factors.max() <= bound
    line = f"{bound:10.3f} {factors.max():9.3f} {np.median(factors):9.3f}"
    print(f"{i + 1:10} {i:10} {line}")

# %% [markdown]
# ## Predicting the factor
#
# At initialization, the weights are random, with mean 0 and variance `v / width`. The
# theory treats them as independent of `d`. On average, such a matrix multiplies the
# squared norm of `d` by `v`, the mean square of its singular values. The zoo uses
# Glorot initialization for sigmoid and tanh, with `v = 1`, and He initialization for
# ReLU, with `v = 2`. Lesson 3 derives both.

# %%
V = {"sigmoid": 1, "tanh": 1, "relu": 2}
for name, (model, _) in nets.items():
    kernel = model.get_layer("dense2").get_weights()[0]
    mean_square = np.mean(np.linalg.svd(kernel, compute_uv=False) ** 2)
    print(f"{name:8} v = {V[name]}, measured {mean_square:.3f}")
    assert np.isclose(mean_square, np.sum(kernel**2) / WIDTH, rtol=1e-4)
    assert np.isclose(mean_square, V[name], rtol=0.05)

# %% [markdown]
# The slope depends on `z`. Over random draws of the weights, a pre-activation is a sum
# of many independent terms. So it is nearly normal, with mean 0 (the biases are 0 at
# first) and a variance `q`. Each layer changes the variance:
#
# - first layer: `q[1] = variance(w[1]) * mean(norm(x) ** 2)`
# - next layers: `q[l + 1] = v * mean(f(z) ** 2)`, with `z` normal of variance `q[l]`
# - factor: `sqrt(v * mean(slope(z) ** 2))`, with `z` normal of variance `q[l]`
#
# The means over `z` are integrals over the normal distribution. The Gauss-Hermite rule,
# a weighted sum over 100 points, computes them. This is a mean-field theory: exact in
# the limit of infinite width (Poole et al., 2016; Schoenholz et al., 2017).

# %%
NODES, PROBABILITIES = np.polynomial.hermite_e.hermegauss(100)
PROBABILITIES = PROBABILITIES / PROBABILITIES.sum()
assert np.isclose(PROBABILITIES @ NODES**2, 1)  # the variance of a normal variable


def predict(activation):
    """Returns the factors from layer to layer, from the first to the last."""
    f, slope, v = FUNCTIONS[activation], SLOPES[activation], V[activation]
    kernel = nets[activation][0].get_layer("dense1").get_weights()[0]
    pixels = images[:SAMPLE].reshape(SAMPLE, -1) / 255
    q = kernel.var() * np.mean(np.sum(pixels**2, axis=1))
    factors = []
    for _ in range(DEPTH - 1):
        z = np.sqrt(q) * NODES
        factors.append(np.sqrt(v * PROBABILITIES @ slope(z) ** 2))
        q = v * PROBABILITIES @ f(z) ** 2
    return np.array(factors)


# %% [markdown]
# ## Predicted against measured
#
# The factors of single layers scatter, because a layer of 100 units is only a sample.
# The code checks that the prediction is within 20% at each layer, and within 5% for the
# mean over the layers. For the sigmoid, the factor is a little below 1/4. That of ReLU
# is 1: He initialization was designed for this. That of tanh is below 1 in the first
# layers, and approaches 1.

# %%
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
layers = np.arange(1, DEPTH + 1)
print("factor per layer    predicted   measured")
for name, (_, single) in nets.items():
    size = np.sqrt(np.mean(single**2, axis=0))
    measured, predicted = size[:-1] / size[1:], predict(name)
    assert np.allclose(measured, predicted, rtol=0.2)
    means = [np.exp(np.mean(np.log(factors))) for factors in (predicted, measured)]
    assert np.isclose(*means, rtol=0.05)
    print(f"{name:18} {means[0]:10.3f} {means[1]:10.3f}")
    style = STYLES[name]
    line = np.append(np.cumprod(predicted[::-1])[::-1], 1)
    axis.semilogy(layers, line, color=style["color"], linestyle=style["linestyle"])
    points = {"color": style["color"], "marker": style["marker"], "linestyle": ""}
    axis.semilogy(layers, size / size[-1], **points, label=name)
axis.set(xlabel="layer", ylabel="norm of d, relative to layer 10", xticks=layers)
axis.set_title("The theory (lines) predicts the norms (points)")
axis.grid(alpha=0.3)
axis.legend()
plt.show()
assert predict("sigmoid").max() < 1 / 4

# %% [markdown]
# ## Depth 1 to 50
#
# Now train nets of 1 to 50 layers with the three activations. The figure shows the norm
# of each layer's gradient at the first step, before any training. (Here the gradient is
# that of all weights and biases of the layer, for a batch of 128 images.) On the
# logarithmic scale, a constant factor per layer is a straight line.

# %%
DEPTHS = (1, 2, 5, 10, 20, 50)
runs = {(name, depth): train(name, depth) for name in STYLES for depth in DEPTHS}

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained", sharey=True)
tones = plt.colormaps["viridis"](np.linspace(0, 0.85, len(DEPTHS)))
for axis, name in zip(axes, STYLES, strict=True):
    for depth, tone in zip(DEPTHS, tones, strict=True):
        history = runs[name, depth][1].history
        first = [history[f"dense{i}"][0] for i in range(1, depth + 1)]
        axis.semilogy(range(1, depth + 1), first, ".-", color=tone, label=depth)
    axis.set(title=name, xlabel="layer, from input to output")
    axis.set_xticks([1, 10, 20, 30, 40, 50])
    axis.grid(alpha=0.3)
axes[0].set_ylabel("gradient norm")
axes[-1].legend(title="depth", ncols=2, loc="lower right")
figure.suptitle("With depth, the gradient vanishes in sigmoid nets only")
plt.show()

# %% [markdown]
# The prediction also holds for the deepest sigmoid net. From layer 50 to layer 2, the
# gradient passes 48 layers. (Layer 1 is left out, because its input is the image.)

# %%
history = runs["sigmoid", 50][1].history
ratio = history["dense2"][0] / history["dense50"][0]
factor = ratio ** (1 / 48)
print(f"layer 2 to layer 50: {ratio:.1e}, a factor of {factor:.3f} per layer")
assert np.isclose(factor, predict("sigmoid")[-1], rtol=0.05)

# %% [markdown]
# ## Through training
#
# Does training repair the gradient? Each row is a layer, with the input at the top, and
# each column is a step. The sigmoid net stays dark at the top: the gradient does not
# reach the layers near the input. The ReLU net has nearly the same color everywhere.
# (For a record of your own, `norms.plot()` draws such a figure.)

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
for axis, name in zip(axes, ("sigmoid", "relu"), strict=True):
    history = runs[name, 10][1].history
    logs = np.log10(list(history.values()))
    style = {"aspect": "auto", "interpolation": "nearest"}
    picture = axis.imshow(logs, vmin=-7, vmax=1, **style)
    axis.set(title=name, xlabel="step")
axes[0].set_yticks(range(len(history)), history)
figure.colorbar(picture, ax=axes, label="log10 of the gradient norm")
figure.suptitle("Training does not repair the gradient of the sigmoid net")
plt.show()

# %% [markdown]
# ## Accuracy against depth
#
# The optimizer, Adam, divides the step of each weight by the recent size of its
# gradient. So it compensates for a decay, unless the gradient of a single weight is
# below a constant, `epsilon`. The table shows its size in the sigmoid net of ten
# layers: the root mean square over the weights of a layer, and its median over the
# steps. It is below `epsilon` in the first three layers only. From layer 4 on, Adam
# compensates for most of the decay. The net is still no better than a guess. The
# section "The signal vanishes, too" explains this.

# %%
epsilon = keras.optimizers.Adam().epsilon
print(f"epsilon: {epsilon:.0e}")
model, norms = runs["sigmoid", 10]
sizes = []
for i in range(1, 11):
    weights = model.get_layer(f"dense{i}").kernel.shape
    size = np.median(norms.variables[f"dense{i}/kernel"]) / np.sqrt(np.prod(weights))
    sizes.append(size)
    print(f"layer {i:2}: {size:.0e} per weight")
assert max(sizes[:3]) < epsilon < min(sizes[3:])

# %%
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
accuracy = {
    key: zoo.evaluate(model, validation)["accuracy"] for key, (model, _) in runs.items()
}
for name, style in STYLES.items():
    values = [100 * accuracy[name, depth] for depth in DEPTHS]
    axis.semilogx(DEPTHS, values, **style, label=name)
axis.axhline(10, color="black", linewidth=1)
axis.text(1, 11.5, "guess")
axis.set(xlabel="hidden layers", ylabel="validation accuracy, %", ylim=(0, 100))
axis.set_title("In four epochs, sigmoid nets of ten layers or more learn nothing")
axis.set_xticks(DEPTHS, DEPTHS)
axis.minorticks_off()
axis.grid(alpha=0.3)
axis.legend()
plt.show()
for depth in (10, 20, 50):
    assert accuracy["sigmoid", depth] < 0.2
    assert accuracy["relu", depth] > accuracy["sigmoid", depth]
assert accuracy["relu", 50] < accuracy["relu", 20]
assert accuracy["tanh", 50] < accuracy["tanh", 20]

# %% [markdown]
# ## The diagnosis
#
# `diagnose` sees only the recorded norms and the size of the weights, not the
# activation or the accuracy. Its verdict is *vanishing* if the norms fall toward the
# input by a factor of 100 or more in total, and are small relative to the weights. The
# column `first / last` compares the first and the last hidden layer: the median of
# their ratio over the steps. A healthy gradient does not guarantee a high accuracy, as
# the nets of 50 layers show.

# %%
print(f"{'activation':10} {'layers':>6} {'first / last':>13} {'accuracy':>9}  verdict")
for (name, depth), (_, norms) in runs.items():
    ratio = np.median(norms.history["dense1"] / norms.history[f"dense{depth}"])
    verdict = norms.diagnose().verdict
    figures = f"{ratio:13.1e} {accuracy[name, depth]:9.1%}"
    print(f"{name:10} {depth:6} {figures}  {verdict}")
    if depth >= 10:
        assert verdict.startswith("vanishing") if name == "sigmoid" else ratio > 0.1

# %% [markdown]
# ## The signal vanishes, too
#
# Now look at the forward pass. A small difference between the activations of two images
# passes through the same weights and slopes as `d`. So each sigmoid layer multiplies it
# by the same factor. In the deep layers of the untrained net, all images look alike. So
# at first, the last layers have almost nothing to learn from, although their gradient
# is large.
#
# The figure shows the spread of the activations over the images, relative to their
# length, in untrained nets. In the sigmoid net, it ends in the rounding errors of
# float32. (The curve falls below the precision of float32, because a rounding error is
# at most half of it.) Tanh and ReLU nets pass the differences on.

# %%
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name in STYLES:
    model = build(name, 50)
    names = [f"activation{i}" for i in range(1, 51)]
    outputs = zoo.features(model, names)(images[:SAMPLE])
    spread = []
    for values in (outputs[layer].numpy().astype("float64") for layer in names):
        deviation = np.mean(np.sum((values - values.mean(axis=0)) ** 2, axis=1))
        spread.append(np.sqrt(deviation / np.mean(np.sum(values**2, axis=1))))
    axis.semilogy(range(1, 51), spread, **STYLES[name] | {"marker": ""}, label=name)
    if name == "sigmoid":
        factor = (spread[5] / spread[0]) ** (1 / 5)
        print(f"sigmoid: a factor of {factor:.3f} per layer")
        assert np.isclose(factor, predict("sigmoid")[-1], rtol=0.1)
rounding = np.finfo("float32").eps
axis.axhline(rounding, color="black", linewidth=1)
axis.text(50, 1.5 * rounding, "precision of float32", ha="right")
axis.set(xlabel="layer", ylabel="spread over the images / length")
axis.set_xticks([1, 10, 20, 30, 40, 50])
axis.set_title("In a deep sigmoid net, all images look alike")
axis.grid(alpha=0.3)
axis.legend()
plt.show()

# %% [markdown]
# ## What comes next
#
# A gradient that reaches every layer is necessary, but it is not enough: after four
# epochs, the tanh and ReLU nets of 50 layers are far behind the shallower ones of the
# same activation, although their gradient does not vanish.
#
# The factor depends on the weights and on the slope of the activation. The slope
# depends on the size of the pre-activations. All of them can be changed. A residual
# path even leads the gradient around a layer. Lesson 3 compares these tricks:
# initialization, activation, normalization, and residual connections.
