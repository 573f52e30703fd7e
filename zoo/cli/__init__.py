"""The command line `zoo`."""

import os

# On busy cores, OpenBLAS threads wait for each other: images take 8 times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
