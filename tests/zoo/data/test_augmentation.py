import numpy as np
import pytest

from zoo.data.augmentation import distort


def digits(n=64, shape=(28, 28, 1)):
    rng = np.random.default_rng(3)
    x = np.zeros((n, *shape), "uint8")
    x[:, 8:20, 8:20] = rng.integers(50, 256, (n, 12, 12, shape[-1]))
    return x


def test_without_amounts_nothing_changes():
    x = digits(shape=(28, 32, 3))
    result = distort(x, np.random.default_rng(0))
    assert result.dtype == "float32"
    np.testing.assert_allclose(result, x, atol=1e-3)


@pytest.mark.parametrize("name", ["rotation", "scale", "shear", "shift", "elastic"])
def test_each_distortion_changes_images_differently_but_reproducibly(name):
    amounts = {name: {"rotation": 15, "shift": 3, "elastic": 34}.get(name, 0.2)}
    x = np.repeat(digits(1), 16, axis=0)
    first = distort(x, np.random.default_rng(1), **amounts)
    again = distort(x, np.random.default_rng(1), **amounts)
    other = distort(x, np.random.default_rng(2), **amounts)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({image.tobytes() for image in first}) > 1
    assert first.min() >= 0
    assert first.max() <= 255.01
    # The object stays an object: most of its light is still there.
    light = first.sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert np.all((light > 0.5) & (light < 2))


def test_flip_mirrors_about_half_of_the_images():
    x = digits(400)
    result = np.rint(distort(x, np.random.default_rng(0), flip=True))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(result, x, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(result, x, strict=True)]
    assert sum(mirrored) + sum(kept) == 400
    assert 150 < sum(mirrored) < 250


def displacements(size=29, column=24, **amounts):
    """Returns by how many pixels a bright point in the middle row moves."""
    x, row = np.zeros((500, size, size, 1), "uint8"), size // 2
    x[:, row, column] = 255
    result = distort(x, np.random.default_rng(0), **amounts)[..., 0]
    result = result[result.sum((1, 2)) > 30]
    total = result.sum((1, 2))
    dy = (result.sum(2) * (np.arange(size) - row)).sum(1) / total
    dx = (result.sum(1) * (np.arange(size) - column)).sum(1) / total
    return dy, dx


def test_shift_stays_within_its_amount():
    for offsets in displacements(shift=2.0):
        assert -2.01 < offsets.min() < -1.8
        assert 1.8 < offsets.max() < 2.01


def test_rotation_turns_about_the_center_by_at_most_its_amount():
    dy, dx = displacements(rotation=30)
    np.testing.assert_allclose(np.hypot(dx + 10, dy), 10, atol=0.2)
    angles = np.rad2deg(np.arctan2(dy, dx + 10))
    assert -30.5 < angles.min() < -28
    assert 28 < angles.max() < 30.5


def test_elastic_field_has_simards_strength():
    """Uniform noise through a Gaussian of deviation s has deviation a/sqrt(12 pi) s."""
    dy, _ = displacements(size=57, column=28, elastic=34)
    expected = 34 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 4)
    assert np.std(dy) == pytest.approx(expected, rel=0.15)


def test_erasing_sets_one_rectangle_to_zero_in_a_share_of_the_images():
    x = np.full((2000, 28, 20, 1), 255, "uint8")
    erased = distort(x, np.random.default_rng(0), erase=0.5)[..., 0] == 0
    hit = erased.any((1, 2))
    assert 0.45 < hit.mean() < 0.55
    area = erased[hit].mean((1, 2))
    assert 0.01 < area.min() < 0.03
    assert 0.30 < area.max() < 0.36
    rows, columns = erased.any(2), erased.any(1)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None, :])
    for line in (rows[hit], columns[hit]):
        edges = np.abs(np.diff(line.astype(int), axis=1, prepend=0, append=0)).sum(1)
        np.testing.assert_array_equal(edges, 2)
