import numpy as np
import pytest

from zoo.callbacks import ShuffledBatches


def test_batches_depend_only_on_their_position():
    x, y = np.arange(1050 * 4).reshape(1050, 4), np.arange(1050)
    batches = ShuffledBatches(x, y, 100, seed=1)
    assert batches.steps_per_epoch == 10
    expected = [batches[i] for i in range(20)]
    for inputs, targets in expected:
        np.testing.assert_array_equal(inputs, x[targets])
    first, second = (
        np.concatenate([targets for _, targets in expected[start : start + 10]])
        for start in (0, 10)
    )
    assert len(set(first)) == len(set(second)) == 1000
    assert not np.array_equal(first, second)
    lists = ShuffledBatches(x.tolist(), y.tolist(), 100, seed=1)
    np.testing.assert_array_equal(lists[0][0], expected[0][0])
    batches.start_at(8)
    for index in (5, 0, 9):
        np.testing.assert_array_equal(batches[index][1], expected[8 + index][1])


def test_shards_are_the_parts_of_every_batch():
    x, y = np.arange(400).reshape(100, 4), np.arange(100)

    def add_noise(x, rng):
        return x + rng.normal(size=x.shape)

    whole = ShuffledBatches(x, y, 12, augment=add_noise)
    shards = [
        ShuffledBatches(x, y, 12, augment=add_noise, shard=(i, 3)) for i in range(3)
    ]
    for index in (0, 5, 11):
        for part in (0, 1):
            np.testing.assert_array_equal(
                np.concatenate([shard[index][part] for shard in shards]),
                whole[index][part],
            )


@pytest.mark.parametrize(
    ("n", "m", "batch_size", "shard"),
    [(3, 4, 32, (0, 1)), (0, 0, 32, (0, 1)), (9, 9, 0, (0, 1)), (9, 9, 9, (0, 2))],
)
def test_wrong_arguments(n, m, batch_size, shard):
    with pytest.raises(ValueError, match=rf"Received: .*batch_size={batch_size}\.$"):
        ShuffledBatches(np.ones((n, 1)), np.ones(m), batch_size, shard=shard)
