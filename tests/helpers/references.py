"""Gradients computed without the callback, and what else its tests share."""

import keras
import numpy as np

from zoo.callbacks.gradients.record import Column, Layout, Record

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def gradients(model, loss, x, y, training=False):
    """Returns the gradient of `loss(y, model(x))` for each trainable variable."""
    options = {"training": True} if training else {}
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(y, model(x, **options))
        taken = tape.gradient(value, [v.value for v in model.trainable_variables])
        taken = [tf.convert_to_tensor(gradient) for gradient in taken]
    elif keras.backend.backend() == "jax":
        import jax

        def of_weights(weights):
            state = [v.value for v in model.non_trainable_variables]
            outputs, _ = model.stateless_call(weights, state, x, **options)
            return loss(y, outputs)

        taken = jax.grad(of_weights)([v.value for v in model.trainable_variables])
    else:
        model.zero_grad()
        loss(keras.ops.convert_to_tensor(y), model(x, **options)).backward()
        taken = [v.value.grad for v in model.trainable_variables]
    return [keras.ops.convert_to_numpy(g).astype("float64") for g in taken]


def norms(model, optimizer, loss, batches, training=False):
    """Trains step by step; returns gradient norms of shape `(batches, variables)`."""
    rows = []
    for x, y in batches:
        taken = gradients(model, loss, x, y, training)
        rows.append([np.sqrt((gradient**2).sum()) for gradient in taken])
        as_tensors = [keras.ops.convert_to_tensor(g, "float32") for g in taken]
        optimizer.apply(as_tensors, model.trainable_variables)
    return np.array(rows)


def mse(y, outputs):
    return keras.ops.mean(keras.ops.square(outputs - y))


def regression():
    """Builds a model for the fixture `points`."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, "tanh", name="hidden")(inputs)
    outputs = keras.layers.Dense(1, dtype="float32", name="output")(hidden)
    return keras.Model(inputs, outputs)


def batches(data, size=8):
    x, y = data
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def alike(build):
    """Builds a model that has the same weights in each call."""
    keras.utils.set_random_seed(0)
    return build()


def fit(model, data, *callbacks, **kwargs):
    """Trains on the `batches` of the data, in their order."""
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(*data, callbacks=list(callbacks), **kwargs)


def record_of(norms, dynamic_scale=False):
    """Returns a record of norms, `(calls, layers)`, of dense1, dense2... and logits."""
    names = [f"dense{index}" for index in range(1, norms.shape[1])] + ["logits"]
    columns = tuple(Column(name, "kernel", (8, 8)) for name in names)
    positions = tuple((index, 0) for index in range(len(columns)))
    layout = Layout("optimizer", columns, positions, dynamic_scale)
    record = Record()
    record.add(layout, np.arange(len(norms)), norms)
    return record


def recorded(gradients):
    """Returns the norms in a `GradientNorms`, of shape `(steps, variables)`."""
    return np.stack(list(gradients.variables.values()), axis=1)


def read_events(folder):
    """Returns `{tag: [(step, value)]}` of the only TensorBoard file in a folder."""
    import tensorflow as tf

    events = {}
    (path,) = folder.rglob("*tfevents*")
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            entry = event.step, tf.make_ndarray(value.tensor)
            events.setdefault(value.tag, []).append(entry)
    return events
