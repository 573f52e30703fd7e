"""Published weights: the card of each one and the file beside it.

A published weight is three files in `zoo/published`, which travel in the wheel:
`<id>.toml` (the recipe), `<id>.json` (the card) and `<id>.weights.h5`.
"""

import dataclasses
import difflib
import functools
import hashlib
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    import keras

PUBLISHED = pathlib.Path(__file__).parent / "published"


@dataclasses.dataclass(frozen=True)
class Weights:
    """The card of one published weight.

    Attributes:
        model: name of the builder's model, e.g. `"lenet5"`.
        dataset: name of the training data, e.g. `"mnist"`.
        version: 1 for the first published weight of this model and data.
        sha256: checksum of the weights file, verified at every load.
        bytes: size of the weights file.
        categories: label of each class, in the order of the outputs.
        input_shape: `(height, width, channels)` of the images.
        arguments: the builder's architecture arguments.
        parameters: number of parameters.
        flops: floating point operations of one forward pass on one image, a
            multiply-add counted as two.
        metrics: `split` and number of `images` evaluated on; `accuracy` and `loss` of
            the published `seed`; `mean_accuracy` and `sd_accuracy` over `seeds`.
        data: `source` (URL), `version`, `license` and `citation` of the training data.
        license: licence of the weights.
        recipe: the full configuration of the training run.
        command: the command that made the weight and this card.
        versions: versions of the software that trained it.
        golden: `seed` of random images and the model's `probabilities` for them.
    """

    model: str
    dataset: str
    version: int
    sha256: str
    bytes: int
    categories: tuple[str, ...]
    input_shape: tuple[int, ...]
    arguments: dict[str, Any]
    parameters: int
    flops: int
    metrics: dict[str, Any]
    data: dict[str, str]
    license: str
    recipe: dict[str, Any]
    command: str
    versions: dict[str, str]
    golden: dict[str, Any]

    @property
    def id(self) -> str:
        """Full name, e.g. `"lenet5.mnist.v1"`."""
        return f"{self.model}.{self.dataset}.v{self.version}"

    @property
    def path(self) -> pathlib.Path:
        """The weights file, in Keras' `.weights.h5` format."""
        return PUBLISHED / f"{self.id}.weights.h5"

    def to_json(self) -> str:
        """The card as it stands on disk."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Weights":
        """Reads a card written by `to_json`."""
        card = json.loads(text)
        for field in ("categories", "input_shape"):
            card[field] = tuple(card[field])
        return cls(**card)

    def verify(self) -> None:
        """Compares the weights file with the card.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file is truncated or altered.
        """
        content = self.path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"The weights file {self.path} is damaged: expected "
                f"{self.bytes} bytes with sha256 {self.sha256}. Received: "
                f"{len(content)} bytes with sha256 {found}. Install gradzoo again."
            )


@functools.cache
def published() -> tuple[Weights, ...]:
    """All published weights, sorted by model, dataset and version."""
    cards = (Weights.from_json(p.read_text()) for p in PUBLISHED.glob("*.json"))
    return tuple(sorted(cards, key=lambda w: (w.model, w.dataset, w.version)))


def closest(word: str, words: list[str]) -> str:
    """The end of an error message about a wrong name: a guess, and the full list."""
    matches = difflib.get_close_matches(word.lower(), words, n=1)
    guess = f"Did you mean {matches[0]!r}? " if matches else ""
    return f"{guess}Available: {', '.join(map(repr, words)) or 'none'}."


def find(model: str, name: str) -> Weights:
    """The published weight of `model` called `name`.

    Args:
        model: name of the model, e.g. `"lenet5"`.
        name: `"mnist"` (the newest version), `"mnist.v1"`, or with the model's own
            name in front, `"lenet5.mnist"`, `"lenet5.mnist.v1"`.

    Returns:
        The `Weights`.

    Raises:
        ValueError: there is no such weight, or it belongs to another model.
    """
    for weights in reversed(published()):
        short = (weights.dataset, f"{weights.dataset}.v{weights.version}")
        full = tuple(f"{weights.model}.{s}" for s in short)
        if weights.model == model and name in short + full:
            return weights
        if weights.model != model and name in full:
            raise ValueError(
                f"Weights {name!r} belong to another model: build it with "
                f"`zoo.create({weights.model!r}, weights={weights.dataset!r})`. "
                f"Received: weights={name!r} for {model!r}."
            )
    names = sorted({w.dataset for w in published() if w.model == model})
    raise ValueError(
        f"Unknown weights for {model!r}. {closest(name, names)} A file of your own "
        "is given as a path: a `pathlib.Path`, or a string with a separator or "
        f"ending in .h5 or .keras. Received: weights={name!r}."
    )


def is_path(weights: object) -> bool:
    """Whether a `weights=` argument means a file rather than a name."""
    if isinstance(weights, os.PathLike):
        return True
    separators = tuple(filter(None, (os.sep, os.altsep, "/")))
    return isinstance(weights, str) and (
        any(s in weights for s in separators) or weights.endswith((".h5", ".keras"))
    )


def resolve(model: str, weights: object) -> Weights | pathlib.Path | None:
    """What a builder's `weights=` argument stands for.

    Args:
        model: name of the model that is being built.
        weights: `None`, a name as in `find`, a `Weights`, or a path (an
            `os.PathLike`, or a string with a separator or ending in `.h5` or
            `.keras`). A name never means a file, not even one of that name in the
            working directory.

    Returns:
        `None`, the `Weights`, or the absolute path of an existing file.

    Raises:
        FileNotFoundError: the path names no file.
        TypeError: `weights` is of none of these types.
        ValueError: the name is unknown or belongs to another model.
    """
    if weights is None:
        return None
    if isinstance(weights, Weights):
        return find(model, weights.id)
    if is_path(weights):
        path = pathlib.Path(os.fspath(weights)).expanduser().absolute()  # type: ignore[call-overload]
        if not path.is_file():
            raise FileNotFoundError(f"No weights file at {path}.")
        return path
    if isinstance(weights, str):
        return find(model, weights)
    raise TypeError(
        "`weights` must be None, a name such as 'mnist' or 'mnist.v1', a `Weights`, "
        f"or a path. Received: weights={weights!r} (of type {type(weights).__name__})."
    )


def read_layers(path: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """The variables in a file that Keras wrote, by layer name.

    Args:
        path: a `.weights.h5` file or a `.keras` archive of a functional model.

    Returns:
        `{layer name: [array, ...]}`, each list in the order of `layer.get_weights()`.

    Raises:
        ValueError: the file is of another kind, or damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = archive.read("model.weights.h5")
        else:
            content = path.read_bytes()
        with h5py.File(io.BytesIO(content)) as file:
            groups = [layer["vars"] for layer in file["layers"].values()]
            return {
                group.attrs["name"]: [group[str(i)][()] for i in range(len(group))]
                for group in groups
                if len(group)
            }
    except Exception as error:  # h5py raises many kinds on a damaged file.
        raise ValueError(
            "Not a whole Keras weights file (`model.save_weights('x.weights.h5')` or "
            f"`model.save('x.keras')`): {path} ({error})."
        ) from error


def load_layers(
    model: "keras.Model",
    saved: Mapping[str, list[np.ndarray]],
    source: object,
    leave_out: Collection[Any] = (),
) -> None:
    """Gives each layer of `model` its variables: all of them, or none.

    Args:
        model: a built model.
        saved: `{layer name: [array, ...]}` as `read_layers` returns it.
        source: where `saved` comes from, for the error message.
        leave_out: layers of `model` that are none of the weights' business.

    Raises:
        ValueError: a layer is missing on either side or has other shapes; the message
            lists every such layer and `model` is unchanged.
    """
    wanted = {
        layer.name: layer
        for layer in model.layers
        if layer.weights and layer not in leave_out
    }
    problems = []
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        expected = (
            [tuple(v.shape) for v in wanted[name].weights] if name in wanted else []
        )
        received = [array.shape for array in saved.get(name, [])]
        if expected != received:
            problems.append(f"  {name}: expected {expected}, received {received}")
    if problems:
        raise ValueError(
            f"The weights in {source} do not fit the model {model.name!r}; nothing was "
            "loaded. Shapes by layer:\n" + "\n".join(problems)
        )
    for name, layer in wanted.items():
        layer.set_weights(saved[name])
