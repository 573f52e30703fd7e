"""The public names of the package."""

from paths import run_python

PROGRAM = """
import rlcompleter, sys, zoo
found = rlcompleter.Completer({"zoo": zoo}).attr_matches("zoo.")
name = zoo.list_models.__name__
print("zoo.LeNet5" in found, "keras" in sys.modules, name)
"""


def test_completion_lists_names_without_keras():
    assert run_python("-c", PROGRAM) == "True False list_models\n"
