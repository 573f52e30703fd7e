"""Resumes an interrupted `fit`; the final weights are bit-identical."""

from .exact_resume import ExactResume
from .shuffled_batches import ShuffledBatches

__all__ = ["ExactResume", "ShuffledBatches"]
