"""The parts that error messages share."""

import numpy as np
import pytest

from zoo.errors import require, suggest, warn_if_scaled


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
    for scaled in (images, images.astype("float16"), images[0].tolist()):
        with pytest.warns(UserWarning, match=r"take.? raw pixels .* Received: .*\.$"):
            warn_if_scaled(scaled)
    raw, mask = images * 255, np.round(images)
    one_is_dark = np.concatenate([images[:1], raw])
    for other in (raw, mask, 0 * images, mask.astype(bool), raw.astype("uint8")):
        warn_if_scaled(other)  # Warnings are errors.
    for other in (one_is_dark, -images, images[:0], images * np.nan, []):
        warn_if_scaled(other)
