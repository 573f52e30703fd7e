"""Keras' own tests, as installed, with `GradientNorms` in every `fit`."""

import os
import pathlib
import re
import subprocess
import sys
from xml.etree import ElementTree

import keras
import pytest
from paths import HELPERS, ROOT

SOURCE = pathlib.Path(keras.__file__).parent / "src"


def run_tests(folder, **environment):
    """Returns the outcome of each test, and the number of fits recorded."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "inject_gradient_norms", "--quiet"]
    command += ["-c", os.devnull, f"--rootdir={SOURCE}", "-p", "no:cacheprovider"]
    command += ["-m", "not multi_device", "--continue-on-collection-errors"]
    command += [f"--junitxml={report}"]
    command += [SOURCE / name for name in ("trainers", "optimizers", "callbacks")]
    path = os.pathsep.join([str(HELPERS), str(ROOT)])
    environment |= {"KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": path}
    options = {"env": os.environ | environment, "cwd": folder, "text": True}
    output = subprocess.run(command, stdout=subprocess.PIPE, **options).stdout
    cases = list(ElementTree.parse(report).iter("testcase"))
    ids = [(case.get("classname"), case.get("name")) for case in cases]
    outcomes = [[part.tag for part in case] for case in cases]
    recorded = int(re.search(r"(\d+) of \d+ fits", output).group(1))
    return dict(zip(ids, outcomes, strict=True)), recorded


@pytest.mark.endurance
def test_the_outcomes_of_keras_own_tests_are_the_same(tmp_path):
    expected, _ = run_tests(tmp_path)
    outcomes, recorded = run_tests(tmp_path, INJECT="yes")
    assert outcomes == expected
    assert sum(not parts for parts in outcomes.values()) > 400  # passed
    assert recorded > 100
