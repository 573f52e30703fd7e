"""Tests that the state which a model holds beside its weights is resumed."""

import itertools
import os
import random
import types

import keras
import numpy as np
import pytest
from killed_runs import fit_small, fit_with_stops, small

BACKEND = keras.backend.backend()


class Drawing(keras.Sequential):
    """Draws from generators of all kinds in each train step."""

    def hold(self):
        seeds = [keras.random.SeedGenerator()]
        self.helper = types.SimpleNamespace(seeds=seeds, rng=np.random.default_rng(1))
        if BACKEND == "tensorflow":
            import tensorflow as tf

            self.native, self.count = tf.random.Generator.from_seed(4), tf.Variable(0)
        if BACKEND == "torch":
            import torch

            self.norm = torch.nn.BatchNorm1d(1)

    def draw(self):
        yield self.helper.rng.normal()
        for seed in (*self.helper.seeds, None):
            yield keras.random.normal((), seed=seed)
        if BACKEND == "tensorflow":
            yield from (self.native.normal(()), self.count.assign_add(1))
        if BACKEND == "torch":
            self.norm(keras.random.normal((2, 1)))
            yield self.norm.module.running_mean

    def train_step(self, *args):
        list(self.draw())
        return super().train_step(*args)


def test_states_that_are_no_weights_are_resumed(tmp_path):
    def run(folder, *extra):
        keras.utils.set_random_seed(0)
        first = keras.layers.Reshape((4, 2))
        rnn = keras.layers.SimpleRNN(3, stateful=BACKEND != "jax")
        dense = keras.layers.Dense(1)
        model = Drawing([keras.Input((8,), batch_size=4), first, rnn, dense])
        model.hold()
        model.compile("adam", "mse", run_eagerly=True)
        fit_small(folder, model, extra=extra, epochs=2, save_freq=np.int64(2))
        values = [*model.weights, *(rnn.states or ()), *model.draw()]
        return [keras.ops.convert_to_numpy(value).tobytes() for value in values]

    fit_with_stops(run, tmp_path, (6, 4))


def test_iterators_are_reported_before_training(tmp_path):
    model = small()
    model.helper = types.SimpleNamespace(ids={"x": itertools.count()})
    model.layers[0].random = random.Random()
    names = f"{model.name}.helper.ids.x', '{model.layers[0].name}.random"
    warning = pytest.warns(UserWarning, match=rf"attributes=\['{names}'\]")
    with warning, open(os.devnull) as model.log:  # Files are not reported.
        fit_small(tmp_path, model)
