"""How commands meet the terminal: tables, JSON, errors, and no noise.

Knows nothing of models. Everything heavy is imported where it is used.
"""

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import typer


def run(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Runs a command and turns every mistake into one line on standard error.

    Args:
        app: the commands.
        arguments: the words of the command line; a leading `--debug` lets errors
            through, with their traceback.

    Returns:
        The exit code: 0, 1 if the command failed, 2 if it cannot be understood, 130 if
        it was interrupted.
    """
    try:
        return app(arguments, prog_name="zoo", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if "--debug" in arguments[:1]:
            raise
        if hasattr(error, "format_message"):  # Typer's own: the command is wrong.
            complain(" ".join(error.format_message().split()))
            return 2
        complain(describe(error))
        return 1


def be_quiet() -> None:
    """Keeps TensorFlow's messages off the terminal, and warnings on one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def import_keras() -> None:
    """Imports Keras and its backend, after `be_quiet` without start-up messages."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        return
    # TensorFlow writes the first of them before it has read any setting.
    terminal = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            import keras  # noqa: F401
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def progress(otherwise: int = 0) -> int:
    """Keras' `verbose`: progress bars on a terminal, elsewhere `otherwise`."""
    return 1 if sys.stdout.isatty() else otherwise


def show(value: Any, as_json: bool = False) -> None:
    """Prints a description, or a list of rows with the same keys.

    Args:
        value: a dict, or a list of dicts.
        as_json: whether a script reads it rather than a person.
    """
    if as_json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    from rich import box, console, table

    if isinstance(value, dict):
        grid = table.Table(box=None, show_header=False)
        for name, item in value.items():
            grid.add_row(name.replace("_", " "), as_text(item))
    else:
        # Narrow enough for six columns on a terminal of 80.
        grid = table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for i, (name, item) in enumerate(value[0].items() if value else ()):
            grid.add_column(
                name.replace("_", " "),
                justify="right" if isinstance(item, int | float) else "left",
                no_wrap=i == 0,
                overflow="fold",
            )
        for row in value:
            grid.add_row(*map(as_text, row.values()))
    # What is not a terminal has no width that lines would have to fit into.
    width = None if sys.stdout.isatty() else 10_000
    console.Console(width=width, markup=False, highlight=False).print(grid)


def as_text(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe(error: Exception) -> str:
    """What went wrong, in the words of the error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    if isinstance(error, OSError | ValueError | TypeError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error} (`zoo --debug COMMAND` shows where)"


def complain(message: str) -> None:
    """Prints an error on standard error."""
    print(f"error: {message}", file=sys.stderr)


@contextlib.contextmanager
def if_interrupted(advice: str) -> Iterator[None]:
    """Says how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        complain(f"Interrupted. {advice}")
        raise
