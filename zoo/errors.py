"""The parts that error messages share."""

import difflib
import importlib.util
from collections.abc import Sequence


def suggest(word: str, words: Sequence[str]) -> str:
    """Returns the end of a message about a wrong name: a guess and all names."""
    matches = difflib.get_close_matches(word.lower(), words, n=1)
    guess = f"Did you mean {matches[0]!r}? " if matches else ""
    return f"{guess}Available: {', '.join(map(repr, words)) or 'none'}."


def require(package: str, extra: str, purpose: str) -> None:
    """Raises a ModuleNotFoundError unless the package of an extra is installed.

    `purpose` is the beginning of the message, e.g. "The tour".
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{purpose} needs a package that is not installed. Run "
            f'`pip install "gradzoo[{extra}]"`. Received: package={package!r}.',
            name=package,
        )
