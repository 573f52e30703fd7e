# %% [markdown]
# # 1. From logistic regression to the MLP
#
# A deep network is made of simple units. This lesson builds one unit, shows what it
# cannot do, adds a hidden layer, and computes the gradient by hand. You need Python and
# NumPy, and no knowledge of deep learning.
#
# Formulas are written as in the code: `@` is the matrix product, `*` multiplies element
# by element. `assert` statements in the code check most of them.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import zoo
from zoo.callbacks import GradientNorms

keras.utils.set_random_seed(0)
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # safe for color-blind readers

# %% [markdown]
# ## The data
#
# The images are handwritten digits of 28x28 pixels, a sample of MNIST. Each pixel is a
# number from 0 (black) to 255 (white). The models of the zoo divide by 255 themselves.
# A model learns from the training images. Its accuracy is measured on the validation
# images, which it has not seen in training. The last 1 in the printed shapes is the
# number of colors: the images are gray.

# %%
train = zoo.load_dataset("digits-sample", "train", as_="numpy")
validation = zoo.load_dataset("digits-sample", "validation", as_="numpy")
images, labels = train
print(f"training: {images.shape}, validation: {validation[0].shape}")

figure, axes = plt.subplots(1, 10, figsize=(10, 1.4), layout="constrained")
for digit, axis in enumerate(axes):
    axis.imshow(images[labels == digit][0], cmap="gray")
    axis.set(title=digit, xticks=[], yticks=[])
figure.suptitle("The first training image of each class")
plt.show()

# %% [markdown]
# ## A logistic unit
#
# A logistic unit, or sigmoid neuron, takes a vector `x`. Here it is an image, its 28x28
# pixels written as one vector of 784. The unit has one weight per pixel, `w`, and a
# bias `b`. It computes a weighted sum, the *pre-activation* `z = x @ w + b`, and turns
# it into a probability with the logistic function `sigmoid(z) = 1 / (1 + exp(-z))`.
#
# The slope of the logistic function is `sigmoid(z) * (1 - sigmoid(z))`. It is at most
# 1/4, at `z = 0`, and almost zero where the unit is *saturated*, far from 0. Lesson 2
# is about the consequences.


# %%
def sigmoid(z):
    return 1 / (1 + np.exp(-z))


z = np.linspace(-8, 8, 401)
p = sigmoid(z)
slope = p * (1 - p)
assert np.allclose(slope, np.gradient(p, z), atol=1e-3)
assert slope.max() == slope[z == 0] == 1 / 4

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot(z, p, color=BLUE, label="sigmoid(z)")
axis.plot(z, slope, color=ORANGE, linestyle="--", label="its slope, at most 1/4")
axis.set(xlabel="pre-activation z", ylabel="value", yticks=[0, 0.25, 0.5, 0.75, 1])
axis.set_title("Far from z = 0, the sigmoid is flat")
axis.grid(alpha=0.3)
axis.legend()
plt.show()

# %% [markdown]
# ## The loss and its gradient
#
# Let `y` be 1 for a digit that is odd, and 0 for one that is even. The *cross-entropy*
# `loss = -log(p if y == 1 else 1 - p)` is small if the unit gives the right answer a
# high probability.
#
# For the logistic unit, the derivative of the loss with respect to `z` is the error
# `p - y`. For `y = 1`, the chain rule gives `-1/p * p * (1 - p) = p - 1`. For `y = 0`,
# it gives `1/(1 - p) * p * (1 - p) = p`. The code compares `p - y` with the slope of
# the loss between two close points.


# %%
def cross_entropy(z, y):
    return -np.log(np.where(y == 1, sigmoid(z), 1 - sigmoid(z)))


step = 1e-6
for y in (0, 1):
    slope = (cross_entropy(z + step, y) - cross_entropy(z - step, y)) / (2 * step)
    assert np.allclose(slope, sigmoid(z) - y, atol=1e-6)

# %% [markdown]
# The *gradient* is the list of the derivatives of the loss, one per weight. Since
# `z = x @ w + b`, the derivative with respect to `w[i]` is `(p - y) * x[i]`. A training
# step is `w = w - learning_rate * gradient`: it moves each weight in the direction in
# which the loss falls. The *learning rate* sets the size of the step.
#
# The loss of a step is the mean over a few images, a *batch*. The next step takes the
# next batch. One pass over all training images is an *epoch*. This is *stochastic
# gradient descent*, SGD. Here is its first step, without the bias.

# %%
x, y = images[:64].reshape(64, 784) / 255, labels[:64] % 2
w, learning_rate = np.zeros(784), 0.01
loss = cross_entropy(x @ w, y).mean()
gradient = x.T @ (sigmoid(x @ w) - y) / 64
w = w - learning_rate * gradient
loss_after = cross_entropy(x @ w, y).mean()
print(f"loss of the batch: {loss:.3f} before the step, {loss_after:.3f} after it")
# For small steps, each weight reduces the loss by its derivative times its step.
assert np.isclose(loss - loss_after, learning_rate * np.sum(gradient**2), rtol=0.02)

# %% [markdown]
# ## Softmax regression
#
# For ten classes, there is one unit per class. Their outputs have to add up to 1, so
# the *softmax* replaces the logistic function: `p = exp(z) / exp(z).sum()`. For two
# classes, it is a logistic unit for the difference of the two pre-activations.


# %%
def softmax(z):
    exponentials = np.exp(z - z.max(axis=-1, keepdims=True))  # no overflow
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


two = np.random.default_rng(0).normal(size=(100, 2))
assert np.allclose(softmax(two)[:, 1], sigmoid(two[:, 1] - two[:, 0]))

# %% [markdown]
# This model is called softmax regression, or multinomial logistic regression. In the
# zoo, it is an MLP (below) without hidden units. Its loss is convex: every local
# minimum is a global one. So training can start with all weights at zero.
#
# In Keras, `compile` chooses the optimizer and the loss, and `fit` trains.
# `sparse_categorical_crossentropy` is the cross-entropy for several classes,
# `-log(p[label])`, with integers as labels. The pre-activations of the last layer,
# which softmax turns into probabilities, are called *logits*, and so is this layer.
#
# The optimizer, AdamW, is a variant of SGD. Like *Adam*, it divides the step of each
# weight by the recent size of the weight's gradient. It also moves each weight a little
# toward zero at each step. This *weight decay* keeps the weights small.


# %%
def fit(model, labels=labels, epochs=10):
    """Trains a model, and returns its loss and accuracy in each epoch."""
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=1.0)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0).history


regression = zoo.ShallowMLP(0)
logits = regression.get_layer("logits")
logits.set_weights([np.zeros((784, 10)), np.zeros(10)])
regression_history = fit(regression)
accuracy = zoo.evaluate(regression, validation)["accuracy"]
print(f"softmax regression: {accuracy:.1%} of the validation images")

# %% [markdown]
# The weights of each class form an image, too. Ink on an orange pixel is evidence for
# the class, ink on a purple pixel is evidence against it. Each class has a single
# template for all ways to write the digit. A 0, for example, must have no ink in its
# center.

# %%
templates = logits.get_weights()[0].T.reshape(10, 28, 28)
limit = np.abs(templates).max()
colors = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit}
figure, axes = plt.subplots(2, 5, figsize=(8, 3.6), layout="constrained")
for digit, axis in enumerate(axes.flat):
    picture = axis.imshow(templates[digit], **colors)
    axis.set(title=digit, xticks=[], yticks=[])
figure.colorbar(picture, ax=axes, label="weight")
figure.suptitle("Softmax regression has one template per class")
plt.show()
assert templates[0, 12:16, 12:16].mean() < 0

# %% [markdown]
# ## What one layer cannot do
#
# A logistic unit divides the space of its inputs by a plane (for two inputs, a line):
# `z > 0` on one side, `z < 0` on the other. It can solve a problem only if the classes
# are *linearly separable*. Of the 16 functions of two binary inputs, only two are not:
# *exclusive or*, XOR, and its negation. XOR is 1 if exactly one of the inputs is 1.
#
# The proof is one line. For all weights, the four pre-activations satisfy
# `z(0, 0) + z(1, 1) = z(0, 1) + z(1, 0)`. XOR needs a negative sum on the left and a
# positive one on the right, and its negation the opposite. In the code, units with
# random weights find the 14 other functions.

# %%
corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
xor = np.array([0, 1, 1, 0])
generator = np.random.default_rng(0)
found = set()
for _ in range(1000):
    w, b = generator.normal(size=2), generator.normal()
    z = corners @ w + b
    assert np.isclose(z[0] + z[3], z[1] + z[2])
    found.add(tuple((z > 0).astype(int)))
print(f"{len(found)} of the {2**4} functions found")
assert len(found) == 14
assert tuple(xor) not in found
assert tuple(1 - xor) not in found

# %% [markdown]
# ## A hidden layer
#
# Put two units between the inputs and the output. They are called *hidden*, because the
# data do not contain their values. The function that a unit applies to `z` is its
# *activation*. Both units are rectified linear units, ReLU: `relu(z) = max(z, 0)`. The
# first counts the ones, and the second is positive only if both inputs are 1. Both
# inputs with XOR 1 fall on the same point, (1, 0). The output unit has the weights 1
# and -2, so one line in the plane of the hidden units separates the classes:
# `output = 1/2`.


# %%
def relu(z):
    return np.maximum(z, 0)


hidden = relu(corners @ [[1, 1], [1, 1]] + [0, -1])
output = hidden @ [1, -2]
assert (output == xor).all()

figure, axes = plt.subplots(
    1, 2, figsize=(8, 3.2), width_ratios=(2, 3), layout="compressed"
)
for axis, points in zip(axes, (corners, hidden), strict=True):
    for value, color, marker in ((0, BLUE, "o"), (1, ORANGE, "s")):
        chosen = points[xor == value]
        style = {"color": color, "marker": marker, "s": 120, "zorder": 2}
        axis.scatter(*chosen.T, label=f"XOR is {value}", **style)
    axis.set(ylim=(-0.5, 1.5), aspect="equal", xticks=[0, 1, 2], yticks=[0, 1])
axes[0].set(title="Inputs: no line separates them", xlabel="input 1", ylabel="input 2")
axes[0].set_xlim(-0.5, 1.5)
axes[0].legend(loc="center")
axes[1].set(title="Hidden units: one line does", xlim=(-0.5, 2.5))
axes[1].set(xlabel="hidden unit 1", ylabel="hidden unit 2")
line = np.array([-0.5, 2.5])
axes[1].plot(line, (line - 0.5) / 2, color="black", label="output = 1/2")
axes[1].legend(loc="upper left")
plt.show()

# %% [markdown]
# ## Universal approximation
#
# A net with one hidden layer approximates every continuous function on a closed and
# bounded region as closely as you like, if it has enough hidden units. This holds for
# every continuous activation that is not a polynomial (Cybenko, 1989, for sigmoids;
# Leshno et al., 1993, in general). This *universal approximation theorem* does not say
# how many units are needed, or whether training finds them.
#
# In one dimension the construction is easy. The output is a weighted sum of ReLU units,
# and each unit bends the line at one knot: its weight is the change of slope there.
# Between knots at distance `h`, the approximation error for a function `f` is at most
# `h**2 / 8 * max(|f''|)`: twice as many units, a quarter of this bound.

# %%
x = np.linspace(0, 2 * np.pi, 1001)
figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained", sharey=True)
for axis, units in zip(axes, (4, 8, 16), strict=True):
    knots = np.linspace(0, 2 * np.pi, units + 1)
    slopes = np.diff(np.sin(knots)) / np.diff(knots)
    output = relu(x[:, None] - knots[:-1]) @ np.diff(slopes, prepend=0)
    error = np.abs(output - np.sin(x)).max()
    assert error <= (knots[1] - knots[0]) ** 2 / 8 + 1e-12  # |sin''| is at most 1
    axis.plot(x, np.sin(x), color=BLUE, label="sin(x)")
    axis.plot(x, output, color=ORANGE, linestyle="--", label="net")
    axis.set(title=f"{units} units: largest error {error:.3f}", xlabel="x")
    axis.grid(alpha=0.3)
axes[0].set_ylabel("output")
axes[0].legend()
figure.suptitle("With more units, the net comes closer to sin(x)")
plt.show()

# %% [markdown]
# These features were chosen by hand. A *multilayer perceptron*, MLP, learns them: the
# hidden weights are trained together with those of the output. This needs the
# derivative of the loss with respect to every weight.
#
# ## The forward pass
#
# Here is the MLP with one hidden layer of sigmoid units, for a batch of `n` images. `x`
# has one image per row. `y` has a 1 at the class of each image, and 0 elsewhere.
#
# - `z1 = x @ w1 + b1`
# - `h = sigmoid(z1)`
# - `z2 = h @ w2 + b2`
# - `p = softmax(z2)`
# - `loss = -sum(y * log(p)) / n`

# %%
n, units = 32, 16
x = images[:n].reshape(n, 784) / 255
y = np.eye(10)[labels[:n]]


def forward(w1, b1, w2, b2):
    h = sigmoid(x @ w1 + b1)
    p = softmax(h @ w2 + b2)
    return h, p, -np.sum(y * np.log(p)) / n


model = zoo.ShallowMLP(units, activation="sigmoid")
weights = [array.astype("float64") for array in model.get_weights()]
h, p, loss = forward(*weights)
assert np.allclose(p, model.predict(images[:n], verbose=0), atol=1e-6)
print(f"{sum(array.size for array in weights):,} weights and biases, loss {loss:.3f}")

# %% [markdown]
# ## Back-propagation
#
# Back-propagation applies the chain rule from the loss back to the input. Let `d2` be
# the derivative of the loss with respect to `z2`, and `d1` that with respect to `z1`.
#
# 1. For an image of class `k`, `-log(p[k]) = log(sum(exp(z))) - z[k]`. Its derivative
#    with respect to `z[j]` is `p[j]`, minus 1 if `j` is `k`. This is the error, as for
#    one unit. The loss is a mean over `n` images, so `d2 = (p - y) / n`.
# 2. `w2[i, j]` acts only on unit `j`, and `h[:, i]` is its factor. So its derivative is
#    the sum of `h[:, i] * d2[:, j]` over the images, and the gradient of `w2` is
#    `h.T @ d2`. The factor of `b2` is 1. So its gradient is the sum of `d2` over the
#    images.
# 3. `h[:, i]` acts on every unit `j`, with the factor `w2[i, j]`. So its derivative is
#    the sum of `d2[:, j] * w2[i, j]` over `j`: the error returns through the same
#    weights, transposed. The sigmoid multiplies it by its slope:
#    `d1 = (d2 @ w2.T) * h * (1 - h)`.
# 4. The last step is like step 2. The gradient of `w1` is `x.T @ d1`, and that of `b1`
#    is the sum of `d1` over the images.
#
# Each step needs only the results of earlier steps and of the forward pass.


# %%
def backward(w1, b1, w2, b2):
    h, p, _ = forward(w1, b1, w2, b2)
    d2 = (p - y) / n
    d1 = (d2 @ w2.T) * h * (1 - h)
    return x.T @ d1, d1.sum(axis=0), h.T @ d2, d2.sum(axis=0)


by_hand = backward(*weights)

# %% [markdown]
# Keras leaves this to TensorFlow: a `GradientTape` records the forward pass, and
# computes the derivatives in reverse order. Keras calls the weights of a layer its
# `kernel`. The two gradients agree to the precision of float32.

# %%
with tf.GradientTape() as tape:
    predictions = model(images[:n])
    losses = keras.losses.sparse_categorical_crossentropy(labels[:n], predictions)
    loss = tf.reduce_mean(losses)
by_tensorflow = tape.gradient(loss, model.trainable_variables)
for variable, own, other in zip(
    model.trainable_variables, by_hand, by_tensorflow, strict=True
):
    difference = np.abs(own - other.numpy()).max() / np.abs(own).max()
    print(f"{variable.path:14} {own.shape!s:10} relative difference {difference:.0e}")
    assert difference < 1e-4

# %% [markdown]
# An independent check is the definition of the derivative: change one weight by a small
# step, and measure the change of the loss. This is the method of *forward differences*.
# It needs one forward pass per weight, and one more for the starting point.


# %%
def forward_differences(weights, step=1e-6):
    start, passes, derivatives = forward(*weights)[-1], 1, []
    for array in weights:
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            derivatives.append((forward(*weights)[-1] - start) / step)
            array[index] = value
            passes += 1
    return np.array(derivatives), passes


by_differences, passes = forward_differences(weights)
flat = np.concatenate([array.ravel() for array in by_hand])
assert np.allclose(flat, by_differences, atol=1e-6)
print(f"{len(flat):,} derivatives agree to {np.abs(flat - by_differences).max():.0e}")

# %% [markdown]
# ## What back-propagation costs
#
# Back-propagation is *reverse-mode differentiation*. The reverse mode computes the
# derivatives of one output with respect to all inputs in a single backward pass. In
# return, it keeps the values of the forward pass in memory. The *forward mode* computes
# the derivatives of all outputs with respect to one input, so it needs one pass per
# weight, as the differences do. Training has one output, the loss, and many weights, so
# it uses the reverse mode.
#
# Count the multiplications in the matrix products. The forward pass has two products.
# The backward pass has three, and the extra one is as large as the second product of
# the forward pass. So the loss and its gradient together cost at most three times as
# much as the loss alone, for any number of units. A bound that does not depend on the
# number of weights holds for every function composed of elementary operations (Baur and
# Strassen, 1983; Griewank and Walther, 2008).

# %%
forward_cost = n * (784 * units + units * 10)  # x @ w1, h @ w2
backward_cost = n * (
    784 * units + units * 10 + units * 10
)  # x.T @ d1, h.T @ d2, d2 @ w2.T
ratio = (forward_cost + backward_cost) / forward_cost
print(f"forward differences: {passes:,} times the cost of the loss")
print(f"back-propagation: {ratio:.2f} times the cost of the loss")
assert passes == len(flat) + 1
assert ratio <= 3

# %% [markdown]
# ## The gradient during training
#
# `GradientNorms` records the size of these gradients, layer by layer, while Keras
# trains. The size is the *norm*, the root of the sum of the squares. For the first
# batch, it is that of the gradients computed by hand. A layer's gradient contains those
# of its weights and its biases.

# %%
norms = GradientNorms()
model.compile("sgd", "sparse_categorical_crossentropy")
model.fit(images[:n], labels[:n], batch_size=n, callbacks=[norms], verbose=0)
for layer, arrays in (("dense1", by_hand[:2]), ("logits", by_hand[2:])):
    expected = np.sqrt(sum(np.sum(array**2) for array in arrays))
    print(f"{layer}: by hand {expected:.5f}, recorded {norms.history[layer][0]:.5f}")
    assert np.isclose(expected, norms.history[layer][0], rtol=1e-4)

# %% [markdown]
# ## Logistic regression against the MLP
#
# Now train an MLP with 100 hidden ReLU units in the same way as the softmax regression.
# Its loss is not convex, and its weights must start at random: hidden units that start
# with equal weights would have equal gradients, and stay equal.

# %%
mlp = zoo.ShallowMLP(100)
mlp_history = fit(mlp)

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, history, color, style in (
    ("softmax regression", regression_history, BLUE, "o-"),
    ("MLP, 100 hidden units", mlp_history, ORANGE, "s-"),
):
    errors = 100 * (1 - np.array(history["accuracy"]))
    axis.plot(np.arange(1, 1 + len(errors)), errors, style, color=color, label=name)
axis.set(xlabel="epoch", ylabel="error rate during training, %", ylim=(0, None))
axis.set_title("With a hidden layer, the error rate falls further")
axis.grid(alpha=0.3)
axis.legend()
plt.show()

# %% [markdown]
# The second task is to tell even digits from odd ones. Each class has five different
# shapes, and one template cannot describe all five. Here the hidden layer matters more.
#
# The accuracy on 1,000 images has a standard error of `sqrt(a * (1 - a) / 1000)`, about
# one percentage point. Differences of one or two points may be chance. (Parameters are
# weights and biases.)

# %%
parity = {0: zoo.ShallowMLP(0, classes=2), 100: zoo.ShallowMLP(100, classes=2)}
for parity_model in parity.values():
    fit(parity_model, labels % 2)

table = {
    ("ten digits", "softmax regression"): (regression, train, validation),
    ("ten digits", "MLP, 100 units"): (mlp, train, validation),
}
even_or_odd = [(images, labels % 2), (validation[0], validation[1] % 2)]
table["even or odd", "logistic regression"] = (parity[0], *even_or_odd)
table["even or odd", "MLP, 100 units"] = (parity[100], *even_or_odd)
results = []
print(f"{'task':12} {'model':20} {'parameters':>10} {'training':>9} {'validation':>16}")
for (task, name), (net, *data) in table.items():
    seen, unseen = (zoo.evaluate(net, split)["accuracy"] for split in data)
    standard_error = np.sqrt(unseen * (1 - unseen) / len(validation[1]))
    results.append(unseen)
    size = net.count_params()
    accuracies = f"{seen:9.1%} {unseen:9.1%} ± {standard_error:.1%}"
    print(f"{task:12} {name:20} {size:10,} {accuracies}")
regression_digits, mlp_digits, regression_parity, mlp_parity = results
assert mlp_parity - regression_parity > mlp_digits - regression_digits > 0

# %% [markdown]
# ## What a hidden unit sees
#
# The weights of a hidden unit form an image, as those of a class did. The digits that
# *excite* the unit most are those with the largest pre-activation. Here are three units
# of the net just trained. The units shown have a few large positive weights: their
# weights have the highest skewness. Each row has a color scale of its own.


# %%
def show_units(model, count, title, shown=8):
    """Draws the units with the most skewed weights, and the digits that excite them."""
    kernel = model.get_layer("dense1").get_weights()[0]
    skewness = np.mean((kernel - kernel.mean(0)) ** 3, 0) / kernel.std(0) ** 3
    sums = zoo.features(model, ["dense1"]).predict(validation[0], verbose=0)["dense1"]
    size = {"figsize": (9, 1.05 * count), "layout": "constrained"}
    figure, axes = plt.subplots(count, shown + 1, **size)
    for row, unit in zip(axes, np.argsort(-skewness), strict=False):
        weights = kernel[:, unit] / np.abs(kernel[:, unit]).max()
        colors = {"cmap": "PuOr_r", "vmin": -1, "vmax": 1}
        picture = row[0].imshow(weights.reshape(28, 28), **colors)
        for axis, image in zip(row[1:], np.argsort(-sums[:, unit]), strict=False):
            axis.imshow(validation[0][image], cmap="gray")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    axes[0, 0].set_title("weights", fontsize=10)
    axes[0, 1].set_title("excited most by", fontsize=10, loc="left")
    bar = {"label": "weight / largest of its row", "ticks": [-1, 0, 1], "aspect": 40}
    figure.colorbar(picture, ax=axes, **bar)
    figure.suptitle(f"{count} of {kernel.shape[1]} units: {title}")
    plt.show()


show_units(mlp, count=3, title="the weights are hard to read")

# %% [markdown]
# These weights are hard to read. The published net has more units, and was trained on
# all of MNIST, with distorted copies of the images. The figure shows the six units of
# highest skewness among its 800. Each detects a stroke at one place. Nobody designed
# these detectors: training found them.

# %%
published = zoo.ShallowMLP(weights="mnist")
show_units(published, count=6, title="each detects a stroke at one place")

# %% [markdown]
# A unit detects its stroke at this one place only. For the same stroke elsewhere, the
# net needs another unit. Lesson 4 shows how a ConvNet uses the same weights at all
# places.
#
# ## What comes next
#
# One hidden layer can approximate every continuous function, but it may need very many
# units. With more layers, a net can build features from features. For a long time, such
# deep nets did not learn. Lesson 2 shows why, with the derivatives of this lesson.
