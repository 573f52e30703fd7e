import errno
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
from exports import ENVIRONMENT, folders, random_pixels, tree, vector
from keras import layers
from paths import run_python
from worker_processes import start

import zoo
from zoo.exporting import versions
from zoo.exporting.loading import check_exported, load_exported
from zoo.exporting.versions import export


def test_versions_count_up(tmp_path):
    model = vector()
    base = tmp_path / "a" / "b"
    (base / "notes").mkdir(parents=True)
    assert export(model, base) == base / "1"
    assert export(model, str(base), np.int64(9)) == base / "9"
    labels = np.array([f"label {i}" for i in range(10)])
    older = export(model, base, 5, labels=labels)
    assert load_exported(older).labels == tuple(labels)
    assert "Version 9 takes" in (base / "README.md").read_text("utf-8")
    (base / "00011").mkdir()  # TF Serving reads 11.
    assert export(model, base) == base / "12"
    for taken in (1, 9, 11):
        before = tree(base)
        with pytest.raises(FileExistsError, match=r"Choose another one.*version="):
            export(model, base, taken)
        assert tree(base) == before
    assert folders(base) == ["00011", "1", "12", "5", "9", "notes"]
    assert load_exported(base).path == base / "12"
    # Another user's server can read them.
    assert (base / "1").stat().st_mode == (base / "notes").stat().st_mode


# Models that are no image classifiers


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def two_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], layers.Dense(2)(a + b))


def two_outputs():
    a = keras.Input((4,))
    return keras.Model(a, [layers.Dense(2)(a), layers.Dense(3)(a)])


def ending_in(*last):
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), *last])


def sized(*shape, **options):
    inputs = keras.Input(shape, **options)
    return keras.Sequential([inputs, layers.GlobalAveragePooling2D()])


def strings():
    inputs = keras.Input((1,), dtype="string")
    x = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(inputs)
    return keras.Model(inputs, layers.Dense(2)(x))


def channels_first():
    pooling = layers.MaxPooling2D(2, data_format="channels_first")
    inputs = keras.Input((1, 28, 28))
    return keras.Sequential([inputs, pooling, layers.Flatten(), layers.Dense(10)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Subclassed, "with inputs"),
        (keras.Sequential, "with inputs"),
        (two_inputs, r"with inputs \[\(None, 4\), \(None, 4\)\]"),
        (two_outputs, r"outputs \[\(None, 2\), \(None, 3\)\]"),
        (lambda: ending_in(layers.Dense(1)), r"outputs \[\(None, 1\)\]"),
        (lambda: ending_in(layers.Reshape((28, 28))), r"outputs \[\(None, 28, 28\)\]"),
        (lambda: sized(None, None, 3), r"inputs \[\(None, None, None, 3\)\]"),
        (lambda: sized(4, 4, 3, batch_size=8), r"inputs \[\(8, 4, 4, 3\)\]"),
        # Neither probabilities nor logits, as `ends_in_softmax` explains.
        (lambda: ending_in(layers.Dense(10, "sigmoid", name="last")), "last.*sigmoid"),
        (lambda: ending_in(layers.Dense(10), layers.LeakyReLU()), "LeakyReLU"),
        (ending_in, "Flatten"),
        (strings, "must take numbers.*an input of strings"),
        (channels_first, "channels-first"),
    ],
)
def test_models_that_are_no_image_classifiers(build, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(build(), tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("from_logits", [True, False])
def test_other_models_say_whether_they_return_logits(from_logits, tmp_path):
    end = layers.Activation("log_softmax" if from_logits else "sigmoid")
    model = ending_in(layers.Dense(10), end)
    with pytest.raises(ValueError, match=r"pass `from_logits`\."):
        export(model, tmp_path)
    with pytest.raises(ValueError, match=r"Received: from_logits='yes'"):
        export(model, tmp_path, from_logits="yes")
    pixels = random_pixels(model)
    outputs = model.predict(pixels, verbose=0)
    answer = load_exported(export(model, tmp_path, from_logits=from_logits))(pixels)
    expected = np.exp(outputs) if from_logits else outputs
    np.testing.assert_allclose(answer["probabilities"], expected, 0, 1e-5)


@pytest.mark.parametrize("model", [None, "lenet5", layers.Dense(10)], ids=str)
def test_something_else_than_a_model(model, tmp_path):
    with pytest.raises(TypeError, match=r"must be a keras\.Model\. Received: model="):
        export(model, tmp_path / "base")
    assert not (tmp_path / "base").exists()


# Versions, formats and folders that are not possible


BAD_LABELS = [
    *("0123456789", ["a", "b"], ["a"] * 11, list(range(10)), ["two\nlines"] * 10),
    *([""] * 10, {str(i) for i in range(10)}, 7, ["a"] * 10, np.arange(10)),
]
BAD_VERSIONS = [0, -1, 1.0, "2", True, 2**63, [1]]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("labels", x, "a list of 10 distinct one-line strings") for x in BAD_LABELS),
        *(("version", x, "a positive integer, ") for x in BAD_VERSIONS),
        ("format", "h5", "one of 'saved_model', 'onnx'"),
    ],
)
def test_bad_arguments(name, value, message, tmp_path):
    with pytest.raises(ValueError, match=rf"`{name}` .*{message}.*Received: {name}="):
        export(vector(), tmp_path / "base", **{name: value})
    assert not (tmp_path / "base").exists()


def test_base_has_versions_of_another_format(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "1")
    text = (copy / "export.json").read_text("utf-8")
    (copy / "export.json").write_text(text.replace('"saved_model"', '"onnx"'), "utf-8")
    with pytest.raises(ValueError, match=r"1 has the format 'onnx'.*format='saved_mod"):
        export(vector(), tmp_path)
    assert folders(tmp_path) == ["1"]


def test_base_is_a_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError, match=r"must be a folder.*file'\.$"):
        export(vector(), tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"Not a directory: .*base"):
        export(vector(), tmp_path / "file" / "base")
    assert tree(tmp_path) == {"file": b"kept"}


def test_base_is_a_version_or_no_local_folder(folder):
    before = tree(folder.parent)
    with pytest.raises(ValueError, match=f"Did you mean {str(folder.parent)!r}"):
        export(vector(), folder)
    with pytest.raises(ValueError, match=r"Paths must be local.*'gs://bucket/model'"):
        export(vector(), "gs://bucket/model")
    assert tree(folder.parent) == before
    assert not pathlib.Path("gs:").exists()


# Atomic publication

# Forked exporters, each killed at a random moment of the time that one takes. The time
# is corrected after each, so that about one of five finishes on a busy machine, too.
# Each moment hits the same few steps (graph, variables, fsync, README, rename): 60 have
# several kills in each.
KILLED_EXPORTERS = """
import os, random, signal, sys, time
import keras
from zoo.exporting import writing  # Once, before the forks.
from zoo.exporting.versions import export

def fork(moment):
    if (child := os.fork()) == 0:
        export(model, sys.argv[1])
        os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
start = time.monotonic()
export(model, sys.argv[1])
seconds = time.monotonic() - start
random.seed(0)
for _ in range(60):
    seconds *= 0.8 if fork(random.uniform(0, 1.2 * seconds)) else 1.05
"""


@pytest.mark.endurance
def test_killed_exports_leave_no_incomplete_version(tmp_path):
    run_python("-c", KILLED_EXPORTERS, tmp_path, env=ENVIRONMENT)
    versions = [name for name in folders(tmp_path) if not name.startswith(".")]
    assert 3 < len(versions) < 57
    for version in versions:
        check_exported(tmp_path / version)
    # Each export removes what the killed one before has left; so does the next.
    assert len(folders(tmp_path)) <= len(versions) + 2
    last = export(vector(), tmp_path)
    assert int(last.name) == 1 + max(map(int, versions))
    assert folders(tmp_path) == sorted([*versions, last.name])
    left = {"README.md", "compose.yaml", ".lock", *versions, last.name}
    assert set(os.listdir(tmp_path)) == left


def test_what_a_killed_export_has_left_is_removed(tmp_path):
    (tmp_path / ".unfinished-1" / "variables").mkdir(parents=True)
    (tmp_path / ".lock").touch()
    assert export(vector(), tmp_path) == tmp_path / "1"
    assert folders(tmp_path) == ["1"]


EXPORTER = """
import sys
import keras
from zoo.exporting.versions import export
keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.Input((28, 28, 1)), keras.layers.Flatten(),
    keras.layers.Dense(10, "softmax")])
print(export(model, sys.argv[1]))
"""


@pytest.mark.endurance
def test_two_exports_at_once_get_two_equal_versions(tmp_path):
    processes = [start("-c", EXPORTER, tmp_path, PYTHONHASHSEED=seed) for seed in "12"]
    outputs = [process.communicate()[0].strip() for process in processes]
    assert sorted(outputs) == [f"{tmp_path}/1", f"{tmp_path}/2"]
    assert folders(tmp_path) == ["1", "2"]
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


@pytest.mark.parametrize("version", [None, 1])
def test_an_export_waits_and_takes_the_next_number(
    version, folder, tmp_path, monkeypatch
):
    """A rival publishes between the first check and the lock."""
    lock = versions.lock

    def lock_after_a_rival(path):
        shutil.copytree(folder, tmp_path / "1")
        return lock(path)

    monkeypatch.setattr(versions, "lock", lock_after_a_rival)
    if version is None:
        assert export(vector(), tmp_path) == tmp_path / "2"
    else:
        with pytest.raises(FileExistsError, match="Choose another one"):
            export(vector(), tmp_path, version)
    assert folders(tmp_path) == ["1", "2"][: 2 if version is None else 1]
    assert tree(tmp_path / "1") == tree(folder)


def test_no_version_is_replaced(folder, tmp_path, monkeypatch):
    """Another program, which knows no lock, publishes in the last moment."""
    replace = os.replace

    def replace_after_a_rival(source, target):
        if target.name == "1":
            shutil.copytree(folder, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_after_a_rival)
    with pytest.raises(OSError, match="not empty") as error:
        export(vector(), tmp_path)
    assert error.value.errno == errno.ENOTEMPTY
    assert folders(tmp_path) == ["1"]
    assert tree(tmp_path / "1") == tree(folder)


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(vector(), tmp_path)
    assert os.listdir(tmp_path) == [".lock"]


def test_features(tmp_path):
    model = zoo.LeNet5(weights="mnist")
    images = np.arange(2 * 784).reshape(2, 28, 28, 1) % 256
    names = ["pool1", "dense2"]
    exported = zoo.load_exported(zoo.export(model, tmp_path, features=names))
    answer = exported.predict(images)
    for name, expected in zoo.features(model, names)(images).items():
        np.testing.assert_allclose(answer[name], expected, 1e-5, 1e-5)
    with pytest.raises(ValueError, match="has no layer 'pool9'"):
        zoo.export(model, tmp_path, features=["pool9"])
    with pytest.raises(ValueError, match="other than 'probabilities'"):
        zoo.export(model, tmp_path, features=["label"])
