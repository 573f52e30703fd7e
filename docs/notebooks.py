"""Executes docs/lessons/*.py and writes each as a page with its figures: `make docs`.

A lesson is executed again only if it or the package has changed.
"""

import hashlib
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # The kernels inherit it.

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = pathlib.Path(__file__).parent.parent
LESSONS = ROOT / "docs" / "lessons"
LINKS = """[Notebook]({0}.ipynb){{ download }} · [Python]({0}.py){{ download }}

Run it: `python docs/lessons/{0}.py`. On another machine, the last digits may differ."""
# The text of a figure in a notebook, which becomes the alt text on the page.
TITLES = """
from matplotlib.figure import Figure

def title(figure):
    titles = [axis.get_title() for axis in figure.axes]
    text = figure.get_suptitle() or ". ".join(filter(None, titles))
    return " ".join(text.split())

Figure.__repr__ = title
del Figure, title
"""
KERNEL_OPTIONS = [
    "--InlineBackend.figure_formats=['retina']",
    "--log-level=ERROR",
    f"--IPKernelApp.exec_lines={TITLES}",
]


def fingerprint(lesson: pathlib.Path) -> str:
    """Returns a checksum of a lesson and of the code that it runs."""
    files = [lesson, pathlib.Path(__file__)]
    for package in ("zoo", "callbacks"):
        files += sorted((ROOT / package).rglob("*.*"))
    digest = hashlib.sha256()
    for path in files:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def write_page(lesson: pathlib.Path, note: str) -> None:
    """Executes a lesson and writes NAME.md, NAME.ipynb, and figures in NAME_files."""
    notebook = jupytext.read(lesson, fmt="py:percent")
    folder = {"metadata": {"path": str(LESSONS)}}
    options = {"kernel_name": "python3", "resources": folder, "coalesce_streams": True}
    client = NotebookClient(notebook, extra_arguments=KERNEL_OPTIONS, **options)
    client.execute()
    figures = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        # Logs of TensorFlow are not part of the lesson.
        cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
        for output in cell.outputs:
            if "WARNING" in output.get("text", ""):
                raise ValueError(f"{lesson.name} prints a warning:\n{output['text']}")
            if "image/png" in output.get("data", {}):
                figures.append(output["data"]["text/plain"])
    if not all(figures):
        raise ValueError(f"{lesson.name} has a figure without a title: {figures}.")
    jupytext.write(notebook, lesson.with_suffix(".ipynb"))
    resources = {"unique_key": lesson.stem, "output_files_dir": f"{lesson.stem}_files"}
    text, resources = MarkdownExporter().from_notebook_node(notebook, resources)
    for name, content in resources["outputs"].items():
        path = LESSONS / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    title, _, text = text.strip().partition("\n")
    for alt_text in figures:
        text = text.replace("![png](", f"![{alt_text}](", 1)
    page = "\n".join([title, "", LINKS.format(lesson.stem), text, "", note, ""])
    lesson.with_suffix(".md").write_text(page, "utf-8")


if __name__ == "__main__":
    for lesson in sorted(LESSONS.glob("*.py")):
        page = lesson.with_suffix(".md")
        note = f"<!-- made of {fingerprint(lesson)} -->"
        if not page.exists() or note not in page.read_text("utf-8"):
            print(f"executing {lesson.name}")
            write_page(lesson, note)
