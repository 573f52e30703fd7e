"""Resumes an interrupted `fit`; the final weights are bit-identical."""
