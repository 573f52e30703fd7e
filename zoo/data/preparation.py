"""Prepares datasets with `tensorflow-datasets` (TFDS), and decodes them into one file.

<data_dir>/mnist/3.0.1/       written by TFDS: compressed images, one by one
<data_dir>/mnist/3.0.1.npz    the same images in the same order, as NumPy arrays
"""

import contextlib
import importlib
import io
import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.catalog import SAMPLE, DatasetInfo, DatasetUnavailableError, Splits
from zoo.files import PathLike, atomic_write, expand, lock, sha256

NETWORK_TIMEOUT_SECONDS = 4.0

_in_memory: dict[Path, Splits] = {}


def load_splits(info: DatasetInfo, root: Path, source_dir: PathLike | None) -> Splits:
    """Prepares a dataset if necessary and returns its splits, shared between calls."""
    file = decoded_file(info, root)
    if file not in _in_memory:
        _in_memory[file] = _read_decoded(file) or _prepare(info, root, source_dir)
    return _in_memory[file]


def decoded_file(info: DatasetInfo, root: Path) -> Path:
    """Returns the path of the file with a dataset's decoded images."""
    return root / info.name / f"{info.version}.npz"


def _read_decoded(file: Path) -> Splits | None:
    """Reads a decoded file. Returns `None` if it is missing or damaged."""
    try:
        # NumPy verifies the checksum of each array that is read.
        with file.open("rb") as stream, np.load(stream) as archive:
            return {
                split: (archive[f"{split}_images"], archive[f"{split}_labels"])
                for split in ("train", "validation", "test")
            }
    except FileNotFoundError:
        return None
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # Damaged bytes can cause any exception.
        warnings.warn(
            f"{file} is damaged and will be rewritten: {error}.", stacklevel=2
        )
        return None


def _prepare(info: DatasetInfo, root: Path, source_dir: PathLike | None) -> Splits:
    """Builds the dataset with TFDS if necessary, decodes it and writes the result."""
    file = decoded_file(info, root)
    built = file.with_suffix("")
    if not built.exists():
        # These checks run before TFDS is imported, so that errors appear at once.
        if source_dir is None:
            _check_network(info, root)
        else:
            source_dir = expand(source_dir).absolute()
            _check_files(info, source_dir)
    elif not os.access(file.parent, os.W_OK):
        return _decode(info, root)
    file.parent.mkdir(parents=True, exist_ok=True)
    with lock(file.parent / ".lock"):
        if stored := _read_decoded(file):  # Written by another process meanwhile.
            return stored
        for left_by_killed_process in file.parent.glob(".unfinished-*"):
            shutil.rmtree(left_by_killed_process)
        if not built.exists():
            _build(info, root, source_dir)
        splits = _decode(info, root)
        arrays: dict[str, Any] = {}
        for split, (images, labels) in splits.items():
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        try:
            with atomic_write(file) as unfinished:
                np.savez(unfinished, **arrays)
        except OSError as error:
            warnings.warn(
                f"The images of {info.name!r} are loaded, but will be decoded again "
                f"next time: {file} cannot be written ({error}).",
                stacklevel=2,
            )
    return splits


def _build(info: DatasetInfo, root: Path, source_dir: PathLike | None) -> None:
    """Builds a dataset with TFDS in a temporary folder, then moves it into place."""
    target = decoded_file(info, root).with_suffix("")
    # TFDS names extracted archives after their files, and MNIST and Fashion-MNIST have
    # the same file names: each needs a folder of its own (tensorflow/datasets#2267).
    work_dir = target.parent / "incomplete"
    shutil.rmtree(work_dir, ignore_errors=True)  # Left by a killed process.
    tfds, builder = _open_builder(info, work_dir)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        # TFDS prints to the standard output, which belongs to the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                # Complete downloads are kept for another attempt.
                download_dir=root / "downloads",
                download_config=tfds.download.DownloadConfig(
                    manual_dir=source_dir,
                    extract_dir=work_dir / "extracted",
                    try_download_gcs=False,
                ),
            )
        Path(builder.data_path).rename(target)
    except Exception as error:
        if source_dir is None:
            raise _unavailable(info, root, error) from error
        raise DatasetUnavailableError(
            f"{info.name!r} cannot be prepared in {root}: {error}. "
            f"Received: source_dir={str(source_dir)!r}."
        ) from error
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def _decode(info: DatasetInfo, root: Path) -> Splits:
    """Decodes all images of a TFDS dataset, in the order in which TFDS stores them.

    The last training images become the validation split, which TFDS does not have.
    """
    tfds, builder = _open_builder(info, root)
    end = info.splits["train"]
    slices = {"train": f"train[:{end}]", "validation": f"train[{end}:]", "test": "test"}
    try:
        datasets = builder.as_dataset(
            split=slices, batch_size=-1, shuffle_files=False, as_supervised=True
        )
        splits: Splits = tfds.as_numpy(datasets)
        for split, (images, _) in splits.items():
            if len(images) != info.splits[split]:
                raise ValueError(f"the split {split!r} has {len(images)} images")
    except Exception as error:
        raise DatasetUnavailableError(
            f"The folder of {info.name!r} written by TFDS is not complete ({error}). "
            "Delete it and prepare the dataset again. "
            f"Received: folder={builder.data_path!r}."
        ) from error
    return splits


def _open_builder(info: DatasetInfo, root: Path) -> tuple[Any, Any]:
    """Returns TFDS and the builder of a dataset."""
    try:
        importlib.import_module("tensorflow")  # TFDS imports it later.
        # The package itself logs its import errors instead of raising them.
        tfds = importlib.import_module("tensorflow_datasets.public_api")
    except Exception as error:
        raise DatasetUnavailableError(
            "The dataset must be prepared by tensorflow-datasets, which cannot be "
            f"imported ({error}). Run `pip install tensorflow-datasets`, or copy the "
            "file that zoo.prepare_dataset wrote on another machine. "
            f"Received: name={info.name!r}."
        ) from error
    return tfds, tfds.builder(f"{info.name}:{info.version}", data_dir=root)


def _check_files(info: DatasetInfo, source_dir: Path) -> None:
    """Raises an error unless all official files exist and are intact."""
    for file in info.files:
        path = source_dir / file.name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing. {info.name!r} is prepared from these files:"
                f"{_listing(info)}\nReceived: source_dir={str(source_dir)!r}."
            )
        size, checksum = path.stat().st_size, sha256(path)
        if (size, checksum) != (file.size, file.sha256):
            raise ValueError(
                f"{path} is {'truncated' if size < file.size else 'altered'}. "
                f"Download it again from {file.url}. "
                f"Expected: {file.size} bytes, sha256 {file.sha256}. "
                f"Received: {size} bytes, sha256 {checksum}."
            )


def _check_network(info: DatasetInfo, root: Path) -> None:
    """Raises an error unless the server of the first official file answers in time.

    TFDS itself retries for minutes. The request runs in a thread, because the timeouts
    in Python do not limit the time of a DNS lookup.
    """
    request = urllib.request.Request(info.files[0].url, method="HEAD")
    failure: Any = f"no answer within {NETWORK_TIMEOUT_SECONDS:g} s"

    def ask() -> None:
        nonlocal failure
        try:
            # Any answer will do: the server can be reached.
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT_SECONDS).close()
            failure = None
        except Exception as error:
            failure = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT_SECONDS)
    if failure is not None:
        raise _unavailable(info, root, failure)


def _unavailable(info: DatasetInfo, root: Path, failure: object) -> OSError:
    """Returns an error that explains how to prepare the dataset without a network."""
    return DatasetUnavailableError(
        f"{info.name!r} is not prepared in {root} and cannot be downloaded: "
        f"{failure}.\nDownload these files on another machine and prepare the dataset "
        f"from their folder: zoo.prepare_dataset({info.name!r}, source_dir=FOLDER) or "
        f"`zoo datasets prepare {info.name} --from FOLDER`.{_listing(info)}\n"
        f"{SAMPLE!r} needs neither files nor network. Received: name={info.name!r}."
    )


def _listing(info: DatasetInfo) -> str:
    return "".join(
        f"\n  {file.name}  {file.size} bytes  sha256 {file.sha256}  {file.url}"
        for file in info.files
    )
