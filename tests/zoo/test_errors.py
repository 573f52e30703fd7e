"""The parts that error messages share."""

import pytest

from zoo.errors import require, suggest


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
    require("json", "plot", "The tour")
    message = r"The tour .*\"gradzoo\[plot\]\"`\. Received: package='no_such_package'\."
    with pytest.raises(ModuleNotFoundError, match=message) as caught:
        require("no_such_package", "plot", "The tour")
    assert caught.value.name == "no_such_package"
