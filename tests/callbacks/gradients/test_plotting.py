"""Tests of the picture of a record."""

import matplotlib.figure
import numpy as np
import pytest
from references import record_of

from zoo.callbacks.gradients.diagnosis import Diagnosis, diagnose
from zoo.callbacks.gradients.plotting import MOST_COLUMNS, plot


@pytest.mark.parametrize(
    ("layers", "verdict", "labels"), [(3, "healthy", 3), (100, "vanishing", 34)]
)
def test_the_picture_shows_every_layer_and_finding(layers, verdict, labels, tmp_path):
    noise = np.random.default_rng(0).uniform(0.5, 1, (32, layers))
    fall = 4.0 ** -np.arange(layers)[::-1] if verdict == "vanishing" else 1.0
    record = record_of(noise * fall)
    diagnosis = diagnose(record)
    assert diagnosis.verdict == verdict
    figure = plot(record, diagnosis)
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.savefig(tmp_path / "gradients.png")
    axes = figure.axes[0]
    assert axes.get_title(loc="left").endswith(verdict)
    texts = [label.get_text() for label in axes.get_yticklabels()]
    assert texts[0] == "dense1"
    assert len(texts) == labels
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == [str(n + 1) for n in range(len(diagnosis))]
    # The colors are log10 of the norms, with the input at the top.
    shown = np.ma.getdata(axes.collections[0].get_array())
    np.testing.assert_allclose(shown[-1], np.log10(noise[:, -1]))


def test_the_picture_of_a_long_run_keeps_a_single_bad_step():
    norms = np.ones((10 * MOST_COLUMNS, 1))
    norms[1234] = np.nan
    axes = plot(record_of(norms), Diagnosis()).axes[0]
    norms, bad = (mesh.get_array() for mesh in axes.collections)
    assert norms.shape == (1, MOST_COLUMNS)
    np.testing.assert_array_equal(np.flatnonzero(~np.ma.getmaskarray(bad)), [123])
