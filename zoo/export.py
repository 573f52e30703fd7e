"""Export of image classifiers as SavedModels that TF Serving loads as they are.

A version is a folder `base/<integer>`:

    saved_model.pb  variables/  fingerprint.pb    the graph, and the weights once
    labels.txt                                    the label of each class, one a line
    export.json                                   signatures, libraries, checksums

Everything from the pixels of a request to the label of its answer is in the graph:
the server needs neither Keras nor this package.
"""

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
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from zoo.inspection import ends_in_softmax

# A PNG of some kilobytes can unpack to gigabytes: larger images are refused before
# they are decoded. This many pixels, 4096 x 4096, take 48 MiB in colour.
MAX_IMAGE_PIXELS = 2**24


def export(
    model: keras.Model,
    base_path: str | os.PathLike[str],
    version: int | None = None,
    *,
    labels: Sequence[str] | None = None,
) -> pathlib.Path:
    """Publishes an image classifier as a numbered version for TF Serving.

    Each signature takes n images and returns `probabilities` (float32, `(n, classes)`),
    `class_id` (int64, `(n,)`) and `label` (string, `(n,)`):

    | signature         | input                                                       |
    |-------------------|-------------------------------------------------------------|
    | `serving_default` | `image`: float32 `(n, height, width, channels)`             |
    | `serving_uint8`   | `image`: the same as uint8                                  |
    | `serving_bytes`   | `image_bytes`: string `(n,)`, PNG or JPEG files of any size |

    Pixels are raw: those that the model takes. `serving_bytes` converts a file to the
    model's channels (grey is the luma of ITU-R BT.601), resizes it bilinearly with
    antialiasing and rounds to whole pixel values; a model whose input is no grey or
    colour image goes without it. The model runs with `training=False`. Requests of
    another shape, and files of more than `MAX_IMAGE_PIXELS`, are answered with an
    error.

    The version appears whole or not at all: it is written under a hidden name, which
    TF Serving ignores, flushed to disk and renamed. Exports at the same time get
    different versions. On a Keras backend other than TensorFlow, a second Python
    process with the TensorFlow backend writes it from the model's `.keras` file.

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

    Returns:
        The folder of the version, `base_path/<version>`.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: the model is no such classifier, `labels` are not one line per
            class, `version` is no positive integer, or `base_path` holds no versions.
        FileExistsError: the version exists. It is never touched.
        OSError: the folder cannot be written.
        RuntimeError: the second process failed.

    Example:

    >>> folder = zoo.export(zoo.LeNet5(), "serving/lenet5")
    >>> images = np.zeros((2, 28, 28, 1), "uint8")
    >>> zoo.load_exported(folder).predict(images)["probabilities"].shape
    (2, 10)
    """
    _check_classifier(model)
    labels = _check_labels(model, labels)
    base = _check_base(base_path)
    _check_version(version)
    unfinished = base / f".export-{uuid.uuid4().hex}"
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise OSError(error.errno, "Cannot write a version here", str(base)) from error
    try:
        if keras.config.backend() == "tensorflow":
            _write_version(model, unfinished, labels)
        else:
            _write_version_in_tensorflow_process(model, unfinished, labels)
        for path in [*unfinished.rglob("*"), unfinished]:
            _flush_to_disk(path)
        return _publish(unfinished, base, version)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


class ExportedModel:
    """A version of an exported model, as `load_exported` returns it.

    Attributes:
        path: Folder of the version.
        labels: The label of each class.
    """

    def __init__(
        self, path: pathlib.Path, labels: tuple[str, ...], signatures: dict[str, Any]
    ) -> None:
        import tensorflow as tf

        self.path = path
        self.labels = labels
        self._signatures = signatures
        # The signatures alone do not keep the variables alive.
        self._saved_model = tf.saved_model.load(str(path))

    def predict(self, images: Any) -> dict[str, np.ndarray]:
        """Classifies a batch of images.

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
        import tensorflow as tf

        if isinstance(images, list) and images and isinstance(images[0], bytes):
            name, batch = "serving_bytes", tf.constant(images)
        elif (array := np.asarray(images)).dtype == np.uint8:
            name, batch = "serving_uint8", tf.constant(array)
        else:
            name, batch = "serving_default", tf.constant(array, tf.float32)
        if name not in self._signatures:
            raise ValueError(f"{self.path} has no signature for image files.")
        [(argument, spec)] = self._signatures[name]["inputs"].items()
        if not batch.shape.is_compatible_with(spec["shape"]):
            raise ValueError(
                f"`images` must have the shape {tuple(spec['shape'])}. "
                f"Received: shape {tuple(batch.shape)}"
            )
        answer = self._saved_model.signatures[name](**{argument: batch})
        arrays = {output: tensor.numpy() for output, tensor in answer.items()}
        arrays["label"] = np.array([label.decode() for label in arrays["label"]], str)
        return arrays


def load_exported(path: str | os.PathLike[str]) -> ExportedModel:
    """Loads an exported version, once every file has its checksum in `export.json`.

    Runs on TensorFlow alone, whatever the Keras backend.

    Args:
        path: Folder of a version, or the base folder, for its newest version.

    Returns:
        An `ExportedModel`; its `predict(images)` gives NumPy arrays.

    Raises:
        FileNotFoundError: there is no version that `zoo.export` wrote.
        ValueError: a file is altered or missing.
    """
    folder = pathlib.Path(path)
    if not (folder / "export.json").exists() and (versions := _versions(folder)):
        folder = versions[max(versions)]
    if not (folder / "export.json").is_file():
        raise FileNotFoundError(
            errno.ENOENT, "No version written by `zoo.export` here", str(folder)
        )
    try:
        contract = json.loads((folder / "export.json").read_text("utf-8"))
        checksums = contract["files"].items()
        labels, signatures = tuple(contract["labels"]), contract["signatures"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'export.json'} is altered: export the model again."
        ) from error
    for name, expected in checksums:
        file = folder / name
        received = _sha256(file) if file.is_file() else "no file"
        if received != expected:
            raise ValueError(
                f"{file} is not the file that was exported: export the model again. "
                f"Expected: sha256 {expected}. Received: {received}"
            )
    return ExportedModel(folder, labels, signatures)


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
        or not all(isinstance(x, str) and len(x.splitlines()) == 1 for x in labels)
    ):
        raise ValueError(
            f"`labels` must be a list of {classes} str of one line each, one for every "
            f"class of the model. Received: labels={labels!r}"
        )
    return list(labels)


def _check_base(base_path: str | os.PathLike[str]) -> pathlib.Path:
    base = pathlib.Path(base_path)
    if "://" in os.fspath(base_path):
        raise ValueError(
            "`base_path` must be a local folder: export there and copy the version. "
            f"Received: base_path={base_path!r}"
        )
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(base))
    if (base / "saved_model.pb").exists():
        raise ValueError(
            "`base_path` must be the folder that holds the versions, not a version. "
            f"Received: base_path={base_path!r}. Did you mean {str(base.parent)!r}?"
        )
    return base


def _check_version(version: int | None) -> None:
    # bool is an int. TF Serving reads the number into 64 bits.
    if version is not None and (type(version) is not int or not 1 <= version < 2**63):
        raise ValueError(
            "`version` must be an integer from 1, or None for the next one. "
            f"Received: version={version!r}"
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


def _publish(
    unfinished: pathlib.Path, base: pathlib.Path, version: int | None
) -> pathlib.Path:
    """Gives a finished folder its number, in one step."""
    while True:
        versions = _versions(base)
        number = version or max(versions, default=0) + 1
        if number in versions:
            raise FileExistsError(
                errno.EEXIST,
                "This version exists: choose another, or version=None for the next",
                str(versions[number]),
            )
        target = base / str(number)
        try:
            os.rename(unfinished, target)
        except OSError as error:
            # Another export took the number first: a folder with files in it is never
            # replaced.
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


def _write_version_in_tensorflow_process(
    model: keras.Model, folder: pathlib.Path, labels: Sequence[str]
) -> None:
    script = (
        "import json, keras, pathlib, sys, zoo\n"
        "from zoo.export import _write_version\n"
        "model = keras.saving.load_model(sys.argv[1], compile=False)\n"
        "_write_version(model, pathlib.Path(sys.argv[2]), json.loads(sys.argv[3]))\n"
    )
    # The accelerators' memory may be taken by this process, and tracing needs none.
    environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    with tempfile.TemporaryDirectory() as temporary:
        file = os.path.join(temporary, "model.keras")
        model.save(file)
        process = subprocess.run(
            [sys.executable, "-c", script, file, str(folder), json.dumps(labels)],
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
    model: keras.Model, folder: pathlib.Path, labels: Sequence[str]
) -> None:
    """Writes every file of a version, on the TensorFlow backend."""
    import tensorflow as tf

    import zoo

    signatures = _write_saved_model(model, folder, labels)
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", "utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contract = {
        "model": model.name,
        "labels": labels,
        "signatures": signatures,
        "libraries": {
            "gradzoo": zoo.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
        },
        "files": {path.relative_to(folder).as_posix(): _sha256(path) for path in files},
    }
    text = json.dumps(contract, indent=2, ensure_ascii=False) + "\n"
    (folder / "export.json").write_text(text, "utf-8")


def _write_saved_model(
    model: keras.Model, folder: pathlib.Path, labels: Sequence[str]
) -> dict[str, Any]:
    """Writes the SavedModel; returns the inputs and outputs of its signatures."""
    import tensorflow as tf
    from tensorflow.core.protobuf import fingerprint_pb2

    shape = tuple(model.inputs[0].shape[1:])
    is_softmax = ends_in_softmax(model)
    # The same layers; the model itself may take or return a dict.
    bare_model = keras.Model(model.inputs[0], model.outputs[0])
    inputs = {
        "serving_default": tf.TensorSpec((None, *shape), tf.float32, "image"),
        "serving_uint8": tf.TensorSpec((None, *shape), tf.uint8, "image"),
    }
    if len(shape) == 2 or shape[2:] in ((1,), (3,)):
        inputs["serving_bytes"] = tf.TensorSpec((None,), tf.string, "image_bytes")

    def answer(request: Any) -> dict[str, Any]:
        # TF Serving passes on any shape, and some kernels abort the process on a rank
        # that they do not expect.
        if request.dtype == tf.string:
            pixels = _decode_images(tf.ensure_shape(request, (None,)), shape)
        else:
            pixels = tf.cast(tf.ensure_shape(request, (None, *shape)), tf.float32)
        scores = tf.cast(bare_model(pixels, training=False), tf.float32)
        probabilities = scores if is_softmax else tf.nn.softmax(scores)
        class_id = tf.argmax(probabilities, axis=-1)
        label = tf.gather(tf.constant(labels), class_id)
        return {"probabilities": probabilities, "class_id": class_id, "label": label}

    def describe(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {"dtype": tensor.dtype.name, "shape": list(tensor.shape)}
            for name, tensor in tensors.items()
        }

    functions = {
        name: tf.function(answer, autograph=False).get_concrete_function(spec)
        for name, spec in inputs.items()
    }
    # `model.export` stores the weights twice, as the model's and as the graph's. This
    # module tracks them once, in an order that does not vary.
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    try:
        tf.saved_model.save(module, str(folder), functions)
    except tf.errors.OpError as error:
        raise OSError(f"Cannot write a version here: {error.message}") from error

    # A random identifier is all that differs between two exports of one model.
    path = folder / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    fingerprint.ClearField("uuid")
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))
    return {
        name: {
            "inputs": describe({inputs[name].name: inputs[name]}),
            "outputs": describe(function.structured_outputs),
        }
        for name, function in functions.items()
    }


def _decode_images(files: Any, shape: tuple[int, ...]) -> Any:
    """Graph that turns PNG and JPEG files into raw pixels.

    Args:
        files: string tensor `(n,)`.
        shape: `(height, width)`, `(height, width, 1)` or `(height, width, 3)`.

    Returns:
        float32 tensor `(n, *shape)` of whole numbers in [0, 255].
    """
    import tensorflow as tf

    def png_size(file: Any) -> Any:
        # Width and height open the IHDR chunk, as big-endian 32-bit integers.
        size = tf.io.decode_raw(tf.strings.substr(file, 16, 8), tf.int32, False)
        return tf.reverse(size, [0])

    def jpeg_size(file: Any) -> Any:
        return tf.io.extract_jpeg_shape(file)[:2]

    def decode(file: Any) -> Any:
        is_png = tf.strings.substr(file, 0, 16) == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
        is_jpeg = tf.strings.substr(file, 0, 3) == b"\xff\xd8\xff"
        known = tf.debugging.Assert(
            is_png | is_jpeg, ["image_bytes: neither a PNG nor a JPEG file"]
        )
        with tf.control_dependencies([known]):
            size = tf.cond(is_png, lambda: png_size(file), lambda: jpeg_size(file))
        size = tf.cast(size, tf.int64)
        small = tf.debugging.Assert(
            tf.reduce_all(size > 0) & (tf.reduce_prod(size) <= MAX_IMAGE_PIXELS),
            [f"image_bytes: more than {MAX_IMAGE_PIXELS} pixels; height, width:", size],
        )
        with tf.control_dependencies([small]):
            image = tf.io.decode_image(file, channels=3, expand_animations=False)
        image = tf.ensure_shape(image, [None, None, 3])
        image = tf.image.resize(image, shape[:2], antialias=True)
        if shape[2:] != (3,):
            # Integer weights keep grey pixels exactly as they are.
            image = tf.tensordot(image, [[299.0], [587.0], [114.0]], 1) / 1000
        return tf.reshape(tf.round(image), shape)

    return tf.map_fn(decode, files, fn_output_signature=tf.TensorSpec(shape))
