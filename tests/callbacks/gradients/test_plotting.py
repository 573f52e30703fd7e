"""Tests of the picture of a record."""

import itertools

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.colors import to_hex
from references import record_of

from zoo.callbacks.gradients import plotting
from zoo.callbacks.gradients.diagnosis import diagnose
from zoo.callbacks.gradients.plotting import MOST_COLUMNS, plot, plot_profile
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
    figure = plot([record])
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.savefig(tmp_path / "gradients.png")
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == f"model: {verdict}"
    assert axes.get_ylabel() == "output ← layers → input"
    texts = [label.get_text() for label in axes.get_yticklabels()]
    assert texts[0] == "dense1"
    assert len(texts) == labels
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == [f"◂ {n + 1}" for n in range(len(diagnosis))]
    # The colors are log10 of the norms, with the input at the top.
    shown = np.ma.getdata(axes.collections[0].get_array())
    np.testing.assert_allclose(shown[-1], np.log10(noise[:, -1]))


def test_the_picture_of_a_long_run_keeps_a_single_bad_step():
    norms = np.ones((10 * MOST_COLUMNS, 1))
    norms[1234] = np.nan
    axes = plot([record_of(norms)]).axes[0]
    (mesh,) = axes.collections
    assert mesh.get_array().shape == (1, MOST_COLUMNS)
    colors = [to_hex(color) for color in mesh.to_rgba(mesh.get_array())[0]]
    assert colors.index(plotting.NON_FINITE) == 123
    assert colors.count(plotting.NON_FINITE) == 1


def test_zero_infinity_and_absence_have_colors_of_their_own():
    record = record_of(np.array([[1.0, 0.0], [2.0, 1.0]]))
    other = Layout("other", (Column("other", "kernel", (2, 2)),), ((9, 0),), False)
    record.add(other, np.array([2]), np.array([[np.inf]]))
    (mesh,) = plot([record]).axes[0].collections
    colors = mesh.to_rgba(mesh.get_array())
    assert to_hex(colors[1, 0]) == to_hex(plotting.ZERO)
    assert to_hex(colors[2, 2]) == plotting.NON_FINITE
    absent = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(colors[..., 3] == 0, absent)


def test_numbers_of_findings_cover_neither_labels_nor_each_other():
    norms = 4.0 ** -np.arange(100)[::-1] * np.ones((40, 1))
    norms[30:] = 1e9
    norms[:, [50, 52]] = 0
    figure = plot([record_of(norms)])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["◂ 1, 4", "◂ 2, 3"]
    boxes = [text.get_window_extent() for text in axes.texts + axes.get_yticklabels()]
    for box, other in itertools.combinations(boxes, 2):
        assert not box.overlaps(other)
    for line in axes.lines:  # The dots have a radius of 3 points.
        dot = line.get_window_extent().padded(3 * figure.dpi / 72)
        assert not any(map(dot.overlaps, boxes))


def test_the_good_steps_of_a_run_that_ended_in_nan_are_drawn():
    norms = np.ones((5020, 2))
    norms[20:] = 0, np.nan
    axes = plot([record_of(norms)]).axes[0]
    assert axes.get_xlim() == (0, 25)
    assert "not drawn: the last 4,995" in axes.get_xlabel()
    first, _, last = plot_profile(record_of(norms), None).axes[0].lines
    assert np.isfinite([first.get_ydata(), last.get_ydata()]).all()
    plot_profile(record_of(norms[20:]), None).draw_without_rendering()


def test_runs_share_a_scale_and_names_are_no_formulas():
    small, large = record_of(np.full((9, 1), 1e-9)), record_of(np.ones((9, 1)))
    large.model = r"$\a$" * 30
    figure = plot([small, large, small])
    figure.draw_without_rendering()
    panels = figure.axes[:3]
    assert {panel.collections[0].get_clim() for panel in panels} == {(-9, 0)}
    title = panels[1].get_title(loc="left")
    assert title.replace("\n", " ").endswith(r"$\a$: healthy")


def test_a_profile_shows_chosen_steps_or_medians():
    norms = 10.0 ** np.arange(3) * np.arange(1.0, 101)[:, None]
    norms[50, 1] = 0
    record = record_of(norms)
    axes = plot_profile(record, [0, 50]).axes[0]
    assert np.ptp(axes.get_ylim()) >= 3
    first, second = axes.lines
    np.testing.assert_allclose(first.get_ydata(), [0, 1, 2])
    np.testing.assert_array_equal(np.isnan(second.get_ydata()), [False, True, False])
    lines = plot_profile(record, None).axes[0].lines
    assert [line.get_label() for line in lines] == ["0", "45", "90"]
    np.testing.assert_allclose(lines[0].get_ydata(), np.log10([5.5, 55, 550]))
    for steps in ([], [3, 100], 0.5):
        with pytest.raises(ValueError, match=r"0 to 99\. Received: steps="):
            plot_profile(record, steps)
