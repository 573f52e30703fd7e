"""Where the checkout and the programs that tests run are."""

import importlib.util
import pathlib
import types

HELPERS = pathlib.Path(__file__).parent
ROOT = HELPERS.parents[1]


def load_script(path: pathlib.Path) -> types.ModuleType:
    """Imports a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
