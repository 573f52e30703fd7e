"""Export of image classifiers as numbered versions, which TF Serving loads.

A version is a folder `base/<integer>`:

    saved_model.pb  variables/  fingerprint.pb    the graph and the weights
    assets.extra/                                 warm-up requests
    labels.txt                                    the label of each class, one per line
    export.json                                   signatures, libraries, checksums

Other formats have `model.onnx`, `model.tflite`, or `model.xml` and `model.bin` instead
of the SavedModel. Servers need neither Keras nor this package.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from zoo.errors import as_list, check_argument, is_size, quiet_tensorflow
from zoo.exporting import runtimes
from zoo.exporting.loading import FORMATS, list_versions, read_contract
from zoo.exporting.serving_files import write_serving_files
from zoo.files import PathLike, atomic_write, expand, flush_to_disk, lock
from zoo.models.inspection import ends_in_softmax
from zoo.models.inspection import features as find_features
from zoo.models.labels import find_data


def export(
    model: keras.Model,
    base_path: PathLike,
    version: int | None = None,
    *,
    labels: Sequence[str] | None = None,
    format: str = "saved_model",
    from_logits: bool | None = None,
    features: Sequence[str] = (),
) -> pathlib.Path:
    """Exports an image classifier as a numbered version for TF Serving.

    | signature         | input                                                       |
    |-------------------|-------------------------------------------------------------|
    | `serving_default` | `image`: float32 `(n, height, width, channels)`             |
    | `serving_uint8`   | `image`: the same as uint8                                  |
    | `serving_bytes`   | `image_bytes`: string `(n,)`, PNG or JPEG files of any size |
    | `classify`        | `inputs`: string `(n,)`, a serialized `tf.Example` each     |

    The first three return `probabilities` (float32, `(n, classes)`), `class_id` (int64,
    `(n,)`) and `label` (string, `(n,)`). `classify` reads a file from the feature
    `image/encoded`, and returns `classes` (string) and `scores` (float32), both `(n,
    classes)` and sorted by score. Files become pixels as in `zoo.read_images`. A model
    that does not take gray or color images has no `serving_bytes`, and its `classify`
    reads pixels from the float feature `image`. The graph rejects other shapes, empty
    batches, NaN, infinity and very large images (limits: `zoo.exporting.decoding`).

    Versions are published atomically, one export at a time. On backends other than
    TensorFlow, a second process writes the version, and custom layers must be
    registered and importable. With a SavedModel, `base_path` also gets a `README.md`
    with a request for each signature of the newest version, and a `compose.yaml`. Your
    own files of these names are kept.

    Args:
        model: `keras.Model`. Functional or Sequential model with one input, `(n,
            height, width, channels)`, `(n, height, width)` or `(n, features)`, and one
            output, `(n, classes)`, of probabilities (softmax) or logits.
        base_path: Path. Local folder of the model's versions, created if missing.
        version: Integer. Number from 1. Defaults to the largest existing one plus 1.
        labels: Sequence or array of strings. One label per class. Defaults to
            `model.categories`, which published weights and `zoo.train` set; without
            them, to `"0"`, `"1"`, ..., with a warning.
        format: String. `"saved_model"`, `"onnx"`, `"litert"` or `"openvino"`. The last
            three have only `serving_default` and need the extra of their name
            (`gradzoo[onnx]`). Defaults to `"saved_model"`.
        from_logits: Boolean. `True` if the outputs are logits, `False` if
            probabilities. Defaults to `None`: inferred from the last layers.
        features: Sequence of strings. Names of layers whose outputs the signatures
            return, too, under these names. Defaults to none.

    Returns:
        The folder of the version, `base_path/<version>`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not such a classifier, or another argument is invalid.
        FileExistsError: If the version exists.
        ModuleNotFoundError: If the packages of the format are not installed.
        OSError: If the folder cannot be written.
        RuntimeError: If the second process or the conversion to the format fails.

    Example:

    >>> folder = zoo.export(zoo.LeNet5(), "serving/lenet5")
    >>> images = np.zeros((2, 28, 28, 1), "uint8")
    >>> zoo.load_exported(folder).predict(images)["probabilities"].shape
    (2, 10)
    """
    _check_classifier(model)
    is_known = from_logits in (None, False, True)
    check_argument(is_known, "from_logits", from_logits, "True, False or None")
    is_softmax = ends_in_softmax(model) if from_logits is None else not from_logits
    categories, form = find_data(model)
    labels = _check_labels(model, categories if labels is None else labels)
    layers = _check_features(model, features)
    names = ", ".join(map(repr, FORMATS))
    check_argument(format in FORMATS, "format", format, f"one of {names}")
    runtimes.check_installed(format)
    base = _check_base(base_path, format)
    arguments = (labels, format, is_softmax, form, layers)
    _choose_target(version, base)  # Raises an error before `base` is made.
    base.mkdir(parents=True, exist_ok=True)
    with lock(base / ".lock"):
        target = _choose_target(version, base)  # Another export may have taken it.
        # Killed exports leave such folders.
        for folder in base.glob(".unfinished-*"):
            shutil.rmtree(folder, ignore_errors=True)
        with quiet_tensorflow(), atomic_write(target) as unfinished:
            unfinished.mkdir()
            if keras.config.backend() == "tensorflow":
                from zoo.exporting.writing import write_version

                write_version(model, unfinished, *arguments)
            else:
                _run_tensorflow_process(model, unfinished, *arguments)
            for path in unfinished.rglob("*"):
                flush_to_disk(path)
            is_newest = int(target.name) > max(list_versions(base), default=0)
            if format == "saved_model" and is_newest:
                write_serving_files(target, read_contract(unfinished))
    return target


def _check_classifier(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}.")
    # Subclassed models, and Sequential models that are not built, have neither.
    inputs = [tensor.shape for tensor in getattr(model, "inputs", None) or []]
    outputs = [tensor.shape for tensor in getattr(model, "outputs", None) or []]
    match inputs, outputs:
        case [(None, *shape)], [(_, int(classes))]:
            is_valid = len(shape) in (1, 2, 3) and None not in shape and classes >= 2
        case _:
            is_valid = False
    if not is_valid:
        raise ValueError(
            "`model` must be a functional or Sequential model with one input (None, "
            "height, width, channels), (None, height, width) or (None, features) and "
            "one output (None, classes) for two or more classes. Received: "
            f"model={model.name!r} with inputs {inputs} and outputs {outputs}."
        )
    if model.inputs[0].dtype == "string":
        raise ValueError(
            "`model` must take numbers. Export it without layers that read strings. "
            f"Received: model={model.name!r} with an input of strings."
        )
    data_formats = (getattr(x, "data_format", None) for x in model._flatten_layers())
    if "channels_first" in data_formats:
        raise ValueError(
            "TensorFlow runs channels-first models only on some processors. Build the "
            "model with `data_format='channels_last'`, copy the weights with "
            f"`set_weights`, and export that. Received: model={model.name!r}."
        )


def _check_labels(model: keras.Model, labels: Sequence[str] | None) -> list[str]:
    classes = model.outputs[0].shape[1]
    if labels is None:
        warnings.warn(
            "The model does not know the labels of its classes: they are exported as "
            "'0', '1', ... Pass `labels` or set `model.categories`; for image files, "
            "also set `model.normalization`.",
            stacklevel=3,
        )
        labels = list(map(str, range(classes)))
    names = as_list(labels)
    lines = [isinstance(x, str) and x.splitlines() == [x] for x in names]
    expected = f"a list of {classes} distinct one-line strings, one per class"
    is_valid = lines == [True] * classes and len(set(names)) == classes
    check_argument(is_valid, "labels", labels, expected)
    return names


def _check_features(model: keras.Model, features: Sequence[str]) -> list[str]:
    names = list(features)
    expected = "names of layers other than 'probabilities', 'class_id' and 'label'"
    is_free = not {"probabilities", "class_id", "label"} & set(names)
    check_argument(is_free, "features", features, expected)
    if names:
        find_features(model, names)  # Raises an error for an unknown name.
    return names


def _check_base(base_path: PathLike, format: str) -> pathlib.Path:
    base = expand(base_path)
    received = f"Received: base_path={str(base_path)!r}."
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(f"`base_path` must be a folder. {received}")
    if any((base / name).exists() for name in ("saved_model.pb", "export.json")):
        raise ValueError(
            "`base_path` must be the folder of the versions, not a version. "
            f"Did you mean {str(base.parent)!r}? {received}"
        )
    # TF Serving fails if the newest version is not a SavedModel.
    for folder in list_versions(base).values():
        try:
            present = read_contract(folder)["format"]
        except (FileNotFoundError, ValueError):  # Of another program, or damaged.
            continue
        if present != format:
            raise ValueError(
                f"{folder} has the format {present!r}. Choose another folder. "
                f"Received: format={format!r}."
            )
    return base


def _choose_target(version: int | None, base: pathlib.Path) -> pathlib.Path:
    taken = list_versions(base)
    if version is None:
        return base / str(max(taken, default=0) + 1)
    expected = "a positive integer, or None for the next one"
    check_argument(is_size(version), "version", version, expected)
    if version in taken:
        raise FileExistsError(
            f"The version already exists in {str(base)!r}. Choose another one, or "
            f"None for the next one. Received: version={version!r}."
        )
    return base / str(version)


def _run_tensorflow_process(
    model: keras.Model, folder: pathlib.Path, *arguments: Any
) -> None:
    """Calls `write_version` in a process with the TensorFlow backend."""
    # Tracing needs no accelerator, and this process may have taken its memory.
    environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    with tempfile.TemporaryDirectory() as temporary:
        file = os.path.join(temporary, "model.keras")
        model.save(file)
        process = subprocess.run(
            [sys.executable, "-m", "zoo.exporting.writing", file, folder],
            input=json.dumps(arguments),
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1:]
        raise RuntimeError(
            "The process that exports with the TensorFlow backend failed. To see the "
            "cause, save the model as a `.keras` file, and load and export it under "
            f"KERAS_BACKEND=tensorflow. Received: {reason}."
        )
