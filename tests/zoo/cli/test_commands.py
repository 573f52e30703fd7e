"""The commands, run in this process."""

import json
import os
import pathlib
import re
import shutil
from unittest import mock

import keras
import numpy as np
import pytest
from exports import png_of_size
from PIL import Image

import zoo


def save(path, image):
    """Writes a uint8 image of shape `(height, width, 1)` as a file."""
    Image.fromarray(image[:, :, 0]).save(path)
    return path


def test_list_prints_every_weight_or_those_that_match(run):
    code, output, errors = run("list", "--json")
    assert (code, errors) == (0, "")
    rows = json.loads(output)
    assert [row["weights"] for row in rows] == [w.id for w in zoo.list_weights()]
    card = zoo.get_weights("lenet5.mnist")
    [row] = [row for row in rows if row["weights"] == card.id]
    assert row["parameters"] == 61_706
    assert row["test_accuracy"] == card.metrics["accuracy"]
    code, output, errors = run("list")
    assert (code, errors) == (0, "")
    assert all(row["weights"] in output for row in rows)
    assert "61,706" in output
    _, output, _ = run("list", "*mlp", "--weights", "mnist", "--json")
    models = [row["weights"] for row in json.loads(output)]
    assert models == ["shallow_mlp.mnist.v1", "deep_mlp.mnist.v1"]


def test_info_prints_the_card(run):
    card = zoo.get_weights("lenet5.mnist")
    code, output, errors = run("info", "lenet5.mnist", "--json")
    assert (code, errors) == (0, "")
    description = json.loads(output)
    assert description.pop("id") == "lenet5.mnist.v1"
    assert description == json.loads(card.to_json())
    _, output, _ = run("info", "lenet5.mnist")
    assert card.sha256 in output
    assert card.data["license"] in output
    assert "probabilities" not in output


def test_info_describes_a_model_and_a_run(run, trained):
    code, output, errors = run("info", "lenet5")
    assert (code, errors) == (0, "")
    assert all(word in output for word in ("LeNet-5", "61,706", "lenet5.mnist.v1"))
    code, output, errors = run("info", trained, "--json")
    assert (code, errors) == (0, "")
    assert json.loads(output)["recipe"]["model"] == "shallow_mlp"


def test_info_describes_a_file_and_predict_numbers_its_classes(run, digits, tmp_path):
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model = keras.Model(model.inputs[0], {"scores": model.outputs[0]}, name="mine")
    model.save(tmp_path / "mine.keras")
    code, output, errors = run("info", "mine.keras", "--json")
    assert (code, errors) == (0, "")
    expected = {"file": "mine.keras", "name": "mine", "input_shape": [None, 4, 4, 1]}
    expected |= {"parameters": 34, "categories": None, "normalization": None}
    assert json.loads(output) == expected
    words = ["predict", save(tmp_path / "digit.png", digits[0][4]), "--json"]
    code, output, errors = run(*words, "--weights", "mine.keras")
    assert (code, errors.count("\n")) == (0, 1)
    assert errors.startswith("warning: The model does not know the labels")
    assert "nor the form of its images" in errors
    [answer] = json.loads(output)  # of a model that returns logits
    assert answer["label"] in ("0", "1")
    assert answer["probability"] + sum(answer["runner_up"].values()) == pytest.approx(1)


def test_datasets_lists_what_is_ready(run, tmp_path):
    code, output, errors = run("datasets")
    assert (code, errors) == (0, "")
    lines = [line.split()[:2] for line in output.splitlines()]
    assert ["digits-sample", "yes"] in lines
    assert {"mnist", "fashion_mnist"} <= {line[0] for line in lines if line}
    _, output, _ = run("datasets", "list", "--data-dir", tmp_path, "--json")
    rows = {row["name"]: row for row in json.loads(output)}
    assert rows["mnist"]["ready"] is False
    assert rows["mnist"]["splits"]["test"] == 10_000


def test_prepare_and_publish_pass_their_arguments(run, monkeypatch, recipe, tmp_path):
    prepare = mock.Mock(return_value=tmp_path / "mnist.npz")
    monkeypatch.setattr(zoo, "prepare_dataset", prepare)
    words = ["datasets", "prepare", "mnist", "--from", tmp_path, "--data-dir", "there"]
    assert run(*words)[:2] == (0, f"mnist is ready: {tmp_path / 'mnist.npz'}\n")
    folders = {"source_dir": tmp_path, "data_dir": pathlib.Path("there")}
    prepare.assert_called_once_with("mnist", **folders)

    publish = mock.Mock(return_value=zoo.get_weights("lenet5.mnist"))
    monkeypatch.setattr(zoo, "publish", publish)
    code, output, _ = run("publish", recipe, "--seed", 4, "--seed", 5)
    assert code == 0
    assert output.startswith("lenet5.mnist.v1 is published")
    assert publish.call_args.args == (str(recipe),)
    assert publish.call_args.kwargs["seeds"] == [4, 5]


# Training and using what was trained


def test_train_leaves_logs(trained):
    assert (trained / "log.csv").read_text("utf-8").count("\n") == 1 + 2
    assert (trained / "gradient_norms.csv").is_file()
    recipe = json.loads((trained / "run.json").read_text("utf-8"))["recipe"]
    assert recipe["seed"] == 3


def test_train_refuses_a_folder_that_holds_a_run(run, trained):
    words = ["train", "shallow_mlp", "--recipe", trained.parent / "recipe.toml"]
    words += ["--seed", 3, "--output", trained]
    code, _, errors = run(*words)
    assert (code, errors.count("\n")) == (1, 1)
    assert str(trained) in errors
    code, output, _ = run(*words, "--resume")
    assert code == 0
    assert "trained.keras" in output


def test_evaluate_takes_a_run(run, trained):
    words = ["evaluate", trained, "--split", "validation"]
    code, output, errors = run(*words, "--json")
    assert (code, errors) == (0, "")
    scores = json.loads(output)
    assert scores["data"] == "digits-sample"
    assert scores["accuracy"] > 0.7
    assert scores["images"] == 1_000


def test_evaluate_prints_the_accuracy_of_the_model(run):
    data = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    expected = zoo.evaluate(zoo.LeNet5(weights="mnist"), data)
    words = ["evaluate", "lenet5.mnist", "--dataset", "digits-sample"]
    code, output, errors = run(*words, "--split", "validation")
    assert (code, errors) == (0, "note: The model was trained on these images.\n")
    assert f"{expected['accuracy']:.4g}" in output


def test_a_damaged_or_missing_description_is_one_error(run, trained, tmp_path):
    file = tmp_path / "trained.keras"
    shutil.copy(trained / "trained.keras", file)
    code, _, errors = run("evaluate", file)
    assert (code, errors.count("\n")) == (1, 1)
    assert "Name the data" in errors
    (tmp_path / "run.json").write_text("{", "utf-8")
    code, _, errors = run("evaluate", file)
    assert (code, errors.count("\n")) == (1, 1)
    assert str(tmp_path / "run.json") in errors


def test_a_folder_of_images_becomes_a_model_that_serves(run, tmp_path, monkeypatch):
    """Red and blue squares, which only the names of their folders tell."""
    for name, color in (("red", (200, 30, 30)), ("blue", (20, 20, 220))):
        for split in ("train", "validation"):
            (tmp_path / "squares" / split / name).mkdir(parents=True)
            for side in range(20, 28):
                image = Image.new("RGB", (side, side), color)
                image.save(tmp_path / "squares" / split / name / f"{side}.png")
    (tmp_path / "recipe.toml").write_text(
        'model = "lenet5"\ndataset = "squares"\nepochs = 8\nbatch_size = 4\n'
        "arguments = { input_shape = [16, 16, 3] }\n"
    )
    words = ["--data", "squares", "--recipe", "recipe.toml"]
    code, output, errors = run("train", "lenet5", *words)
    assert (code, errors) == (0, "")
    assert "val_accuracy 1.0000" in output
    assert "runs/lenet5.squares/trained.keras" in output
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _, output, errors = run("evaluate", "../runs/lenet5.squares", "--split", "train")
    assert str(tmp_path / "squares") in output, errors
    monkeypatch.chdir(tmp_path)
    _, output, errors = run(
        "evaluate", "runs/lenet5.squares", "--data", "squares/train"
    )
    assert "all" in output, errors
    words = ["squares/train", "--validation-data", "squares/validation", *words[2:]]
    code, output, errors = run("compare", "lenet5", "--data", *words, "--json")
    assert (code, json.loads(output)[0]["accuracy"]) == (0, 1), errors
    words = ["--weights", "runs/lenet5.squares", "--json"]
    _, output, _ = run("predict", "squares/train/red/20.png", *words)
    assert json.loads(output)[0]["label"] == "red"
    code, _, errors = run("export", "runs/lenet5.squares", "serving/squares")
    assert (code, errors) == (0, "")
    assert zoo.load_exported(tmp_path / "serving/squares").labels == ("blue", "red")


def test_compare_prints_one_table(run):
    words = ["shallow_mlp.mnist", "lenet5.mnist", "--data", "digits-sample"]
    with pytest.warns(UserWarning, match="on images that they were trained on"):
        code, output, errors = run("compare", *words)
    assert (code, errors) == (0, "")
    assert "interval" in output
    with pytest.warns(UserWarning, match="on images that they were trained on"):
        _, output, _ = run("compare", *words, "--json")
    rows = json.loads(output)
    assert [row["model"] for row in rows] == words[:2]


def test_recipe_prints_a_recipe_that_can_be_used(run, tmp_path):
    _, output, _ = run("recipe", "lenet5.mnist")
    (tmp_path / "own.toml").write_text(output, "utf-8")
    assert zoo.load_recipe("own.toml") == zoo.load_recipe("lenet5.mnist")


# Predicting


def test_predict_equals_the_model(run, digits, tmp_path):
    file = save(tmp_path / "digit.png", digits[0][4])
    words = ["predict", file, "--weights", "lenet5.mnist", "--top", 10]
    _, output, _ = run(*words, "--json")
    [answer] = json.loads(output)
    found = {answer["label"]: answer["probability"], **answer["runner_up"]}
    expected = zoo.LeNet5(weights="mnist").predict(digits[0][4:5], verbose=0)[0]
    np.testing.assert_allclose([found[str(i)] for i in range(10)], expected, atol=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_predict_answers_what_it_can_read_and_names_the_rest(
    run, digits, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    gray = Image.fromarray(digits[0][0][:, :, 0])
    good = {"cmyk.jpg": "CMYK", "1.png": "1", "p.png": "P", "16.png": "I;16"}
    good |= {"film.gif": "L", os.fsdecode(b"\xe9.png"): "RGBA"}
    options = {"film.gif": {"save_all": True, "append_images": [gray]}}
    options["p.png"] = {"transparency": 0}
    for name, mode in good.items():
        gray.convert(mode).save(tmp_path / name, **options.get(name, {}))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere.png")
    contents = {"empty.png": b"", "text.png": b"no image"}
    contents["cut.png"] = (tmp_path / "16.png").read_bytes()[:100]
    contents["huge.png"] = png_of_size(30_000, 30_000)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    bad = ["folder.png", "link.png", *contents]
    for readable in (good, {}):
        words = [*bad, *(f"~/{name}" for name in readable), "--show=~/seen.png"]
        code, output, errors = run("predict", *words, "--json")
        files = [answer["file"] for answer in json.loads(output)]
        assert (code, files) == (1, [str(tmp_path / name) for name in readable])
        *lines, summary = errors.splitlines()
        total = len(bad) + len(readable)
        assert summary == f"error: {len(bad)} of {total} files could not be read."
        for name, line in zip(bad, lines, strict=True):
            assert re.match(rf"error: .* Received: (path|file)='{name}'\.$", line)
        assert (r"\udce9.png" in run("predict", *words)[1]) == bool(readable)
    assert (tmp_path / "seen.png").exists()


def test_predict_reads_digits_as_people_draw_them(run, digits, tmp_path):
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    (tmp_path / "scans" / "notes.txt").touch()
    for image, label in zip(*digits, strict=True):
        large = Image.fromarray(255 - image[:, :, 0]).resize((140, 112))
        page = Image.new("L", (400, 300), 255)
        page.paste(large, (200, 40))
        folder = "scans/deep" if label > 6 else "scans"
        page.save(tmp_path / folder / f"{label}.jpg")
    words = ["predict", "scans", "scans/1.jpg", "--weights", "lenet5.mnist", "--json"]
    code, output, errors = run(*words, "--show", "seen.png")
    assert (code, errors) == (0, "note: Files of other types in scans: 1.\n")
    answers = json.loads(output)
    _, _, errors = run(*words, "--show", "scans/1.jpg")
    assert "would replace an image. Received: scans/1.jpg" in errors
    files = [pathlib.Path(answer["file"]).stem for answer in answers]
    assert sorted(files) == [*"0123456789"]
    right = [a["label"] == file for a, file in zip(answers, files, strict=True)]
    assert sum(right) >= 9
    for answer in answers:
        [runner_up] = answer["runner_up"].values()
        assert 1 >= answer["probability"] >= runner_up >= 0
    with Image.open(tmp_path / "seen.png") as seen:
        assert seen.size == (8 * 112, 2 * 130)
        assert np.asarray(seen)[:112, :112].max() > 200
    _, output, _ = run(*words, "--as-is")
    as_is = [a["label"] for a in json.loads(output)]
    assert sum(a == b for a, b in zip(as_is, files, strict=True)) < 6


# Exporting


def test_export_writes_a_numbered_version(run, tmp_path):
    code, output, errors = run("export", "lenet5.mnist", "serving/lenet5")
    assert code == 0, errors
    assert (tmp_path / "serving/lenet5/1/saved_model.pb").is_file()
    assert output.strip().endswith("serving/lenet5/1")
    code, _, errors = run("export", "lenet5.mnist", "serving/lenet5", "--version", 1)
    assert code == 1
    assert "version already exists" in errors
    assert errors.count("\n") == 1


def test_export_writes_the_labels_of_a_run_and_those_of_a_file(run, trained, tmp_path):
    code, _, errors = run("export", trained, "digits")
    assert code == 0, errors
    assert zoo.load_exported(tmp_path / "digits").labels == tuple("0123456789")

    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential(layers).save(tmp_path / "mine.keras")
    words = ["export", "mine.keras", "serving", "--labels", "labels.txt"]
    for text in ("cat\nHund und Kätzchen\n", "\ufeffcat\r\nHund und Kätzchen\r\n\r\n"):
        (tmp_path / "labels.txt").write_bytes(text.encode())
        code, _, errors = run(*words)
        assert code == 0, errors
        exported = zoo.load_exported(tmp_path / "serving")
        assert exported.labels == ("cat", "Hund und Kätzchen")
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "labels.txt").write_bytes("ä".encode(encoding))
        code, _, errors = run(*words)
        assert (code, errors.count("\n")) == (1, 1)
        assert "must be UTF-8" in errors
        assert "Received: labels='labels.txt'." in errors


def test_compare_takes_the_data_of_the_recipe_or_of_the_weights(run, monkeypatch):
    used = []
    monkeypatch.setattr(zoo, "compare", lambda _, data, *a, **k: used.append(data))
    run("compare", "lenet5", "--recipe", "lenet5.fashion_mnist")
    run("compare", "lenet5", "convnet.fashion_mnist")
    run("compare", "lenet5")
    assert used == ["fashion_mnist", "fashion_mnist", "mnist"]
