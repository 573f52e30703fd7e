"""Images for the served model, and the comparison of its answers."""

from typing import Any

import numpy as np
import tensorflow as tf
from exports import in_form

NOISE = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), "uint8")
PIXELS = in_form(NOISE, "mnist")
FILES = [tf.io.encode_png(image).numpy() for image in PIXELS]


def check_answer(
    answer: dict[str, Any], expected: dict[str, Any], rows: slice = slice(None)
) -> None:
    """Compares up to the last bits, which depend on the processor."""
    assert answer.keys() == expected.keys()
    np.testing.assert_allclose(
        answer["probabilities"], expected["probabilities"][rows], 0, 1e-6
    )
    np.testing.assert_array_equal(answer["class_id"], expected["class_id"][rows])
    np.testing.assert_array_equal(answer["label"], expected["label"][rows])
