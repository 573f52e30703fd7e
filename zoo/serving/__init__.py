"""Client of TF Serving. Imports neither Keras nor TensorFlow."""

from zoo.serving.client import Client

__all__ = ["Client"]
