"""The command line `zoo`."""

import os

# Threads of BLAS wait for each other on busy cores; images were read 8 times as slowly.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
