"""Recordings written by hand, of which only NumPy knows."""

import numpy as np
import pytest

from zoo.callbacks import recording as recording_module
from zoo.callbacks.recording import Column, Layout, Recording, Rows

KERNEL, BIAS = Column("critic", "kernel", 2), Column("input", "bias", 1)
CRITIC = Layout("critic", (KERNEL,), ((0, 0),), False)
BOTH = Layout("both", (KERNEL, BIAS), ((1, 0), (0, 0)), False)


def fill(recording):
    """Turns of three calls: critic, critic, both; the norm is the call's number."""
    for start in range(0, 30, 3):
        steps = np.array([start, start + 1])
        recording.add(Rows(CRITIC, steps, steps[:, None].astype(float)))
        recording.add(Rows(BOTH, np.array([start + 2]), np.full((1, 2), start + 2.0)))
    return recording


def test_calls_of_several_optimizers_come_in_their_order():
    table = fill(Recording()).variables()
    np.testing.assert_array_equal(table.steps, range(30))
    assert list(table.optimizers[:4]) == ["critic", "critic", "both", "critic"]
    assert table.names == ["input/bias", "critic/kernel"]
    np.testing.assert_array_equal(table.norms[:, 1], range(30))
    np.testing.assert_array_equal(table.present[:, 0], np.arange(30) % 3 == 2)


@pytest.mark.parametrize("in_memory", [0, 100])
def test_a_long_recording_moves_to_files_and_loses_nothing(in_memory, monkeypatch):
    expected = fill(Recording())
    monkeypatch.setattr(recording_module, "IN_MEMORY", in_memory)
    moved = fill(Recording())
    assert any(isinstance(rows.norms, np.memmap) for rows in moved._blocks)
    for name in ("variables", "layers"):
        for one, other in zip(
            getattr(expected, name)(), getattr(moved, name)(), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        moved.since(17).global_norm(), expected.global_norm()[17:]
    )
    assert moved.since(28).variables().names == ["input/bias", "critic/kernel"]


def test_a_full_disk_keeps_the_recording_in_memory(monkeypatch):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(recording_module, "IN_MEMORY", 100)
    monkeypatch.setattr(recording_module.tempfile, "TemporaryFile", full)
    recording = fill(Recording())
    np.testing.assert_array_equal(recording.variables().norms[:, 1], range(30))
