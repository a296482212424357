"""Claims about the sliced-Wasserstein autoencoder with the planar priors of its paper."""

import pytest
import torch
from claims_support import CLAIM, PLAIN, figures, fitted
from models_support import one_thread  # noqa: F401

from models.latent_distance import null_floor, prior_distance

pytestmark = CLAIM
EPOCHS = 250
PRIORS = ["circle", "uniform", "ring"]


def sliced(prior):
    return {"config": "sliced_wae", "max_epochs": EPOCHS, "prior": prior}


# Without a penalty the prior plays no part in training.
PLAIN_2D = {"config": PLAIN, "max_epochs": EPOCHS, "latent_dim": 2}


@torch.no_grad()
def codes_of_test(**training):
    """Codes (n, 2) of all test images."""
    model, data, _ = fitted(**training)
    return model.encode(data.test[:][0])


@pytest.mark.parametrize(("prior", "times"), [("circle", 4), ("uniform", 4), ("ring", 6)])
def test_codes_come_near_every_prior(prior, times):
    """From some hundred times the floor, for a plain autoencoder, to a few times."""
    law = fitted(**sliced(prior))[0].prior
    floor = null_floor(law, 540)
    assert prior_distance(codes_of_test(**sliced(prior)), law) < times * floor
    assert prior_distance(codes_of_test(**PLAIN_2D), law) > 100 * times * floor


@pytest.mark.parametrize("prior", PRIORS)
def test_reconstruction_pays_less_than_a_third_for_the_prior(prior):
    plain = figures(**PLAIN_2D)["mse_per_pixel"]
    assert figures(**sliced(prior))["mse_per_pixel"] < 1.3 * plain


def coverage(codes):
    """Share of 36 sectors of the plane that hold at least one code near the unit circle."""
    near = codes[(codes.norm(dim=1) - 1).abs() < 0.25]
    angles = torch.atan2(near[:, 1], near[:, 0])
    sectors = ((angles + torch.pi) * 36 / (2 * torch.pi)).long().clamp(max=35)
    return sectors.unique().numel() / 36


def test_ring_is_covered_at_least_as_well_as_by_the_adversarial_penalty():
    ring = {"prior": "ring", "latent_dim": 2, "max_epochs": EPOCHS}
    adversarial = codes_of_test(config="digits_wae_gan", log_prior=False, **ring)
    covered = coverage(codes_of_test(**sliced("ring")))
    assert covered >= coverage(adversarial)
    assert covered > 0.9
