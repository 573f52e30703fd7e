"""Atomic writes, locks and checksums."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import filelock

PathLike = str | os.PathLike[str]

# A context manager that only one process can hold at a time, given the path of a file.
# The operating system releases the lock of a process that dies.
lock = filelock.FileLock


@contextlib.contextmanager
def atomic_write(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path; its file replaces `path` when the block ends.

    The file is flushed to disk first, so that `path` has either its old content or the
    new content. If the block raises an exception, `path` is unchanged. A killed process
    leaves a folder `.unfinished-*` beside `path`. A new folder can be published in the
    same way if the caller flushes its files. An `OSError` names `path`.
    """
    path = expand(path)
    try:
        with tempfile.TemporaryDirectory("", ".unfinished-", path.parent) as folder:
            temporary = pathlib.Path(folder, path.name)
            yield temporary
            flush_to_disk(temporary)
            os.replace(temporary, path)
        flush_to_disk(path.parent)
    except OSError as error:
        # A full disk names no file, and the temporary folder is gone.
        if error.errno and ".unfinished-" in str(error.filename or ".unfinished-"):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def expand(path: PathLike) -> pathlib.Path:
    """Returns a local path, with the home folder in place of a leading `~`."""
    if "://" in str(path):
        raise ValueError(
            "Paths must be local. Copy files to or from remote storage. "
            f"Received: {str(path)!r}."
        )
    return pathlib.Path(os.path.expanduser(path))


def read_bytes(file: PathLike | bytes) -> bytes:
    """Returns the content of a file, which is given as its path or as its bytes."""
    return file if isinstance(file, bytes) else expand(file).read_bytes()


def flush_to_disk(path: PathLike) -> None:
    """Flushes a file, or the entries of a folder, to disk."""
    if os.name == "nt" and os.path.isdir(path):  # Windows cannot open folders.
        return
    # Windows only flushes files that are open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: PathLike) -> str:
    """Returns the SHA-256 checksum of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
