"""Writes the files of a version on the TensorFlow backend.

On other Keras backends `zoo.export` runs this module as a second process:

    python -m zoo.exporting.writing MODEL.keras FOLDER < arguments.json
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2

import zoo
import zoo.models.lenet1998  # It registers its layers.
from zoo.exporting import runtimes
from zoo.exporting.decoding import PREPROCESSING
from zoo.exporting.loading import list_files
from zoo.exporting.signatures import signature_functions
from zoo.exporting.warmup import write_warmup_requests
from zoo.files import sha256
from zoo.models.inspection import takes_raw_pixels
from zoo.models.weights import card_of


def write_version(
    model: keras.Model,
    folder: pathlib.Path,
    labels: Sequence[str],
    format: str,
    is_softmax: bool,
    form: str | None,
    features: Sequence[str],
) -> None:
    """Writes every file of a version to an empty folder."""
    if format == "saved_model":
        functions = signature_functions(model, labels, is_softmax, form, features)
        try:
            _write_saved_model(model, folder, functions)
            write_warmup_requests(folder, functions)
        except tf.errors.OpError as error:
            raise OSError(
                f"The version cannot be written: {error.message}. "
                f"Received: path={str(folder)!r}."
            ) from error
    else:
        single = in_float32(model)
        known = labels if format in runtimes.FORMATS_WITH_STRINGS else None
        signatures = signature_functions(single, known, is_softmax, form, features)
        function = signatures["serving_default"]
        functions = {"serving_default": function}
        with tempfile.TemporaryDirectory() as saved_model:
            _write_saved_model(single, pathlib.Path(saved_model), functions)
            runtimes.write(format, function, saved_model, folder)
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", "utf-8")
    described = {name: _describe(f) for name, f in sorted(functions.items())}
    arguments = {name for x in described.values() for name in x["inputs"]}
    card = card_of(model)
    contract = {
        "model": model.name,
        "format": format,
        "labels": list(labels),
        "features": list(features),
        "signatures": described,
        "normalization": form,
        "takes_raw_pixels": takes_raw_pixels(model),
        "preprocessing": {k: v for k, v in PREPROCESSING.items() if k in arguments},
        "weights": card and dataclasses.asdict(card),
        "libraries": {
            "gradzoo": zoo.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            **{x: importlib.metadata.version(x) for x in runtimes.packages(format)},
        },
        "files": {name: sha256(folder / name) for name in list_files(folder)},
    }
    text = json.dumps(contract, indent=2, ensure_ascii=False) + "\n"
    (folder / "export.json").write_text(text, "utf-8")


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model, or a float32 copy: runtimes round float16 differently."""
    if all(layer.compute_dtype == "float32" for layer in model._flatten_layers()):
        return model

    def to_float32(layer: Any) -> Any:
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=to_float32, recursive=True)
    copy.set_weights(model.get_weights())
    for layer in copy._flatten_layers():
        if hasattr(layer, "finalize_state"):  # of an adapted `Normalization`
            layer.finalize_state()
    return copy


def _write_saved_model(
    model: keras.Model, folder: pathlib.Path, functions: dict[str, Any]
) -> None:
    # Stores the weights once, in a fixed order. `model.export` stores them twice.
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    inner = model._flatten_layers()
    # Some layers draw random numbers in predictions, too.
    module.seeds = [g.state.value for x in inner for g in x._seed_generators]
    module.tables = [x.lookup_table for x in inner if hasattr(x, "lookup_table")]
    tf.saved_model.save(module, str(folder), functions)

    # Two exports of a model differ only in this random identifier.
    path = folder / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    fingerprint.ClearField("uuid")
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _describe(function: Any) -> Any:
    [spec], _ = function.structured_input_signature
    tensors = {"inputs": {spec.name: spec}, "outputs": function.structured_outputs}
    return tf.nest.map_structure(
        lambda x: {"dtype": x.dtype.name, "shape": list(x.shape)}, tensors
    )


if __name__ == "__main__":
    file, folder = sys.argv[1:]
    loaded = keras.saving.load_model(file, compile=False)
    write_version(loaded, pathlib.Path(folder), *json.load(sys.stdin))
