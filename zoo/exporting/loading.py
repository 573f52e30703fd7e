"""Finds, loads and checks exported versions."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from zoo.errors import clean_message, holds_files, name_image, require, warn_if_scaled
from zoo.exporting import runtimes
from zoo.files import PathLike, expand, read_bytes, sha256

FORMATS = ("saved_model", *runtimes.FORMATS)


class ExportedModel:
    """A loaded version: its `path` and `labels`, and `predict`."""

    def __init__(self, path: pathlib.Path, contract: dict[str, Any]) -> None:
        self.path = path
        self.labels = tuple(contract["labels"])
        self._contract = contract
        self._run = _load(contract["format"], path)

    def predict(self, images: Any) -> dict[str, np.ndarray]:
        """Classifies images, with the arguments and results of `Client.predict`.

        Calling the object does the same.
        """
        signatures = self._contract["signatures"]
        if holds_files(images):
            name, batch = "serving_bytes", np.array([*map(read_bytes, images)], object)
        else:
            name, batch = "serving_default", np.asarray(images, np.float32)
            if self._contract.get("takes_raw_pixels"):
                warn_if_scaled(images)
        if name not in signatures:
            raise ValueError(
                f"{self.path} has no signature for image files. Pass arrays of pixels. "
                f"Received: images={type(images)}."
            )
        [(argument, spec)] = signatures[name]["inputs"].items()
        if list(batch.shape[1:]) != spec["shape"][1:]:
            raise ValueError(
                f"`images` must have the shape {tuple(spec['shape'])}. "
                f"Received: images.shape={batch.shape}."
            )
        if len(batch) == 0:  # The graph rejects an empty batch.
            answer = self.predict(np.zeros((1, *batch.shape[1:]), batch.dtype))
            return {output: array[:0] for output, array in answer.items()}
        if name == "serving_default" and not np.isfinite(batch).all():
            raise ValueError("`images` must be finite. Received: NaN or infinity.")
        try:
            answer = self._run(name, {argument: batch})
        except ValueError:
            if name != "serving_bytes":
                raise
            # Large images may have too many pixels together.
            answers = []
            for i in range(len(batch)):
                try:
                    answers.append(self._run(name, {argument: batch[i : i + 1]}))
                except ValueError as error:
                    raise ValueError(
                        f"{str(error).rstrip('.')}. Received: {name_image(images, i)}."
                    ) from error
            parts = {output: [x[output] for x in answers] for output in answers[0]}
            answer = {output: np.concatenate(part) for output, part in parts.items()}
        answer["label"] = np.array(self.labels)[answer["class_id"]]
        return answer

    __call__ = predict


def _load(format: str, path: pathlib.Path) -> Callable[..., dict[str, np.ndarray]]:
    """Returns a function of a signature's name and its inputs."""
    if format != "saved_model":
        run_default = runtimes.load(format, path)
        return lambda _, inputs: run_default(inputs["image"])
    require("tensorflow", "tensorflow", "The format 'saved_model'")
    import tensorflow as tf

    # The signatures alone do not keep the variables alive.
    saved_model = tf.saved_model.load(str(path))

    def run(name: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        tensors = {argument: tf.constant(value) for argument, value in inputs.items()}
        try:
            answer = saved_model.signatures[name](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(clean_message(error.message)) from error
        return {output: tensor.numpy() for output, tensor in answer.items()}

    return run


def load_exported(path: PathLike) -> ExportedModel:
    """Loads an exported version after verifying the checksums of its files.

    It runs on TensorFlow, or on the runtime of its format, with any Keras backend.

    Args:
        path: Path. Folder of a version, or the base folder for the newest version.

    Returns:
        An `ExportedModel`, whose `predict(images)` returns NumPy arrays.

    Raises:
        FileNotFoundError: If there is no version written by `zoo.export`.
        ValueError: If a file was altered or is missing.
        ModuleNotFoundError: If the runtime of the format is not installed.

    Example:

    >>> folder = zoo.export(zoo.LeNet5(), "serving/lenet5")
    >>> model = zoo.load_exported(folder.parent)  # The newest version.
    >>> model.predict(np.zeros((1, 28, 28, 1)))["class_id"].shape
    (1,)
    """
    folder = expand(path)
    if not (folder / "export.json").exists() and (versions := list_versions(folder)):
        folder = versions[max(versions)]
    contract = read_contract(folder)
    for name, expected in contract["files"].items():
        file = folder / name
        received = sha256(file) if file.is_file() else "no file"
        if received != expected:
            raise ValueError(
                f"{file} is not the file that was exported. Export the model again. "
                f"Expected: sha256={expected}. Received: sha256={received}."
            )
    return ExportedModel(folder, contract)


def check_exported(path: PathLike) -> pathlib.Path:
    """Checks that a version has only the exported files and passes its warm-up.

    Args:
        path: Path. Folder of a version, or the base folder for the newest version.

    Returns:
        The folder of the version.

    Raises:
        ValueError: If it cannot be served. Also raises the errors of `load_exported`.
    """
    model = load_exported(path)
    known = {"export.json", *model._contract["files"]}
    if unknown := sorted(set(list_files(model.path)) - known):
        raise ValueError(
            f"{model.path} has files that were not exported. Remove them. "
            f"Received: {', '.join(unknown)}."
        )
    if model._contract["format"] == "saved_model":
        require("tensorflow_serving", "tensorflow-serving-api", "The check")
        from zoo.exporting.warmup import read_warmup_requests

        signature = None
        try:
            for signature, inputs in read_warmup_requests(model.path):
                model._run(signature, inputs)
        except Exception as error:  # TensorFlow and protobuf raise many kinds.
            raise ValueError(
                f"{model.path} fails its warm-up requests. Export the model "
                f"again. Received: signature={signature!r}, {error}."
            ) from error
    return model.path


def read_contract(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the `export.json` of a version."""
    path = folder / "export.json"
    if not path.is_file():
        raise FileNotFoundError(
            "No version written by `zoo.export` was found. Pass the folder of a "
            f"version, or the folder of all versions. Received: path={str(folder)!r}."
        )
    try:
        contract: dict[str, Any] = json.loads(path.read_text("utf-8"))
        is_complete = contract.keys() >= {"labels", "signatures", "files"}
        if is_complete and contract["format"] in FORMATS:
            return contract
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(
        f"The file is damaged. Export the model again. Received: path={str(path)!r}."
    )


def list_versions(base: pathlib.Path) -> dict[int, pathlib.Path]:
    """Lists the versions in a folder by number, as TF Serving finds them."""
    if not base.is_dir():
        return {}
    numbered = (x for x in base.iterdir() if x.name.isascii() and x.name.isdecimal())
    return {int(path.name): path for path in numbered}


def list_files(folder: pathlib.Path) -> list[str]:
    """Lists the files of a version by their relative paths."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)
