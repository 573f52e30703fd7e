"""gradzoo: small readable Keras 3 models that ship weights and show gradients."""

import sys
from typing import Any

import lazy_loader

# The names in __init__.pyi, each imported from its module on first use: the command
# line answers `--help` without waiting for TensorFlow.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Completion in terminals and notebooks evaluates every name that `dir` lists.
    caller = sys._getframe(1).f_globals.get("__name__", "")
    if caller.partition(".")[0] in ("jedi", "rlcompleter"):
        raise AttributeError(name)
    return _load(name)
