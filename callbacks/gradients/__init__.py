"""Records and diagnoses the gradient norm of every layer."""

from .gradient_norms import GradientNorms

__all__ = ["GradientNorms"]
