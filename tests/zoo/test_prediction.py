"""Batch prediction: what it writes, and that it survives what happens to long runs."""

import fcntl
import io
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import zoo
from zoo import prediction
from zoo.images import read_image

PROGRAM = """
import sys, zoo
from zoo import prediction
prediction.ROWS_PER_PART = 500
model = zoo.LeNet5(weights="mnist")
zoo.predict_files(model, "images.npy", "killed.parquet", batch_size=50)
"""


@pytest.fixture(scope="module")
def model():
    return zoo.LeNet5(weights="mnist")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), "uint8")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty folder to work in; parts of runs have 100 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction, "ROWS_PER_PART", 100)
    return tmp_path


def save(path, image):
    """Writes a uint8 image `[height, width, 1]` as a file."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[:, :, 0]).save(path)


def predict(model, paths, out="out.parquet", **options):
    """Runs to the end; returns the rows and the report."""
    report = zoo.predict_files(model, paths, out, **options)
    assert report.path == pathlib.Path(out)
    assert not pathlib.Path(f"{out}.parts").exists()
    table = parquet.ParquetFile(out).read()
    assert report.images == table.num_rows
    assert report.skipped == table.num_rows - table["error"].null_count
    return table, report


def probabilities_of(table):
    return np.stack(table["probabilities"].to_numpy())


# What is written


def test_rows_are_what_the_model_predicts(model, images, folder):
    np.save("images.npy", images)
    table, report = predict(model, "images.npy", batch_size=64)
    assert (report.images, report.skipped) == (1000, 0)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities_of(table), expected, atol=1e-6)
    assert table["file"].to_pylist() == ["images.npy"] * 1000
    assert table["index"].to_pylist() == list(range(1000))
    class_id = expected.argmax(axis=1)
    assert table["class_id"].to_pylist() == class_id.tolist()
    assert table["label"].to_pylist() == [str(i) for i in class_id]
    np.testing.assert_allclose(table["probability"], expected.max(axis=1), atol=1e-6)
    assert table["error"].null_count == 1000
    types = [pa.string(), pa.int64(), pa.string(), pa.int64(), pa.float32()]
    assert table.schema.types == [*types, pa.list_(pa.float32(), 10), pa.string()]
    run = json.loads(table.schema.metadata[b"gradzoo"])
    assert run["gradzoo"] == zoo.__version__
    assert run["model"] == "lenet5"
    assert run["weights"] == "lenet5.mnist.v1"
    assert run["labels"] == list("0123456789")
    assert "raw pixels" in run["preprocessing"]


def test_files_folders_patterns_and_arrays_in_one_run(model, images, folder):
    for name in ("scans/b.PNG", "scans/a.png", "scans/deep/er/c.png", "more/x1.png"):
        save(name, images[len(name)])
    save("scans/.hidden.png", images[0])
    save("scans/.cache/d.png", images[0])
    pathlib.Path("scans/notes.txt").write_text("no image")
    np.save("float.npy", images[:3].astype("float32"))
    np.save("grey.npy", images[:2, :, :, 0])
    np.save("none.npy", images[:0])
    paths = [
        "grey.npy",
        "scans",
        "none.npy",
        "m*/**/x?.png",
        "float.npy",
        "scans/a.png",
    ]
    table, _ = predict(model, paths, batch_size=4)
    scans = ["scans/a.png", "scans/b.PNG", "scans/deep/er/c.png"]
    names = ["grey.npy"] * 2 + [*scans, "more/x1.png"] + ["float.npy"] * 3
    assert table["file"].to_pylist() == names
    assert table["index"].to_pylist() == [0, 1, None, None, None, None, 0, 1, 2]
    shown = [images[:2], *(images[[len(n)]] for n in names[2:6]), images[:3]]
    expected = model.predict(np.concatenate(shown), verbose=0)
    np.testing.assert_allclose(probabilities_of(table), expected, atol=1e-6)


def test_logits_become_probabilities(images, folder):
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    np.save("images.npy", images[:10] / 255)
    table, _ = predict(model, "images.npy", labels=["a", "b", "c"])
    powers = np.exp(model.predict(images[:10] / 255, verbose=0))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities_of(table), expected, atol=1e-6)
    assert table["label"].to_pylist() == ["abc"[i] for i in expected.argmax(axis=1)]


def test_inverted_images(model, images, folder):
    save("image.png", 255 - images[0])
    np.save("uint8.npy", 255 - images[:1])
    np.save("int16.npy", (255 - images[:1]).astype("int16"))
    table, _ = predict(model, ["image.png", "uint8.npy", "int16.npy"], invert=True)
    expected = np.repeat(model.predict(images[:1], verbose=0), 3, axis=0)
    np.testing.assert_allclose(probabilities_of(table), expected, atol=1e-6)


@pytest.mark.parametrize("count", [3, 7])
def test_shards_are_equal_disjoint_and_complete(model, images, folder, count):
    np.save("images.npy", images[:200])
    for i in range(5):
        save(f"scans/{i}.png", images[i])
    paths = ["images.npy", "scans"]
    whole, _ = predict(model, paths, "whole.parquet", batch_size=16)
    shards = [
        predict(model, paths, f"{i}.parquet", shard=f"{i}/{count}", batch_size=16)[0]
        for i in range(1, count + 1)
    ]
    sizes = [shard.num_rows for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    together = pa.concat_tables([s.replace_schema_metadata(None) for s in shards])
    for name in ("file", "index", "class_id", "label", "error"):
        assert together[name].equals(whole[name])
    np.testing.assert_allclose(
        probabilities_of(together), probabilities_of(whole), atol=1e-6
    )


def test_more_shards_than_images(model, images, folder):
    np.save("images.npy", images[:1])
    sizes = [
        predict(model, "images.npy", f"{i}.parquet", shard=f"{i}/3")[0].num_rows
        for i in (1, 2, 3)
    ]
    assert sorted(sizes) == [0, 0, 1]


# Reading image files


def test_images_are_read_as_raw_pixels(images, tmp_path):
    image = images[7]
    path = tmp_path / "image.png"
    save(path, image)
    np.testing.assert_array_equal(read_image(path, (28, 28, 1)), image)
    # 16 bits a pixel
    Image.fromarray(image[:, :, 0].astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(read_image(path, (28, 28, 1)), image)
    # Black ink on a transparent page
    ink = np.zeros((28, 28, 4), np.uint8)
    ink[..., 3] = image[..., 0]
    Image.fromarray(ink).save(path)
    np.testing.assert_array_equal(read_image(path, (28, 28, 1)), 255 - image)
    # One of the grey values stands for transparency
    grey = Image.new("L", (28, 28), 7)
    grey.save(path, transparency=7)
    assert (read_image(path, (28, 28, 1)) == 255).all()


def test_colours_are_kept_or_turned_grey(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (7, 5), (200, 0, 0)).save(path)
    colour = read_image(path, (10, 20, 3))
    assert colour.shape == (10, 20, 3)
    assert (colour == (200, 0, 0)).all()
    grey = read_image(path, (10, 20, 1))
    # The luma of ITU-R BT.601, as in the exported graph.
    assert (grey == round(0.299 * 200)).all()


def test_large_images_are_averaged(tmp_path):
    path = tmp_path / "stripes.png"
    stripes = np.tile(np.array([[[0]], [[255]]], np.uint8), (140, 280, 1))
    save(path, stripes)
    # Without antialiasing, every pixel would be one of the stripes.
    small = read_image(path, (28, 28, 1))
    assert abs(small.astype(int) - 127).max() < 10


def test_photographs_stand_upright(tmp_path):
    path = tmp_path / "photo.jpg"
    picture = Image.new("L", (40, 20))
    picture.paste(255, (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    picture.save(path, exif=exif)
    upright = read_image(path, (40, 20, 1))
    assert upright[:18].min() > 200
    assert upright[22:].max() < 50


def test_what_cannot_be_read_has_a_row_that_says_why(
    model, images, folder, monkeypatch
):
    save("0-good.png", images[0])
    good = pathlib.Path("0-good.png").read_bytes()
    pathlib.Path("1-cut.png").write_bytes(good[:100])
    pathlib.Path("2-text.png").write_text("no image")
    Image.fromarray(images[0, :, :, 0]).save("3-picture.gif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    save("4-bomb.png", np.zeros((40, 40, 1), np.uint8))  # Pillow warns of it
    save("5-bomb.png", np.zeros((80, 80, 1), np.uint8))  # and refuses this
    np.save("6-whole.npy", images[:5])
    whole = pathlib.Path("6-whole.npy").read_bytes()
    pathlib.Path("7-cut.npy").write_bytes(whole[:-1])
    values = images[:3].astype("float32")
    values[1, 5, 5] = np.nan
    np.save("8-nan.npy", values)
    save("9-name-\udcff.png", images[0])  # Not UTF-8
    skipped = {}
    paths = [*sorted(os.listdir()), "missing.png"]
    table, report = predict(model, paths, batch_size=4, on_skip=skipped.__setitem__)
    rows = {
        (row["file"][0], row["index"]): row
        for row in table.to_pylist()
        if row["error"] is None
    }
    good = [("0", None), *(("6", i) for i in range(5)), ("8", 0), ("8", 2), ("9", None)]
    assert list(rows) == good
    wrong = [row for row in table.to_pylist() if row["error"]]
    assert len(wrong) == report.skipped == 8
    for row in wrong:
        assert row["label"] is row["class_id"] is row["probability"] is None
        assert np.isnan(row["probabilities"]).all()
    names = ["1-cut.png", "2-text.png", "3-picture.gif", "4-bomb.png", "5-bomb.png"]
    names += ["7-cut.npy[0]", "8-nan.npy[1]", "missing.png"]
    assert list(skipped) == names
    assert list(skipped.values()) == [row["error"] for row in wrong]
    assert skipped["missing.png"] == "No such file or directory"
    assert "not finite" in skipped["8-nan.npy[1]"]
    assert "decompression bomb" in skipped["4-bomb.png"]
    expected = model.predict(images[:5], verbose=0)
    found = [rows["6", i]["probabilities"] for i in range(5)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


# Runs that are stopped


def test_a_run_stopped_at_any_rename_goes_on(model, images, folder, monkeypatch):
    np.save("images.npy", images[:450])
    options = {"batch_size": 30}
    predict(model, "images.npy", "whole.parquet", **options)
    whole = pathlib.Path("whole.parquet").read_bytes()
    replace = os.replace
    names = ["run.json", "00000", "00001", "00002", "00003", "00004", "out.parquet"]
    for name in names:
        out = pathlib.Path("out.parquet")

        def stop(source, target, name=name):
            if pathlib.Path(target).name.startswith(name):
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            with pytest.raises(KeyboardInterrupt):
                zoo.predict_files(model, "images.npy", out, **options)
        assert not out.exists()
        begun = set(os.listdir("out.parquet.parts"))
        assert len(begun) == names.index(name) + 1  # with one unfinished
        predict(model, "images.npy", out, **options)
        assert out.read_bytes() == whole
        out.unlink()


def test_a_run_stopped_before_it_cleans_up_is_finished(
    model, images, folder, monkeypatch
):
    np.save("images.npy", images[:50])
    save("images.png", images[0])
    pathlib.Path("bad.png").write_text("no image")
    paths = ["images.npy", "bad.png"]

    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            zoo.predict_files(model, paths, "out.parquet")
    before = os.stat("out.parquet")
    _, report = predict(model, paths)
    assert (report.images, report.skipped) == (51, 1)
    assert os.stat("out.parquet").st_mtime_ns == before.st_mtime_ns
    with pytest.raises(FileExistsError, match=r"output exists.*out\.parquet"):
        zoo.predict_files(model, paths, "out.parquet")


@pytest.mark.endurance
def test_killed_runs_end_with_the_same_bytes(model, images, folder, monkeypatch):
    np.save("images.npy", np.tile(images, (10, 1, 1, 1)))
    monkeypatch.setattr(prediction, "ROWS_PER_PART", 500)
    predict(model, "images.npy", "whole.parquet", batch_size=50)
    parts = pathlib.Path("killed.parquet.parts")
    moments = random.Random(0)
    done = []
    for _ in range(2):
        begun = len(list(parts.glob("*.parquet")))
        process = subprocess.Popen([sys.executable, "-c", PROGRAM])
        deadline = time.monotonic() + 120
        while len(list(parts.glob("*.parquet"))) == begun:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done.append(len(list(parts.glob("*.parquet"))))
    assert 0 < done[0] < done[1] < 20
    stamps = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    kept = {}

    def remember(path):
        kept.update({p: pathlib.Path(p).stat().st_mtime_ns for p in stamps})
        shutil_rmtree(path)

    shutil_rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", remember)
    predict(model, "images.npy", "killed.parquet", batch_size=50)
    assert kept == stamps  # What was done is not done again.
    killed, whole = map(pathlib.Path, ("killed.parquet", "whole.parquet"))
    assert killed.read_bytes() == whole.read_bytes()


def test_another_run_is_refused_with_what_differs(model, images, folder, monkeypatch):
    np.save("images.npy", images[:250])
    np.save("other.npy", images[:250])

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "_read", stop)
        with pytest.raises(KeyboardInterrupt):
            zoo.predict_files(model, "images.npy", "out.parquet", batch_size=50)
    other_weights = zoo.LeNet5(weights="fashion_mnist")
    for arguments, options, difference in [
        ((model, "images.npy"), {"batch_size": 25}, "batch_size is 50 there, 25 here"),
        ((model, "images.npy"), {"invert": True}, "invert is False there, True here"),
        ((model, "images.npy"), {"shard": "1/2"}, "shard is '1/1' there, '1/2' here"),
        ((model, "other.npy"), {}, "images_sha256 is"),
        ((model, ["images.npy", "other.npy"]), {}, "images is 250 there, 500 here"),
        ((other_weights, "images.npy"), {}, "weights is 'lenet5.mnist.v1' there"),
    ]:
        with pytest.raises(FileExistsError, match=difference):
            zoo.predict_files(
                *arguments, "out.parquet", **{"batch_size": 50, **options}
            )
    table, _ = predict(model, "images.npy", batch_size=50)
    assert table.num_rows == 250


def test_what_belongs_to_others_is_left_alone(model, images, folder):
    np.save("images.npy", images[:5])
    pathlib.Path("out.parquet").write_text("mine")
    with pytest.raises(FileExistsError, match=r"output exists.*out\.parquet"):
        zoo.predict_files(model, "images.npy", "out.parquet")
    assert sorted(os.listdir()) == ["images.npy", "out.parquet"]
    assert pathlib.Path("out.parquet").read_text() == "mine"
    pathlib.Path("new.parquet.parts").mkdir()
    pathlib.Path("new.parquet.parts/letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        zoo.predict_files(model, "images.npy", "new.parquet")
    assert os.listdir("new.parquet.parts") == ["letter.txt"]


def test_a_file_that_appears_beside_a_stopped_run_is_not_replaced(
    model, images, folder, monkeypatch
):
    np.save("images.npy", images[:250])

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction, "_read", stop)
    with pytest.raises(KeyboardInterrupt):
        zoo.predict_files(model, "images.npy", "out.parquet")
    for write in (
        lambda path: pathlib.Path(path).write_text("mine"),
        lambda path: parquet.write_table(pa.table({"x": [1]}), path),
    ):
        write("out.parquet")
        before = pathlib.Path("out.parquet").read_bytes()
        with pytest.raises(FileExistsError, match="output exists"):
            zoo.predict_files(model, "images.npy", "out.parquet")
        assert pathlib.Path("out.parquet").read_bytes() == before


def test_two_runs_at_once_are_refused(model, images, folder):
    np.save("images.npy", images[:5])
    os.mkdir("out.parquet.parts")
    descriptor = os.open("out.parquet.parts", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError, match=r"writes here: out\.parquet\.parts"):
        zoo.predict_files(model, "images.npy", "out.parquet")
    assert os.path.isdir("out.parquet.parts")
    os.close(descriptor)
    predict(model, "images.npy")


def test_a_full_disk_stops_a_run_that_goes_on(model, images, folder):
    np.save("images.npy", images[:400])
    predict(model, "images.npy", "whole.parquet", batch_size=50)
    whole = pathlib.Path("whole.parquet").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough for each of the parts, and not for all of them in a file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"Cannot write out\.parquet: File too large"):
            zoo.predict_files(model, "images.npy", "out.parquet", batch_size=50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not os.path.exists("out.parquet")
    parts = [f"{i:05}.parquet" for i in range(4)]
    assert sorted(os.listdir("out.parquet.parts")) == [*parts, "run.json"]
    predict(model, "images.npy", batch_size=50)
    assert pathlib.Path("out.parquet").read_bytes() == whole


# Cost, progress and mistakes


def test_memory_does_not_grow_with_the_images(folder, monkeypatch):
    monkeypatch.setattr(prediction, "ROWS_PER_PART", 32_768)
    model = zoo.ShallowMLP(0)
    peaks = []
    for run, count in enumerate((40_000, 40_000, 200_000)):
        np.lib.format.open_memmap(f"{run}.npy", "w+", "uint8", (count, 28, 28))
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        zoo.predict_files(model, f"{run}.npy", f"{run}.parquet")
        status = pathlib.Path("/proc/self/status").read_text()
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
    # In MiB; the images that the last run has more are 120.
    assert peaks[2] - max(peaks[:2]) < 60


def test_a_terminal_gets_a_progress_bar(model, images, folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    np.save("images.npy", images)
    pathlib.Path("bad.png").write_text("no image")
    for verbose, shown in (("auto", True), (0, False)):
        monkeypatch.setattr(sys, "stderr", Terminal())
        predict(model, ["images.npy", "bad.png"], f"{shown}.parquet", verbose=verbose)
        output = sys.stderr.getvalue()
        assert ("1001/1001" in output) is shown
        assert ("1 skipped" in output) is shown


@pytest.mark.parametrize(
    ("paths", "options", "kind", "message"),
    [
        ("nowhere", {}, FileNotFoundError, "Received: nowhere"),
        ("*.png", {}, FileNotFoundError, r"Received: \*.png"),
        ("nowhere.npy", {}, FileNotFoundError, "Received: nowhere.npy"),
        ("empty", {}, FileNotFoundError, "Received: empty"),
        ("shape.npy", {}, ValueError, r"\['n', 28, 28, 1\].*uint8 of shape \[5, 9\]"),
        ("words.npy", {}, ValueError, "<U1 of shape"),
        ("images.npy", {"out": "out.csv"}, ValueError, "Received: out.csv"),
        ("images.npy", {"out": "images.npy/o.parquet"}, OSError, "images.npy"),
        ("images.npy", {"shard": "0/4"}, ValueError, "Received: '0/4'"),
        ("images.npy", {"shard": "5/4"}, ValueError, "Received: '5/4'"),
        ("images.npy", {"shard": "half"}, ValueError, "Received: 'half'"),
        ("images.npy", {"batch_size": 0}, ValueError, "Received: 0"),
        ("images.npy", {"labels": ["a"]}, ValueError, r"Received: \['a'\]"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    model, images, folder, paths, options, kind, message
):
    os.mkdir("empty")
    np.save("images.npy", images[:5])
    np.save("shape.npy", np.zeros((5, 9), np.uint8))
    np.save("words.npy", np.full((5, 28, 28), "x"))
    before = sorted(os.listdir())
    with pytest.raises(kind, match=message):
        zoo.predict_files(model, paths, **{"out": "out.parquet", **options})
    assert sorted(os.listdir()) == before


def test_models_that_are_no_classifiers_of_images_are_refused(images, folder):
    save("image.png", images[0])
    vectors = keras.Sequential([keras.Input((784,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"others take \.npy.*\(784,\)"):
        zoo.predict_files(vectors, "image.png", "out.parquet")
    np.save("vectors.npy", images[:4].reshape(4, 784))
    assert predict(vectors, "vectors.npy")[0].num_rows == 4
    for model in (
        zoo.LeNet5(include_top=False),
        keras.Sequential([keras.layers.Dense(3)]),
    ):
        with pytest.raises(ValueError, match="classifier"):
            zoo.predict_files(model, "image.png", "other.parquet")
    any_size = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D()]
    )
    with pytest.raises(ValueError, match="fixed shape"):
        zoo.predict_files(any_size, "image.png", "other.parquet")


def test_a_missing_package_is_named(model, folder, monkeypatch):
    monkeypatch.setattr(prediction.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install gradzoo\[predict\]"):
        zoo.predict_files(model, "nowhere", "out.parquet")
