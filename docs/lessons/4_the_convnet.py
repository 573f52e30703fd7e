# %% [markdown]
# # 4. The ConvNet
#
# An MLP treats an image as a list of numbers: shuffle the pixels of all images in the
# same way, and it learns just as well. A convolutional network, or ConvNet, knows that
# pixels have neighbors. Its units look at small windows of the image, and all units of
# a feature map look for the same thing. This lesson takes LeNet-5 apart: kernels,
# receptive fields, shared weights, pooling, and what happens when a digit moves. At the
# end, the ConvNet supplies the features for a classical method of machine learning.
#
# Formulas are written as in the code, where `assert` statements check most of them.

# %%
import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster convolutions on some CPUs

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib.patches import Rectangle
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import zoo

keras.utils.set_random_seed(0)
BLACK, BLUE, ORANGE, GREEN, PURPLE = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
)
MAPS = {"cmap": "magma", "vmin": 0}

x_train, y_train = zoo.load_dataset("digits-sample", "train", as_="numpy")
x_val, y_val = zoo.load_dataset("digits-sample", "validation", as_="numpy")
digit = x_val[y_val == 5][:1]

# %% [markdown]
# ## Kernels and feature maps
#
# A *kernel* is a small array of weights, here 5x5. It slides over the image. At each
# place it is multiplied, element by element, with the window of the image under it. The
# sum of the products, plus a bias, passes through the activation:
#
# `map[r, c] = relu(sum(kernel * image[r : r + 5, c : c + 5]) + bias)`
#
# The result is a *feature map*: an image that is bright where the window resembles the
# kernel. LeNet-5 first adds a border of two black pixels, so that the map is as large
# as the image. Mathematicians call this operation a cross-correlation; a convolution
# would also flip the kernel. Since the kernel is learned, it makes no difference.
#
# LeNet-5 has two convolutions, `conv1` and `conv2`. After each of them, a `pool` layer
# keeps only the largest element of each block of 2x2: *max pooling*. At the end, an MLP
# with the hidden layers `dense1` and `dense2` reads the elements of `pool2` as one
# vector. The net of 1998 was a little different: ours has ReLU and max pooling, and
# each map of `conv2` reads all maps of `pool1`. [LeNet1998](../results/lenet1998.md)
# follows the paper.
#
# The code prints the shapes of the outputs: rows, columns and maps, or units.
# `zoo.features` returns the outputs of all layers.

# %%
lenet = zoo.LeNet5(weights="mnist")
maps = {name: np.array(m) for name, m in zoo.features(lenet)(digit).items()}

kernels, biases = lenet.get_layer("conv1").get_weights()
bordered = np.pad(digit[0, :, :, 0] / 255, 2)
windows = np.lib.stride_tricks.sliding_window_view(bordered, (5, 5))
for i in range(6):
    weighted = (windows * kernels[:, :, 0, i]).sum(axis=(2, 3))
    by_hand = np.maximum(weighted + biases[i], 0)
    assert np.allclose(maps["conv1"][0, :, :, i], by_hand, atol=1e-4)

for layer in lenet.layers:
    print(f"{layer.name:12} {layer.output.shape[1:]}")


# %%
def show(axes, image, title="", **options):
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)
    return axes.imshow(image, **{"cmap": "gray", **options})


figure, axes = plt.subplots(3, 7, figsize=(10, 4.6), layout="constrained")
limit = np.abs(kernels).max()
show(axes[1, 0], digit[0, :, :, 0], "image")
for empty in (axes[0, 0], axes[2, 0]):
    empty.axis("off")
for i, column in enumerate(axes.T[1:]):
    diverging = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit}
    kernel = show(column[0], kernels[:, :, 0, i], f"kernel {i + 1}", **diverging)
    show(column[1], maps["conv1"][0, :, :, i], f"conv1, map {i + 1}", **MAPS)
    show(column[2], maps["pool1"][0, :, :, i], f"pool1, map {i + 1}", **MAPS)
figure.colorbar(kernel, ax=axes[0, -1], label="weight")
figure.suptitle("Each kernel finds a feature (orange: positive, purple: negative)")
plt.show()

# %% [markdown]
# The kernels of the second convolution have the shape 5x5x6: each of them looks at all
# six maps of `pool1` at once, so it finds combinations of features.

# %%
figure, axes = plt.subplots(2, 8, figsize=(10, 3), layout="constrained")
for i, axis in enumerate(axes.flat):
    show(axis, maps["conv2"][0, :, :, i], f"map {i + 1}", **MAPS)
figure.suptitle("Each map of conv2 finds a different combination of features")
plt.show()

# %% [markdown]
# ## Receptive fields
#
# The *receptive field* of a unit is the part of the image that can influence it. For
# square windows it follows from the architecture alone. Three numbers describe a layer:
# the first pixel in the field of unit 0, the step from one unit's field to the next,
# and the size of a field. For the image they are 0, 1 and 1. Take a layer with a window
# of `kernel` elements that moves by `stride`, and with `padding` zeros before the first
# element. Its three numbers are:
#
# - `first - padding * step`
# - `step * stride`
# - `size + (kernel - 1) * step`
#
# The field of unit `i` begins at the pixel `first + i * step`. What lies outside the
# image is cut off.


# %%
def receptive_fields(model):
    """Returns `{layer: (first, step, size)}` for the layers before the MLP."""
    first, step, size = 0, 1, 1
    fields = {}
    for layer in model.layers:
        if isinstance(layer, layers.Flatten):
            break
        if isinstance(layer, layers.Conv2D):
            kernel, stride = layer.kernel_size[0], layer.strides[0]
        elif isinstance(layer, layers.MaxPooling2D | layers.AveragePooling2D):
            kernel, stride = layer.pool_size[0], layer.strides[0]
        else:  # Rescaling, normalization and activation work on single elements.
            continue
        # Keras pads on both sides. The zoo's padded convolutions have stride 1.
        padding = (kernel - 1) // 2 if layer.padding == "same" else 0
        first -= padding * step
        size += (kernel - 1) * step
        step *= stride
        fields[layer.name] = first, step, size
    return fields


def field_mask(field, units, pixels=28):
    """Returns, for each unit along one axis, the pixels in its field."""
    first, step, size = field
    starts = first + step * np.arange(units)[:, None]
    return (np.arange(pixels) >= starts) & (np.arange(pixels) < starts + size)


# %% [markdown]
# The check lights one pixel of a black image at a time: the pixel is in the field of a
# unit if the unit responds. In the trained net, a unit may fail to respond for other
# reasons: a ReLU is off, or max pooling chooses another element. So the check takes a
# twin of each net with the same windows, but positive weights, average pooling, no
# biases and no activation. Nothing can cancel in it, and it responds to a black image
# with 0.
#
# The code checks LeNet-5 and `zoo.ConvNet`, a newer net with more convolutions.


# %%
def positive_twin(model):
    """Copies a net without its nonlinearities, with random positive weights."""

    def replace(layer):
        config = layer.get_config()
        if isinstance(layer, layers.MaxPooling2D):
            return layers.AveragePooling2D.from_config(config)
        if "activation" in config:
            config["activation"] = "linear"
        return type(layer).from_config(config)

    twin = keras.models.clone_model(model, clone_function=replace)
    for weight in twin.trainable_variables:
        if weight.name == "kernel":  # The biases are 0 at first, and stay 0.
            weight.assign(keras.random.uniform(weight.shape, 0.5, 1.5))
    return twin


def responses(model, names):
    """Returns `{layer: (row, column, pixel row, pixel column)}`."""
    pixels = 255 * np.eye(28 * 28).reshape(-1, 28, 28, 1)
    outputs = zoo.features(model, names).predict(pixels, verbose=0)
    found = {}
    for name in names:
        units = outputs[name].sum(axis=-1)  # All maps have the same windows.
        found[name] = units.transpose(1, 2, 0).reshape(*units.shape[1:], 28, 28)
    return found


twins = {}
print(f"{'net':8} {'layer':8} {'units':>7} {'field':>7} {'step':>5}  units agree")
for net in (lenet, zoo.ConvNet()):
    fields = receptive_fields(net)
    twins[net.name] = responses(positive_twin(net), list(fields))
    for layer, found in twins[net.name].items():
        rows = field_mask(fields[layer], found.shape[0])
        columns = field_mask(fields[layer], found.shape[1])
        expected = rows[:, None, :, None] & columns[None, :, None, :]
        agree = ((found != 0) == expected).all(axis=(2, 3))
        assert agree.all()
        (height, width), (_, step, size) = found.shape[:2], fields[layer]
        sizes = f"{height}x{width:<4} {size:>3}x{size:<3} {step:5}"
        print(f"{net.name:8} {layer:8} {sizes} {agree.sum():6} of {agree.size}")

# %% [markdown]
# A window of `kernel` elements adds `kernel - 1` steps to the field, and each pooling
# doubles the step. So the units of the last layers see a large part of the image,
# although no kernel has more than 5x5 elements.
#
# The boxes in the figure are the fields of two neighboring units. The lower row shows
# how strongly the orange unit of the positive twin responds to each pixel. Pixels in
# the middle of a field have more paths to the unit than those at its border: the
# *effective* receptive field is smaller than the field ([Luo et al.,
# 2016](https://arxiv.org/abs/1701.04128)).

# %%
fields = receptive_fields(lenet)
figure, axes = plt.subplots(2, len(fields), figsize=(10, 5.4), layout="constrained")
for (upper, lower), (layer, field) in zip(axes.T, fields.items(), strict=True):
    first, step, size = field
    found = twins["lenet5"][layer]
    middle = found.shape[0] // 2
    show(upper, digit[0, :, :, 0], f"{layer}: {size}x{size}, step {step}")
    for unit, color in [(middle, ORANGE), (middle - 1, BLUE)]:
        corner = first + unit * step - 0.5
        box = Rectangle((corner, corner), size, size, fill=False, ec=color, lw=2)
        upper.add_patch(box)
    show(lower, found[middle, middle], "positive twin", **MAPS)
figure.suptitle("The units of deeper layers see more of the image")
plt.show()

# %% [markdown]
# ## Shared weights
#
# All units of a feature map have the same kernel. In a *locally connected* layer, each
# unit has a small window too, but weights of its own. A dense layer connects each unit
# to each pixel of each map. With maps of `height` by `width`, a kernel of `k` by `k`,
# and a bias, a layer has this many parameters (weights and biases). The convolutions of
# `ConvNet` have no bias: leave out the `+ 1` for them.
#
# - shared: `(k * k * maps_in + 1) * maps_out`
# - locally connected: `height * width * (k * k * maps_in + 1) * maps_out`
# - dense: `(height_in * width_in * maps_in + 1) * height * width * maps_out`

# %%
print(f"{'net':8} {'layer':7} {'shared':>9} {'locally connected':>18} {'dense':>13}")
for net in (lenet, zoo.ConvNet()):
    for layer in net.layers:
        if isinstance(layer, layers.Conv2D):
            _, height_in, width_in, maps_in = layer.input.shape
            _, height, width, maps_out = layer.output.shape
            weights = layer.kernel_size[0] * layer.kernel_size[1] * maps_in
            bias = 1 if layer.use_bias else 0
            shared = (weights + bias) * maps_out
            local = height * width * shared
            dense = (height_in * width_in * maps_in + bias) * height * width * maps_out
            assert shared == layer.count_params()
            print(f"{net.name:8} {layer.name:7} {shared:9,} {local:18,} {dense:13,}")

# %% [markdown]
# To see that only the sharing differs, build the locally connected twin of `conv1`, and
# give each place a copy of the shared weights. The outputs are equal. In training, the
# twin could learn different features at different places. But it would have to learn
# each feature again at each place, from the digits that happen to have it there.

# %%
window_pixels = keras.ops.image.extract_patches(
    digit / 255.0, 5, strides=1, padding="same"
)
local_kernels = np.tile(kernels.reshape(25, 6), (28, 28, 1, 1))
local_biases = np.tile(biases, (28, 28, 1))
twin = np.einsum("nrcp,rcpm->nrcm", np.array(window_pixels), local_kernels)
twin = np.maximum(twin + local_biases, 0)
assert np.allclose(twin, maps["conv1"], atol=1e-4)

conv1 = lenet.get_layer("conv1")
assert local_kernels.size + local_biases.size == 28 * 28 * conv1.count_params()
print(f"parameters: {conv1.count_params():,} shared,", end=" ")
print(f"{local_kernels.size + local_biases.size:,} locally connected")

# %% [markdown]
# ## Max and average pooling
#
# Pooling makes a map smaller: it keeps one number of each block of 2x2. *Max pooling*
# keeps the largest, which says that the feature is somewhere in the block. *Average
# pooling* keeps the mean. The gradient goes back the same way: with max pooling, the
# largest element receives all of it; with average pooling, each element receives a
# quarter.


# %%
def pool_and_gradient(layer, image):
    image = tf.constant(image)
    with tf.GradientTape() as tape:
        tape.watch(image)
        pooled = layer(image)
    return pooled.numpy(), tape.gradient(pooled, image).numpy()


def blocks(image):
    """Reshapes one image to `(rows, columns, 4)`, the elements of each 2x2 block."""
    rows, columns = image.shape[1] // 2, image.shape[2] // 2
    split = image.reshape(rows, 2, columns, 2)
    return split.transpose(0, 2, 1, 3).reshape(rows, columns, 4)


noise = np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype("float32")
pooled, gradient = pool_and_gradient(layers.MaxPooling2D(2), noise)
elements = blocks(noise)
assert np.array_equal(pooled[0, :, :, 0], elements.max(axis=-1))
assert np.array_equal(blocks(gradient), elements == elements.max(axis=-1)[..., None])

pooled, gradient = pool_and_gradient(layers.AveragePooling2D(2), noise)
assert np.allclose(pooled[0, :, :, 0], elements.mean(axis=-1), atol=1e-6)
assert np.array_equal(gradient, np.full_like(gradient, 1 / 4))

strongest = maps["conv1"][0].max(axis=(0, 1)).argmax()
chosen = maps["conv1"][:, :, :, [strongest]]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
options = {**MAPS, "vmax": chosen.max()}
pooled = {
    "conv1": chosen,
    "max": layers.MaxPooling2D(2)(chosen),
    "average": layers.AveragePooling2D(2)(chosen),
}
for axis, (name, feature_map) in zip(axes, pooled.items(), strict=True):
    _, height, width, _ = feature_map.shape
    show(axis, feature_map[0, :, :, 0], f"{name}: {height}x{width}", **options)
figure.suptitle("Max pooling keeps the largest element; average pooling keeps the mean")
plt.show()

# %% [markdown]
# ## Shift a digit and watch
#
# A function is *equivariant* to shifts if a shifted input gives the same output,
# shifted. It is *invariant* if the output stays the same. A convolution is equivariant:
# the same kernel finds the same feature at the new place. Pooling with a step of 2
# keeps this for shifts by an even number of places. The units of `pool2` in LeNet-5 are
# 4 pixels apart, so all maps follow a shift by a multiple of 4 pixels exactly. *Global*
# max pooling keeps the largest element of each map, wherever it is: it turns
# equivariance into invariance.
#
# This holds only away from the border. At the border, a part of the digit can leave the
# image. The code places a digit on a larger black canvas. The convolutions take images
# of any size.

# %%
SHIFT, CANVAS = 8, 72


def place(images, size, right=0):
    """Places images in the middle of black squares, shifted to the right."""
    margin = (size - 28) // 2
    sides = (margin + right, size - 28 - margin - right)
    return np.pad(images, ((0, 0), (margin, size - 28 - margin), sides, (0, 0)))


on_canvas = zoo.LeNet5(
    weights="mnist", include_top=False, pooling="max", input_shape=(CANVAS, CANVAS, 1)
)
all_maps = zoo.features(on_canvas)
still = {k: np.array(v) for k, v in all_maps(place(digit, CANVAS)).items()}
moved = {k: np.array(v) for k, v in all_maps(place(digit, CANVAS, SHIFT)).items()}

for layer, (_, step, _) in receptive_fields(on_canvas).items():
    places = SHIFT // step
    assert np.allclose(
        moved[layer][:, :, places:], still[layer][:, :, :-places], atol=1e-4
    )
    assert not np.allclose(moved[layer], still[layer], atol=0.1)
    print(f"{layer}: the image moves by {SHIFT} pixels, the maps by {places}")
assert np.allclose(moved["max_pool"], still["max_pool"], atol=1e-4)
change = np.abs(moved["max_pool"] - still["max_pool"]).max()
print(f"global max pooling: the output changes by at most {change:.0e}")

figure, axes = plt.subplots(2, 5, figsize=(10, 4.4), layout="constrained")
for row, outputs, right in [(axes[0], still, 0), (axes[1], moved, SHIFT)]:
    show(row[0], place(digit, CANVAS, right)[0, :, :, 0], f"shifted by {right} pixels")
    for axis, layer in zip(row[1:4], ("conv1", "pool1", "pool2"), strict=True):
        strongest = still[layer][0].max(axis=(0, 1)).argmax()
        feature_map = outputs[layer][0, :, :, strongest]
        show(axis, feature_map, f"a map of {layer}", **MAPS)
    for axis in row[:4]:  # A line in the middle of the canvas.
        axis.axvline(sum(axis.get_xlim()) / 2, color="white", lw=1, ls=":")
    row[4].bar(range(1, 17), outputs["max_pool"][0], color=BLUE)
    row[4].set(xlabel="map of pool2", ylabel="largest element")
    row[4].set_title("global max pooling", fontsize=10)
figure.suptitle(
    "The feature maps move with the digit; their largest elements stay the same"
)
plt.show()

# %% [markdown]
# The next table compares each output with its values before the shift, unit by unit. It
# shows the norm of the difference, divided by the norm of the response to the digit:
# the output minus that for a black canvas. The values are means over 100 digits. Two
# responses of equal norm that do not overlap differ by `sqrt(2)`, about 1.4. All maps
# change, because the features in them move. Only `max_pool`, the global pooling, stays
# the same if the shift is even: its elements are also the largest of `conv2`, whose
# units are 2 pixels apart.

# %%
sample = x_val[:100]
black = {k: np.array(v) for k, v in all_maps(place(0 * digit, CANVAS)).items()}
before = all_maps.predict(place(sample, CANVAS), verbose=0)
names = ["rescaling", *receptive_fields(on_canvas), "max_pool"]
print(f"{'shift':>9} {'image':>8}", *(f"{name:>8}" for name in names[1:]))
for right in (1, 2, 4, 8):
    after = all_maps.predict(place(sample, CANVAS, right), verbose=0)
    changes = []
    for name in names:
        change = (after[name] - before[name]).reshape(len(sample), -1)
        response = (before[name] - black[name]).reshape(len(sample), -1)
        relative = np.linalg.norm(change, axis=1) / np.linalg.norm(response, axis=1)
        changes.append(relative.mean())
    print(f"{right:6} px", *(f"{change:8.2f}" for change in changes))
    assert (changes[-1] < 0.005) == (right % 2 == 0)

# %% [markdown]
# Now three nets learn the training digits, each in the middle of a canvas of 40x40
# pixels: an MLP, LeNet-5, and the convolutions of LeNet-5 with global max pooling in
# place of the MLP. Then the validation digits move to the right. None of the nets has
# seen a shifted digit. On the canvas, no shift cuts off any ink.

# %%
SIZE = 40
shape = (SIZE, SIZE, 1)
convolutions = zoo.LeNet5(include_top=False, pooling="max", input_shape=shape)
nets = {
    "MLP": zoo.ShallowMLP(input_shape=shape),
    "LeNet-5": zoo.LeNet5(input_shape=shape),
    "convolutions, global max pooling": keras.Sequential(
        [convolutions, layers.Dense(10, activation="softmax")]
    ),
}
shifts = range(7)
accuracies = {}
print(f"{'validation accuracy, shifted by':33}", *(f"{s:4} px" for s in shifts))
for name, net in nets.items():
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(place(x_train, SIZE), y_train, batch_size=64, epochs=8, verbose=0)
    accuracies[name] = [
        net.evaluate(place(x_val, SIZE, s), y_val, batch_size=500, verbose=0)[1]
        for s in shifts
    ]
    print(f"{name:33}", *(f"{a:7.1%}" for a in accuracies[name]), flush=True)
pooled = accuracies["convolutions, global max pooling"]
assert np.isclose(pooled[2], pooled[0], atol=0.0015)  # at most one digit
assert np.ptp(pooled) < 0.03

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, values), color, marker in zip(
    accuracies.items(), (ORANGE, BLUE, GREEN), "os^", strict=True
):
    axes.plot(shifts, 100 * np.array(values), marker=marker, color=color, label=name)
axes.set(
    title="With global pooling, the accuracy hardly depends on the shift",
    xlabel="shift to the right in pixels",
    ylabel="validation accuracy in percent",
    ylim=(0, 100),
)
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# The MLP has learned a weight for each pixel, and these pixels now show something else.
# LeNet-5 has nearly the same feature maps as before, shifted, but the MLP at its end
# has learned where to expect them: pooling absorbs a small shift, not a large one. With
# global pooling, the place of a feature does not count at all. The price is that the
# arrangement of the features does not count either, and the accuracy on centered digits
# is lower. Shifts by an odd number of pixels change the output of this net a little:
# the units of `conv2` are 2 pixels apart, so an odd shift falls between two of them.
# Near the border, an even shift can change it, too: some windows to the right of the
# digit are missing. ConvNets with pooling are not exactly invariant to shifts ([Azulay
# and Weiss, 2019](https://jmlr.org/papers/v20/19-519.html)).
#
# ## Features for classical machine learning
#
# Before 2012, people usually designed the features of images by hand, and trained a
# linear classifier on them. *Histograms of oriented gradients* (HOG; [Dalal and Triggs,
# 2005](https://doi.org/10.1109/CVPR.2005.177)) are such features: in each cell of 4x4
# pixels, they add up the strength of the edges by direction, and normalize the sums
# over blocks of 2x2 cells. A ConvNet learns its features. Without its MLP, it computes
# them for scikit-learn, a library of classical methods.
#
# The same classifier, logistic regression, gets five kinds of features:
#
# - the raw pixels
# - HOG
# - the last maps of a LeNet-5 with random weights
# - those of `LeNet5(weights="fashion_mnist")`, trained on images of clothes
# - the last hidden layer of a LeNet-5 trained on the same images as the classifier:
#   unlike the last maps of the other two nets, it was trained for these classes
#
# `LeNet5(weights="mnist")` would be cheating: it was trained on MNIST's training
# images, from which all digits of this sample are taken, those for validation too. Each
# kind is divided by its standard deviation. The classifier also keeps the weights
# small, as weight decay does: this is called *regularization*, and it is strong if the
# argument `C` is small. scikit-learn multiplies the sum of the losses by `C`. So with
# `C = 40 / n`, the mean loss has the same factor for every number of images `n`.


# %%
def features_of(net, layer="pool2"):
    """Returns a function that computes the outputs of a layer as vectors."""
    outputs = zoo.features(net, [layer])
    return lambda images: outputs.predict(images, verbose=0)[layer].reshape(
        len(images), -1
    )


def compute_hog(images):
    cells = {"pixels_per_cell": (4, 4), "cells_per_block": (2, 2)}
    return np.stack(
        [hog(image[:, :, 0], **cells) for image in images.astype("float32")]
    )


def trained(images, labels, steps=500, batch_size=64):
    """Trains LeNet-5 for about the same number of steps, but at most 60 epochs."""
    net = zoo.LeNet5()
    net.compile("adam", "sparse_categorical_crossentropy")
    epochs = min(60, steps * batch_size // len(images))
    net.fit(images, labels, batch_size=batch_size, epochs=epochs, verbose=0)
    return net


EXTRACTORS = {
    "raw pixels": lambda images: images.reshape(len(images), -1).astype("float32"),
    "HOG": compute_hog,
    "random kernels": features_of(zoo.LeNet5()),
    "kernels learned on clothes": features_of(zoo.LeNet5(weights="fashion_mnist")),
}
computed = {name: (f(x_train), f(x_val)) for name, f in EXTRACTORS.items()}
OWN = "features learned on these digits"
sizes = (100, 400, 1000, 4000)
accuracies, counts = {name: [] for name in (*computed, OWN)}, {}
for n in sizes:
    own = features_of(trained(x_train[:n], y_train[:n]), "dense2")
    for name, (train, val) in {**computed, OWN: (own(x_train[:n]), own(x_val))}.items():
        counts[name] = train.shape[1]
        scale = train[:n].std()
        classifier = LogisticRegression(C=40 / n, tol=1e-3, max_iter=1000)
        with threadpool_limits(1):  # Threads slow down a problem as small as this.
            classifier.fit(train[:n] / scale, y_train[:n])
        accuracies[name].append(classifier.score(val / scale, y_val))

print(f"{'':37} accuracy with training images:")
print(f"{'features':32} {'number':>7}", *(f"{n:7,}" for n in sizes))
for name, values in accuracies.items():
    print(f"{name:32} {counts[name]:7,}", *(f"{value:7.1%}" for value in values))
deviation = np.sqrt(values[-1] * (1 - values[-1]) / len(y_val))
print(
    f"Standard error of the last accuracy, from {len(y_val):,} images: {deviation:.1%}"
)

table = {name: np.array(values) for name, values in accuracies.items()}
for name in set(table) - {"raw pixels"}:
    assert (table[name] > table["raw pixels"]).all()
lead = table["HOG"] - table[OWN]
print("lead of HOG over the learned features:", *(f"{value:.1%}" for value in lead))
assert lead[-1] < lead[0]

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
for (name, values), color, marker in zip(
    accuracies.items(), (BLACK, ORANGE, PURPLE, GREEN, BLUE), "osv^D", strict=True
):
    axes.plot(sizes, 100 * np.array(values), marker=marker, color=color, label=name)
axes.set(
    title="The features of a ConvNet are better than raw pixels",
    xlabel="training images (logarithmic)",
    ylabel="validation accuracy in percent",
    xscale="log",
    xticks=sizes,
    xticklabels=[f"{n:,}" for n in sizes],
)
axes.minorticks_off()
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# All features are better than raw pixels, even those of random kernels: windows, shared
# weights and pooling are knowledge about images, before any training ([Jarrett et al.,
# 2009](https://doi.org/10.1109/ICCV.2009.5459469)). Kernels that were learned on
# clothes are good for digits, too. HOG is hard to beat with few images, since its
# designers knew a lot about edges. The features learned on the digits themselves
# improve faster with more digits. They need no designer, and the same method learns
# features of clothes.
#
# More training images, and distorted copies of them, help further. The published
# weights were trained on all of MNIST. This is their accuracy on MNIST's 10,000 test
# images, as stored with the weights. They were not used for training, and the recipes
# were chosen on validation images. The images and the classifier are not those of the
# table, so compare the numbers with care. `zoo evaluate lenet5.mnist` downloads MNIST
# and measures it again.

# %%
for name in ("lenet5", "convnet"):
    card = zoo.get_weights(name, "mnist")
    print(f"{card.id}: {card.metrics['accuracy']:.2%}")

# %% [markdown]
# ## What comes next
#
# <a href="../play/index.html">Draw a digit</a>, and see how these networks read it.
# Then [find the layer that does not learn](../gradients.md) in a net of your own. The
# [results](../results/glorot2010.md) repeat experiments of the papers.
