"""Every Python block of the README runs, and what it generates is up to date."""

import re

import matplotlib as mpl
import pytest
from paths import ROOT, load_script
from PIL import Image

import zoo
from zoo.cli import commands as cli
from zoo.cli import terminal

mpl.use("agg")
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"### ([^\n]+)\n+```python\n(.*?)```", README, re.DOTALL)
# The tests of the client have a server for this one.
BLOCKS = [block for block in BLOCKS if block[0] != "Ask a server"]


@pytest.mark.filterwarnings("ignore:The layer 'logits' is untrained")
@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_python_block(title, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"README.md, {title}", "exec"), {"__name__": "__main__"})


def test_every_use_has_a_block():
    assert len(BLOCKS) == README.count("```python") - 1 == 7


def test_shell_block(tmp_path, monkeypatch):
    """With the sample in the place of the full data, and one epoch of training."""
    monkeypatch.chdir(tmp_path)
    images, _ = zoo.load_dataset("digits-sample", as_="numpy")
    Image.fromarray(images[0, :, :, 0]).save("digit.jpg")
    (block,) = re.findall(r"### From the shell\n+```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines():
        line = line.replace("--data mnist", "--data digits-sample --epochs 1")
        program, *words = line.split()
        assert program == "zoo"
        assert terminal.run(cli.app, words) == 0, line


def test_tables_are_up_to_date():
    tables = load_script(ROOT / "docs" / "tables.py")
    assert tables.readme(README) == README
    results = ROOT / "docs" / "results.csv"
    assert tables.results_csv() == results.read_text("utf-8")
    for weights in zoo.list_weights():
        assert f"{weights.metrics['accuracy']:.2%} (" in README
