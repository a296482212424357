"""Claims about the Wasserstein autoencoder, in both forms."""

import pytest
from claims_support import CLAIM, NULL_SD, PLAIN, each, figures, mean
from models_support import one_thread  # noqa: F401

pytestmark = CLAIM
MMD, GAN = "digits_wae_mmd", "digits_wae_gan"


@pytest.mark.xfail(
    strict=True, reason="measured: 8.27, 6.07 and 6.25 with seeds 0, 1 and 2, mean 6.86"
)
def test_samples_of_mmd_reach_the_goal():
    assert mean("fd", MMD) < 5


@pytest.mark.xfail(
    strict=True, reason="measured: 3.36, 3.65 and 2.64 with seeds 0, 1 and 2, mean 3.22"
)
def test_samples_of_the_adversary_reach_the_goal():
    assert mean("fd", GAN) < 3


@pytest.mark.parametrize("config", [MMD, GAN])
def test_samples_beat_those_of_the_plain_autoencoder_and_of_the_vae(config):
    assert figures(PLAIN)["fd"] > 100
    assert max(each("fd", config)) < figures("digits_vae")["fd"]


def test_mmd_matches_the_prior_at_little_cost():
    plain = figures(PLAIN)
    assert plain["prior_mmd"] > 1
    assert max(each("prior_mmd", MMD)) < 0.03
    assert figures(MMD)["mse_per_pixel"] < 1.15 * plain["mse_per_pixel"]


@pytest.mark.xfail(strict=True, reason="measured: 0.0088 with seed 1, that is 3.7 sd")
def test_adversary_brings_the_codes_within_three_sd_of_the_null():
    assert max(map(abs, each("prior_mmd", GAN))) < 3 * NULL_SD


@pytest.mark.xfail(strict=True, reason="measured: 0.611 and 0.594 with seeds 0 and 2")
def test_adversary_ends_undecided():
    assert all(0.45 < accuracy < 0.6 for accuracy in each("val/adversary_accuracy", GAN))


def test_a_larger_weight_costs_reconstruction():
    errors = [figures(MMD, weight=w)["mse_per_pixel"] for w in (3.0, 10.0, 30.0)]
    assert errors == sorted(errors)
