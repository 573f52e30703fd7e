import pytest
from served_images import PIXELS

import zoo


@pytest.fixture(scope="session")
def expected(serving):
    """Answer of the exported model to `PIXELS`, without a server."""
    return zoo.load_exported(serving.base).predict(PIXELS)
