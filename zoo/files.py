"""Atomic writes, locks and checksums."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import filelock


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary path; its file replaces `path` when the block ends.

    The file is flushed to disk first, so that `path` has either its old content or the
    new content. If the block raises an exception, `path` is unchanged. A killed process
    leaves a folder `.unfinished-*` beside `path`. A new folder, whose files the caller
    flushes, can be published in the same way.
    """
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        temporary = pathlib.Path(folder, path.name)
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, path)
    flush_to_disk(path.parent)


def lock(path: str | os.PathLike[str]) -> filelock.BaseFileLock:
    """Returns a lock, a context manager that only one process can hold at a time.

    The operating system releases the lock of a process that dies.
    """
    return filelock.FileLock(path)


def flush_to_disk(path: str | os.PathLike[str]) -> None:
    """Flushes a file, or the entries of a folder, to disk."""
    if os.name == "nt" and os.path.isdir(path):  # Windows cannot open folders.
        return
    # Windows only flushes files that are open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 checksum of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
