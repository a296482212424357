"""The sliced-Wasserstein autoencoder: its penalty, and what its paper says of it."""

import pytest
import torch
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models.data import Digits
from models.latent_distance import null_floor, prior_distance
from models.priors import Prior
from models.systems import WAE, Autoencoder, SlicedWAE
from otkernels import sample_projections

pytestmark = IGNORED
QUIET = {"check_val_every_n_epoch": 250}


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def penalty(codes, points, seed=0, **settings):
    model = SlicedWAE(latent_dim=codes.shape[1], **settings)
    return model.penalty(codes, points, stream(seed))


def gaussian(n, d, seed):
    return torch.randn(n, d, generator=stream(seed))


# --- the penalty ----------------------------------------------------------------------------------


def test_penalty_in_one_dimension_is_the_gap_of_order_statistics():
    codes, points = gaussian(300, 1, 1).double(), 2 * gaussian(300, 1, 2).double() + 1
    expected = (codes.sort(0).values - points.sort(0).values).square().mean()
    torch.testing.assert_close(penalty(codes, points), expected, rtol=1e-12, atol=0)


def test_penalty_is_a_mean_over_the_directions_that_the_stream_gives():
    codes, points = gaussian(50, 3, 1), gaussian(50, 3, 2) + 1
    theta = sample_projections(3, 50, generator=stream(7))
    gaps = (codes @ theta).sort(0).values - (points @ theta).sort(0).values
    torch.testing.assert_close(penalty(codes, points, seed=7), gaps.square().mean())


def test_directions_and_prior_points_are_new_in_every_step():
    codes, points = gaussian(50, 3, 1), gaussian(50, 3, 2)
    assert penalty(codes, points, seed=1) != penalty(codes, points, seed=2)

    class Recorder(SlicedWAE):
        seen = ()

        def penalty(self, codes, points, generator):
            self.seen = (*self.seen, points)
            return super().penalty(codes, points, generator)

    model, _ = trained(build(Recorder), 1)
    steps = model.seen[:12]
    assert len({float(points.sum()) for points in steps}) == 12


def test_penalty_against_closed_forms_of_gaussians():
    """Null, shift and scale at n = 1000, d = 8: mean of |shift|^2 / d and of (1 - sd)^2."""
    n, d = 1000, 8
    points = gaussian(n, d, 1)
    null = penalty(gaussian(n, d, 2), points, n_projections=500)
    shift = penalty(gaussian(n, d, 2) + 0.5, points, n_projections=500)
    scale = penalty(0.5 * gaussian(n, d, 2), points, n_projections=500)
    assert 0 < null < 0.012
    assert abs(shift - null - 0.25) < 0.05
    assert abs(scale - 0.25) < 0.05


def test_weight_zero_trains_the_plain_autoencoder_bit_for_bit():
    sliced, _ = trained(build(SlicedWAE, weight=0.0), 2)
    plain, _ = trained(build(Autoencoder), 2)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, sliced.get_parameter(name)), name


# --- what the paper says --------------------------------------------------------------------------


def fitted(cls, **settings):
    """Trained for 3000 steps in the plane."""
    settings = {"latent_dim": 2, **settings}
    return trained(build(cls, **settings), 250, trainer=QUIET)[0].eval()


@torch.no_grad()
def test_codes(model):
    return model.encode(Digits().test[:][0])


test_codes.__test__ = False


@pytest.mark.training
@pytest.mark.parametrize(("prior", "times"), [("circle", 4), ("uniform", 4), ("ring", 6)])
def test_codes_come_near_every_planar_prior(prior, times):
    """From some hundred times the floor, for a plain autoencoder, to a few times."""
    law = Prior(prior, 2)
    floor = null_floor(law, 540)
    codes = test_codes(fitted(SlicedWAE, prior=prior))
    plain = test_codes(fitted(Autoencoder, prior=prior))
    assert prior_distance(codes, law) < times * floor
    assert prior_distance(plain, law) > 100 * times * floor


@pytest.mark.training
@pytest.mark.parametrize("prior", ["circle", "uniform", "ring"])
def test_reconstruction_pays_less_than_a_third_for_the_prior(prior):
    images = Digits().test[:][0]
    errors = {}
    for cls in (SlicedWAE, Autoencoder):
        with torch.no_grad():
            errors[cls] = (fitted(cls, prior=prior)(images) - images).square().mean()
    assert errors[SlicedWAE] < 1.3 * errors[Autoencoder]


def coverage(codes):
    """Share of 36 sectors of the plane that hold at least one code near the unit circle."""
    near = codes[(codes.norm(dim=1) - 1).abs() < 0.25]
    angles = torch.atan2(near[:, 1], near[:, 0])
    sectors = ((angles + torch.pi) * 36 / (2 * torch.pi)).long().clamp(max=35)
    return sectors.unique().numel() / 36


@pytest.mark.training
def test_ring_is_covered_at_least_as_well_as_by_the_adversarial_penalty():
    sliced = coverage(test_codes(fitted(SlicedWAE, prior="ring")))
    adversarial = coverage(test_codes(fitted(WAE, form="gan", log_prior=False, prior="ring")))
    assert sliced >= adversarial
    assert sliced > 0.9
