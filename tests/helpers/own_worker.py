"""Trains a custom model on custom data: python own_worker.py FILE EXAMPLES [mirrored].

It trains on the workers of `TF_CONFIG`, in one process without it, or on two logical
devices of one process. Each process writes its results to FILE-INDEX.npz.
"""

import os
import sys

import keras
import numpy as np
import tensorflow as tf

import zoo
from zoo.callbacks import GradientNorms

if __name__ == "__main__":
    path, examples, *mirrored = sys.argv[1:]
    if mirrored:
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, two)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = zoo.distributed.strategy()
        assert zoo.distributed.strategy(timeout=5) is strategy
    with strategy.scope():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((8,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(int(examples), 8)).astype("float32")
    y = rng.integers(0, 3, len(x))
    norms, losses = GradientNorms(), []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
    )
    validation = {"validation_data": (x[:40], y[:40]), "validation_batch_size": 20}
    fit = {"epochs": 3, "shuffle": False, "callbacks": [norms, note], **validation}
    history = model.fit(x, y, batch_size=16, verbose=0, **fit)
    results = {f"weight {i}": value for i, value in enumerate(model.get_weights())}
    results |= history.history | {"losses of batches": losses}
    results |= {f"norm of {name}": row for name, row in norms.history.items()}
    results["evaluate"] = model.evaluate(x, y, batch_size=16, verbose=0)
    results["predict"] = model.predict(x, batch_size=16, verbose=0)
    _, index = zoo.distributed.read_cluster(os.environ) or ((), 0)
    np.savez(f"{path}-{index}.npz", **results)
