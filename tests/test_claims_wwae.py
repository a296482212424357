"""Claims about the Wasserstein-Wasserstein autoencoder."""

import torch
from claims_support import CLAIM, PLAIN, each, figures, fitted, mean
from models_support import one_thread  # noqa: F401

pytestmark = CLAIM
FULL, DIAGONAL, VAE = "digits_wwae", "digits_wwae_diagonal", "digits_vae"


def test_samples_reach_the_goal():
    assert mean("fd", FULL) < 8


def test_samples_beat_those_of_the_plain_autoencoder():
    assert max(each("fd", FULL)) < figures(PLAIN)["fd"] / 10


def test_full_covariance_matches_the_prior_at_little_cost():
    assert max(each("prior_gw2", FULL)) < 0.15  # floor 0.05
    assert figures(FULL)["mse_per_pixel"] < 1.1 * figures(PLAIN)["mse_per_pixel"]


@torch.no_grad()
def largest_correlation(config):
    """Of two coordinates of the test codes, in absolute value."""
    model, data, _ = fitted(config)
    correlation = torch.corrcoef(model.encode(data.test[:][0]).T)
    return (correlation - torch.eye(len(correlation))).abs().max()


def test_variances_alone_leave_correlations_and_cost_samples():
    assert largest_correlation(FULL) < 0.2
    assert largest_correlation(DIAGONAL) > 0.4
    assert figures(DIAGONAL)["fd"] > 2 * figures(FULL)["fd"]


def test_samples_and_reconstructions_beat_those_of_the_vae():
    assert mean("fd", FULL) < mean("fd", VAE)
    assert mean("mse_per_pixel", FULL) < mean("mse_per_pixel", VAE)
