"""Exact duals of optimal transport, against what is known of them."""

import math
import sys

import pytest
import torch
from models_support import IGNORED, build, one_thread, trained  # noqa: F401
from scipy.optimize import linprog

from models.data import EightGaussians
from models.duals import c_transform, solve
from models.errors import InputError
from models.systems import LatentOT

pytestmark = IGNORED


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def plane(**settings):
    """A LatentOT of points of the plane, which has no first stage."""
    settings = {"first_epochs": 0, "latent_dim": 2, "shape": (2,), **settings}
    return build(LatentOT, network="identity", **settings)


def half_squares(codes, noise):
    return (codes[:, None] - noise).square().sum(2) / 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("draws", [1, 3])
def test_dual_is_that_of_an_independent_linear_program(seed, draws):
    n, m = 40, 40 * draws
    codes, noise = randn(n, 3, seed=seed), 1 + 2 * randn(m, 3, seed=100 + seed)
    duals, costs = solve(codes, noise), half_squares(codes, noise)
    value = duals.codes.mean() - duals.noise.mean()
    rows = torch.zeros(n * m, n + m, dtype=torch.float64)  # f_i - h_j <= c_ij
    rows[:, :n] = torch.eye(n).repeat_interleave(m, 0)
    rows[:, n:] = -torch.eye(m).repeat(n, 1)
    ones = torch.ones(m, dtype=torch.float64)
    masses = torch.cat([-ones[:n] / n, ones[:m] / m])
    program = linprog(masses.numpy(), rows.numpy(), costs.flatten().numpy(), bounds=(None, None))
    assert abs(value + program.fun) < 1e-8
    assert abs(value - duals.cost) < 1e-8
    slack = costs - (duals.codes[:, None] - duals.noise)
    assert slack.min() > -1e-8
    used = slack[duals.match, torch.arange(m)]
    assert used.abs().max() < 1e-8  # complementary slackness
    assert (duals.match.bincount(minlength=n) == draws).all()
    assert abs(duals.noise.mean()) < 1e-12


def test_dual_of_a_translation_matches_every_point_with_its_own_image():
    noise, step = randn(50, 2), torch.tensor([3.0, -1.0], dtype=torch.float64)
    duals = solve(noise + step, noise)
    assert duals.match.tolist() == list(range(50))
    assert duals.cost == pytest.approx(5.0)


def test_c_transform_extends_the_dual_and_its_slope_points_to_the_code():
    codes, noise, points = randn(30, 3), randn(30, 3, seed=1), randn(200, 3, seed=2)
    duals = solve(codes, noise)
    torch.testing.assert_close(c_transform(noise, codes, duals.codes)[0], duals.noise)
    heights, match = c_transform(points, codes, duals.codes)
    by_hand = (duals.codes[:, None] - half_squares(codes, points)).max(0)
    torch.testing.assert_close(heights, by_hand.values)
    assert torch.equal(match, by_hand.indices)
    for k in range(3):  # h is quadratic within a cell: central differences are exact
        step = 1e-6 * torch.eye(3, dtype=torch.float64)[k]
        high, low = (c_transform(points + s * step, codes, duals.codes)[0] for s in (1, -1))
        slope = (codes[match] - points)[:, k]
        torch.testing.assert_close((high - low) / 2e-6, slope, atol=1e-6, rtol=1e-6)


def test_duals_do_not_lose_points_that_are_near_each_other_and_far_from_zero():
    codes = (1e4 + torch.tensor([[0.0], [1e-2]])).float()
    assert c_transform(codes, codes, torch.zeros(2))[1].tolist() == [0, 1]


def test_duals_refuse_what_is_not_finite():
    with pytest.raises(InputError, match="codes must be finite"):
        solve(torch.tensor([[0.0], [math.nan]]), torch.zeros(2, 1))


def test_missing_pot_is_said_in_one_line_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(InputError, match="LatentOT: exact duals need POT") as caught:
        trained(plane(), epochs=1, data=EightGaussians())
    assert len(str(caught.value).splitlines()) == 1
