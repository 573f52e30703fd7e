"""A pytest plugin for Keras' own tests: `GradientNorms` takes part in every `fit`.

Without the variable `INJECT`, it only makes the files importable.
"""

import importlib.util
import inspect
import os
import sys
import types

import keras

from zoo.callbacks import GradientNorms

# Most files import the packages of all backends, for a few of their tests.
for name in ("jax", "torch", "grain"):
    if not importlib.util.find_spec(name):
        for module in (name, f"{name}.experimental", f"{name}.experimental.sparse"):
            sys.modules[module] = types.ModuleType(module)

Trainer = next(owner for owner in keras.Model.__mro__ if "fit" in vars(owner))
original = Trainer.fit
steps: list[int] = []  # recorded in each `fit`


def fit(*args, **kwargs):
    norms = GradientNorms()
    arguments = inspect.signature(original).bind(*args, **kwargs).arguments
    callbacks = keras.tree.flatten(arguments.pop("callbacks", None) or [])
    history = original(**arguments, callbacks=[*callbacks, norms])
    steps.append(len(norms.steps))
    return history


if "INJECT" in os.environ:
    Trainer.fit = fit


def pytest_terminal_summary(terminalreporter):
    recorded = sum(map(bool, steps))
    terminalreporter.write_line(f"{recorded} of {len(steps)} fits have been recorded")
