"""Gradients written out by hand, to compare the callback with."""

import keras
import numpy as np


def gradients(model, loss, x, y, training=False):
    """The gradient of `loss(y, model(x))` for each trainable variable, as float64."""
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
    """Trains by hand; the norm of each variable's gradient, `[batches, variables]`."""
    rows = []
    for x, y in batches:
        taken = gradients(model, loss, x, y, training)
        rows.append([np.sqrt((gradient**2).sum()) for gradient in taken])
        as_tensors = [keras.ops.convert_to_tensor(g, "float32") for g in taken]
        optimizer.apply(as_tensors, model.trainable_variables)
    return np.array(rows)
