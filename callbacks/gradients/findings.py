"""The findings of a diagnosis, and the remedies for them."""

import dataclasses
import html
import re

_INITIALIZER = (
    'an initializer that suits the activation (`"he_normal"` for ReLU, '
    '`"glorot_uniform"` for tanh and sigmoid)'
)
_NORMALIZATION = "batch or layer normalization"
_GATES = "an LSTM or GRU in place of a simple recurrent layer, fewer time steps"

# For each kind, the remedies by cause. `stop_on` takes the kinds.
ADVICE = {
    "vanishing": {
        "squashing": (
            'a ReLU-like activation with `kernel_initializer="he_normal"`, '
            f"{_NORMALIZATION}, residual connections"
        ),
        "depth": f"{_INITIALIZER}, {_NORMALIZATION}, residual connections",
        "recurrent": f'{_GATES}, `recurrent_initializer="orthogonal"`',
    },
    "exploding": {
        "weights": f"{_INITIALIZER}, {_NORMALIZATION}, inputs scaled to about [0, 1]",
        "recurrent": (
            f'`clipnorm=1.0` in the optimizer, `recurrent_initializer="orthogonal"`, '
            f"{_GATES}"
        ),
        "rate": (
            "a smaller learning rate or a warm-up, `clipnorm=1.0` in the optimizer, "
            "normalized inputs"
        ),
    },
    "saturated": {
        "weights": f"{_INITIALIZER}, {_NORMALIZATION}, inputs scaled to about [0, 1]"
    },
    "non_finite": {
        "data": (
            "a smaller learning rate, `clipnorm=1.0` in the optimizer, a check of the "
            "data for NaN and infinity, a loss that takes logits (`from_logits=True`)"
        )
    },
    "dead": {
        "start": (
            "a check that the loss reaches the layer (`stop_gradient`, a conversion to "
            "NumPy or integers, an output without a loss) and that its input is not "
            "zero or masked, small non-negative initial biases in front of ReLUs"
        ),
        "later": (
            "a smaller learning rate, `leaky_relu` or `gelu` in place of `relu`, "
            "small non-negative initial biases"
        ),
    },
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault.

    Attributes:
        kind: String. `"vanishing"`, `"exploding"`, `"saturated"`, `"non_finite"` or
            `"dead"`.
        layer: String. The path of the layer that shows it.
        step: Integer. The number of the optimizer call at which it begins.
        figures: Dict. The numbers behind it, by name.
        description: String. The numbers in a sentence.
        cause: String. The cause that the remedies are for.
    """

    kind: str
    layer: str
    step: int
    figures: dict[str, float]
    description: str
    cause: str

    @property
    def advice(self) -> str:
        """Remedies to try."""
        return ADVICE[self.kind][self.cause]

    @property
    def name(self) -> str:
        """The kind as written in text."""
        return self.kind.replace("_", "-")

    @property
    def title(self) -> str:
        """The kind, layer and step in a phrase."""
        subject = "units" if self.kind == "saturated" else "gradient"
        return f"{self.name} {subject} at {self.layer} from step {self.step}"

    def __str__(self) -> str:
        return f"{self.title}: {self.description}\n  Try {self.advice}."


class Diagnosis(tuple[Finding, ...]):
    """The findings in the order in which they begin; empty if there are none."""

    @property
    def verdict(self) -> str:
        """`"healthy"`, or the kinds found, such as `"exploding, non-finite"`."""
        return ", ".join(dict.fromkeys(f.name for f in self)) or "healthy"

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "No fault found: the gradient is healthy."

    def _repr_html_(self) -> str:
        """Returns a table for notebooks, or a line if there are no findings."""
        if not self:
            return f"<p>{self}</p>"
        rows = [_html_row("th", "finding", "layer", "since step", "figures", "remedy")]
        for f in self:
            cells = f.name, f.layer, str(f.step), f.description, f.advice
            rows.append(_html_row("td", *cells))
        return f"<table>{''.join(rows)}</table>"


def _html_row(tag: str, *cells: str) -> str:
    row = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return "<tr>" + re.sub("`(.+?)`", r"<code>\1</code>", row) + "</tr>"
