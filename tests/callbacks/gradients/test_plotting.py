"""Tests of the picture of a record."""

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.colors import to_hex
from references import record_of

from zoo.callbacks.gradients.diagnosis import Diagnosis, diagnose
from zoo.callbacks.gradients.plotting import MOST_COLUMNS, NON_FINITE, ZERO, plot
from zoo.callbacks.gradients.record import Column, Layout


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
    (mesh,) = axes.collections
    assert mesh.get_array().shape == (1, MOST_COLUMNS)
    colors = [to_hex(color) for color in mesh.to_rgba(mesh.get_array())[0]]
    assert [i for i, color in enumerate(colors) if color == NON_FINITE] == [123]


def test_zero_infinity_and_absence_have_colors_of_their_own():
    record = record_of(np.array([[1.0, 0.0], [2.0, 1.0]]))
    other = Layout("other", (Column("other", "kernel", 2),), ((9, 0),), False)
    record.add(other, np.array([2]), np.array([[np.inf]]))
    (mesh,) = plot(record, Diagnosis()).axes[0].collections
    colors = mesh.to_rgba(mesh.get_array())
    assert to_hex(colors[1, 0]) == to_hex(ZERO)
    assert to_hex(colors[2, 2]) == NON_FINITE
    absent = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(colors[..., 3] == 0, absent)
