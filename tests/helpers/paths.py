"""The folders of the checkout, and the programs that tests run."""

import importlib.util
import pathlib
import subprocess
import sys
import types
from typing import Any
from unittest import mock

HELPERS = pathlib.Path(__file__).parent
ROOT = HELPERS.parents[1]


def load_script(path: pathlib.Path) -> types.ModuleType:
    """Imports a script that belongs to no package, with the modules beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
        spec.loader.exec_module(module)
    return module


def run_python(*arguments: object, **options: Any) -> str:
    """Runs Python in a process that has to succeed; returns its output."""
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout
