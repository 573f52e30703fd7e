"""The zoo's own models train without a finding."""

import pytest

import zoo
from zoo.callbacks import GradientNorms


@pytest.fixture(scope="module")
def digits():
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    return images[:256], labels[:256]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", zoo.list_models())
def test_a_healthy_run_has_no_finding(name, seed, digits):
    gradients = GradientNorms()
    zoo.train(
        name,
        digits,
        epochs=3,
        seed=seed,
        batch_size=16,
        callbacks=[gradients],
        verbose=0,
    )
    assert len(gradients.steps) == 48
    assert gradients.diagnose() == ()
