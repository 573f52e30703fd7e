"""Tests that the position of data is restored, or a warning says that it is not."""

import itertools

import keras
import numpy as np
import pytest
from killed_runs import fit_with_stops, small

from zoo.callbacks import ExactResume, ShuffledBatches

X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Batches(keras.utils.PyDataset):
    num_batches = 16

    def __getitem__(self, index):
        return X[index % 16 * 4 :][:4], Y[index % 16 * 4 :][:4]


class Endless(Batches):
    num_batches = None


class Changing(Batches):
    def on_epoch_end(self):
        pass


def dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y))


def shuffled(**settings):
    return dataset().shuffle(64, **settings).batch(4)


def noisy():
    tf = pytest.importorskip("tensorflow")
    return dataset().batch(4).map(lambda x, y: (x + tf.random.normal((8,)), y))


def unordered():
    return dataset().batch(4).map(lambda *xy: xy, 2, deterministic=False)


def loader():
    data = pytest.importorskip("torch.utils.data")
    return data.DataLoader(list(zip(X, Y, strict=True)), batch_size=4, shuffle=True)


def fit(folder, data, *extra, **settings):
    keras.utils.set_random_seed(0)
    model, callbacks = small(), [*extra, ExactResume(folder, save_freq=2)]
    model.fit(*data, verbose=0, callbacks=callbacks, **settings)
    return [weight.tolist() for weight in model.get_weights()]


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: (X, Y, 4),
        lambda: (Batches(),),
        lambda: (shuffled(seed=1, reshuffle_each_iteration=False),),
    ],
)
def test_finite_data(make, steps, tmp_path):
    def run(folder, *extra):
        settings = {"steps_per_epoch": steps, "epochs": 4, "shuffle": False}
        return fit(folder, make(), *extra, **settings)

    fit_with_stops(run, tmp_path, (5, 6))


@pytest.mark.parametrize(
    "make",
    [
        Endless,
        lambda: ShuffledBatches(X, Y, 4),
        lambda: shuffled(seed=1).repeat(),
        lambda: (Batches()[index] for index in itertools.count()),
    ],
)
def test_endless_data(make, tmp_path):
    def run(folder, *extra):
        settings = {"steps_per_epoch": 5, "epochs": 4, "shuffle": False}
        return fit(folder, [make()], *extra, **settings)

    fit_with_stops(run, tmp_path, (8, 7))


@pytest.mark.parametrize(
    ("make", "shuffle", "reason"),
    [
        (lambda: (X, Y), True, "shuffle=True"),
        (lambda: (Batches(),), True, "shuffle=True"),
        (lambda: (Batches(workers=2),), False, "workers"),
        (lambda: (Changing(),), False, "Changing.on_epoch_end"),
        (lambda: (shuffled(seed=1),), False, "Dataset.shuffle"),
        (lambda: (noisy(),), False, "RandomStandardNormal"),
        (lambda: (unordered(),), False, "deterministic=False"),
        (lambda: (loader(),), False, "RandomSampler"),
    ],
)
def test_random_data_are_reported_before_training(make, shuffle, reason, tmp_path):
    with pytest.warns(UserWarning, match=rf"Received: data=\['{reason}'\]"):
        fit(tmp_path, make(), shuffle=shuffle)
