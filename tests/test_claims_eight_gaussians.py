"""Claims about latent optimal transport on eight Gaussians, the many clusters of its paper."""

import pytest
import torch
from claims_support import CLAIM, SEEDS, each, fitted, mean
from models_support import one_thread  # noqa: F401

pytestmark = CLAIM
CONFIG = "eight_gaussians_latent_ot"


def test_every_mode_is_reached_about_equally_and_little_lies_between():
    assert set(each("modes", CONFIG)) == {8}
    assert max(each("tv", CONFIG)) < 0.1
    assert min(each("within", CONFIG)) > 0.85


def test_gradient_term_leaves_fewer_points_between_the_modes():
    assert mean("within", CONFIG, gamma=1.0) > mean("within", CONFIG, gamma=0.0)


def test_duals_of_mini_batches_leave_more_points_between_the_modes():
    assert mean("within", CONFIG, mode="batch") < mean("within", CONFIG, mode="full") - 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_map_is_monotone(seed):
    """As the gradient of a convex function is, for nearly all pairs of points."""
    model = fitted(CONFIG, seed)[0]
    points, others = torch.randn(2, 1000, 2, generator=torch.Generator().manual_seed(4))
    ahead = ((model.transport(points) - model.transport(others)) * (points - others)).sum(1)
    assert (ahead > 0).double().mean() > 0.99
