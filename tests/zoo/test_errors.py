"""The parts that error messages share."""

import numpy as np
import pytest

from zoo.errors import clean_message, require, suggest, warn_if_scaled


@pytest.mark.parametrize(
    ("word", "words", "message"),
    [
        (
            "lenet",
            ["lenet5", "convnet"],
            "Did you mean 'lenet5'? Available: 'lenet5', ",
        ),
        ("MNIST", ["mnist"], "Did you mean 'mnist'? Available: 'mnist'."),
        ("nothing", ["mnist"], "Available: 'mnist'."),
        ("nothing", [], "Available: none."),
    ],
)
def test_suggest_ends_a_message_with_a_guess_and_the_names(word, words, message):
    assert suggest(word, words).startswith(message)


def test_require_names_the_package_and_the_extra():
    require("json", "gradzoo[plot]", "The tour")
    message = r"The tour .*\"gradzoo\[plot\]\"`\. Received: package='no_such_package'\."
    with pytest.raises(ModuleNotFoundError, match=message) as caught:
        require("no_such_package", "gradzoo[plot]", "The tour")
    assert caught.value.name == "no_such_package"


def test_scaled_pixels_give_a_warning():
    images = np.random.default_rng(0).random((5, 4, 4, 1), np.float32)
    raw, mask = images * 255, np.round(images)
    integers = mask.astype("uint8")
    floats = images, images.astype("float16"), images[0].tolist(), mask
    standardized = 2 * images - 1, raw - 128, integers.astype(int) - 1
    for scaled in (*floats, *standardized, integers, mask[:1].astype(bool)):
        with pytest.warns(UserWarning, match=r"take.? raw pixels .* Received: .*\.$"):
            warn_if_scaled(scaled)
    one_is_dark = np.concatenate([images[:1], raw])
    for other in (raw, 0 * images, raw.astype("uint8"), integers[:1], images < 0):
        warn_if_scaled(other)  # Warnings are errors.
    for other in (one_is_dark, images[:0], images * np.nan, []):
        warn_if_scaled(other)


@pytest.mark.parametrize(
    "indices", ["", " Received: files] [0", " Received: files] [0 12"]
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Graph execution error:\n\nAt\n<stack traces unavailable>\n", ""),
        (
            "{{function_node f_1}} ",
            "\n\t [[{{function_node f}}{{node Assert}}]] [Op:f]",
        ),
        ('{ "error": "', r'\n\t [[{{function_node f}}{{node Assert}}]]" }'),
        ('{\n "error": "', '"\n}\n'),
    ],
)
def test_clean_message(before, after, indices):
    message = f"{before}assertion failed: [No file.{indices}]{after}"
    assert clean_message(message) == "No file."
    assert clean_message(f"{before}Invalid PNG{after}") == "Invalid PNG"
