"""Exported models for runtimes other than TensorFlow: ONNX, LiteRT and OpenVINO.

| format       | files                   | written by                | run by         |
|--------------|-------------------------|---------------------------|----------------|
| `"onnx"`     | `model.onnx`            | tf2onnx                   | ONNX Runtime   |
| `"litert"`   | `model.tflite`          | TensorFlow Lite converter | ai-edge-litert |
| `"openvino"` | `model.xml` `model.bin` | OpenVINO                  | OpenVINO       |

The graph is that of the signature `serving_default`, names and preprocessing included,
with float32 weights and any number of images: from `image` to `probabilities`,
`class_id` and `label`. OpenVINO cannot look strings up and goes without `label`; LiteRT
has no recurrent layers for any number of images.
"""

import importlib.metadata
import importlib.util
import pathlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras

FORMATS = ("onnx", "litert", "openvino")

# How far probabilities may be from TensorFlow's: a float32 rounds a sum of a thousand
# terms near 1 by some 1e-6, and each runtime adds in an order of its own.
TOLERANCE = 1e-5

Arrays = dict[str, NDArray[Any]]


def check_installed(format: str) -> None:
    """Makes sure that the packages are there that write and run a format.

    Args:
        format: One of `FORMATS`; others need no packages.

    Raises:
        ModuleNotFoundError: one is missing. The message says how to install it.
    """
    if format == "onnx":
        _require("tf2onnx", format)
    if format in FORMATS:
        _require(_RUNTIMES[format], format)


def versions(format: str) -> dict[str, str]:
    """Versions of the packages that write and run a format, by their names."""
    return {
        name: importlib.metadata.version(name) for name in _PACKAGES.get(format, ())
    }


def in_float32(model: "keras.Model") -> "keras.Model":
    """The model with every layer computing in float32.

    Other runtimes have no half precision on most processors, or round in other places
    than TensorFlow, so that what they answer could not be compared.

    Args:
        model: Functional or Sequential model that has been built.

    Returns:
        `model` itself if its layers compute in float32, else a copy, weights included.

    Example:

    >>> inputs = keras.Input((4,))
    >>> outputs = keras.layers.Dense(2, dtype="mixed_float16")(inputs)
    >>> in_float32(keras.Model(inputs, outputs)).output.dtype
    'float32'
    """
    import keras

    if all(layer.compute_dtype == "float32" for layer in model._flatten_layers()):
        return model

    def policy_to_float32(part: Any) -> str | None:
        is_policy = isinstance(part, dict) and part.get("class_name") == "DTypePolicy"
        return "float32" if is_policy else None

    config = keras.tree.traverse(policy_to_float32, model.get_config())
    copy: keras.Model = type(model).from_config(config)
    copy.set_weights(model.get_weights())
    return copy


def write(format: str, function: Any, folder: pathlib.Path) -> None:
    """Writes the files of a format and compares what they answer with TensorFlow.

    The same function gives the same bytes, unless it has loops (recurrent layers).

    Args:
        format: One of `FORMATS`.
        function: TensorFlow's concrete function of the signature `serving_default`,
            which computes in float32.
        folder: Folder that exists.

    Raises:
        ModuleNotFoundError: the format takes packages that are not installed.
        RuntimeError: the model cannot be converted; or, on random images,
            probabilities differ by more than `TOLERANCE`, or classes or labels differ.
    """
    check_installed(format)
    try:
        _WRITERS[format](function, folder)
        answer = load(format, folder)
    except OSError:
        raise
    except Exception as error:  # Converters and runtimes have kinds of their own.
        raise RuntimeError(
            f"The model cannot be converted to the format {format!r}. "
            f"Received: {str(error)[-500:]}"
        ) from error
    _check_parity(format, function, answer)


def load(format: str, folder: pathlib.Path) -> Callable[[NDArray[Any]], Arrays]:
    """Loads what `write` has written. This takes neither TensorFlow nor Keras.

    Args:
        format: One of `FORMATS`.
        folder: Folder of the version.

    Returns:
        A function, for any number of threads, from images `(n, height, width,
        channels)` to `probabilities` (float32, `(n, classes)`), `class_id` (int64,
        `(n,)`) and, but for OpenVINO, `label` (str, `(n,)`).

    Raises:
        ModuleNotFoundError: the runtime is not installed.
    """
    _require(_RUNTIMES[format], format)
    run = _LOADERS[format](folder)
    # LiteRT and OpenVINO run one batch at a time.
    lock = threading.Lock()

    def answer(images: NDArray[Any]) -> Arrays:
        if len(images) == 0:
            # LiteRT fails on an empty batch, and OpenVINO answers the one before.
            one = answer(np.zeros((1, *images.shape[1:])))
            return {name: array[:0] for name, array in one.items()}
        with lock:
            arrays = run(np.ascontiguousarray(images, np.float32))
        if "label" in arrays:
            arrays["label"] = _as_str(arrays["label"])
        return arrays

    return answer


def _require(package: str, format: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"format={format!r} needs {package}: pip install 'gradzoo[{format}]'",
            name=package,
        )


def _as_str(labels: Iterable[bytes | str]) -> NDArray[np.str_]:
    """Labels as TensorFlow and LiteRT return them, in UTF-8, or ONNX Runtime does."""
    decoded = [x.decode() if isinstance(x, bytes) else x for x in labels]
    return np.array(decoded, np.str_)


def _check_parity(
    format: str, function: Any, answer: Callable[[NDArray[Any]], Arrays]
) -> None:
    import tensorflow as tf

    [spec], _ = function.structured_input_signature
    # From a black image to noise of full contrast.
    contrast = np.linspace(0, 1, 16).reshape(-1, *[1] * (len(spec.shape) - 1))
    noise = np.random.default_rng(0).integers(0, 256, (16, *spec.shape[1:]))
    images = (contrast * noise).round().astype(np.float32)
    expected = {name: x.numpy() for name, x in function(tf.constant(images)).items()}
    expected["label"] = _as_str(expected["label"])
    received = answer(images)

    difference = np.abs(received["probabilities"] - expected["probabilities"]).max()
    if not difference <= TOLERANCE:  # Nor is NaN.
        raise RuntimeError(
            f"The model in the format {format!r} does not answer as it does in "
            f"TensorFlow. Probabilities may differ by {TOLERANCE}. "
            f"Received: a difference of {difference:.2g}"
        )
    second, first = np.sort(expected["probabilities"])[:, -2:].T
    is_clear = first - second > 2 * TOLERANCE
    for name in received.keys() - {"probabilities"}:
        wrong = is_clear & (received[name] != expected[name])
        if wrong.any():
            raise RuntimeError(
                f"The model in the format {format!r} does not answer as it does in "
                f"TensorFlow. Expected: `{name}` {expected[name][wrong].tolist()}. "
                f"Received: {received[name][wrong].tolist()}"
            )


def _write_onnx(function: Any, folder: pathlib.Path) -> None:
    import tensorflow as tf
    import tf2onnx

    [spec], _ = function.structured_input_signature
    model, _ = tf2onnx.convert.from_function(
        tf.function(lambda image: function(image), autograph=False), [spec]
    )
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "n"
    # The bodies of loops use the names outside.
    if not any(a.HasField("g") for node in model.graph.node for a in node.attribute):
        _make_names_repeatable(model.graph)
    content = model.SerializeToString(deterministic=True)
    (folder / "model.onnx").write_bytes(content)


def _make_names_repeatable(graph: Any) -> None:
    """Replaces what tf2onnx numbers through the whole process, or takes from sets.

    Operations and tensors that TensorFlow has named keep their names; others, and all
    constants, are numbered in the order of their use.
    """
    graph.ClearField("doc_string")
    graph.ClearField("value_info")
    constants = {constant.name for constant in graph.initializer}
    names = {tensor.name: tensor.name for tensor in (*graph.input, *graph.output)}

    def rename(old: str) -> str:
        is_numbered = old in constants or re.search(r"__\d+", old)
        # An input that is left out has an empty name.
        return old and names.setdefault(old, f"_{len(names)}" if is_numbered else old)

    for node in graph.node:
        node.input[:] = map(rename, node.input)
        node.output[:] = map(rename, node.output)
        node.name = node.output[0]
    for constant in graph.initializer:
        constant.name = rename(constant.name)
    graph.initializer.sort(key=lambda constant: constant.name)


def _load_onnx(folder: pathlib.Path) -> Callable[[NDArray[Any]], Arrays]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(
        zip(names, session.run(names, {"image": images}), strict=True)
    )


def _write_litert(function: Any, folder: pathlib.Path) -> None:
    import tensorflow as tf

    # From a function alone the converter makes a model without signatures.
    with tempfile.TemporaryDirectory() as temporary:
        _save_with_outputs(function, function.structured_outputs, temporary)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            temporary, signature_keys=["serving_default"]
        )
        (folder / "model.tflite").write_bytes(converter.convert())


def _load_litert(folder: pathlib.Path) -> Callable[[NDArray[Any]], Arrays]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "model.tflite"))
    runner = interpreter.get_signature_runner("serving_default")
    return lambda images: dict(runner(image=images))


def _write_openvino(function: Any, folder: pathlib.Path) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as temporary:
        _save_with_outputs(function, ("probabilities", "class_id"), temporary)
        # `openvino.convert_model` would ask for consent to telemetry.
        model = openvino.Core().read_model(temporary)
    for index, operation in enumerate(model.get_ordered_ops()):
        # The names that OpenVINO gives are numbered through the whole process.
        if operation.get_type_name() not in ("Parameter", "Result"):
            operation.set_friendly_name(f"{operation.get_type_name()}_{index}")
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _load_openvino(folder: pathlib.Path) -> Callable[[NDArray[Any]], Arrays]:
    import openvino

    model = openvino.Core().compile_model(
        folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    names = [output.get_any_name() for output in model.outputs]

    def run(images: NDArray[Any]) -> Arrays:
        answer = model({"image": images})
        return {name: answer[name] for name in names}

    return run


def _save_with_outputs(function: Any, names: Iterable[str], folder: str) -> None:
    """Writes a SavedModel with some of the outputs of a concrete function."""
    import tensorflow as tf

    def chosen(image: Any) -> dict[str, Any]:
        answer = function(image)
        return {name: answer[name] for name in names}

    [spec], _ = function.structured_input_signature
    signature = tf.function(chosen, autograph=False).get_concrete_function(spec)
    module = tf.Module()
    module.weights = function.variables
    tf.saved_model.save(module, folder, {"serving_default": signature})


_RUNTIMES = {
    "onnx": "onnxruntime",
    "litert": "ai_edge_litert",
    "openvino": "openvino",
}
_PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "litert": ("ai-edge-litert",),
    "openvino": ("openvino",),
}
_WRITERS = {
    "onnx": _write_onnx,
    "litert": _write_litert,
    "openvino": _write_openvino,
}
_LOADERS = {
    "onnx": _load_onnx,
    "litert": _load_litert,
    "openvino": _load_openvino,
}
