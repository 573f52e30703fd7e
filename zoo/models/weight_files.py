"""Weight files in Keras' formats: reading, loading, and saving in float16."""

import io
import json
import pathlib
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    import keras


def read_layers(path: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """Reads the variables from the `.weights.h5`, `.keras` or `.h5` file of a model.

    Returns `{layer name: [array, ...]}`, each list in the order of `get_weights()`.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = archive.read("model.weights.h5")
        else:
            content = path.read_bytes()
        with h5py.File(io.BytesIO(content)) as file:
            legacy = file.get("model_weights", file)  # The format of Keras 2.
            if "layer_names" in legacy.attrs:
                names = legacy.attrs["layer_names"].astype(str)
                orders = {name: legacy[name].attrs["weight_names"] for name in names}
                return {
                    name: [legacy[name][variable][()] for variable in order]
                    for name, order in orders.items()
                    if len(order)
                }
            groups = [layer["vars"] for layer in file["layers"].values()]
            return {
                group.attrs["name"]: [group[str(i)][()] for i in range(len(group))]
                for group in groups
                if len(group)
            }
    except Exception as error:  # h5py raises errors of many types on a damaged file.
        raise ValueError(
            "The file is damaged or not a Keras weights file. Write one with "
            "`model.save_weights('x.weights.h5')` or `model.save('x.keras')`. "
            f"Received: path={str(path)!r} ({error})."
        ) from error


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads the configuration in a file of a whole model; `{}` for weights alone."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return dict(json.loads(archive.read("config.json")))
    with h5py.File(path) as file:
        return dict(json.loads(file.attrs.get("model_config", "{}")))


def read_data(config: dict[str, Any]) -> tuple[Sequence[str] | None, str | None]:
    """Returns the categories and the normalization that a model was saved with.

    `config` is from `read_config`. A wrapper has those of the model inside it.
    """
    described = config.get("build_config") or {}
    layers = config.get("config", {}).get("layers", [])
    layers = [layer for layer in layers if layer["class_name"] != "InputLayer"]
    if "categories" not in described and layers:
        names, form = read_data(layers[0])
        return (None if layers[1:] else names), form
    return described.get("categories"), described.get("normalization")


def split_prefix(layers: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Splits off the prefix of all names, up to the last underscore: `"lenet5_"`."""
    prefixes = {"".join(name.rpartition("_")[:2]) for name in layers}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    return prefix, {name.removeprefix(prefix): layers[name] for name in layers}


def load_layers(
    model: "keras.Model",
    saved: Mapping[str, list[np.ndarray]],
    source: object,
    leave_out: Collection[Any] = (),
) -> None:
    """Loads the variables of all layers of `model`, except for those in `leave_out`.

    `saved` is `{layer name: [array, ...]}`, without the prefix of the names. If a layer
    is missing on either side or has other shapes, `model` is unchanged: the error lists
    every such layer, and names the `source` of `saved`.
    """
    kept = (x for x in model.layers if x.weights and x not in leave_out)
    _, layers = split_prefix({layer.name: layer for layer in kept})
    expected = {n: [tuple(v.shape) for v in layers[n].weights] for n in layers}
    received = {n: [array.shape for array in saved[n]] for n in saved}
    problems = [
        f"  {n}: expected {expected.get(n, [])}, received {received.get(n, [])}"
        for n in {**expected, **received}
        if expected.get(n) != received.get(n)
    ]
    if problems:
        raise ValueError(
            f"The weights do not fit the model {model.name!r}; nothing was loaded. "
            "Build the model with the arguments that it was saved with. Shapes by "
            "layer:\n" + "\n".join(problems) + f"\nReceived: weights={str(source)!r}."
        )
    for name, layer in layers.items():
        layer.set_weights(saved[name])


def save_float16(model: "keras.Model", path: pathlib.Path) -> None:
    """Saves the weights in float16, for `model.load_weights` and `read_layers`."""
    model.save_weights(path)
    content = io.BytesIO(path.read_bytes())
    with h5py.File(content) as saved, h5py.File(path, "w") as file:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                file[name] = item[()].astype("float16")
            else:
                file.create_group(name).attrs.update(item.attrs)

        saved.visititems(copy)
