import json
import shutil
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from exports import folders, tree, vector

import zoo
from zoo.exporting.contract import list_versions, read_contract
from zoo.exporting.versions import export


def test_layout(folder):
    assert folder.name == "1"
    assert sorted(tree(folder)) == [
        "assets.extra/tf_serving_warmup_requests",
        "export.json",
        "fingerprint.pb",
        "labels.txt",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert folders(folder.parent) == ["1"]
    labels = [f"digit {i} é" for i in range(10)]
    assert (folder / "labels.txt").read_text("utf-8").splitlines() == labels

    contract = json.loads((folder / "export.json").read_text("utf-8"))
    assert contract == read_contract(folder)
    assert contract["model"] == "lenet"
    assert contract["labels"] == labels
    assert contract["libraries"] == {
        "gradzoo": zoo.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "tensorflow": tf.__version__,
    }
    assert contract["format"] == "saved_model"
    assert contract["preprocessing"].keys() == {"image", "image_bytes"}
    assert contract["weights"] is None
    assert sorted(contract["files"]) == sorted(set(tree(folder)) - {"export.json"})


def test_the_card_of_unchanged_weights(tmp_path):
    model = zoo.LeNet5(weights="mnist")
    contract = read_contract(export(model, tmp_path))
    card = json.loads(zoo.get_weights("lenet5", "mnist").to_json())
    assert contract["weights"] == card
    assert contract["labels"] == card["categories"]
    bias = model.get_layer("conv1").bias
    bias.assign(bias + 1)
    assert read_contract(export(model, tmp_path))["weights"] is None


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
