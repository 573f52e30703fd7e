"""Callbacks for any Keras 3 model."""

from .gradients.gradient_norms import GradientNorms
from .resume.exact_resume import ExactResume
from .resume.shuffled_batches import ShuffledBatches

__all__ = ["ExactResume", "GradientNorms", "ShuffledBatches"]
