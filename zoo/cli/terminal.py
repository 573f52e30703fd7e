"""The terminal: tables, JSON, error messages, and TensorFlow kept quiet."""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from zoo.display import as_text


def run(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Runs a command and prints an error as one line on standard error.

    After a leading `--debug`, errors have their traceback.

    Returns:
        The exit code: 0; 1 if the command failed; 2 if the command line is wrong; 130
        if the command was interrupted.
    """
    # File names need not be text.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    home, start = os.path.expanduser("~"), re.compile("^(--[a-z-]+=|)~(?=/|$)")
    arguments = [start.sub(lambda found: found[1] + home, x) for x in arguments]
    try:
        code = app(arguments, prog_name="zoo", standalone_mode=False) or 0
    except Exception as error:
        if "--debug" in arguments[:1]:
            raise
        if hasattr(error, "format_message"):  # Typer's own: the command line is wrong.
            complain(" ".join(error.format_message().split()))
            return 2
        complain(describe(error))
        return 1
    if code == 130:  # Typer's code after Ctrl-C.
        complain("Interrupted. `zoo train --resume` and `zoo publish` resume a run.")
    return code


def be_quiet() -> None:
    """Hides TensorFlow's messages and prints each warning on one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def import_keras() -> None:
    """Imports Keras and its backend; after `be_quiet`, without start-up messages."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        return
    # TensorFlow writes its first messages before it reads any setting.
    terminal = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            import keras  # noqa: F401
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def progress(otherwise: int = 0) -> int:
    """Returns Keras' `verbose`: progress bars on a terminal, else `otherwise`."""
    return 1 if sys.stdout.isatty() else otherwise


def show(value: Any, as_json: bool = False) -> None:
    """Prints a dictionary, or a list of dictionaries with the same keys.

    A table that is wider than the terminal is printed as one block per row.
    """
    if as_json:
        # JSON has neither NaN nor infinity.
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        print(json.dumps(finite, indent=2))
        return
    from rich import box, console, table

    # Files and pipes have no width to fit.
    width = None if sys.stdout.isatty() else 10_000
    screen = console.Console(width=width, markup=False, emoji=False, highlight=False)
    if isinstance(value, dict):
        grid = table.Table(box=None, show_header=False)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for name, item in value.items():
            grid.add_row(name.replace("_", " "), as_text(item))
    else:
        # Narrow enough for six columns on a terminal of 80 characters.
        grid = table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name, item in value[0].items():
            justify: Any = "right" if isinstance(item, int | float) else "left"
            title = "\n".join(name.replace("_", " ").split())
            grid.add_column(title, justify=justify, no_wrap=True)
        for row in value:
            grid.add_row(*map(as_text, row.values()))
        unlimited = screen.options.update(max_width=10_000)
        if screen.measure(grid, options=unlimited).maximum > screen.width:
            for row in value:
                for name, item in row.items():
                    screen.print(f"{name.replace('_', ' ')}: {as_text(item)}")
                screen.print()
            return
    screen.print(grid)


def describe(error: Exception) -> str:
    """Returns the message of an error, with its type if the type is unexpected."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    if re.match("No module named '(tensorflow|jax|torch)", str(error)):
        return f"{error}. Install it, or set KERAS_BACKEND to tensorflow, jax or torch."
    if isinstance(error, OSError | ValueError | TypeError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error} (`zoo --debug COMMAND` shows where.)"


def complain(message: str, kind: str = "error") -> None:
    """Prints an error, or a note, on standard error."""
    print(f"{kind}: {message}", file=sys.stderr)
