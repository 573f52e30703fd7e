"""The page of `play/` in headless Chromium, drawn on as a person would."""

import contextlib
import functools
import http.server
import json
import pathlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from paths import ROOT

PLAY = ROOT / "play"
DIGITS = json.loads((PLAY / "examples.json").read_text("utf-8"))
PAD = 280  # the side of the pad, in the coordinates of strokes
STEP = 10  # of an arrow key
WAIT = 120  # seconds
OPTIONS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)

Strokes = Sequence[Sequence[Sequence[float]]]


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serve(folder: pathlib.Path) -> Iterator[str]:
    """Serves the files of a folder, as `make play` does; returns the address."""
    handler = functools.partial(_Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def find_browser() -> tuple[str | None, str | None]:
    """Returns the paths of Chromium and of its driver, or `None`."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    return browser, shutil.which("chromedriver")


class Page:
    """A browser that shows the page, in a window of a size."""

    def __init__(self, url: str) -> None:
        from selenium import webdriver

        browser, driver = find_browser()
        assert all((browser, driver)), "install Chromium and its driver, chromedriver"
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for name in OPTIONS:
            options.add_argument(f"--{name}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
        self.driver.set_script_timeout(WAIT)
        self.resize(1360, 1000)
        self.url = url
        self.open()

    def open(self) -> None:
        self.driver.get(self.url)
        self.wait(lambda: self.find("body[data-ready]"))

    def resize(self, width: int, height: int, scheme: str = "light") -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        run = self.driver.execute_cdp_cmd
        run("Emulation.setDeviceMetricsOverride", {**size, "mobile": False})
        scheme = {"name": "prefers-color-scheme", "value": scheme}
        run("Emulation.setEmulatedMedia", {"features": [scheme]})

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def wait(self, condition: Any) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        def check(_: Any) -> Any:
            return condition()

        return WebDriverWait(self.driver, WAIT, 0.05).until(check)

    def summary(self) -> str:
        [element] = self.find("#summary")
        return element.text

    def click(self, name: str) -> None:
        # Where it is in the window does not matter.
        self.script("document.getElementById(arguments[0]).click()", name)

    def clear(self) -> None:
        self.click("clear")
        self.settle()

    def settle(self) -> None:
        """Waits until all events are answered."""
        self.wait(lambda: self.find("#answers[aria-busy=false]"))

    def answers(self) -> dict[str, str]:
        """Returns the label that each network in view answers."""
        self.settle()
        cards = self.script(
            "return [...document.querySelectorAll('.answer:not([hidden])')].map("
            "card => ['h3', 'strong'].map(x => card.querySelector(x).textContent))"
        )
        return dict(cards)

    def pixels(self) -> list[int]:
        """Returns the gray levels of the 28x28 image."""
        self.settle()
        return self.script(
            "const image = document.getElementById('image').getContext('2d');"
            "const { data } = image.getImageData(0, 0, 28, 28);"
            "return [...data].filter((_, i) => i % 4 === 0);"
        )

    def draw(self, strokes: Strokes, kind: str) -> None:
        """Draws with a `"mouse"`, by `"touch"` or with a `"pen"`."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        [pad] = self.find("#pad")
        self.script("arguments[0].scrollIntoView({ block: 'center' })", pad)
        scale = pad.size["width"] / PAD
        pointer = PointerInput(kind, kind)
        actions = ActionBuilder(self.driver, mouse=pointer, duration=0)
        for stroke in strokes:
            # Selenium's offsets start at the center of the element.
            first, *rest = (
                [round((x - PAD / 2) * scale) for x in point] for point in stroke
            )
            actions.pointer_action.move_to(pad, *first).pointer_down()
            for place in rest:
                actions.pointer_action.move_to(pad, *place)
            actions.pointer_action.pointer_up()
        actions.perform()

    def type(self, strokes: Strokes) -> None:
        """Draws with the keyboard, from the middle of the pad."""
        [pad] = self.find("#pad")
        keys, place = [], [PAD // 2 // STEP] * 2
        for stroke in strokes:
            first, *rest = ([round(x / STEP) for x in point] for point in stroke)
            keys += [*_walk(place, first), " "]
            for start, stop in zip([first, *rest], rest, strict=False):
                keys += _walk(start, stop)
            keys, place = [*keys, " "], [first, *rest][-1]
        pad.send_keys("".join([*keys, *_walk(place, [PAD // 2 // STEP] * 2)]))


def _walk(start: Sequence[int], stop: Sequence[int]) -> list[str]:
    """Returns the arrow keys from one place to another, close to a straight line."""
    from selenium.webdriver.common.keys import Keys

    names = ((Keys.ARROW_LEFT, Keys.ARROW_RIGHT), (Keys.ARROW_UP, Keys.ARROW_DOWN))
    left, keys = np.subtract(stop, start), []
    share = 1 / np.maximum(np.abs(left), 1)
    while left.any():
        axis = np.argmax(np.abs(left) * share)
        sign = 1 if left[axis] > 0 else -1
        left[axis] -= sign
        keys.append(names[axis][sign > 0])
    return keys
