"""Training with recipes, evaluation and publishing."""

import lazy_loader

# `zoo.distributed` imports TensorFlow: it is loaded on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["distributed"])
