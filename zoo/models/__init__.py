"""The architectures, their registry, and their published weights."""
