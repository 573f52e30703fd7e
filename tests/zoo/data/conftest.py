import socket

import pytest
from tiny_datasets import DESCRIBED, SEEDS, tiny_archive

from zoo.data import catalog, preparation
from zoo.data.datasets import prepare_dataset


@pytest.fixture
def source_dir(tmp_path_factory, monkeypatch):
    """A folder for each tiny dataset, with its official file."""
    folder = tmp_path_factory.mktemp("source")
    for name, seed in SEEDS.items():
        monkeypatch.setitem(catalog.DESCRIBED, name, DESCRIBED[name])
        (folder / name).mkdir()
        (folder / name / "tiny.bin.gz").write_bytes(tiny_archive(seed))
    return folder


@pytest.fixture
def tiny_flags(source_dir, tmp_path):
    """The decoded file of `tiny_flags`, prepared in `tmp_path`."""
    source_dir = source_dir / "tiny_flags"
    file = prepare_dataset("tiny_flags", source_dir=source_dir, data_dir=tmp_path)
    preparation._in_memory.clear()
    return file


@pytest.fixture(autouse=True)
def nothing_in_memory(monkeypatch):
    """Lets every test begin like a new process."""
    monkeypatch.setattr(preparation, "_in_memory", {})


@pytest.fixture
def offline(monkeypatch):
    def no_address(*args, **kwargs):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
