"""Tests that replicas resume with the values that each of them held."""

import keras
import pytest
from killed_runs import StopAt, StoppedError, fit, results


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="uses a TensorFlow strategy"
)
def test_replicas_resume_with_their_own_values(tmp_path, strategy):
    """Metrics and the statistics of batch normalization differ between replicas."""
    # Keras' optimizers cannot overwrite weights by their average in a replica.
    settings = {"epochs": 2, "ema": None}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with strategy.scope():
        expected = results(whole, *fit(whole, **settings))
        for count in (5, 4):
            with pytest.raises(StoppedError):
                fit(stopped, extra=[StopAt(count)], **settings)
        received = results(stopped, *fit(stopped, **settings))
    assert received == expected
