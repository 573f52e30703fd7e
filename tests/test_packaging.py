"""The wheel, installed in an empty environment, does what the README promises."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

import zoo

ROOT = pathlib.Path(__file__).parent.parent

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


def run(*command, cwd=None):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
    return next(folder.glob("*.whl"))


def test_wheel_holds_code_weights_and_types_and_nothing_else(wheel):
    assert wheel.name == f"gradzoo-{zoo.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 12e6
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    assert {name.split("/")[0] for name in names} == {"zoo"}
    assert {"zoo/py.typed", "zoo/__init__.pyi", "zoo/callbacks/py.typed"} < set(names)
    assert "zoo/callbacks/gradient_norms.py" in names
    assert "zoo/templates/README.md" in names
    for card in zoo.list_weights():
        for suffix in ("toml", "json", "weights.h5"):
            assert f"zoo/published/{card.id}.{suffix}" in names


@pytest.mark.endurance
def test_quick_start_from_the_installed_wheel(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "env")
    binaries = tmp_path / "env" / "bin"
    # The versions under test, where pip would choose others.
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(
        run(sys.executable, "-m", "pip", "freeze", "--exclude-editable")
    )
    run(
        *(binaries / "pip", "install", "--quiet", "--no-compile"),
        *(f"{wheel}[sample]", "--constraint", constraints),
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    output = run(binaries / "python", "-c", QUICK_START, cwd=elsewhere)
    assert str(tmp_path / "env") in output
    assert "lenet5" in run(binaries / "zoo", "list", cwd=elsewhere)


def test_versions_agree():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in changelog or f"## [{zoo.__version__}]" in changelog
