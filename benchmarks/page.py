"""Measures the time from a stroke to the answers of the page in `play/`.

`python play/prepare.py` prepares the page first. `PYTHONPATH=tests/helpers python
benchmarks/page.py` then draws the example digits in headless Chromium. The time runs
from an event of the pointer until all answers and layers have been updated.
"""

import argparse
import os

import numpy as np
from browser import DIGITS, PLAY, Page, serve

OBSERVE = """
window.times = [];
const add = list => window.times.push(...list.getEntries());
new PerformanceObserver(add).observe({ type: "measure" });
"""


def measure(page: Page, rounds: int) -> np.ndarray:
    """Returns the milliseconds of all answers but those to the first ten digits."""
    page.script(OBSERVE)
    times = []
    for number in range(rounds + 1):
        for strokes in DIGITS:
            page.draw(strokes, "mouse")
            page.answers()
            found = page.script("return window.times.splice(0).map(x => x.duration)")
            # At first, compilers have not optimized what runs often.
            times += found if number else []
            page.clear()  # The answer to an empty pad is known.
            page.script("window.times.length = 0")
    return np.array(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with serve(PLAY) as url:
        page = Page(url)
        try:
            times = measure(page, rounds)
        finally:
            page.driver.quit()
    median, late = np.percentile(times, [50, 95])
    print(
        f"{len(times)} answers on {os.cpu_count()} cores: median {median:.0f} ms, "
        f"95th percentile {late:.0f} ms"
    )


if __name__ == "__main__":
    main()
