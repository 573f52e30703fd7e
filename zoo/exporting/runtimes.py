"""Exported models for other runtimes: ONNX Runtime, LiteRT and OpenVINO.

The graph is that of `serving_default`, with its names and preprocessing, float32
weights and a variable batch size, which rules out recurrent layers in LiteRT.
"""

import pathlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import require

# The module that runs each format, and those that write it.
_MODULES = {
    "onnx": ("onnxruntime", "tf2onnx", "onnx"),
    "litert": ("ai_edge_litert",),
    "openvino": ("openvino",),
}
FORMATS = tuple(_MODULES)
FORMATS_WITH_STRINGS = ("onnx", "litert")  # OpenVINO cannot look up a `label`.

# The largest difference from TensorFlow's probabilities. Runtimes sum in different
# orders, which changes a float32 sum of a thousand terms near 1 by about 1e-6.
TOLERANCE = 1e-5

Run = Callable[[NDArray[Any]], dict[str, NDArray[Any]]]


def check_installed(format: str) -> None:
    """Raises `ModuleNotFoundError` if a package of a format is not installed."""
    require("tensorflow", "tensorflow", "An export")
    for module in _MODULES.get(format, ()):
        require(module, f"gradzoo[{format}]", f"The format {format!r}")


def packages(format: str) -> list[str]:
    """Lists the packages that write and run a format."""
    return sorted(module.replace("_", "-") for module in _MODULES.get(format, ()))


def write(format: str, function: Any, saved_model: str, folder: pathlib.Path) -> None:
    """Writes the files of a format and compares their outputs with TensorFlow's."""
    try:
        _WRITERS[format](function, saved_model, folder)
        run = load(format, folder)
    except OSError:
        raise
    except Exception as error:  # Converters and runtimes have their own kinds.
        raise RuntimeError(
            f"The model cannot be converted to the format {format!r}. Use another one. "
            f"Received: {str(error)[-500:]}."
        ) from error
    _check_parity(format, function, run)


def load(format: str, folder: pathlib.Path) -> Run:
    """Loads a format as a thread-safe function of images; returns outputs by name."""
    require(_MODULES[format][0], f"gradzoo[{format}]", f"The format {format!r}")
    run = _LOADERS[format](folder)
    lock = threading.Lock()  # LiteRT and OpenVINO run one batch at a time.

    def run_one_at_a_time(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with lock:
            return run(np.ascontiguousarray(images, np.float32))

    return run_one_at_a_time


def _check_parity(format: str, function: Any, run: Run) -> None:
    import tensorflow as tf

    [spec], _ = function.structured_input_signature
    # From a black image to noise of full contrast.
    contrast = np.linspace(0, 1, 16).reshape(-1, *[1] * (len(spec.shape) - 1))
    noise = np.random.default_rng(0).integers(0, 256, (16, *spec.shape[1:]))
    images = (contrast * noise).round().astype(np.float32)
    expected = {name: x.numpy() for name, x in function(tf.constant(images)).items()}
    received = run(images)

    message = f"The format {format!r} changes the outputs. Use another one. Received: "
    answers = {"class_id", "label"}
    for name in received.keys() - answers:
        difference = np.abs(received[name] - expected[name]).max()
        # The activations of features have any scale.
        scale = max(1, np.abs(expected[name]).max())
        if not difference <= TOLERANCE * scale:  # Also true for NaN.
            raise RuntimeError(f"{message}a difference of {difference:.2g}.")
    second, first = np.sort(expected["probabilities"])[:, -2:].T
    is_clear = first - second > 2 * TOLERANCE
    for name in received.keys() & answers:
        # TensorFlow and LiteRT return labels as UTF-8, ONNX Runtime as strings.
        theirs, ours = (
            [x.decode() if isinstance(x, bytes) else x for x in arrays[name][is_clear]]
            for arrays in (received, expected)
        )
        if theirs != ours:
            raise RuntimeError(f"{message}{name}={theirs}, not {ours}.")


def _write_onnx(function: Any, saved_model: str, folder: pathlib.Path) -> None:
    import tensorflow as tf
    import tf2onnx

    [spec], _ = function.structured_input_signature
    traced = tf.function(lambda image: function(image), autograph=False)
    model, _ = tf2onnx.convert.from_function(traced, [spec])
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "n"
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _load_onnx(folder: pathlib.Path) -> Run:
    import onnxruntime

    path, providers = str(folder / "model.onnx"), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, providers=providers)
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(names, {"image": x}), strict=True))


def _write_litert(function: Any, saved_model: str, folder: pathlib.Path) -> None:
    import tensorflow as tf

    # From a function alone the converter makes a model without signatures.
    converter = tf.lite.TFLiteConverter.from_saved_model(
        saved_model, signature_keys=["serving_default"]
    )
    (folder / "model.tflite").write_bytes(converter.convert())


def _load_litert(folder: pathlib.Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "model.tflite"))
    runner = interpreter.get_signature_runner("serving_default")
    return lambda images: dict(runner(image=images))


def _write_openvino(function: Any, saved_model: str, folder: pathlib.Path) -> None:
    import openvino

    # `openvino.convert_model` would ask for consent to telemetry.
    model = openvino.Core().read_model(saved_model)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _load_openvino(folder: pathlib.Path) -> Run:
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(folder / "model.xml", "CPU", options)
    return lambda x: {y.get_any_name(): a for y, a in model({"image": x}).items()}


_WRITERS = {"onnx": _write_onnx, "litert": _write_litert, "openvino": _write_openvino}
_LOADERS = {"onnx": _load_onnx, "litert": _load_litert, "openvino": _load_openvino}
