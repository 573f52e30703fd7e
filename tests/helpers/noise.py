"""Random images to call models with."""

import numpy as np


def images(n=4, shape=(28, 28, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype("uint8")
