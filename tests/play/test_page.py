"""The page in a real browser. Needs Chromium, its driver, npm, and the extra `onnx`."""

import base64
import io
import json
import os
import re

import keras
import numpy as np
import pytest
from browser import DIGITS, PLAY, Page, find_browser, serve
from paths import ROOT, run_python
from PIL import Image
from redrawn_digits import place

import zoo

pytestmark = [
    pytest.mark.browser,
    # `make test-all` sets the variable: there, a missing browser is an error.
    pytest.mark.skipif(
        not all(find_browser()) and "REQUIRE_BROWSER" not in os.environ,
        reason="Chromium or its driver is not installed",
    ),
]
NETWORKS = ["ShallowMLP", "DeepMLP", "LeNet5", "ConvNet"]
# Float32 and float64 can round a pixel, in [0, 255], to either side.
PIXEL_TOLERANCE, PROBABILITY_TOLERANCE = 1, 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page, prepared in an empty folder."""
    folder = tmp_path_factory.mktemp("page")
    run_python(PLAY / "prepare.py", "--output", folder)
    return folder


@pytest.fixture(scope="module")
def opened(folder):
    with serve(folder) as url:
        page = Page(url)
        yield page
        page.driver.quit()


@pytest.fixture
def page(opened):
    opened.resize(1360, 1000)
    opened.open()
    yield opened
    log = opened.driver.get_log("browser")
    assert [entry for entry in log if entry["level"] == "SEVERE"] == []


def contracts(folder):
    for path in sorted(folder.glob("models/*/*/export.json")):
        yield path.parents[1].name, json.loads(path.read_text("utf-8"))


# Drawing


@pytest.mark.parametrize("kind", ["mouse", "touch", "pen"])
def test_ten_digits_by_pointer(kind, page):
    page.script(
        "window.kinds = []; document.getElementById('pad').addEventListener("
        "'pointerdown', event => window.kinds.push(event.pointerType))"
    )
    for digit, strokes in enumerate(DIGITS):
        page.draw(strokes, kind)
        assert page.answers() == dict.fromkeys(NETWORKS, str(digit))
        page.wait(lambda x=digit: page.summary() == f"All networks answer {x}.")
        page.clear()
    assert set(page.script("return window.kinds")) == {kind}


def test_ten_digits_by_keyboard(page):
    for digit, strokes in enumerate(DIGITS):
        page.type(strokes)
        assert page.answers() == dict.fromkeys(NETWORKS, str(digit))
        page.clear()


def test_ten_examples(page):
    for digit in range(len(DIGITS)):
        page.click("example")
        assert page.answers() == dict.fromkeys(NETWORKS, str(digit))


def test_undo(page):
    page.draw(DIGITS[1], "mouse")
    one = page.pixels()
    page.draw([[[60, 230], [230, 230]]], "mouse")
    assert page.pixels() != one
    [pad] = page.find("#pad")
    pad.send_keys("\ue003")  # Backspace.
    assert page.pixels() == one
    page.click("undo")
    assert not any(page.pixels())
    page.wait(lambda: page.summary() == "Draw a digit on the pad.")


# What the networks see


@pytest.fixture(scope="module")
def convnet():
    return zoo.ConvNet(weights="mnist")


def probabilities(page, title):
    cards = page.find(".answer")
    [card] = [card for card in cards if card.text.startswith(title)]
    bars = card.find_elements("class name", "bar")
    read = "return arguments[0].style.getPropertyValue('--part')"
    return [float(page.script(read, bar)) for bar in bars]


def test_drawings_are_normalized_as_in_the_package(page, convnet):
    for digit, strokes in enumerate(DIGITS):
        page.draw(strokes, "mouse")
        assert page.answers()["ConvNet"] == str(digit)
        url = page.script("return document.getElementById('pad').toDataURL()")
        file = io.BytesIO(base64.b64decode(url.partition(",")[2]))
        expected = zoo.read_images([file], convnet)
        received = np.reshape(page.pixels(), expected.shape)
        np.testing.assert_allclose(received, expected, 0, PIXEL_TOLERANCE)
        [answer] = convnet.predict(expected, verbose=0)
        shown = probabilities(page, "ConvNet")
        np.testing.assert_allclose(shown, answer, 0, PROBABILITY_TOLERANCE)
        page.clear()


def test_ink_of_any_size_is_normalized_as_in_the_package(page, convnet):
    """Handwritten digits, of strokes from thin to thick, anywhere on the canvas."""
    images, _ = zoo.load_dataset("digits-sample", "validation", as_="numpy")
    rng, largest = np.random.default_rng(0), 0
    for image in images[:40]:
        ink = np.uint8(255 * place(image[..., 0], rng, 500).clip(0, 1))
        rgba = np.zeros((*ink.shape, 4), "uint8")
        rgba[..., 3] = ink
        file = io.BytesIO()
        Image.fromarray(rgba).save(file, "png")
        expected = zoo.read_images([file], convnet)
        assert expected.any()
        received = page.driver.execute_async_script(
            "const [ink, height, width, done] = arguments;"
            "const opacity = Uint8Array.from(atob(ink), x => x.charCodeAt(0));"
            "import('./normalization.js').then(module =>"
            "  done([...module.normalizeDigit(opacity, height, width)]));",
            base64.b64encode(ink.tobytes()).decode(),
            *ink.shape,
        )
        received = np.reshape(received, expected.shape)
        np.testing.assert_allclose(received, expected, 0, PIXEL_TOLERANCE)
        both = convnet.predict(np.concatenate([expected, received]), verbose=0)
        largest = max(largest, np.abs(both[0] - both[1]).max())
    assert largest <= PROBABILITY_TOLERANCE


def set_slider(page, name, value):
    page.script(
        "const [name, value] = arguments; const slider = document.getElementById(name);"
        "slider.value = value;"
        "slider.dispatchEvent(new Event('input', { bubbles: true }));",
        name,
        value,
    )


def test_sliders_move_the_image(page):
    page.draw(DIGITS[4], "mouse")
    before = np.reshape(page.pixels(), (28, 28))
    changes = {
        ("right", 3): np.pad(before, ((0, 0), (3, 0)))[:, :28],
        ("down", -2): np.pad(before, ((0, 2), (0, 0)))[2:],
        ("angle", 90): np.rot90(before, -1),
    }
    for (name, value), expected in changes.items():
        set_slider(page, name, value)
        np.testing.assert_array_equal(page.pixels(), expected.ravel())
        set_slider(page, name, 0)
    set_slider(page, "scale", 50)
    assert 0 < np.sum(page.pixels()) < before.sum() / 3
    page.script("document.querySelector('#sliders [type=reset]').click()")
    # The browser resets the sliders after the event.
    page.wait(lambda: page.pixels() == before.ravel().tolist())


# The layers


def shown_layers(page):
    """Returns the names of the layers in view, by network."""
    return {
        panel.find_element("tag name", "h3").text: [
            name.text for name in panel.find_elements("tag name", "code")
        ]
        for panel in page.find(".panel:not([hidden])")
    }


def test_layers_are_those_of_the_exports(page, folder):
    exported = {title: contract["features"] for title, contract in contracts(folder)}
    assert all(exported.values())
    maps = {title: exported[title] for title in ("LeNet5", "ConvNet")}
    assert shown_layers(page) == maps
    page.draw(DIGITS[3], "mouse")
    page.click("vanishing")
    assert list(page.answers()) == [*NETWORKS, "SigmoidMLP"]
    units = {title: names for title, names in exported.items() if title not in maps}
    assert shown_layers(page) == units
    changes = page.script(
        "const panels = [...document.querySelectorAll('.panel:not([hidden])')];"
        "return panels.map(panel => [...panel.querySelectorAll('.change .bar')]"
        "  .map(bar => Number(bar.style.getPropertyValue('--part'))));"
    )
    *healthy, vanishing = changes
    assert sorted(vanishing, reverse=True) == vanishing
    assert vanishing[-1] < 0.2 < 0.8 < min(map(min, healthy))
    page.click("vanishing")
    assert shown_layers(page) == maps


def test_maps_show_the_activations(page, folder):
    """The largest outputs of a layer are the lightest points of its maps."""
    page.draw(DIGITS[5], "mouse")
    model = zoo.LeNet5(weights="mnist")
    image = np.reshape(page.pixels(), (1, 28, 28, 1))
    [maps] = zoo.features(model, ["conv1"])(image)["conv1"].numpy()
    shown = page.script(
        "const [canvas] = document.querySelectorAll('[aria-label^=\"Layer conv1 of "
        "LeNet5\"]'); const { width, height } = canvas;"
        "const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);"
        "return [height, width, [...data].filter((_, i) => i % 4 === 0)];"
    )
    height, width, red = shown
    red = np.reshape(red, (height, width))
    tiles = [red[:, 29 * i : 29 * i + 28] for i in range(maps.shape[-1])]
    rank = np.corrcoef(np.stack(tiles, -1).ravel(), maps.ravel())[0, 1]
    assert rank > 0.9
    top = np.unravel_index(maps.argmax(), maps.shape)
    assert np.stack(tiles, -1)[top] == red.max()


# The page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1360])
def test_no_problem_of_accessibility_and_no_overflow(width, scheme, page):
    page.resize(width, 800, scheme)
    page.draw(DIGITS[2], "touch")
    assert page.answers() == dict.fromkeys(NETWORKS, "2")
    page.script((PLAY / "node_modules/axe-core/axe.min.js").read_text("utf-8"))
    for _ in range(2):
        # The widths of the window, of the content, and of the visible area.
        widths = page.script(
            "const root = document.documentElement;"
            "return [innerWidth, root.scrollWidth, root.clientWidth];"
        )
        assert widths == [width, *widths[2:] * 2]
        problems = page.driver.execute_async_script(
            "axe.run().then(({ violations }) => arguments[0](violations.flatMap("
            "  ({ nodes }) => nodes.map(x => [x.html, x.failureSummary]))));"
        )
        assert problems == []
        page.click("vanishing")
        page.settle()


def test_all_files_are_local_and_small(page, folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    origin = page.script("return location.origin")
    entries = page.script("return performance.getEntries().map(entry => entry.name)")
    urls = [name for name in entries if re.match(r"https?:", name)]
    assert len(urls) > 10
    assert all(url.startswith(f"{origin}/") for url in urls)


def test_motion_is_reduced(page):
    def duration():
        bar = "getComputedStyle(document.querySelector('.bar'), '::before')"
        return page.script(f"return {bar}.transitionDuration")

    assert duration() != "0s"
    feature = {"name": "prefers-reduced-motion", "value": "reduce"}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    assert duration() == "0s"


# Own models


@pytest.mark.filterwarnings("ignore:The layer 'logits' is untrained")
def test_the_guide(page, tmp_path, monkeypatch):
    """Its blocks make a model that the page loads from its two files."""
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "play.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, "docs/play.md", "exec"), names)
    [chooser] = page.find("#own")
    folder = names["folder"].resolve()
    files = [folder / name for name in ("model.onnx", "export.json")]
    [problem] = page.find("#problem")
    count = len(page.find(".answer"))
    chooser.send_keys("\n".join(map(str, files)))
    page.wait(lambda: problem.text or len(page.find(".answer")) > count)
    assert problem.text == ""
    *_, title = shown_layers(page)
    contract = json.loads(files[1].read_text("utf-8"))
    assert title == contract["model"]
    assert shown_layers(page)[title] == contract["features"]
    for digit in (3, 8):
        page.draw(DIGITS[digit], "mouse")
        assert page.answers()[title] == ("odd" if digit % 2 else "even")
        page.clear()


def test_other_files_are_refused(page, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    [chooser] = page.find("#own")
    chooser.send_keys(str(tmp_path / "model.onnx"))
    [problem] = page.find("#problem")
    page.wait(lambda: problem.text)
    assert "Choose the files model.onnx and export.json." in problem.text
    assert problem.text.endswith("Received: model.onnx.")


def test_the_page_works_without_a_model_that_cannot_be_loaded(opened, folder):
    [file] = folder.glob("models/LeNet5/*/model.onnx")
    away = file.rename(file.with_suffix(".away"))
    for command in ("Network.enable", "Network.clearBrowserCache"):
        opened.driver.execute_cdp_cmd(command, {})
    try:
        opened.open()
        [problem] = opened.find("#problem")
        assert problem.text.endswith("model.onnx cannot be loaded.")
        opened.draw(DIGITS[3], "mouse")
        assert opened.answers().keys() == {*NETWORKS} - {"LeNet5"}
    finally:
        away.rename(file)
        opened.driver.get_log("browser")  # The missing file is an entry.


def test_an_own_folder_is_listed(folder):
    keras.utils.set_random_seed(0)
    program = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1]); import prepare, zoo\n"
        "prepare.HERE, output = map(pathlib.Path, sys.argv[2:])\n"
        "model = zoo.LeNet5(weights='mnist')\n"
        "zoo.export(model, prepare.HERE / 'models' / 'mine', format='onnx')\n"
        "zoo.export(model, prepare.HERE / 'models' / 'served')\n"
        "prepare.BUILDERS = prepare.BUILDERS[:1]\n"
        "prepare.write_models(output / 'models')\n"
    )
    beside, output = folder.parent / "beside", folder.parent / "output"
    (output / "models").mkdir(parents=True)
    printed = run_python("-W", "ignore", "-c", program, PLAY, beside, output)
    assert "served is left out: export it with" in printed
    listed = json.loads((output / "models" / "index.json").read_text("utf-8"))
    assert [x["title"] for x in listed] == ["ShallowMLP", "mine", "SigmoidMLP"]
    assert all((output / x["folder"] / "model.onnx").is_file() for x in listed)
