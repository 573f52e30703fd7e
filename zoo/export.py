"""Export of image classifiers as SavedModels that TF Serving loads as they are.

A version is a folder `base/<integer>`:

    saved_model.pb  variables/  fingerprint.pb    the graph, and the weights once
    assets.extra/                                 requests to warm up with
    labels.txt                                    the label of each class, one a line
    export.json                                   signatures, libraries, checksums

or, for other runtimes, `model.onnx`, `model.tflite`, or `model.xml` and `model.bin`
in place of the SavedModel. Everything from the pixels of a request to the label of its
answer is in the graph: who runs it needs neither Keras nor this package.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from zoo import runtimes, serving_files, signatures, warmup
from zoo.inspection import ends_in_softmax
from zoo.weights import published, read_layers

FORMATS = ("saved_model", *runtimes.FORMATS)

# What happens to an image before the model's own layers, as export.json tells.
PREPROCESSING = {
    "image": "raw pixels, as the model takes them",
    "image_bytes": f"PNG or JPEG of at most {signatures.MAX_IMAGE_PIXELS} pixels, "
    f"{signatures.MAX_IMAGE_SIDE} a side; turned as its Exif orientation says (JPEG), "
    "without its alpha channel, resized bilinearly with antialiasing, converted to the "
    "model's channels (grey is the luma of ITU-R BT.601), rounded to whole numbers in "
    "[0, 255]",
}


def export(
    model: keras.Model,
    base_path: str | os.PathLike[str],
    version: int | None = None,
    *,
    labels: Sequence[str] | None = None,
    format: str = "saved_model",
) -> pathlib.Path:
    """Publishes an image classifier as a numbered version for TF Serving.

    Each signature takes n images and returns `probabilities` (float32, `(n, classes)`),
    `class_id` (int64, `(n,)`) and `label` (string, `(n,)`):

    | signature         | input                                                       |
    |-------------------|-------------------------------------------------------------|
    | `serving_default` | `image`: float32 `(n, height, width, channels)`             |
    | `serving_uint8`   | `image`: the same as uint8                                  |
    | `serving_bytes`   | `image_bytes`: string `(n,)`, PNG or JPEG files of any size |
    | `classify`        | `inputs`: string `(n,)`, a serialized `tf.Example` each     |

    Pixels are raw: those that the model takes. `serving_bytes` turns a JPEG file as its
    Exif orientation says, drops an alpha channel, resizes bilinearly with antialiasing,
    converts to the model's channels (grey is the luma of ITU-R BT.601) and rounds to
    whole pixel values; a model whose input is no grey or colour image goes without it.
    `classify`, for the Classify API of TF Serving, takes such a file in the feature
    `image/encoded`, or, from models that go without, pixels in the float feature
    `image`; it returns `classes` (string) and `scores` (float32), `(n, classes)`, the
    best first. The model runs with `training=False`. Requests of another shape, and
    files of more than 16.8 million pixels or 16,384 a side, or 268 million pixels in a
    request (the limits are constants of `zoo.signatures`), are answered with an error,
    as are empty batches, NaN and infinity.

    The version appears whole or not at all: it is written under a hidden name, which
    TF Serving ignores, flushed to disk and renamed. Exports at the same time get
    different versions (locks and renames must work, which on some network file systems
    they do not). On a Keras backend other than TensorFlow, a second Python
    process with the TensorFlow backend writes it from the model's `.keras` file, for
    which layers of your own must be registered and importable. Beside the versions of
    SavedModels stand a `README.md`, with a request for each signature, and
    configuration for TF Serving, unless files of these names are there.

    Reference: [Configuring TF Serving](
    https://www.tensorflow.org/tfx/serving/serving_config)

    Args:
        model: Functional or `Sequential` model with one input, `(n, height, width,
            channels)`, `(n, height, width)` or `(n, features)`, and one output,
            `(n, classes)`. Its last activation tells whether the outputs are
            probabilities (softmax) or logits (linear), to which the graph then
            applies softmax.
        base_path: Local folder of the model's versions, made where there is none.
        version: Integer from 1. Default: the largest version there plus one.
        labels: One label per class. Default: `model.categories`, which models with a
            published head have, else `"0"`, `"1"`, ...
        format: `"saved_model"`; or `"onnx"`, `"litert"` or `"openvino"`, with the
            signature `serving_default` alone. These take `gradzoo[onnx]` and so on.

    Returns:
        The folder of the version, `base_path/<version>`.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: the model is no such classifier, `labels` are not one line per
            class, `version` is no positive integer, `format` is unknown, or
            `base_path` holds versions of another format or is one itself.
        FileExistsError: the version exists. It is never touched.
        ModuleNotFoundError: the format takes packages that are not installed.
        OSError: the folder cannot be written.
        RuntimeError: the second process failed, or what another runtime answers is not
            what TensorFlow does.

    Example:

    >>> folder = zoo.export(zoo.LeNet5(), "serving/lenet5")
    >>> images = np.zeros((2, 28, 28, 1), "uint8")
    >>> zoo.load_exported(folder).predict(images)["probabilities"].shape
    (2, 10)
    """
    _check_classifier(model)
    labels = _check_labels(model, labels)
    if format not in FORMATS:
        raise ValueError(
            f"`format` must be one of {', '.join(map(repr, FORMATS))}. "
            f"Received: format={format!r}"
        )
    runtimes.check_installed(format)
    base = _check_base(base_path, format)
    _check_version(version, base)
    with _unfinished_folder(base) as unfinished:
        if keras.config.backend() == "tensorflow":
            _write_version(model, unfinished, labels, format)
        else:
            _write_version_in_tensorflow_process(model, unfinished, labels, format)
        for path in [*unfinished.rglob("*"), unfinished]:
            _flush_to_disk(path)
        if format == "saved_model":
            described = _read_contract(unfinished)["signatures"]
            with _locked(base):
                serving_files.write_serving_files(base, described, labels)
        return _publish(unfinished, base, version)


class ExportedModel:
    """A version of an exported model, as `load_exported` returns it.

    Attributes:
        path: Folder of the version.
        labels: The label of each class.
    """

    def __init__(self, path: pathlib.Path, contract: dict[str, Any]) -> None:
        self.path = path
        self.labels = tuple(contract["labels"])
        self._inputs = {
            name: next(iter(signature["inputs"].items()))
            for name, signature in contract["signatures"].items()
        }
        if contract["format"] == "saved_model":
            self._run = _load_saved_model(path)
        else:
            run = runtimes.load(contract["format"], path)
            self._run = lambda name, inputs: run(inputs["image"])

    def predict(self, images: Any) -> dict[str, np.ndarray]:
        """Classifies a batch of images. To call the object does the same.

        Args:
            images: Array of n images as the model takes them, which goes to
                `serving_uint8` if it is uint8 and else, as float32, to
                `serving_default`; or a list of n PNG or JPEG files as `bytes`.

        Returns:
            `probabilities` (float32, `(n, classes)`), `class_id` (int64, `(n,)`) and
            `label` (str, `(n,)`).

        Raises:
            ValueError: the version does not take such images.
        """
        if isinstance(images, list | tuple) and images and isinstance(images[0], bytes):
            name, batch = "serving_bytes", np.array(images, object)
        else:
            name, batch = "serving_uint8", np.asarray(images)
            if name not in self._inputs or batch.dtype != np.uint8:
                name, batch = "serving_default", batch.astype(np.float32)
        if name not in self._inputs:
            raise ValueError(f"{self.path} has no signature for image files.")
        argument, spec = self._inputs[name]
        if (
            batch.ndim != len(spec["shape"])
            or list(batch.shape[1:]) != spec["shape"][1:]
        ):
            raise ValueError(
                f"`images` must have the shape {tuple(spec['shape'])}. "
                f"Received: shape {batch.shape}"
            )
        if len(batch) == 0:  # No graph takes it.
            answer = self.predict(np.zeros((1, *batch.shape[1:]), batch.dtype))
            return {output: array[:0] for output, array in answer.items()}
        answer = self._run(name, {argument: batch})
        answer["label"] = np.array(self.labels)[answer["class_id"]]
        return answer

    __call__ = predict


def _load_saved_model(path: pathlib.Path) -> Callable[..., dict[str, np.ndarray]]:
    """A function from the name of a signature and its inputs to its outputs."""
    import tensorflow as tf

    # The signatures alone do not keep the variables alive.
    saved_model = tf.saved_model.load(str(path))

    def run(name: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        tensors = {argument: tf.constant(value) for argument, value in inputs.items()}
        try:
            answer = saved_model.signatures[name](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(error.message) from error
        return {output: tensor.numpy() for output, tensor in answer.items()}

    return run


def load_exported(path: str | os.PathLike[str]) -> ExportedModel:
    """Loads an exported version, once every file has its checksum in `export.json`.

    Runs on TensorFlow, or on the runtime of the version's format, whatever the Keras
    backend.

    Args:
        path: Folder of a version, or the base folder, for its newest version.

    Returns:
        An `ExportedModel`; its `predict(images)` gives NumPy arrays.

    Raises:
        FileNotFoundError: there is no version that `zoo.export` wrote.
        ValueError: a file is altered or missing.
        ModuleNotFoundError: the runtime is not installed.

    Example:

    >>> folder = zoo.export(zoo.LeNet5(), "serving/lenet5")
    >>> model = zoo.load_exported(folder.parent)  # its newest version
    >>> model.predict(np.zeros((1, 28, 28, 1)))["class_id"].shape
    (1,)
    """
    folder = pathlib.Path(path)
    if not (folder / "export.json").exists() and (versions := _versions(folder)):
        folder = versions[max(versions)]
    contract = _read_contract(folder)
    for name, expected in contract["files"].items():
        file = folder / name
        received = _sha256(file) if file.is_file() else "no file"
        if received != expected:
            raise ValueError(
                f"{file} is not the file that was exported: export the model again. "
                f"Expected: sha256 {expected}. Received: {received}"
            )
    return ExportedModel(folder, contract)


def check_exported(path: str | os.PathLike[str]) -> pathlib.Path:
    """Finds out whether an exported version is fit to be served.

    Its files must be those that were exported and no others, it must load, and every
    request of its warm-up must be answered, as TF Serving demands when it loads it.
    Formats other than SavedModel have no warm-up.

    Args:
        path: As of `load_exported`.

    Returns:
        The folder of the version.

    Raises:
        FileNotFoundError: there is no version that `zoo.export` wrote.
        ModuleNotFoundError: the runtime of its format is not installed.
        ValueError: the version is not fit; the message says why.
    """
    model = load_exported(path)
    contract = _read_contract(model.path)
    known = {"export.json", *contract["files"]}
    if unknown := sorted(set(_files(model.path)) - known):
        raise ValueError(
            f"{model.path} holds files that were not exported: remove them. "
            f"Received: {', '.join(unknown)}"
        )
    if contract["format"] == "saved_model":
        for signature, inputs in warmup.read_warmup_requests(model.path):
            try:
                model._run(signature, inputs)
            except Exception as error:  # TensorFlow raises many kinds.
                raise ValueError(
                    f"{model.path} does not answer a warm-up request of the signature "
                    f"{signature!r}: export the model again. Received: {error}"
                ) from error
    return model.path


def _read_contract(folder: pathlib.Path) -> dict[str, Any]:
    """What `export.json` says of the version in `folder`."""
    path = folder / "export.json"
    if not path.is_file():
        raise FileNotFoundError(
            errno.ENOENT, "No version written by `zoo.export` here", str(folder)
        )
    try:
        contract: dict[str, Any] = json.loads(path.read_text("utf-8"))
        complete = (
            contract["format"] in FORMATS
            and isinstance(contract["labels"], list)
            and all(
                signature["inputs"]
                and all(tensor["shape"] for tensor in signature["inputs"].values())
                for signature in contract["signatures"].values()
            )
            and all(isinstance(x, str) for x in contract["files"].values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        complete = False
    if not complete:
        raise ValueError(f"{path} is altered: export the model again.")
    return contract


def _check_classifier(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}")
    # Subclassed models, and Sequential models that are not built, have neither.
    inputs = [tensor.shape for tensor in getattr(model, "inputs", None) or []]
    outputs = [tensor.shape for tensor in getattr(model, "outputs", None) or []]
    if not (
        len(inputs) == len(outputs) == 1
        and len(inputs[0]) in (2, 3, 4)
        and inputs[0][0] is None
        and None not in inputs[0][1:]
        and len(outputs[0]) == 2
        and (outputs[0][1] or 0) >= 2
    ):
        raise ValueError(
            "`zoo.export` takes image classifiers: functional or Sequential models "
            "with one input (None, height, width, channels), (None, height, width) or "
            "(None, features) and one output (None, classes), two classes or more. "
            f"Received: {model.name!r} with inputs {inputs} and outputs {outputs}"
        )
    if any(
        getattr(layer, "data_format", None) == "channels_first"
        for layer in model._flatten_layers()
    ):
        raise ValueError(
            "TensorFlow runs channels-first models only on some processors. Build the "
            "model again after `keras.config.set_image_data_format('channels_last')`, "
            "copy the weights (`new.set_weights(old.get_weights())`) and export that. "
            f"Received: {model.name!r}"
        )
    ends_in_softmax(model)


def _check_labels(model: keras.Model, labels: Sequence[str] | None) -> list[str]:
    classes = model.outputs[0].shape[1]
    if labels is None:
        labels = getattr(model, "categories", None)
    if labels is None:
        labels = [str(class_id) for class_id in range(classes)]
    if (
        isinstance(labels, str)
        or not isinstance(labels, Sequence)
        or len(labels) != classes
        or not all(isinstance(x, str) and x.splitlines() == [x] for x in labels)
    ):
        raise ValueError(
            f"`labels` must be a list of {classes} str of one line each, one for every "
            f"class of the model. Received: labels={labels!r}"
        )
    return list(labels)


def _check_base(base_path: str | os.PathLike[str], format: str) -> pathlib.Path:
    base = pathlib.Path(base_path)
    if "://" in os.fspath(base_path):
        raise ValueError(
            "`base_path` must be a local folder: export there and copy the version. "
            f"Received: base_path={base_path!r}"
        )
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(base))
    if any((base / name).exists() for name in ("saved_model.pb", "export.json")):
        raise ValueError(
            "`base_path` must be the folder that holds the versions, not a version. "
            f"Received: base_path={base_path!r}. Did you mean {str(base.parent)!r}?"
        )
    # TF Serving, for one, fails on a newest version that is no SavedModel.
    for folder in _versions(base).values():
        try:
            present = _read_contract(folder)["format"]
        except (FileNotFoundError, ValueError):  # Not ours, or damaged.
            continue
        if present != format:
            raise ValueError(
                "`base_path` must be a folder of its own for each format: "
                f"{folder} has the format {present!r}. Received: format={format!r}"
            )
    return base


def _check_version(version: int | None, base: pathlib.Path) -> None:
    if version is None:
        return
    # bool is an int. TF Serving reads the number into 64 bits.
    if type(version) is not int or not 1 <= version < 2**63:
        raise ValueError(
            "`version` must be an integer from 1, or None for the next one. "
            f"Received: version={version!r}"
        )
    if version in (versions := _versions(base)):
        raise FileExistsError(
            errno.EEXIST,
            "This version exists: choose another, or version=None for the next",
            str(versions[version]),
        )


def _versions(base: pathlib.Path) -> dict[int, pathlib.Path]:
    """What TF Serving takes for versions in `base`, by number."""
    if not base.is_dir():
        return {}
    return {
        int(path.name): path
        for path in base.iterdir()
        if path.name.isascii() and path.name.isdecimal()
    }


@contextlib.contextmanager
def _unfinished_folder(base: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a hidden folder in `base`, which does not survive unless it is renamed.

    A process holds a lock on the folder that it writes; what processes that were killed
    have left has none, and is removed.
    """
    unfinished = base / f".export-{uuid.uuid4().hex}"
    with contextlib.ExitStack() as stack:
        try:
            base.mkdir(parents=True, exist_ok=True)
            with _locked(base):
                for left in base.glob(".export-*"):
                    # One that is not ours to remove, or gone by now, is no obstacle.
                    with contextlib.suppress(OSError), _locked(left, wait=False):
                        shutil.rmtree(left)
                for left in base.glob(".serving-files-*"):  # Written under this lock.
                    shutil.rmtree(left, ignore_errors=True)
                unfinished.mkdir()
                stack.enter_context(_locked(unfinished))
        except OSError as error:
            raise OSError(
                error.errno, "Cannot write a version here", str(base)
            ) from error
        stack.callback(shutil.rmtree, unfinished, ignore_errors=True)
        yield unfinished


@contextlib.contextmanager
def _locked(folder: pathlib.Path, wait: bool = True) -> Iterator[None]:
    """Holds a lock on a folder, which the system releases if the process dies."""
    import fcntl  # Missing on Windows, where versions can still be loaded.

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _publish(
    unfinished: pathlib.Path, base: pathlib.Path, version: int | None
) -> pathlib.Path:
    """Gives a finished folder its number, in one step."""
    while True:
        _check_version(version, base)  # Another export may have taken it.
        target = base / str(version or max(_versions(base), default=0) + 1)
        try:
            os.rename(unfinished, target)
        except OSError as error:
            # Another export came first: a folder with files in it is never replaced.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            _flush_to_disk(base)
            return target


def _flush_to_disk(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: pathlib.Path) -> list[str]:
    """The files of a version, by their paths in it."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _write_version_in_tensorflow_process(
    model: keras.Model, folder: pathlib.Path, labels: Sequence[str], format: str
) -> None:
    script = (
        "import json, keras, pathlib, sys, zoo\n"
        "from zoo.export import _write_version\n"
        "model = keras.saving.load_model(sys.argv[1], compile=False)\n"
        "folder, labels = pathlib.Path(sys.argv[2]), json.load(sys.stdin)\n"
        "_write_version(model, folder, labels, sys.argv[3])\n"
    )
    # The accelerators' memory may be taken by this process, and tracing needs none.
    environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    with tempfile.TemporaryDirectory() as temporary:
        file = os.path.join(temporary, "model.keras")
        model.save(file)
        process = subprocess.run(
            [sys.executable, "-c", script, file, str(folder), format],
            input=json.dumps(labels),
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
    if process.returncode:
        raise RuntimeError(
            "The process that exports with the TensorFlow backend failed. To see why, "
            "save the model as a `.keras` file, then load and export it under "
            f"KERAS_BACKEND=tensorflow. Received:\n{process.stderr[-2000:]}"
        )


def _write_version(
    model: keras.Model, folder: pathlib.Path, labels: Sequence[str], format: str
) -> None:
    """Writes every file of a version, on the TensorFlow backend."""
    import tensorflow as tf

    import zoo

    if format == "saved_model":
        functions = signatures.signature_functions(model, labels)
        try:
            _write_saved_model(model, folder, functions)
            warmup.write_warmup_requests(folder, functions)
        except tf.errors.OpError as error:
            raise OSError(f"Cannot write a version here: {error.message}") from error
    else:
        functions = signatures.signature_functions(runtimes.in_float32(model), labels)
        functions = {"serving_default": functions["serving_default"]}
        runtimes.write(format, functions["serving_default"], folder)
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", "utf-8")
    described = {name: _describe(f) for name, f in sorted(functions.items())}
    if format == "openvino":  # It has no strings.
        del described["serving_default"]["outputs"]["label"]
    contract = {
        "model": model.name,
        "format": format,
        "labels": labels,
        "signatures": described,
        "preprocessing": {
            argument: PREPROCESSING[argument]
            for signature in described.values()
            for argument in signature["inputs"]
            if argument in PREPROCESSING
        },
        "weights": read_card(model),
        "libraries": {
            "gradzoo": zoo.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            **runtimes.versions(format),
        },
        "files": {name: _sha256(folder / name) for name in _files(folder)},
    }
    text = json.dumps(contract, indent=2, ensure_ascii=False) + "\n"
    (folder / "export.json").write_text(text, "utf-8")


def _write_saved_model(
    model: keras.Model, folder: pathlib.Path, functions: dict[str, Any]
) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf import fingerprint_pb2

    # `model.export` stores the weights twice, as the model's and as the graph's. This
    # module tracks them once, in an order that does not vary.
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    tf.saved_model.save(module, str(folder), functions)

    # A random identifier is all that differs between two exports of one model.
    path = folder / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    fingerprint.ClearField("uuid")
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _describe(function: Any) -> dict[str, Any]:
    """The inputs and outputs of a signature."""
    [spec], _ = function.structured_input_signature
    tensors = {"inputs": {spec.name: spec}, "outputs": function.structured_outputs}
    return {
        kind: {
            name: {"dtype": tensor.dtype.name, "shape": list(tensor.shape)}
            for name, tensor in sorted(by_name.items())
        }
        for kind, by_name in tensors.items()
    }


def read_card(model: keras.Model) -> dict[str, Any] | None:
    """The card of the published weights, if the model has them and has not changed."""
    held = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    parameters = sum(array.size for arrays in held.values() for array in arrays)
    for weights in published():
        if weights.parameters == parameters:
            saved = read_layers(weights.path)
            if saved.keys() == held.keys() and all(
                np.array_equal(mine, theirs)
                for name in saved
                for mine, theirs in zip(held[name], saved[name], strict=True)
            ):
                return dataclasses.asdict(weights)
    return None
