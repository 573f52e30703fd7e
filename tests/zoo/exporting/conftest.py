import pytest
from exports import lenet, random_pixels

from zoo.exporting.loading import load_exported
from zoo.exporting.versions import export

LABELS = [f"digit {i} é" for i in range(10)]


@pytest.fixture(scope="session")
def model():
    return lenet()


@pytest.fixture(scope="session")
def pixels(model):
    return random_pixels(model)


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """A version of `model`, whose labels are not ASCII. Tests copy it to change it."""
    base = tmp_path_factory.mktemp("exported") / "lenet"
    return export(model, base, labels=LABELS)


@pytest.fixture(scope="session")
def exported(folder):
    return load_exported(folder)
