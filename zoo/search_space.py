"""What a sweep tries: values of a recipe's fields, and the trials drawn from them."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.recipes import Recipe
from zoo.weights import closest

Values = dict[str, Any]  # by field, e.g. {"optimizer.learning_rate": 0.001}

# They cannot differ within a sweep: seeds have an argument of their own.
FIXED = ("model", "dataset", "version", "seed")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if both are."""

    low: int | float
    high: int | float
    log: bool = False

    def at(self, fraction: float) -> int | float:
        """The value at a fraction in [0, 1) of the way, to four significant digits."""
        is_integer = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = self.low, self.high + is_integer
        if self.log:
            value = math.exp(math.log(low) + fraction * math.log(high / low))
        else:
            value = low + fraction * (high - low)
        value = math.floor(value) if is_integer else float(f"{value:.4g}")
        return min(max(value, self.low), self.high)


def parse_values(field: str, values: str | Sequence[Any]) -> list[Any] | Range:
    """Choices or a range, from what `sweep` takes."""
    choices: list[Any]
    if not isinstance(values, str):
        choices = json.loads(json.dumps([*values]))
    elif ":" in values and not values.lstrip().startswith(("[", "{", '"')):
        return _parse_range(field, values)
    else:
        try:
            choices = json.loads(f"[{values}]", parse_constant=str)
        except ValueError:
            choices = [_parse_word(word.strip()) for word in values.split(",")]
    if not choices or "" in choices or None in choices:
        raise ValueError(
            f"`{field}` needs choices such as 1,2 or a range such as 1:2, and none of "
            f"them can be empty or null. Received: {values!r}."
        )
    return choices


def _parse_range(field: str, text: str) -> Range:
    low, high, *scale = text.split(":")
    try:
        values = Range(
            json.loads(low, parse_constant=str),
            json.loads(high, parse_constant=str),
            log=scale == ["log"],
        )
        is_ordered = values.low < values.high and (values.low > 0 or not values.log)
        if is_ordered and scale in ([], ["log"]):
            return values
    except (ValueError, TypeError):
        pass
    raise ValueError(
        f"The range of `{field}` must be LOW:HIGH or LOW:HIGH:log, of numbers, LOW the "
        f"smaller one, and positive for log. Received: {text!r}."
    )


def _parse_word(word: str) -> Any:
    try:
        return json.loads(word, parse_constant=str)
    except ValueError:
        return word


def draw_trials(
    domains: Mapping[str, list[Any] | Range], trials: int | None, seed: int
) -> list[Values]:
    """The trials of a sweep: the same for the same arguments, on every machine.

    Choices alone make a grid, of which `trials` points are drawn without repetition;
    with ranges, each field takes values that lie evenly in its range, or choices as
    often as each other, in an order of its own.
    """
    # Of `random`, only random() promises the same numbers in all versions of Python.
    rng = random.Random(seed)

    def shuffled(items: Sequence[Any]) -> list[Any]:
        return sorted(items, key=lambda _: rng.random())

    if not domains:
        raise ValueError("A sweep needs at least one field and its values.")
    choices = [values for values in domains.values() if isinstance(values, list)]
    if len(choices) == len(domains):
        points = list(itertools.product(*choices))
        if trials is not None and trials > len(points):
            raise ValueError(
                f"The grid has {len(points)} points. Received: trials={trials}."
            )
        kept = shuffled(range(len(points)))[:trials]
        points = [points[i] for i in sorted(kept)]
    elif trials is None:
        raise ValueError(
            "Ranges have no full grid: say how many `trials` to draw (--trials)."
        )
    else:
        columns = []
        for values in domains.values():
            places = [(i + rng.random()) / trials for i in shuffled(range(trials))]
            if isinstance(values, Range):
                columns.append([values.at(place) for place in places])
            else:
                columns.append([values[int(place * len(values))] for place in places])
        points = list(zip(*columns, strict=True))
    return [dict(zip(domains, point, strict=True)) for point in points]


def with_values(recipe: Recipe, values: Values) -> Recipe:
    """The recipe with other values of some fields.

    Raises:
        ValueError: there is no such field, or a value is out of range.
    """
    fields = dataclasses.asdict(recipe)
    for path, value in values.items():
        name, _, entry = path.partition(".")
        if name in FIXED:
            raise ValueError(
                f"`{name}` is the same in all trials of a sweep; seeds have an "
                f"argument of their own, `seeds` (--seed). Received: {path!r}."
            )
        if name not in fields:
            raise ValueError(f"Unknown field {path!r}. {closest(name, [*fields])}")
        if not entry:
            fields[name] = value
        elif isinstance(fields[name], dict):
            fields[name][entry] = value
        else:
            raise ValueError(
                f"`{name}` of a recipe has no entries. Received: {path!r}."
            )
    return Recipe.from_dict(fields)
