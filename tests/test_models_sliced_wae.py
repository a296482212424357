"""The sliced-Wasserstein autoencoder and its penalty."""

import torch
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models.systems import Autoencoder, SlicedWAE
from otkernels import sample_projections

pytestmark = IGNORED


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def penalty(codes, points, seed=0, **settings):
    model = SlicedWAE(latent_dim=codes.shape[1], **settings)
    return model.penalty(codes, points, stream(seed))


def gaussian(n, d, seed):
    return torch.randn(n, d, generator=stream(seed))


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
