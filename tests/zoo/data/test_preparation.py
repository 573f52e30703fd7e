"""Datasets of TFDS, from their official files to the decoded file."""

import dataclasses
import hashlib
import importlib.metadata
import os
import shutil
import socket
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds
from dataset_checks import equal, in_new_process, read_idx, sorted_hashes
from tiny_datasets import PREPARE_TINY_FLAGS, SEEDS, tiny_archive, tiny_images

from zoo.data import preparation
from zoo.data.catalog import DatasetInfo, DatasetUnavailableError, SourceFile
from zoo.data.datasets import (
    dataset_info,
    list_datasets,
    load_dataset,
    prepare_dataset,
)


def is_tiny(examples, seed, start, end):
    images = tiny_images(seed)[start:end]
    return sorted_hashes(*examples) == sorted_hashes(images, images[:, 0, 0, 0])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_and_labels_are_those_of_the_official_files(
    name, official_files, prepared_data_dir
):
    for split, prefix in ("train+validation", "train"), ("test", "t10k"):
        images, labels = load_dataset(
            name, split, as_="numpy", data_dir=prepared_data_dir
        )
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
    parts += [f"{file} is {damage}", "http://tiny.invalid/1/tiny.bin.gz"]
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
    process = in_new_process(
        PREPARE_TINY_FLAGS,
        source_dir / name,
        data_dir,
        TINY_HALF_WAY=str(half_way),
        TINY_PAUSE_SECONDS="600",
    )
    while not half_way.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert list(data_dir.rglob("*incomplete*"))
    (data_dir / name / ".unfinished-decoded").mkdir()

    assert name not in list_datasets(data_dir=data_dir)
    with pytest.raises(DatasetUnavailableError):
        load_dataset(name, data_dir=data_dir)
    prepare_dataset(name, source_dir=source_dir / name, data_dir=data_dir)
    assert list_datasets(data_dir=data_dir)[name]
    assert not list(data_dir.rglob("*incomplete*"))
    assert not list(data_dir.rglob(".unfinished-*"))


# Without fcntl, filelock falls back to a lock of its own, as on some systems.
@pytest.mark.parametrize("first_line", ["", 'sys.modules["fcntl"] = None'])
def test_two_processes_can_prepare_at_the_same_time(first_line, source_dir, tmp_path):
    data_dir, half_way = tmp_path / "data", tmp_path / "half-way"
    processes = [
        in_new_process(
            first_line + PREPARE_TINY_FLAGS,
            source_dir / "tiny_flags",
            data_dir,
            TINY_HALF_WAY=str(half_way),
            TINY_PAUSE_SECONDS="2",
        )
        for _ in range(2)
    ]
    for process in processes:
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


@pytest.mark.parametrize("left", [[], ["dataset_info.json", "features.json"]])
def test_an_incomplete_folder_of_tfds_does_not_count(left, tiny_flags, tmp_path):
    folder, whole = tiny_flags.with_suffix(""), tmp_path / "whole"
    tiny_flags.unlink()
    folder.rename(whole)
    folder.mkdir()
    for kept in left:
        shutil.copy(whole / kept, folder)
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


def test_a_download_that_fails_names_the_ways_out(monkeypatch, tmp_path, offline):
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


def test_without_tfds_the_message_says_what_to_install(tmp_path):
    program = """
sys.modules["tensorflow_datasets"] = None
from zoo.data.datasets import dataset_info
dataset_info("cifar10", data_dir=sys.argv[1])
"""
    process = in_new_process(program, tmp_path)
    _, errors = process.communicate(timeout=300)
    last_line = errors.strip().splitlines()[-1]
    assert "DatasetUnavailableError" in last_line
    assert "pip install tensorflow-datasets" in last_line
    assert "Received: name='cifar10'." in last_line


def test_the_package_that_tfds_forgets_to_require_is_required():
    required = importlib.metadata.requires("gradzoo")
    assert "importlib_resources" in [name.replace("-", "_") for name in required]


def test_other_datasets_describe_themselves(source_dir, tmp_path, monkeypatch):
    name, content = "tiny_sails", tiny_archive(2)
    info = dataset_info(name, data_dir=tmp_path)
    assert info == DatasetInfo(
        name=name,
        version="1.2.0",
        description="Small flags.",
        classes=("red", "green", "blue"),
        image_shape=(4, 5, 3),
        splits={},
        source="http://tiny.invalid",
        license="CC0",
        citation="Nobody: Tiny flags.",
        files=(
            SourceFile(
                "tiny.bin.gz",
                "http://tiny.invalid/2/tiny.bin.gz",
                len(content),
                hashlib.sha256(content).hexdigest(),
            ),
        ),
    )
    prepare_dataset(name, source_dir=source_dir / name, data_dir=tmp_path)
    # Prepared, it needs no TFDS any more.
    monkeypatch.setattr(preparation, "_open_builder", None)
    splits = {"train": 24, "validation": 6, "train+validation": 30, "test": 5}
    prepared = dataset_info(name, data_dir=tmp_path)
    assert prepared == dataclasses.replace(info, splits=splits)
    preparation._in_memory.clear()
    for split, size in splits.items():
        _, labels = load_dataset(name, split, as_="numpy", data_dir=tmp_path)
        assert len(labels) == size


def test_datasets_of_tfds_go_by_name(tmp_path):
    for name, classes, shape in [
        ("cifar10", 10, (32, 32, 3)),
        ("emnist/letters", 37, (28, 28, 1)),
    ]:
        info = dataset_info(name, data_dir=tmp_path)
        assert (len(info.classes), info.image_shape) == (classes, shape)
        assert info.files


# Images of any size, without labels, and texts.
@pytest.mark.parametrize("name", ["tf_flowers", "celeb_a", "imdb_reviews"])
def test_other_kinds_of_datasets_are_refused(name, tmp_path):
    with pytest.raises(
        ValueError, match=f"(?s)image classification.*Received: name='{name}"
    ):
        load_dataset(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MNIST", "mnist"), ("minst", "mnist"), ("fashion-mnist", "fashion_mnist")],
)
def test_a_wrong_name_is_answered_with_the_right_one(name, meant, tmp_path):
    expected = rf"Did you mean '{meant}'\? .*list_datasets.* Received: name='{name}'\.$"
    with pytest.raises(ValueError, match=expected):
        load_dataset(name, data_dir=tmp_path)
