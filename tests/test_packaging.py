"""Installs of every kind: the wheel, the sdist, and the editable one."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from paths import ROOT

import zoo

QUICK_START = """
import keras, numpy as np, zoo
from zoo.callbacks import GradientNorms

for card in zoo.list_weights():
    zoo.create(card.model, weights=card)
model = zoo.LeNet5(weights="mnist")
images, labels = zoo.load_dataset("digits-sample", "validation", as_="numpy")
accuracy = np.mean(model.predict(images, verbose=0).argmax(-1) == labels)
assert accuracy > 0.98, accuracy

model.compile("adam", "sparse_categorical_crossentropy")
norms = GradientNorms()
model.fit(images, labels, batch_size=100, callbacks=[norms], verbose=0)
assert norms.history["conv1"].shape == (10,)

path = zoo.export(model, "serving/lenet5")
answer = zoo.load_exported(path).predict(images[:8])
np.testing.assert_array_equal(answer["class_id"], model.predict(images[:8]).argmax(-1))
print("installed in", zoo.__file__)
"""

WITHOUT_TENSORFLOW = """
import zoo

report = zoo.train("lenet5", "digits-sample", epochs=1, gradient_norms=True, verbose=0)
assert report.gradient_norms.diagnose().verdict
images, labels = zoo.load_dataset("digits-sample", "validation")
assert zoo.evaluate(zoo.LeNet5(weights="mnist"), (images, labels))["accuracy"] > 0.98
for needs_tensorflow in (
    lambda: zoo.export(report.model, "serving"),
    lambda: zoo.load_dataset("digits-sample", as_="tf.data"),
    lambda: zoo.serving.Client("grpc://localhost:8500", "lenet5"),
):
    try:
        needs_tensorflow()
    except ModuleNotFoundError as error:
        assert "Received: " in str(error), error
    else:
        raise AssertionError(needs_tensorflow)
"""

# Names that a type checker must find, and one error that it must report.
TYPED = """
import zoo
from zoo.callbacks import GradientNorms

norms = GradientNorms(buffer_size=8)
steps = norms.steps.shape
names: list[str] = zoo.list_models()
reveal_type(zoo.list_models)
wrong: int = zoo.list_models()
"""


def run(*command, cwd=None, env=None):
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def names_in(wheel):
    with zipfile.ZipFile(wheel) as file:
        return sorted(file.namelist())


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The sdist, and the wheel that is built from it, in a copy of the checkout."""
    copy = tmp_path_factory.mktemp("checkout") / "gradzoo"
    ignored = shutil.ignore_patterns(".*", "runs", "demo", "tests", "benchmarks")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    before = sorted(copy.iterdir())
    folder = copy.parent / "dist"
    run(sys.executable, "-m", "build", "--outdir", folder, copy)
    # `pip install .` builds from the checkout, which has a link that the sdist has not.
    direct = copy.parent / "direct"
    run(sys.executable, "-m", "build", "--wheel", "--outdir", direct, copy)
    [wheel], [other] = folder.glob("*.whl"), direct.glob("*.whl")
    assert names_in(wheel) == names_in(other)
    assert sorted(copy.iterdir()) == before, "a build leaves files behind"
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def test_wheel_holds_code_weights_and_types_and_nothing_else(archives):
    _, wheel = archives
    assert wheel.name == f"gradzoo-{zoo.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 12e6
    names = [name for name in names_in(wheel) if ".dist-info/" not in name]
    assert not [name for name in names if "__pycache__" in name]
    assert {name.split("/")[0] for name in names} == {"zoo"}
    assert {"zoo/py.typed", "zoo/__init__.pyi", "zoo/callbacks/py.typed"} < set(names)
    assert "zoo/callbacks/gradients/gradient_norms.py" in names
    assert "zoo/exporting/templates/README.md" in names
    for card in zoo.list_weights():
        for suffix in ("toml", "json", "weights.h5"):
            assert f"zoo/published/{card.id}.{suffix}" in names


def test_sdist_holds_no_tests_and_no_links(archives):
    sdist, _ = archives
    with tarfile.open(sdist) as file:
        members = file.getmembers()
    names = [member.name.partition("/")[2] for member in members]
    assert all(member.isfile() for member in members)
    assert {"callbacks/__init__.py", "CHANGELOG.md", "LICENSE"} < set(names)
    assert not [name for name in names if name.startswith(("tests/", "zoo/callbacks"))]


def test_description_has_absolute_links(archives):
    """A package index has no files that others could lead to."""
    _, wheel = archives
    with zipfile.ZipFile(wheel) as file:
        name = next(n for n in file.namelist() if n.endswith("METADATA"))
        description = file.read(name).decode().partition("\n\n")[2]
    assert description.startswith("# gradzoo")
    assert description.count("](") == description.count("](https://") > 5


def test_type_checkers_find_the_editable_install(tmp_path):
    """In a working directory with a folder called `zoo`, too."""
    (tmp_path / "zoo").mkdir()
    script = tmp_path / "script.py"
    script.write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", script.name]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    errors = [line for line in result.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, result.stdout
    assert 'expression has type "list[str]", variable has type "int"' in errors[0]
    assert 'Revealed type is "def (pattern: ' in result.stdout
    found = run(sys.executable, "-c", "import zoo; print(zoo.__file__)", cwd=tmp_path)
    assert pathlib.Path(found.strip()) == ROOT / "zoo" / "__init__.py"


def find_python(version):
    """The interpreter of this version, or `None`."""
    # The launchers of pyenv read the variable; others ignore it.
    env = os.environ | {"PYENV_VERSION": version}
    program = shutil.which(f"python{version}")
    command = [program, "-c", "import sys; print(sys.executable)"]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None


@pytest.mark.endurance
def test_install_without_tensorflow(archives, tmp_path):
    """The commands of the guide, with the wheel in the place of the checkout."""
    guide = (ROOT / "docs" / "install.md").read_text("utf-8")
    block = guide.partition("## Without TensorFlow")[2].partition("```")[2]
    commands = block.partition("```")[0].splitlines()[1:]
    run(sys.executable, "-m", "venv", tmp_path / "env")
    env = os.environ | {"PATH": f"{tmp_path}/env/bin:{os.environ['PATH']}"}
    for command in commands:
        if command.startswith("export "):
            env |= [command.removeprefix("export ").split("=")]
        else:
            run(*command.replace(" .", f" {archives[1]}").split(), env=env)
    run("python", "-c", WITHOUT_TENSORFLOW, cwd=tmp_path, env=env)
    assert "lenet5.mnist" in run("zoo", "list", cwd=tmp_path, env=env)
    shutil.rmtree(tmp_path / "env")


@pytest.mark.endurance
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_quick_start_from_the_installed_wheel(version, archives, tmp_path):
    python = shutil.which(f"python{version}") and find_python(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed")
    run(python, "-m", "venv", tmp_path / "env")
    binaries = tmp_path / "env" / "bin"
    options = []
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        # The versions under test, where pip would choose others.
        constraints = tmp_path / "constraints.txt"
        constraints.write_text(
            run(sys.executable, "-m", "pip", "freeze", "--exclude-editable"), "utf-8"
        )
        options = ["--constraint", constraints]
    _, wheel = archives
    install = [binaries / "pip", "install", "--quiet", "--no-compile"]
    run(*install, f"{wheel}[sample]", *options)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    output = run(binaries / "python", "-c", QUICK_START, cwd=elsewhere)
    assert str(tmp_path / "env") in output
    assert "lenet5" in run(binaries / "zoo", "list", cwd=elsewhere)
    shutil.rmtree(tmp_path / "env")
