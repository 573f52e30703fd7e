"""The sweep runs in a process of its own, which Ray's processes belong to."""

import re

import pytest
from paths import ROOT, run_python

PROGRAM = """
import runpy, sys
sweep = runpy.run_path(sys.argv[1])["main"]
print("returned", sweep("shallow_mlp", "digits-sample", epochs=1, trials=2).optimizer)
"""


@pytest.mark.endurance
def test_sweep(tmp_path):
    script = ROOT / "examples" / "sweep.py"
    output = run_python("-c", PROGRAM, script, cwd=tmp_path, timeout=600)
    rows = re.findall(r"^ *([\d.e-]+) +([\d.e-]+) +(0\.\d+)$", output, re.M)
    assert len(rows) == 2
    rate, decay, accuracy = max(rows, key=lambda row: float(row[2]))
    assert float(accuracy) > 0.2  # Ten classes: a guess is right once in ten times.
    best = re.search(r"^best: (.*)$", output, re.M).group(1)
    assert f"returned {best}" in output
    found = [float(number) for number in re.findall(r": ([\d.e-]+)", best)]
    assert found == pytest.approx([float(rate), float(decay)], rel=1e-2)
