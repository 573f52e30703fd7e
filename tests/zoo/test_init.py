"""The public names of the package."""

import subprocess
import sys

PROGRAM = """
import rlcompleter, sys, zoo
found = rlcompleter.Completer({"zoo": zoo}).attr_matches("zoo.")
print("zoo.LeNet5" in found, "keras" in sys.modules, zoo.LeNet5.__name__)
"""


def test_completion_lists_names_without_keras():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True False LeNet5\n"
