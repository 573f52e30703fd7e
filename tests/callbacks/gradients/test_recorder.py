"""Tests of what all recorders share."""

import numpy as np

from zoo.callbacks.gradients.record import Column, Layout, Record
from zoo.callbacks.gradients.recorder import Recorder


def test_consecutive_calls_of_a_layout_are_added_together(monkeypatch):
    columns = (Column("dense", "kernel", 2),)
    first, second = (Layout(name, columns, ((0,),), False) for name in "ab")
    record, added = Record(), []
    monkeypatch.setattr(Record, "add", lambda self, *calls: added.append(calls))
    norms = np.array([[1.0], [2.0], [-1.0], [3.0], [np.nan]])  # -1: no update
    layouts = [first, first, first, second, first]
    Recorder(record, 9, applied=True).keep(list(zip(layouts, norms, strict=True)))
    assert [calls[0] for calls in added] == [first, second, first]
    received = [calls[2][:, 0] for calls in added]
    np.testing.assert_equal(received, [[1, 2], [3], [np.nan]])
