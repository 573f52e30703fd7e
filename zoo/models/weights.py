"""Published weights and their cards.

Published weights are three files in `zoo/published`, which are part of the wheel:
`<id>.toml` (the recipe), `<id>.json` (the card) and `<id>.weights.h5`.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import suggest
from zoo.files import expand, sha256
from zoo.models.weight_files import read_layers, split_prefix

if TYPE_CHECKING:
    import keras

PUBLISHED = pathlib.Path(__file__).parents[1] / "published"


@dataclasses.dataclass(frozen=True, repr=False)
class Weights:
    """The card of published weights.

    Attributes:
        model: String. Name of the model, e.g. `"lenet5"`.
        dataset: String. Name of the training data, e.g. `"mnist"`.
        version: Integer. Version number, starting at 1.
        sha256: String. Checksum of the weights file, verified at every load.
        bytes: Integer. Size of the weights file.
        categories: Tuple of strings. The label of each class, in output order.
        normalization: String. The form to which the images were converted, see
            `zoo.read_images`: `"mnist"`, `"fashion_mnist"` or `None`.
        input_shape: Tuple of integers. `(height, width, channels)` of the images.
        arguments: Dict. The architecture arguments of the builder.
        parameters: Integer. Number of parameters.
        flops: Integer. Floating point operations per image, see `zoo.count_flops`.
        metrics: Dict. `split` and number of `images`; `accuracy` and `loss` of the
            published `seed`; `mean_accuracy` and `sd_accuracy` over `seeds`; and the
            results of `zoo.training.measures.measure`.
        training: Dict. `seconds` of the run on the `cores` of a `cpu`, its
            `curve`, and the median gradient norm of each layer, `gradient_norms`, both
            per epoch.
        data: Dict. `source` (URL), `version`, `license` and `citation` of the data.
        license: String. License of the weights.
        recipe: Dict. The full configuration of the training run.
        command: String. Command that created the weights and this card.
        versions: Dict. Versions of the software used for training.
        golden: Dict. `seed` of random images, and the model's `probabilities` for them.
    """

    model: str
    dataset: str
    version: int
    sha256: str
    bytes: int
    categories: tuple[str, ...]
    normalization: str | None
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
    training: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def id(self) -> str:
        """Full name, e.g. `"lenet5.mnist.v1"`."""
        return f"{self.model}.{self.dataset}.v{self.version}"

    def __repr__(self) -> str:
        return f"<Weights {self.id}: {self.metrics['accuracy']:.2%} test accuracy>"

    def summary(self) -> dict[str, Any]:
        """Returns the fields to display, without matrices, curves or outputs."""
        fields = {"id": self.id, **dataclasses.asdict(self)}
        del fields["golden"]
        fields["metrics"].pop("confusion", None)
        for name in ("curve", "gradient_norms"):
            fields["training"].pop(name, None)
        return fields

    @property
    def path(self) -> pathlib.Path:
        """Path of the weights file, in Keras' `.weights.h5` format."""
        return PUBLISHED / f"{self.id}.weights.h5"

    def to_json(self) -> str:
        """Returns the content of the card's file."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        # A list of numbers or short strings takes one line.
        flat = re.compile(r"\[[^\[\]{}]*\]")
        return flat.sub(lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)

    @classmethod
    def from_json(cls, text: str) -> "Weights":
        """Creates the card from the output of `to_json`."""
        card = json.loads(text)
        for field in ("categories", "input_shape"):
            card[field] = tuple(card[field])
        return cls(**card)

    def verify(self) -> None:
        """Raises a `ValueError` if the weights file is truncated or altered."""
        found = sha256(self.path)
        if found != self.sha256:
            raise ValueError(
                f"The weights file {self.path} is damaged. Install gradzoo again. "
                f"Expected: {self.bytes} bytes with sha256 {self.sha256}. Received: "
                f"{self.path.stat().st_size} bytes with sha256 {found}."
            )


@functools.cache
def published() -> tuple[Weights, ...]:
    """Returns all published weights, sorted by model, dataset and version."""
    cards = (Weights.from_json(p.read_text("utf-8")) for p in PUBLISHED.glob("*.json"))
    return tuple(sorted(cards, key=lambda w: (w.model, w.dataset, w.version)))


def find(model: str, name: str) -> Weights:
    """Finds published weights of a model, or raises a `ValueError`.

    `"mnist"` is the newest of `"mnist.v1"`, `"mnist.v2"`... The name of the
    model may come first: `"lenet5.mnist"`.
    """
    for weights in reversed(published()):
        short = (weights.dataset, f"{weights.dataset}.v{weights.version}")
        full = tuple(f"{weights.model}.{s}" for s in short)
        if weights.model == model and name in short + full:
            return weights
        if weights.model != model and name in full:
            raise ValueError(
                "These weights belong to another model. Build it with "
                f"`zoo.create({weights.model!r}, weights={weights.dataset!r})`. "
                f"Received: weights={name!r} for the model {model!r}."
            )
    names = sorted({w.dataset for w in published() if w.model == model})
    raise ValueError(
        f"Unknown weights for {model!r}. {suggest(name, names)} To load a file, pass "
        "its path: a `pathlib.Path`, or a string that contains a separator or ends in "
        f".h5 or .keras. Received: weights={name!r}."
    )


def is_path(weights: object) -> bool:
    """Returns `True` if a `weights` argument is a path rather than a name."""
    if isinstance(weights, os.PathLike):
        return True
    return isinstance(weights, str) and (
        not {os.sep, os.altsep, "/"}.isdisjoint(weights)
        or weights.lower().endswith((".h5", ".keras"))
    )


def resolve(model: str, weights: object) -> pathlib.Path | None:
    """Finds and verifies the file that the `weights` argument of a builder means.

    A name never refers to a file of that name in the working directory.
    """
    if weights is None:
        return None
    if is_path(weights):
        path = expand(weights).absolute()  # type: ignore[arg-type]
        if not path.is_file():
            raise FileNotFoundError(
                f"The weights file does not exist. Received: weights={str(path)!r}."
            )
        return path
    if isinstance(weights, Weights | str):
        card = find(model, weights if isinstance(weights, str) else weights.id)
        card.verify()
        return card.path
    raise TypeError(
        "`weights` must be None, a name such as 'mnist' or 'mnist.v1', a `Weights`, or "
        f"a path. Received: weights={weights!r} (of type {type(weights).__name__})."
    )


def card_of(model: "keras.Model") -> Weights | None:
    """Returns the card of the published weights that a model holds, if it does.

    All variables of `model` must be bit-identical to the weights.
    """
    held = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    return identify(split_prefix(held)[1])


def identify(held: dict[str, list[np.ndarray]]) -> Weights | None:
    """Returns the card of the published weights in `{layer name: [array, ...]}`."""
    parameters = sum(array.size for arrays in held.values() for array in arrays)
    for weights in published():
        if weights.parameters == parameters:
            saved = read_layers(weights.path)
            if saved.keys() == held.keys() and all(
                len(held[name]) == len(saved[name])
                and all(map(np.array_equal, held[name], saved[name]))
                for name in saved
            ):
                return weights
    return None
