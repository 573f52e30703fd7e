"""Prepares datasets with `tensorflow-datasets` (TFDS), and decodes them into one file.

<data_dir>/mnist/3.0.1/       written by TFDS: compressed images, one by one
<data_dir>/mnist/3.0.1.npz    the same images in the same order, as NumPy arrays
"""

import contextlib
import dataclasses
import difflib
import importlib
import io
import json
import os
import re
import shutil
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.catalog import (
    DESCRIBED,
    SAMPLE,
    DatasetInfo,
    DatasetUnavailableError,
    PathLike,
    SourceFile,
    Splits,
)
from zoo.files import atomic_write, lock, sha256

NETWORK_TIMEOUT_SECONDS = 4.0
STORED_SPLITS = ("train", "validation", "test")

_in_memory: dict[Path, Splits] = {}


def load_splits(name: str, root: Path, source_dir: PathLike | None) -> Splits:
    """Prepares a dataset if necessary and returns its splits, which calls share."""
    file = decoded_file(name, root)
    if file not in _in_memory:
        stored = _read_decoded(file)
        _in_memory[file] = stored[1] if stored else _prepare(name, root, source_dir)
    return _in_memory[file]


def describe(name: str, root: Path) -> DatasetInfo:
    """Describes a dataset; TFDS is imported only if it has not been prepared."""
    if name in DESCRIBED:
        return DESCRIBED[name]
    if stored := _read_decoded(decoded_file(name, root), splits=()):
        return stored[0]
    return _describe_with_tfds(name, *_open_builder(name, root))


def decoded_file(name: str, root: Path) -> Path:
    """Returns the path `<root>/<name>/<version>.npz` of a dataset's decoded images."""
    if name in DESCRIBED:
        return root / name / f"{DESCRIBED[name].version}.npz"
    versions = [file.stem for file in (root / name).glob("*.*.*.npz")]
    numbers = [v.split(".") for v in versions if v.replace(".", "").isdigit()]
    if numbers:
        newest = max(numbers, key=lambda parts: [*map(int, parts)])
        return root / name / f"{'.'.join(newest)}.npz"
    return Path(f"{_open_builder(name, root)[1].data_path}.npz")


def _read_decoded(
    file: Path, splits: Sequence[str] = STORED_SPLITS
) -> tuple[DatasetInfo, Splits] | None:
    """Reads a decoded file. Returns `None` if it is missing or damaged."""
    try:
        # NumPy verifies the checksum of each array that is read.
        with file.open("rb") as stream, np.load(stream) as archive:
            fields = json.loads(str(archive["info"]))
            for name in ("classes", "image_shape"):
                fields[name] = tuple(fields[name])
            fields["files"] = tuple(SourceFile(**file) for file in fields["files"])
            info = DatasetInfo(**fields)
            return info, {
                split: (archive[f"{split}_images"], archive[f"{split}_labels"])
                for split in splits
                if split in info.splits
            }
    except FileNotFoundError:
        return None
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # Damaged bytes can cause any exception.
        warnings.warn(
            f"{file} is damaged and will be written again: {error}.", stacklevel=2
        )
        return None


def _prepare(name: str, root: Path, source_dir: PathLike | None) -> Splits:
    """Builds the dataset with TFDS if necessary, decodes it and writes the result."""
    file = decoded_file(name, root)
    built = file.with_suffix("")
    if not built.exists():
        # These checks run before TFDS is imported, so that errors appear at once.
        info = describe(name, root)
        if source_dir is None:
            _check_network(info, root)
        else:
            source_dir = Path(source_dir).expanduser().absolute()
            _check_files(info, source_dir)
    elif not os.access(file.parent, os.W_OK):
        return _decode(name, root)[1]
    file.parent.mkdir(parents=True, exist_ok=True)
    with lock(file.parent / ".lock"):
        if stored := _read_decoded(file):  # Written by another process meanwhile.
            return stored[1]
        for left_by_killed_process in file.parent.glob(".unfinished-*"):
            shutil.rmtree(left_by_killed_process)
        if not built.exists():
            _build(name, root, built, source_dir)
        info, splits = _decode(name, root)
        arrays: dict[str, Any] = {"info": json.dumps(dataclasses.asdict(info))}
        for split, examples in splits.items():
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = examples
        with atomic_write(file) as unfinished:
            np.savez(unfinished, **arrays)
    return splits


def _build(name: str, root: Path, target: Path, source_dir: PathLike | None) -> None:
    """Builds a dataset with TFDS in a temporary folder, then moves it into place."""
    # TFDS names extracted archives by their file names, which MNIST and Fashion-MNIST
    # share: each needs a folder of its own (tensorflow/datasets#2267).
    work_dir = target.parent / "incomplete"
    shutil.rmtree(work_dir, ignore_errors=True)  # Left by a killed process.
    tfds, builder = _open_builder(name, work_dir)
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
            raise _unavailable(describe(name, root), root, error) from error
        raise
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def _decode(name: str, root: Path) -> tuple[DatasetInfo, Splits]:
    """Decodes all images of a TFDS dataset, in the order in which TFDS stores them.

    If it has no validation split, the last sixth of its training images is split off.
    """
    tfds, builder = _open_builder(name, root)
    info = DESCRIBED.get(name) or _describe_with_tfds(name, tfds, builder)
    splits = {}
    try:
        for split in STORED_SPLITS:
            if split in builder.info.splits:
                dataset = builder.as_dataset(
                    split=split, batch_size=-1, shuffle_files=False, as_supervised=True
                )
                splits[split] = tfds.as_numpy(dataset)
        if "train" in splits and "validation" not in splits:
            images, labels = splits["train"]
            end = len(labels) - len(labels) // 6
            splits["train"] = images[:end], labels[:end]
            splits["validation"] = images[end:], labels[end:]
        sizes = {split: len(labels) for split, (_, labels) in splits.items()}
        if "train" in sizes:
            sizes["train+validation"] = sizes["train"] + sizes["validation"]
        if not sizes or (info.splits or sizes) != sizes:
            raise ValueError(f"it has the splits {sizes}")
    except Exception as error:
        raise DatasetUnavailableError(
            f"The folder of {name!r} written by TFDS is not complete ({error}). Delete "
            f"it and prepare the dataset again. Received: folder={builder.data_path!r}."
        ) from error
    return dataclasses.replace(info, splits=sizes), splits


def _open_builder(name: str, root: Path) -> tuple[Any, Any]:
    """Returns TFDS and the builder of a dataset; `ValueError` if it is unknown."""
    try:
        importlib.import_module("tensorflow")  # TFDS imports it later.
        # The package itself logs errors of its import instead of raising them.
        tfds = importlib.import_module("tensorflow_datasets.public_api")
    except Exception as error:
        raise DatasetUnavailableError(
            "The dataset must be prepared by tensorflow-datasets, which cannot be "
            f"imported ({error}). Run `pip install tensorflow-datasets`, or copy the "
            "file that zoo.prepare_dataset returns on another machine. "
            f"Received: name={name!r}."
        ) from error
    if name in DESCRIBED:
        version = DESCRIBED[name].version
        return tfds, tfds.builder(f"{name}:{version}", data_dir=root)
    names = [SAMPLE, *tfds.list_builders(with_community_datasets=False)]
    if re.split("[/:]", name)[0] not in names:
        close = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
        raise ValueError(
            "There is no dataset of this name. "
            + "".join(f"Did you mean {guess!r}? " for guess in close)
            + "zoo.list_datasets() lists the datasets at hand, tensorflow_datasets."
            f"list_builders() all that can be prepared. Received: name={name!r}."
        )
    return tfds, tfds.builder(name, data_dir=root)


def _describe_with_tfds(name: str, tfds: Any, builder: Any) -> DatasetInfo:
    """Describes a TFDS dataset; `ValueError` if `load_dataset` does not support it."""
    info = builder.info
    keys, features = info.supervised_keys or (), info.features
    image, label = (features[key] for key in keys) if len(keys) == 2 else (None, None)
    if (
        not isinstance(image, tfds.features.Image)
        or not isinstance(label, tfds.features.ClassLabel)
        or None in image.shape
        or image.np_dtype != np.uint8
    ):
        raise ValueError(
            "Only datasets for image classification with uint8 images of one size can "
            f"be loaded. Received: name={name!r}, which has supervised_keys={keys} and "
            f"features={features}."
        )
    files = tuple(
        SourceFile(file.filename or Path(url).name, url, int(file.size), file.checksum)
        for url, file in (builder.url_infos or {}).items()
    )
    return DatasetInfo(
        name=name,
        version=str(builder.version),
        description=info.description.strip(),
        classes=tuple(label.names),
        image_shape=image.shape,
        splits={},
        source=info.homepage,
        license=info.redistribution_info.license,
        citation=info.citation,
        files=files,
    )


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
    if not info.files:
        return
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
