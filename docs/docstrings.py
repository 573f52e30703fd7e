"""Lets Griffe read Keras' form of docstrings: an extension for the API reference."""

import re
import textwrap

import griffe


def to_google_style(docstring: str) -> str:
    """Returns a docstring with sections that Griffe and Markdown understand."""
    # A list begins after an empty line.
    docstring = re.sub(r"^Reference:\n(?=- )", "Reference:\n\n", docstring, flags=re.M)
    # "a, b, c: As in ..." documents three arguments.
    docstring = re.sub(r"^( +)((?:\w+,\s+)+\w+): (.*)$", _split, docstring, flags=re.M)
    text, header, example = docstring.partition("\nExample:\n\n")
    return f"{text}\nExamples:\n{textwrap.indent(example, '    ')}" if header else text


def _split(entry: re.Match[str]) -> str:
    indent, names, text = entry.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in re.split(r",\s+", names))


class KerasDocstrings(griffe.Extension):
    """Rewrites every docstring as it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            obj.docstring.value = to_google_style(obj.docstring.value)
