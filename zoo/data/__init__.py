"""Datasets, image files, and augmentation."""
