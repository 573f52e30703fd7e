import shutil
import sys

import keras
import numpy as np
import pytest
from exports import encode, lenet, photograph, saved, tree, vector
from paths import run_python

from zoo.exporting import decoding
from zoo.exporting.loading import (
    check_exported,
    list_versions,
    load_exported,
    read_contract,
)
from zoo.exporting.versions import export


def test_the_newest_version(tmp_path, folder):
    for version in ("9", "10"):
        shutil.copytree(folder, tmp_path / version)
    (tmp_path / ".unfinished-11").mkdir()
    assert load_exported(tmp_path).path == tmp_path / "10"
    assert load_exported(str(tmp_path / "9")).path == tmp_path / "9"


def test_an_empty_batch_has_an_empty_answer(exported):
    answer = exported.predict(np.zeros((0, 28, 28, 1), "uint8"))
    shapes = {name: array.shape for name, array in answer.items()}
    assert shapes == {"probabilities": (0, 10), "class_id": (0,), "label": (0,)}


@pytest.mark.parametrize(
    "images", [np.zeros((28, 28, 1)), np.zeros((1, 32, 32, 1)), np.zeros(3)]
)
def test_predict_rejects_other_shapes(exported, images):
    message = r"shape \(None, 28, 28, 1\)\. Received: images\.shape=.*\.$"
    with pytest.raises(ValueError, match=message):
        exported.predict(images)


def test_predict_explains_a_wrong_file(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    good = encode(np.zeros((28, 28), "uint8"))
    (tmp_path / "x.png").write_bytes(good)
    assert exported.predict([good, "~/x.png", tmp_path / "x.png"])["label"].size == 3
    for bad, message in {
        b"text": "^`image_bytes` holds",
        good[:-20]: "^Invalid PNG",
    }.items():
        path = tmp_path / "bad.png"
        path.write_bytes(bad)
        for file, name in (path, rf" \({path}\)"), (bad, ""):
            received = rf"{message}[^\[]*\. Received: images\[2\]{name}\.$"
            with pytest.raises(ValueError, match=received):
                exported.predict((good, good, file))
    pixels_only = load_exported(export(vector(), tmp_path))
    with pytest.raises(ValueError, match="no signature for image files"):
        pixels_only.predict([encode(np.zeros((28, 28), "uint8"))])


@pytest.mark.parametrize("function", [load_exported, check_exported])
def test_a_package_that_is_not_installed_is_named(function, folder, monkeypatch):
    name = {load_exported: "tensorflow", check_exported: "tensorflow_serving"}[function]
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf"Received: package='{name}'\."):
        function(folder)


def test_scaled_pixels_are_named_unless_the_model_takes_them(
    tmp_path, exported, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    images = np.random.default_rng(0).random((2, 28, 28, 1))
    with pytest.warns(UserWarning, match="raw pixels"):
        exported.predict(images)
    flat = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    folder = export(keras.Sequential(flat), "~/serving", labels=["a", "b"])
    assert folder == tmp_path / "serving" / "1"
    load_exported("~/serving").predict(images)


def test_training_does_not_change_an_exported_version(tmp_path, pixels):
    model = lenet()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(pixels, np.arange(12) % 10, verbose=0)
    variables = [keras.ops.convert_to_numpy(v) for v in model.variables]
    exported = load_exported(export(model, tmp_path))
    for variable, before in zip(model.variables, variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), before)
    before = exported.predict(pixels)["probabilities"]
    model.fit(pixels, np.arange(12) % 10, verbose=0)
    np.testing.assert_array_equal(exported.predict(pixels)["probabilities"], before)


def test_importing_takes_neither_keras_nor_tensorflow():
    program = (
        "import sys; sys.modules['keras'] = sys.modules['tensorflow'] = None\n"
        "import zoo.exporting.loading"
    )
    run_python("-c", program)


@pytest.mark.parametrize("name", ["labels.txt", "variables/variables.index"])
@pytest.mark.parametrize("change", ["flipped", "truncated", "missing"])
def test_altered_files_are_rejected(folder, tmp_path, name, change):
    copy = shutil.copytree(folder, tmp_path / "1")
    content = (copy / name).read_bytes()
    if change == "missing":
        (copy / name).unlink()
    elif change == "truncated":
        (copy / name).write_bytes(content[:-1])
    else:
        (copy / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ValueError, match="is not the file that was exported") as error:
        load_exported(tmp_path)
    assert str(copy / name) in str(error.value)
    assert "Expected: sha256=" in str(error.value)


def test_check_exported(folder, tmp_path):
    assert check_exported(folder) == folder
    copy = shutil.copytree(folder, tmp_path / "1")
    before = tree(copy)
    assert check_exported(copy) == copy
    assert tree(copy) == before
    (copy / "variables" / "more").write_bytes(b"")
    with pytest.raises(ValueError, match=r"were not exported.*variables/more"):
        check_exported(copy)


def test_nothing_to_load(tmp_path, folder):
    (tmp_path / "3").mkdir()
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "3", folder / "labels.txt"):
        with pytest.raises(FileNotFoundError, match="No version written by") as error:
            load_exported(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", '{"files": []}', '{"files": {}}'),
        '{"format": "another", "labels": [], "files": {}, "signatures": {}}',
    ],
)
def test_a_damaged_contract(folder, tmp_path, content):
    copy = shutil.copytree(folder, tmp_path / "1")
    (copy / "export.json").write_text(content)
    with pytest.raises(ValueError, match=r"The file is damaged.*export\.json'\.$"):
        read_contract(copy)
    assert export(vector(), tmp_path) == tmp_path / "2"  # It blocks no other version.


def test_list_versions(tmp_path):
    for name in ("1", "00011", "3.0", "²", ".unfinished-4", "notes"):
        (tmp_path / name).mkdir()
    versions = list_versions(tmp_path)
    assert versions == {1: tmp_path / "1", 11: tmp_path / "00011"}
    assert list_versions(tmp_path / "missing") == {}


def test_files_that_are_too_large_together_are_decoded_one_by_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(decoding, "MAX_BATCH_PIXELS", 100)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2))
    exported = load_exported(export(model, tmp_path, labels=["no", "yes"]))
    files = [saved(photograph("L", (8, 8))), saved(photograph("L", (9, 9)))]
    answer = exported.predict(files)
    for i, file in enumerate(files):
        one = exported.predict([file])["probabilities"]
        np.testing.assert_allclose(answer["probabilities"][i], one[0], 1e-6)
    with pytest.raises(ValueError, match=r"Received: images\[1\]"):
        exported.predict([files[0], b"no image"])
    with pytest.raises(ValueError, match="NaN or infinity"):
        exported.predict(np.full((1, 8, 8, 1), np.inf))
