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


# Without the log density of the prior, which a ring has not.
ADVERSARIAL = {
    "config": "digits_wae_gan",
    "max_epochs": EPOCHS,
    "latent_dim": 2,
    "prior": "ring",
    "log_prior": False,
}


def test_ring_is_covered():
    assert coverage(codes_of_test(**sliced("ring"))) > 0.9


def test_codes_come_nearer_the_ring_than_by_the_adversarial_penalty():
    distance, adversarial = (figures(**t)["prior_sw2"] for t in (sliced("ring"), ADVERSARIAL))
    assert distance < adversarial


@pytest.mark.xfail(
    strict=True, reason="measured: the adversary's codes cover 36 of 36 sectors, ours 35 (seed 0)"
)
def test_adversarial_penalty_leaves_more_of_the_ring_uncovered():
    adversarial = coverage(codes_of_test(**ADVERSARIAL))
    assert adversarial < coverage(codes_of_test(**sliced("ring")))
