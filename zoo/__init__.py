"""gradzoo: small readable Keras 3 models that ship weights and show gradients."""

import lazy_loader

# The names in __init__.pyi, each imported from its module at its first use: the command
# line answers `--help` without waiting for TensorFlow.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
