import errno
import fcntl
import os

import pytest

from zoo import files
from zoo.files import atomic_write, expand, flush_to_disk


class WindowsOs:
    """The module `os`, which opens no folders and flushes no read-only files."""

    name = "nt"

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, *arguments):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os.open(path, *arguments)

    def fsync(self, descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os.fsync(descriptor)


def test_a_file_is_replaced_or_keeps_its_content(tmp_path):
    path = tmp_path / "text"
    for content in ("first", "second"):
        with atomic_write(path) as temporary:
            temporary.write_text(content, "utf-8")
            assert not path.exists() or path.read_text("utf-8") == "first"
        assert path.read_text("utf-8") == content
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half", "utf-8")
        raise ZeroDivisionError
    assert path.read_text("utf-8") == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    path = tmp_path / "x"
    with pytest.raises(OSError, match=f"device: '{path}'$"), atomic_write(path):
        raise full
    for path in (tmp_path / "no" / "x", tmp_path):  # No folder, and a folder.
        with pytest.raises(OSError, match=f"'{path}'$"), atomic_write(path) as file:
            file.touch()
    assert list(tmp_path.iterdir()) == []


def test_paths_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/x.png") == tmp_path / "x.png"
    assert [str(expand(x)) for x in ("~x~.png", "a/~")] == ["~x~.png", "a/~"]


def test_the_content_is_on_disk_before_the_file_is_replaced(tmp_path, monkeypatch):
    path, events = tmp_path / "text", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append("flush") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *x: events.append("move") or replace(*x))
    with atomic_write(path) as temporary:
        temporary.touch()
    assert events == ["flush", "move", "flush"]


def test_files_are_written_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "os", WindowsOs())
    with atomic_write(tmp_path / "text") as temporary:
        temporary.write_text("content", "utf-8")
    assert (tmp_path / "text").read_text("utf-8") == "content"
    flush_to_disk(tmp_path)
