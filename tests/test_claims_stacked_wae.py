"""Claims about the stacked Wasserstein autoencoder."""

import pytest
import torch
from claims_support import CLAIM, PLAIN, SEEDS, each, figures, fitted, mean
from models_support import one_thread  # noqa: F401

from models.evaluation import classifier_features
from models.evaluation.images import confidence
from models.interpolate import interpolate
from otkernels import mmd, wae_bandwidths

pytestmark = CLAIM
SEQUENTIAL, JOINT = "digits_stacked_wae", "digits_stacked_wae_joint"


def missed_by_sequential(measured):
    """Both schedules, of which one is known to fail."""
    fails = pytest.mark.xfail(strict=True, reason=measured)
    return pytest.mark.parametrize("config", [pytest.param(SEQUENTIAL, marks=fails), JOINT])


both_schedules = pytest.mark.parametrize("config", [SEQUENTIAL, JOINT])


@both_schedules
def test_samples_reach_the_goal(config):
    assert mean("fd", config) < 4


@both_schedules
def test_samples_beat_those_of_the_plain_autoencoder(config):
    assert max(each("fd", config)) < figures(PLAIN)["fd"] / 10


@both_schedules
def test_samples_are_good_because_of_the_second_level(config):
    for seed in SEEDS:
        without = figures(config, seed, law="unit")
        assert figures(config, seed)["fd"] < without["fd"] / 4


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            SEQUENTIAL,
            marks=pytest.mark.xfail(strict=True, reason="measured: 3.44 times with seed 1"),
        ),
        JOINT,
    ],
)
def test_generated_codes_have_the_law_of_the_codes(config):
    """At most three times as far from the test codes as the training codes are."""
    for seed in SEEDS:
        reached = figures(config, seed)
        assert reached["code_sw2"] < 3 * reached["code_sw2_train"]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            SEQUENTIAL,
            marks=pytest.mark.xfail(strict=True, reason="measured: 1.1004 times with seed 1"),
        ),
        JOINT,
    ],
)
def test_round_trip_through_both_levels_costs_little(config):
    pairs = (each(f"val/mse_per_pixel{levels}", config) for levels in ("_both", ""))
    assert all(both < 1.1 * first for both, first in zip(*pairs, strict=True))


@torch.no_grad()
def second_mmd(config, seed):
    """Unbiased MMD^2 between the second-level codes of the test images and the prior."""
    model, data, _ = fitted(config, seed)
    second = model.encode_second(model.encode(data.test[:][0]))
    points = model.prior.sample(len(second), torch.Generator().manual_seed(0))
    ladder = wae_bandwidths(model.prior.dim)
    return mmd(second, points, kernel="imq", bandwidth=ladder, unbiased=True)


@both_schedules
def test_second_codes_match_the_prior(config):
    assert max(second_mmd(config, seed) for seed in SEEDS) < 0.015


def test_matching_generated_codes_makes_better_samples():
    assert figures(JOINT)["fd"] < 0.8 * figures(JOINT, match_weight=0.0)["fd"]


def test_samples_and_reconstructions_of_the_joint_schedule_beat_those_of_a_single_wae():
    joint, single = figures(JOINT), figures("digits_wae_mmd")
    assert joint["fd"] < single["fd"]
    assert joint["mse_per_pixel"] < single["mse_per_pixel"]


def test_codes_of_joint_training_keep_their_units():
    assert all(0.5 < spread < 2 for spread in each("val/code_spread", JOINT))


def test_eight_gaussians_are_all_reached():
    assert figures("eight_gaussians_stacked_wae")["modes"] == 8


def test_paths_of_the_second_level_decode_to_surer_digits():
    model, data, _ = fitted(SEQUENTIAL)
    probabilities = classifier_features(data, 0).probabilities
    images = data.test[:400][0]
    sure = {}
    for level in ("second", "codes"):
        between = interpolate(model, images[:200], images[200:], level=level)
        sure[level] = confidence(probabilities(between.flatten(0, 1)))
    assert sure["second"] >= sure["codes"]
