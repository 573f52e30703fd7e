"""The Python blocks of README.md and docs/ run, and what is generated is up to date."""

import ast
import copy
import doctest
import re

import numpy as np
import pytest
from paths import ROOT, load_script
from PIL import Image
from served import serving  # noqa: F401  a fixture

import zoo
from zoo.cli import commands as cli
from zoo.cli import terminal

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")
SITE = re.search(r"site_url: (.*)", (ROOT / "mkdocs.yml").read_text("utf-8"))[1]
# Blocks that include a script: those have tests of their own.
BLOCK = re.compile(r"^```python\n(?!--8<--)(.*?)^```", re.DOTALL | re.MULTILINE)
USES = re.findall(r"### ([^\n]+)\n+```python\n(.*?)```", README, re.DOTALL)
PAGES = {
    page.relative_to(DOCS).as_posix(): BLOCK.findall(page.read_text("utf-8"))
    for page in [*DOCS.glob("*.md"), *DOCS.glob("results/*.md")]
}
NEED_RUNTIMES = ("play.md", "runtimes.md")
EXAMPLES = {
    name: example
    for module in (zoo, zoo.callbacks)
    for name in dir(module)
    for example in doctest.DocTestFinder(recurse=False).find(
        getattr(module, name), name, globs={"np": np, "zoo": zoo} | vars(module)
    )
    if example.examples
}


def run(code, title):
    exec(compile(code, title, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("title", "code"), USES, ids=[title for title, _ in USES])
def test_block_of_readme(title, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(code, f"README.md, {title}")


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_example_of_docstring(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_every_use_has_a_block():
    assert len(USES) == README.count("```python") == 5


@pytest.mark.filterwarnings("ignore:The layer 'logits' is untrained")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(x, marks=[pytest.mark.runtimes] if x in NEED_RUNTIMES else [])
        for x in sorted(PAGES)
        if PAGES[x]
    ],
)
def test_blocks_of_page(page, tmp_path, monkeypatch, request):
    """In their order, as in a notebook."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(PAGES[page])
    if "http://localhost:8501" in code:
        server = request.getfixturevalue("serving")
        code = code.replace("http://localhost:8501", server.rest)
    run(code, page)


def test_shell_block(tmp_path, monkeypatch):
    """With the sample in the place of the full data, and one epoch of training."""
    monkeypatch.chdir(tmp_path)
    images, _ = zoo.load_dataset("digits-sample", as_="numpy")
    Image.fromarray(images[0, :, :, 0]).save("digit.jpg")
    page = (DOCS / "use.md").read_text("utf-8")
    (block,) = re.findall(r"## From the shell\n+```sh\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines():
        line = line.replace("--data mnist", "--data digits-sample --epochs 1")
        program, *words = line.split()
        assert program == "zoo"
        assert terminal.run(cli.app, words) == 0, line


def test_links_of_readme():
    """To pages of the site that exist, in a form that works on a package index."""
    links = re.findall(r"(?<!!)\[[^]]+\]\(([^)]+)\)", README, re.DOTALL)
    assert links
    for link in links:
        page = link.removeprefix(SITE).removesuffix(".html")
        assert page != link, f"not a page of the site: {link}"
        is_page = (DOCS / f"{page}.md").exists()
        assert is_page or (ROOT / f"{page}.html").exists(), link


def test_tables_are_up_to_date():
    tables = load_script(DOCS / "tables.py")
    for path, text in tables.updated_files().items():
        assert path.read_text("utf-8") == text
    for weights in zoo.list_weights():
        assert f"{weights.metrics['accuracy']:.2%} (" in README


def test_every_model_has_a_page():
    models = load_script(DOCS / "models.py")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    for name in zoo.list_models(weights="mnist"):
        assert f"models/{name}.md" in settings
        page = models.page(name)
        for card in zoo.list_weights(name):
            assert f"{card.metrics['accuracy']:.2%}" in page
            assert f"```sh\n{card.command}\n```" in page
        layers = zoo.create(name).layers
        for layer in layers:
            assert f"| `{layer.name}` | {type(layer).__name__} |" in page


def test_model_page_shows_what_a_card_holds():
    models = load_script(DOCS / "models.py")
    card = copy.deepcopy(zoo.get_weights("lenet5.mnist"))
    counts = [[990 if i == j else 0 for j in range(10)] for i in range(10)]
    counts[4][9] = 7
    card.metrics["confusion"] = counts
    card.metrics["shifted"] = {"1": 0.99, "2": 0.955}
    card.training["gradient_norms"] = {"conv1": [0.5, 0.25]}
    section = models.weights_section(card)
    assert "| 4 | 9 | 7 |" in section
    assert "| accuracy | 99.0% | 95.5% |" in section
    assert "| `conv1` | 5.0e-01 | 2.5e-01 |" in section


def test_every_public_name_is_in_the_reference():
    stub = ast.parse((ROOT / "zoo" / "__init__.pyi").read_text("utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    text = "".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^::: (zoo\.\S+)$", text, re.MULTILINE))
    packages = {"callbacks": zoo.callbacks, "serving": zoo.serving}
    expected = {f"zoo.{name}" for name in names - set(packages)}
    for package, module in packages.items():
        expected |= {f"zoo.{package}.{name}" for name in module.__all__}
    findings = "zoo.callbacks.gradients.findings"
    expected |= {f"{findings}.Diagnosis", f"{findings}.Finding"}
    assert listed == expected | {"zoo.exporting.loading.ExportedModel"}
