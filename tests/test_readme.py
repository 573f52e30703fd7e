"""Every Python block of the README runs, and what it generates is up to date."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import matplotlib as mpl
import pytest

import zoo

mpl.use("agg")
ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"### ([^\n]+)\n+```python\n(.*?)```", README, re.DOTALL)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:The layer 'logits' is untrained")
@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_python_block(title, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"README.md, {title}", "exec"), {"__name__": "__main__"})


def test_every_use_has_a_block():
    assert len(BLOCKS) == README.count("```python") == 5


@pytest.mark.parametrize("command", re.findall(r"^zoo ([a-z]+)", README, re.MULTILINE))
def test_shell_command_exists(command):
    zoo_command = pathlib.Path(sys.executable).with_name("zoo")
    result = subprocess.run([zoo_command, command, "--help"], capture_output=True)
    assert result.returncode == 0


def test_tables_are_up_to_date():
    tables = load(ROOT / "docs" / "tables.py")
    assert tables.readme(README) == README
    assert tables.results_csv() == (ROOT / "results.csv").read_text()
    for weights in zoo.list_weights():
        assert f"{weights.metrics['accuracy']:.2%} (" in README


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("vanishing_gradient", {"epochs": 1}, r"none +\d\.\de-0[3-9]"),
        ("feature_extractor", {"images": 200, "epochs": 1}, r"lenet5 +\d"),
        ("serve", {"base_path": "served"}, r"version 1: digit.png is a (\d)\n.*: \1"),
    ],
)
def test_example(name, arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    load(ROOT / "examples" / f"{name}.py").main(**arguments)
    assert re.search(expected, capsys.readouterr().out)
