"""The short examples run, and print what they promise."""

import re

import pytest
from paths import ROOT, load_script


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        pytest.param(
            "vanishing_gradient",
            {"epochs": 1},
            r"none +\d\.\de-0[3-9]",
            marks=pytest.mark.endurance,
        ),
        ("feature_extractor", {"images": 200, "epochs": 1}, r"convnet +\d"),
        ("serve", {"base_path": "served"}, r"version 1: digit.png is a (\d)\n.*: \1"),
    ],
)
def test_example(name, arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    load_script(ROOT / "examples" / f"{name}.py").main(**arguments)
    assert re.search(expected, capsys.readouterr().out)
