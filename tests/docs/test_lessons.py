"""The lessons run as scripts, and assert each of their formulas."""

import jupytext
import matplotlib.pyplot as plt
import pytest
from paths import ROOT, load_script

LESSONS = sorted((ROOT / "docs" / "lessons").glob("*.py"))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_lesson(lesson, tmp_path, monkeypatch):
    """It needs no display, no prepared dataset, and writes no file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # Lesson 4 would leave it set.
    load_script(lesson)
    plt.close("all")
    assert not list(tmp_path.iterdir())


def test_lessons_are_notebooks_in_order():
    assert LESSONS
    for number, lesson in enumerate(LESSONS, start=1):
        title, *cells = jupytext.read(lesson).cells
        assert lesson.stem.startswith(f"{number}_")
        assert title.cell_type == "markdown"
        assert title.source.startswith(f"# {number}. ")
        assert {cell.cell_type for cell in cells} == {"code", "markdown"}
