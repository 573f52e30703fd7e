"""Reading, loading and saving of weight files."""

import re
import zipfile

import h5py
import numpy as np
import pytest

import zoo
from zoo.models.weight_files import read_layers, save_float16


def test_files_that_are_not_whole_weights_files(tmp_path):
    whole, path = tmp_path / "whole.weights.h5", tmp_path / "own.weights.h5"
    zoo.LeNet5().save_weights(whole)
    truncated = whole.read_bytes()[:-1000]
    for content in (b"", b"text", b"\x89HDF\r\n\x1a\n" + b"0" * 100, truncated):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or not a Keras weights file"):
            zoo.LeNet5(weights=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match=r"damaged or not.*no item named"):
        zoo.LeNet5(weights=path)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file["layers/conv2d/vars"].attrs.modify("name", b"\xff"),
        lambda file: file["layers/conv2d/vars"].attrs.pop("name"),
        lambda file: file["layers/conv2d/vars"].move("0", "first"),
        lambda file: file.move("layers/conv2d/vars/0", "layers/dense/vars/x"),
        lambda file: (file.pop("layers"), file.create_dataset("layers", data=[1.0])),
    ],
)
def test_file_with_another_structure(change, tmp_path):
    path = tmp_path / "own.weights.h5"
    zoo.LeNet5().save_weights(path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=re.escape(repr(str(path)))):
        zoo.LeNet5(weights=path)


def test_float16(tmp_path):
    model = zoo.LeNet5()
    path = tmp_path / "half.weights.h5"
    save_float16(model, path)
    saved = read_layers(path)
    assert {a.dtype for arrays in saved.values() for a in arrays} == {np.dtype("f2")}
    for loaded in (zoo.LeNet5(weights=path), zoo.LeNet5()):
        loaded.load_weights(path)
        for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b.astype("float16"))
