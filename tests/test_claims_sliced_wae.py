"""Claims about the sliced-Wasserstein autoencoder with eight latent dimensions."""

import pytest
from claims_support import CLAIM, PLAIN, each, figures, mean
from models_support import one_thread  # noqa: F401

pytestmark = CLAIM
SLICED = "digits_sliced_wae"


@pytest.mark.xfail(
    strict=True, reason="measured: 10.77, 6.83 and 5.83 with seeds 0, 1 and 2, mean 7.81"
)
def test_samples_reach_the_goal():
    assert mean("fd", SLICED) < 6


def test_samples_beat_those_of_the_plain_autoencoder():
    assert max(each("fd", SLICED)) < figures(PLAIN)["fd"] / 10


def test_codes_come_near_the_prior():
    assert max(each("prior_sw2", SLICED)) < 0.03  # floor 0.0115
    assert figures(PLAIN)["prior_sw2"] > 10


def test_reconstruction_pays_less_than_a_third_for_the_prior():
    assert figures(SLICED)["mse_per_pixel"] < 1.3 * figures(PLAIN)["mse_per_pixel"]
