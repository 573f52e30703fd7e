"""Records built from NumPy arrays."""

import tracemalloc

import numpy as np
import pytest

from zoo.callbacks.gradients.outputs import to_dict
from zoo.callbacks.gradients.record import Column, Layout, Record, Weights
from zoo.callbacks.resume.checkpoint import CheckpointFolder

KERNEL, BIAS = Column("critic", "kernel", (2, 2)), Column("input", "bias", (2,))
CRITIC = Layout("critic", (KERNEL,), ((0, 0),), False)
BOTH = Layout("both", (KERNEL, BIAS), ((1, 0), (0, 0)), False)


@pytest.fixture
def record():
    """Ten turns of the calls critic, critic, both; the norm is the call's number."""
    record = Record()
    for start in range(0, 30, 3):
        steps = np.array([start, start + 1])
        record.add(CRITIC, steps, steps[:, None].astype(float))
        record.add(BOTH, np.array([start + 2]), np.full((1, 2), start + 2.0))
    return record


def test_calls_of_several_optimizers_come_in_their_order(record):
    table = record.variables()
    np.testing.assert_array_equal(table.steps, range(30))
    assert list(table.optimizers[:4]) == ["critic", "critic", "both", "critic"]
    assert table.names == ["input/bias", "critic/kernel"]
    np.testing.assert_array_equal(table.norms[:, 1], range(30))
    np.testing.assert_array_equal(table.present[:, 0], np.arange(30) % 3 == 2)
    assert np.isnan(table.norms[~table.present]).all()


def test_the_norm_of_a_layer_is_that_of_its_variables():
    columns = (KERNEL._replace(layer="a"), BIAS._replace(layer="a"), BIAS)
    layout = Layout("optimizer", columns, ((0, 0), (0, 1), (1, 0)), False)
    record = Record()
    record.add(layout, np.array([0]), np.array([[3.0, 4.0, 12.0]]))
    table = record.layers()
    assert table.names == ["a", "input"]
    np.testing.assert_allclose(table.norms, [[5, 12]])
    assert record.layers(kernels_only=True).names == ["a"]
    np.testing.assert_allclose(record.global_norm(), [13])


def test_the_calls_since_a_step_keep_all_columns(record):
    later = record.since(28)
    np.testing.assert_array_equal(later.variables().steps, [28, 29])
    assert later.variables().names == ["input/bias", "critic/kernel"]
    expected = record.global_norm()[17:]
    np.testing.assert_array_equal(record.since(17).global_norm(), expected)
    assert record.since(30).layers().norms.shape == (0, 2)


def test_the_latest_calls_are_read_without_a_copy_of_all():
    record, steps = Record(), np.arange(100_000)
    record.add(CRITIC, steps, steps[:, None].astype(float))
    tracemalloc.start()
    latest = record.since(99_990).layers()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(latest.steps) == list(range(99_990, 100_000))
    assert peak < 50_000


def test_a_record_survives_its_state(record, tmp_path):
    layers = "critic", "input"
    record.weights.append(
        Weights(0, layers, np.array([2.0, 0.5]), np.array([1.0, 2.0]))
    )
    CheckpointFolder(tmp_path).write(0, 0, record.get_state())
    restored = Record.from_state(CheckpointFolder(tmp_path).read_newest())
    assert restored.update_ratio() == {"input": [4.0], "critic": [0.5]}
    assert restored.weights[0].layers == layers
    assert restored.end == record.end == 30
    for pair in zip(restored.variables(), record.variables(), strict=True):
        np.testing.assert_array_equal(*pair)


def test_a_layer_whose_shape_changes_keeps_its_column(record):
    larger = KERNEL._replace(shape=(2, 5))
    record.add(Layout("critic", (larger,), ((1, 0),), False), [30], [[7.0]])
    table = record.variables()
    assert table.names == ["input/bias", "critic/kernel"]
    np.testing.assert_array_equal(table.norms[:, 1], [*range(30), 7])


def test_layers_may_have_the_names_of_columns():
    columns = Column("step", "kernel", (2, 2)), Column("global_norm", "kernel", (2, 2))
    record = Record()
    layout = Layout("optimizer", columns, ((0, 0), (1, 0)), False)
    record.add(layout, np.array([5]), np.array([[3.0, 4.0]]))
    values = {k: v[0] for k, v in to_dict(record, variables=False).items()}
    layers = {"layer/step": 3.0, "layer/global_norm": 4.0}
    assert values == {"step": 5, "optimizer": "optimizer", "global_norm": 5.0, **layers}
