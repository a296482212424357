"""Claims about the variational autoencoder, a baseline."""

from claims_support import CLAIM, PLAIN, figures
from models_support import one_thread  # noqa: F401

pytestmark = CLAIM
VAE = "digits_vae"


def test_the_weight_of_the_config_makes_better_samples_than_a_small_one():
    """A small weight leaves the codes' law far from the prior, and it shows."""
    fd = figures(VAE)["fd"]
    assert fd < 11
    assert fd < 0.8 * figures(VAE, weight=0.03)["fd"]


def test_samples_beat_those_of_the_plain_autoencoder():
    assert figures(VAE)["fd"] < figures(PLAIN)["fd"] / 10
