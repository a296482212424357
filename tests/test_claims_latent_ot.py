"""Claims about latent optimal transport on digits."""

import pytest
from claims_support import CLAIM, PLAIN, SEEDS, each, figures, mean
from models_support import one_thread  # noqa: F401

pytestmark = CLAIM
FULL, BATCH = "digits_latent_ot", "digits_latent_ot_batch"


def test_samples_reach_the_goal():
    assert mean("fd", FULL) < 2.5


def test_samples_beat_those_of_the_plain_autoencoder():
    assert max(each("fd", FULL)) < figures(PLAIN)["fd"] / 10


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_beat_those_of_noise_of_the_scale_of_the_codes(seed):
    assert figures(FULL, seed)["fd"] < figures(FULL, seed, law="unit")["fd"] / 5


def test_one_dual_of_all_codes_makes_better_samples_than_those_of_mini_batches():
    assert figures(FULL)["fd"] < figures(BATCH)["fd"] / 2


def test_generated_codes_do_not_repeat_the_training_codes():
    """They lie at least half as far from the nearest training code as test codes do."""
    pairs = (each(f"val/nearest_code{of}", FULL) for of in ("", "_of_test"))
    assert all(generated > test / 2 for generated, test in zip(*pairs, strict=True))
