"""Mutated files, sent to a server that has no checks but the graph's."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from exports import answer_requests, examples, photograph, saved
from PIL import ExifTags, Image

import zoo

pytestmark = pytest.mark.endurance

# Enough for each signature to answer and to reject dozens of requests, for each kind of
# mutation to meet each kind of file, and to find a leak of 28 kB per request.
REQUESTS = 2_000


def valid_files():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    size = (30, 40)
    return [
        *(saved(photograph(mode, size)) for mode in ("L", "RGBA", "P")),
        saved(photograph("RGB", size), "jpeg"),
        saved(photograph("L", size), "jpeg", exif=exif),
        saved(photograph("CMYK", size), "jpeg", progressive=True),
    ]


def mutated(content, generator):
    content = bytearray(content)
    for _ in range(generator.integers(1, 6)):
        place = int(generator.integers(len(content) + 1))
        size = int(generator.integers(1, 20))
        kind = generator.integers(5)
        if kind == 0:
            del content[place:]
        elif kind == 1:
            content[place : place + size] = generator.bytes(size)
        elif kind == 2:
            content[place:place] = content[: size * 10]
        elif kind == 3:
            del content[place : place + size]
        elif place < len(content):
            content[place] ^= 1 << int(generator.integers(8))
    return bytes(content)


def random_requests():
    """Yields requests, some of them valid: one of up to three files is mutated."""
    files, generator = valid_files(), np.random.default_rng(0)
    messages = examples("image/encoded", [[file] for file in files])
    for _ in range(REQUESTS):
        name = generator.choice(["serving_bytes", "classify"])
        valid = files if name == "serving_bytes" else messages
        count, hit = generator.integers(4, size=2)
        batch = np.empty(count, object)
        for index, choice in enumerate(generator.integers(len(valid), size=count)):
            content = valid[choice]
            batch[index] = mutated(content, generator) if index == hit else content
        yield name, batch.reshape((-1,) if generator.random() < 0.75 else (1, -1))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(signature, batch, answer, peak memory) of each request."""
    folder = zoo.export(zoo.LeNet5(), tmp_path_factory.mktemp("export"))
    requests = list(random_requests())
    answers = answer_requests(folder, requests)
    return [
        (name, batch, answer, peak)
        for (name, batch), (answer, peak) in zip(requests, answers, strict=True)
    ]


def test_each_is_answered_or_rejected(outcomes):
    counts = collections.Counter()
    for name, batch, answer, _ in outcomes:
        if isinstance(answer, tuple):
            code, message = answer
            assert code == tf.errors.INVALID_ARGUMENT
            assert message
        else:
            scores = answer.get("probabilities", answer.get("scores"))
            assert scores.shape == (len(batch), 10)
            assert scores.dtype == np.float32
            np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
        counts[name, isinstance(answer, tuple)] += 1
    assert len(outcomes) == counts.total() == REQUESTS
    assert len(counts) == 4
    assert min(counts.values()) > 20


def test_none_takes_much_memory(outcomes):
    """The peak grows neither by one request nor, after some, by all of them."""
    *_, peaks = zip(*outcomes, strict=True)
    assert max(np.diff(peaks)) < 50e6
    assert peaks[-1] - peaks[REQUESTS // 10] < 50e6
