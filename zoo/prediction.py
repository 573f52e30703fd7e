"""Batch prediction: the labels of any number of images, in one Parquet file.

The images of a run, in files and in arrays, are rows, which are numbered from 0. A run
takes its share of them in batches, which threads read ahead of the model, and keeps its
answers in a folder until they are complete:

    predictions.parquet.parts/
        run.json              what is predicted, and how: only the same run goes on here
        00000.parquet ...     the answers, 32,768 rows each
    predictions.parquet       all of them, at the end, when the folder is removed

Every file is written under another name, flushed and renamed, and so is whole.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import keras
import numpy as np
from PIL import Image

import zoo
from zoo.export import read_card
from zoo.images import PREPROCESSING, Batch, Inputs, list_inputs, read_batch
from zoo.inspection import ends_in_softmax

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_SIZE = 1024
ROWS_PER_PART = 32_768
UNFINISHED = ".unfinished"


@dataclasses.dataclass(frozen=True)
class PredictionReport:
    """What a run of `predict_files` gave.

    Attributes:
        path: the Parquet file.
        images: number of its rows.
        skipped: number of those whose image could not be read.
        seconds: wall time, in this process.
    """

    path: pathlib.Path
    images: int
    skipped: int
    seconds: float


def predict_files(
    model: keras.Model,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    shard: str = "1/1",
    batch_size: int = BATCH_SIZE,
    labels: Sequence[str] | None = None,
    invert: bool = False,
    on_skip: Callable[[str, str], None] = lambda name, error: None,
    verbose: Any = "auto",
) -> PredictionReport:
    """Predicts the labels of any number of images and writes them to a Parquet file.

    Only some batches are in memory at a time. Each image has a row, in the order of the
    paths: `file`; `index` (int64), its place in a `.npy` file, else null; `label`,
    `class_id` (int64) and `probability` (float32) of its most probable class;
    `probabilities`, a float32 of each class; and `error`, null unless the image could
    not be read, where label, class and probability are null and the probabilities NaN.
    The metadata of the schema hold, as JSON under `gradzoo`, what `run.json` does.

    The output appears whole or not at all. A run that was stopped, at whatever moment,
    goes on when it is called again with the same arguments, and ends with the output,
    to the byte, of one that was not.

    Args:
        model: functional or Sequential classifier with one input of a fixed shape and
            one output `[n, classes]`, probabilities or logits.
        paths: image files, PNG or JPEG, resized to the model's input; folders, whose
            PNG and JPEG files are taken at any depth, but for hidden ones, sorted;
            patterns as in `glob.glob(..., recursive=True)`, sorted; `.npy` files of raw
            pixels, `[n, *input shape]`, where an axis of one channel may be left out.
            A file that is named twice is predicted once.
        out: the file to write, `*.parquet`. It must not exist.
        shard: `"i/n"`, with i from 1 to n: predicts the i-th of n equal shares. The
            outputs of all n, one after the other, are that of `"1/1"`, to rounding.
        batch_size: images at once.
        labels: label of each class. Defaults to `model.categories`, which models with
            published weights have, else `"0"`, `"1"`, ...
        invert: whether images are dark on light, other than what the model takes.
        on_skip: called with file and reason of each image that could not be read, as
            they come. The file has them, too.
        verbose: 0 for silence; otherwise a terminal gets a progress bar.

    Returns:
        A `PredictionReport`.

    Raises:
        FileExistsError: `out` exists, or the folder beside it holds another run.
        FileNotFoundError: a path or pattern names nothing.
        ImportError: pyarrow is not installed.
        OSError: the output cannot be written; or another process is writing it.
        ValueError: an argument is wrong, or an array has another shape than the model's
            input.

    Example:

    >>> np.save("digits.npy", zoo.load_dataset("digits-sample", as_="numpy")[0])
    >>> model = zoo.LeNet5(weights="mnist")
    >>> report = zoo.predict_files(model, "digits.npy", "digits.parquet")
    >>> (report.images, report.skipped)
    (4000, 0)
    """
    started = time.perf_counter()
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError(
            "Parquet files need the package pyarrow: `pip install gradzoo[predict]`."
        )
    out = pathlib.Path(out)
    if out.suffix != ".parquet":
        raise ValueError(f"`out` must end in .parquet. Received: {out}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive. Received: {batch_size}")
    labels = _check_labels(model, labels)
    inputs = list_inputs(model, paths)
    start, stop = _shard_rows(shard, len(inputs))
    batch_size = min(batch_size, max(stop - start, 1))
    run = {
        "gradzoo": zoo.__version__,
        "model": model.name,
        "weights": _weights_id(model),
        "weights_sha256": _weights_sha256(model),
        "labels": labels,
        "preprocessing": PREPROCESSING,
        "invert": invert,
        "images": len(inputs),
        "images_sha256": inputs.sha256(),
        "shard": shard,
        "batch_size": batch_size,
    }
    schema = _schema(run)
    folder = out.with_name(out.name + ".parts")
    with _locked(folder):
        _begin_or_go_on(folder, out, run)
        if not out.exists():  # A run that was killed may have left only the folder.
            # A part is whole batches, which are then the same however often it stopped.
            part_batches = max(ROWS_PER_PART // batch_size, 1)
            part_rows = part_batches * batch_size
            count = math.ceil((stop - start) / part_rows)
            parts = [folder / f"{i:05}.parquet" for i in range(count)]
            done = sum(1 for _ in itertools.takewhile(pathlib.Path.exists, parts))
            first = min(start + done * part_rows, stop)
            batches = predict_rows(model, inputs, first, stop, batch_size, invert)
            with _progress(verbose, stop - start, first - start) as advance:
                for part in parts[done:]:
                    tables = []
                    for batch, outputs in itertools.islice(batches, part_batches):
                        tables.append(_table(batch, outputs, schema, labels))
                        skipped = 0
                        for i, error in enumerate(batch.errors):
                            if error is not None:
                                skipped += 1
                                on_skip(batch.name(i), error)
                        advance(len(batch.files), skipped)
                    _write(part, folder, schema, [tables])
            _write(out, folder, schema, ([_read(part)] for part in parts))
        shutil.rmtree(folder)
    return PredictionReport(
        path=out,
        images=stop - start,
        skipped=_count_errors(out),
        seconds=time.perf_counter() - started,
    )


def predict_rows(
    model: keras.Model,
    inputs: Inputs,
    start: int,
    stop: int,
    batch_size: int,
    invert: bool,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Predicts rows `start` to `stop`, while threads read the batches to come.

    Every batch has the same shape, so that the model is traced once.

    Yields:
        Each batch and its probabilities, float32 `[rows, classes]`; NaN where there is
        an error.
    """
    shape = model.input_shape[1:]
    is_softmax = ends_in_softmax(model)

    def read(first: int) -> Batch:
        last = min(first + batch_size, stop)
        return read_batch(inputs.between(first, last), shape, batch_size, invert)

    with warnings.catch_warnings():
        # An image of which Pillow warns is one that is refused.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for batch in _ahead(read, range(start, stop, batch_size)):
            outputs = model.predict_on_batch(batch.pixels)[: len(batch.files)]
            probabilities = np.array(outputs, np.float32)
            if not is_softmax:
                probabilities = _softmax(probabilities)
            for i in np.flatnonzero(~np.isfinite(probabilities).all(axis=1)):
                batch.errors[i] = batch.errors[i] or "The outputs are not finite"
            probabilities[[error is not None for error in batch.errors]] = np.nan
            yield batch, probabilities


def _ahead(
    function: Callable[[int], Batch], arguments: Iterable[int]
) -> Iterator[Batch]:
    """`map` in threads, which are as many batches ahead as there are threads."""
    threads = min(os.cpu_count() or 1, 8)
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    pending: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(function, argument))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _softmax(logits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # Infinities give NaN, which is told apart.
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _shard_rows(shard: str, rows: int) -> tuple[int, int]:
    """The first row of a share, and the first behind it."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    i, n = map(int, match.groups()) if match else (0, 0)
    if not 1 <= i <= n:
        raise ValueError(
            "`shard` is i/n with i from 1 to n: the shares of three are '1/3', '2/3' "
            f"and '3/3'. Received: {shard!r}"
        )
    return rows * (i - 1) // n, rows * i // n


def _check_labels(model: keras.Model, labels: Sequence[str] | None) -> list[str]:
    # Subclassed models, and Sequential models that are not built, have neither.
    ends = [getattr(model, name, None) or () for name in ("inputs", "outputs")]
    if [len(end) for end in ends] != [1, 1] or len(model.output_shape) != 2:
        raise ValueError(
            "`model` must be a functional or Sequential classifier, from one input to "
            f"one output [n, classes]. Received: {model.name!r}"
        )
    classes = model.output_shape[1]
    if labels is None:
        labels = getattr(model, "categories", None)
    labels = [str(i) for i in range(classes)] if labels is None else list(labels)
    if len(labels) != classes:
        raise ValueError(
            f"`labels` must name the {classes} classes of the model. Received: {labels}"
        )
    return labels


def _weights_id(model: keras.Model) -> str | None:
    """The id of the published weights, if the model has them."""
    card = read_card(model)
    return "{model}.{dataset}.v{version}".format(**card) if card else None


def _weights_sha256(model: keras.Model) -> str:
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder that no other process writes, until this one ends or dies."""
    import fcntl  # Missing on Windows, where images can still be predicted one by one.

    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"Another process writes here: {folder}") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if it is empty: who was refused leaves nothing
    finally:
        os.close(descriptor)


def _begin_or_go_on(
    folder: pathlib.Path, out: pathlib.Path, run: dict[str, Any]
) -> None:
    """Makes the folder one of this run, unless it or `out` belongs to another."""
    manifest = folder / "run.json"
    found = json.loads(manifest.read_text("utf-8")) if manifest.exists() else None
    if out.exists() and (found is None or not _holds(out, run)):
        raise FileExistsError(
            f"The output exists: move or delete it, or choose another. Received: {out}"
        )
    if found is None:
        if any(not path.name.endswith(UNFINISHED) for path in folder.iterdir()):
            raise FileExistsError(
                f"A run needs this folder, which holds something else: {folder}"
            )
        with _written_whole(manifest, folder) as stream:
            stream.write(json.dumps(run, indent=2).encode())
    elif found != run:
        differences = [
            f"{key} is {found.get(key)!r} there, {value!r} here"
            for key, value in run.items()
            if found.get(key) != value
        ]
        raise FileExistsError(
            f"{folder} holds parts of another run: {'; '.join(differences)}. Go on "
            "with the arguments of that run, delete it, or choose another output."
        )


@contextlib.contextmanager
def _written_whole(path: pathlib.Path, folder: pathlib.Path) -> Iterator[BinaryIO]:
    """A stream to `path`, which has all that is written to it, or does not exist."""
    unfinished = folder / (path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"Cannot write {path}: {error.strerror or error}. What is whole is kept: "
            "the same call goes on with it.",
        ) from error


def _schema(run: dict[str, Any]) -> "pa.Schema":
    import pyarrow as pa

    columns = {
        "file": pa.string(),
        "index": pa.int64(),
        "label": pa.string(),
        "class_id": pa.int64(),
        "probability": pa.float32(),
        "probabilities": pa.list_(pa.float32(), len(run["labels"])),
        "error": pa.string(),
    }
    return pa.schema(columns, metadata={"gradzoo": json.dumps(run)})


def _table(
    batch: Batch, probabilities: np.ndarray, schema: "pa.Schema", labels: list[str]
) -> "pa.Table":
    import pyarrow as pa

    failed = np.array([error is not None for error in batch.errors])
    class_ids = pa.array(probabilities.argmax(axis=1), pa.int64(), mask=failed)
    columns = {
        # Names that are not UTF-8 can be told apart, at least.
        "file": [f.encode("utf-8", "backslashreplace").decode() for f in batch.files],
        "index": batch.indices,
        "label": pa.array(labels, pa.string()).take(class_ids),
        "class_id": class_ids,
        "probability": pa.array(probabilities.max(axis=1), mask=failed),
        "probabilities": pa.FixedSizeListArray.from_arrays(
            pa.array(probabilities.ravel()), probabilities.shape[1]
        ),
        "error": batch.errors,
    }
    return pa.table(columns, schema=schema)


def _write(
    path: pathlib.Path,
    folder: pathlib.Path,
    schema: "pa.Schema",
    row_groups: Iterable[list["pa.Table"]],
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with (
        _written_whole(path, folder) as stream,
        # A dictionary of floats is larger than they are.
        parquet.ParquetWriter(
            stream, schema, use_dictionary=["file", "label", "error"]
        ) as writer,
    ):
        for tables in row_groups:
            writer.write_table(pa.concat_tables(tables))


def _read(path: pathlib.Path, columns: list[str] | None = None) -> "pa.Table":
    from pyarrow import parquet

    # Unlike `parquet.read_table`, it takes no columns from the names of folders.
    with parquet.ParquetFile(path) as file:
        return file.read(columns)


def _holds(out: pathlib.Path, run: dict[str, Any]) -> bool:
    """Whether a file is the output of a run."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(out).metadata or {}
    except pa.ArrowInvalid:
        return False
    return bool(metadata.get(b"gradzoo") == json.dumps(run).encode())


def _count_errors(out: pathlib.Path) -> int:
    errors = _read(out, ["error"])["error"]
    return len(errors) - int(errors.null_count)


@contextlib.contextmanager
def _progress(verbose: Any, total: int, done: int) -> Iterator[Callable[..., None]]:
    """A bar on a terminal; yields what to call with numbers of images, of skipped."""
    from rich import console, progress

    bar = progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]:,.0f} images/s"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[skipped]:,} skipped"),
        console=console.Console(stderr=True),
        disable=verbose == 0 or not sys.stderr.isatty(),
    )
    started = time.perf_counter()
    predicted = skipped = 0
    with bar:
        task = bar.add_task("", total=total, completed=done, rate=0.0, skipped=0)

        def advance(images: int, not_read: int) -> None:
            nonlocal predicted, skipped
            predicted += images
            skipped += not_read
            rate = predicted / (time.perf_counter() - started)
            bar.update(task, advance=images, rate=rate, skipped=skipped)

        yield advance
