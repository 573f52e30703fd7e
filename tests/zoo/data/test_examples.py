"""All forms of data that training and evaluation take."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import zoo
from zoo.data.examples import (
    MissingSplitError,
    find_path,
    has_splits,
    load_examples,
    load_training_data,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 1), "uint8")
LABELS = np.arange(12) % 3
NAMES = ("ant", "bee", "cat")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(4 * index, 4 * index + 4)
        return IMAGES[part], LABELS[part]


def save_images(folder, only=NAMES):
    """Writes the images as files, in a subfolder per class."""
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        if NAMES[label] in only:
            path = folder / NAMES[label] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
    return folder


def in_form(form, folder):
    import tensorflow as tf

    if form == "npz":
        np.savez(folder / "x.npz", x=IMAGES, y=LABELS[:, None], categories=NAMES)
        return folder / "x.npz"
    return {
        "arrays": (IMAGES, LABELS),
        "folder": str(save_images(folder / "pets")),
        "dataset": tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)),
        "batches": tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(5),
        "pydataset": Batches(),
    }[form]


FORMS = ["arrays", "folder", "npz", "dataset", "batches", "pydataset"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_examples(form, tmp_path):
    examples = load_examples(in_form(form, tmp_path), "train")
    order = np.argsort(LABELS, kind="stable") if form == "folder" else np.arange(12)
    np.testing.assert_array_equal(examples.images, IMAGES[order])
    np.testing.assert_array_equal(examples.labels, LABELS[order])
    named = form in ("folder", "npz")
    assert examples.categories == (NAMES if named else None)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_splits_are_found(kind, tmp_path):
    data = tmp_path
    if kind == "folder":
        for split in ("train", "validation"):
            save_images(data / split)
    else:
        data = tmp_path / "mnist.npz"
        arrays = {f"x_{s}": IMAGES for s in ("train", "validation")}
        np.savez(data, **arrays, y_train=LABELS, y_validation=LABELS)
    examples, validation = load_training_data(data, "train", None)
    assert len(examples.images) == len(validation[0]) == 12
    examples, validation = load_training_data(data, "train+validation", None)
    assert (len(examples.images), validation) == (24, None)
    for split in ("test", "train+test"):
        with pytest.raises(MissingSplitError, match="Received: data="):
            load_examples(data, split)


def test_splits_have_other_names_too(tmp_path):
    for split in ("Training", "val"):
        save_images(tmp_path / "photos" / split)
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_val": IMAGES, "y_val": LABELS}
    np.savez(tmp_path / "x.npz", **arrays)
    for data in (tmp_path / "photos", tmp_path / "x.npz"):
        assert has_splits(data)
        examples, validation = load_training_data(data, "train", None)
        assert len(examples.images) == len(validation[0]) == 12
    assert not has_splits(save_images(tmp_path / "one"))
    for data in (tmp_path / "one", (IMAGES, LABELS)):
        with pytest.raises(ValueError, match=r"`split` must be one of .*'foo'"):
            load_examples(data, "foo")


def test_gray_images_without_a_channel_get_one():
    examples = load_examples((IMAGES[..., 0], LABELS), "train")
    np.testing.assert_array_equal(examples.images, IMAGES)


def test_names_of_a_dataset_outlive_its_transformations(tmp_path):
    dataset = keras.utils.image_dataset_from_directory(
        save_images(tmp_path), color_mode="grayscale", image_size=(28, 28), verbose=0
    )
    for change, names in (
        (lambda x, y: (x, y), NAMES),
        (lambda x, y: (x / 255, tf.cast(y, "int64")), NAMES),
        (lambda x, y: (x, 2 - y), None),
        (lambda x, y: (x, y // 2), None),
    ):
        examples = load_examples(dataset.map(change).prefetch(1), "train")
        assert examples.categories == names
    twice = dataset.concatenate(dataset.skip(1))
    assert load_examples(twice, "train").categories == NAMES
    other = dataset.map(lambda x, y: (x, y))
    other.class_names = ["x", "y", "z"]
    both = tf.data.Dataset.zip((dataset, other)).map(lambda pair, _: pair)
    assert load_examples(both, "train").categories is None
    with pytest.raises(ValueError, match=r"same classes\. Received: .*'x', 'y', 'z'"):
        load_examples(dataset.concatenate(other), "train")


def test_known_labels_keep_their_places(tmp_path):
    data = save_images(tmp_path, only=("bee", "cat"))
    examples, _ = load_training_data(data, "train", None, known=NAMES)
    assert (set(examples.labels), examples.categories) == ({1, 2}, NAMES)
    others = ("x", "y")
    examples, _ = load_training_data(data, "train", None, known=others)
    assert examples.categories == ("bee", "cat")


def test_data_without_splits_are_not_validated_on_what_they_train(tmp_path):
    for form in ("folder", "npz"):
        data = in_form(form, tmp_path)
        assert load_training_data(data, "train", None)[1] is None
        with pytest.raises(ValueError, match="validation"):
            load_examples(data, "validation")


def test_a_validation_folder_of_one_class_is_refused(tmp_path):
    save_images(tmp_path / "train")
    save_images(tmp_path / "val", only=("ant",))
    with pytest.raises(ValueError, match=r"\['ant'\], split='validation'"):
        load_training_data(tmp_path, "train", None)
    with pytest.raises(ValueError, match=r"Received: input_shape=\(784,\)"):
        load_examples(tmp_path, "train", shape=(784,))


def test_labels_are_matched_by_name(tmp_path):
    """A folder of some classes, or with another order, is not mistaken for others."""
    pair = load_examples(save_images(tmp_path, only=("bee", "cat")), "test")
    assert pair.categories == ("bee", "cat")
    assert set(pair.labels_in(NAMES)) == {1, 2}
    assert set(pair.labels_in(NAMES[::-1])) == {0, 1}
    with pytest.raises(ValueError, match=r"does not know.*Received: \['bee'\]"):
        pair.labels_in(("ant", "cat"))


def test_a_name_is_never_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", "photos"):
        (tmp_path / name).mkdir()
    assert find_path("mnist") is None
    assert find_path("") is None
    assert find_path("photos") == pathlib.Path("photos")
    assert find_path("~/x.npz") == pathlib.Path.home() / "x.npz"
    with pytest.raises(ValueError, match="Did you mean 'mnist'"):
        load_examples("mnits", "train")
    with pytest.raises(FileNotFoundError, match=r"Received: data='photos/x'"):
        load_examples("photos/x", "train")
    for names in ((), ("test", "Train")):  # without folders of classes in them
        for name in names:
            (tmp_path / "photos" / name).mkdir()
        with pytest.raises(ValueError, match=r"a subfolder of images for each class"):
            load_examples("photos", "train")


def test_single_images_of_unknown_shape():
    def read(index):
        return IMAGES[index], LABELS[index]

    kinds = [tf.uint8, tf.int64]
    dataset = tf.data.Dataset.range(12).map(
        lambda i: tf.numpy_function(read, [i], kinds)
    )
    examples = load_examples(dataset, "train")
    np.testing.assert_array_equal(examples.images, IMAGES)
    np.testing.assert_array_equal(examples.labels, LABELS)


def test_folders_that_are_not_read_are_named(tmp_path):
    for folder in ("train", "training", "car"):
        save_images(tmp_path / folder)
    with pytest.warns(UserWarning, match=r"not read: \['car', 'train(ing)?'\].*data="):
        load_examples(tmp_path, "train")


def test_categories_of_bytes(tmp_path):
    names = np.array(NAMES, "S")
    np.savez(tmp_path / "x.npz", x=IMAGES, y=LABELS, categories=names)
    assert load_examples(tmp_path / "x.npz", "train").categories == NAMES


def test_files_of_other_types_are_counted(tmp_path):
    (save_images(tmp_path) / "ant" / "notes.txt").touch()
    with pytest.warns(UserWarning, match="not read as images: 1.*Received: data="):
        assert len(load_examples(tmp_path, "train").images) == 12


def test_endless_and_unknown_data_are_refused():
    endless = zoo.load_dataset("digits-sample", batch_size=10).repeat()
    dicts = zoo.load_dataset("digits-sample").map(lambda x, y: {"image": x, "label": y})
    alone = zoo.load_dataset("digits-sample").map(lambda x, y: x)
    named = zoo.load_dataset("digits-sample").map(lambda x, y: ({"image": x}, y))
    of_dicts = zoo.load_dataset("digits-sample").map(lambda x, y: (x, {"label": y}))
    pairs = (IMAGES, LABELS), (IMAGES[:2], LABELS[:2])
    numbers = [(np.full(IMAGES.shape, x), LABELS) for x in (np.nan, np.inf, 1j, "1")]
    data_sets = endless, dicts, alone, named, of_dicts, pairs, 7, None, [1, 2, 3]
    for data in (*data_sets, (IMAGES,), *numbers):
        with pytest.raises(ValueError, match="Received: "):
            load_examples(data, "train")


@pytest.mark.parametrize("lead", [(), (2,)])
def test_images_of_different_shapes_are_refused(lead):
    def draw():
        for size in (28, 30):
            yield np.zeros((*lead, size, size, 1)), np.zeros(lead, int)

    shapes = (*lead, None, None, 1), lead
    signature = tuple(map(tf.TensorSpec, shapes, (tf.float32, tf.int64)))
    data = tf.data.Dataset.from_generator(draw, output_signature=signature)
    with pytest.raises(ValueError, match=r"Resize them.*\(28, 28, 1\), \(30, 30, 1\)"):
        load_examples(data, "train")


@pytest.mark.parametrize("names", [["a"], ["a", "a", "b"], np.array([{}, 1, 2])])
def test_damaged_files_are_refused(names, tmp_path):
    np.savez(tmp_path / "x.npz", x=IMAGES, y=LABELS, categories=names)
    with pytest.raises(ValueError, match="Received: "):
        load_examples(tmp_path / "x.npz", "train")
