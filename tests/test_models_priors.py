import pytest
import torch

from models.latent_distance import null_floor, prior_distance
from models.priors import Prior

N = 50_000


def draw(name, dim=2, n=N):
    return Prior(name, dim).sample(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "mean_radius", "sd_radius"),
    [
        ("uniform", 0.7652, 0.2851),  # (sqrt 2 + asinh 1) / 3; E r^2 = 2/3
        ("circle", 0.5, 12**-0.5),  # U(0, 1)
        ("bowl", 0.75, (3 / 5 - 9 / 16) ** 0.5),  # density 3 r^2
        ("gaussian", 1.2533, 0.6551),  # Rayleigh: sqrt(pi/2), sqrt(2 - pi/2)
        ("ring", 1.00005, 0.01),
    ],
)
def test_radius_of_planar_priors(name, mean_radius, sd_radius):
    z = draw(name)
    radius = z.norm(dim=1)
    error = 5 * sd_radius / N**0.5
    assert abs(radius.mean() - mean_radius) < error
    assert abs(radius.std() - sd_radius) < 0.01 * sd_radius
    assert z.mean(0).abs().max() < 5 / N**0.5


def test_circle_and_bowl_by_share_within_half():
    assert abs((draw("circle").norm(dim=1) < 0.5).double().mean() - 1 / 2) < 0.01
    assert abs((draw("bowl").norm(dim=1) < 0.5).double().mean() - 1 / 8) < 0.01


def test_ring_is_stratified_and_shuffled():
    n = 90
    z = draw("ring", n=n)
    angle = torch.atan2(z[:, 1], z[:, 0])
    slots = (angle / (2 * torch.pi / n)).round().long() % n
    assert slots.unique().numel() == n  # spacing 0.07, noise 0.01: one point in every slot
    assert not torch.equal(slots, slots.sort().values)


def test_independent_draw_of_the_ring_is_not_stratified():
    n = 90
    z = Prior("ring", 2).sample_independent(n, torch.Generator().manual_seed(0))
    slots = (torch.atan2(z[:, 1], z[:, 0]) / (2 * torch.pi / n)).round().long() % n
    assert z.shape == (n, 2)
    assert slots.unique().numel() < 0.75 * n  # independent points leave 1/e of the slots empty


@pytest.mark.parametrize("name", ["uniform", "gaussian"])
def test_priors_of_any_dimension(name):
    variance = {"uniform": 1 / 3, "gaussian": 1.0}[name]
    covariance = draw(name, dim=5).T.cov()
    assert (covariance - variance * torch.eye(5)).abs().max() < 0.02


def test_prior_draws_repeat_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    for name in ("uniform", "ring", "circle", "bowl", "gaussian"):
        assert torch.equal(draw(name, n=50), draw(name, n=50))
    assert torch.equal(torch.get_rng_state(), before)


# --- the distance of codes to a prior -------------------------------------------------------------


def test_prior_distance_of_a_shift_is_its_square_over_d():
    """Over two shifts at a right angle, the mean is exact for any directions."""
    prior, shifts = Prior("gaussian", 2), torch.tensor([[3.0, 4.0], [-4.0, 3.0]])
    codes = prior.sample(4000, torch.Generator().manual_seed(7))
    distances = [prior_distance(codes + shift, prior) for shift in shifts]
    # What is left is the gap of the sample means: its part of one mean has sd 0.08.
    assert abs(sum(distances) / 2 - 25 / 2) < 0.3


@pytest.mark.parametrize("name", ["uniform", "ring", "circle", "bowl", "gaussian"])
def test_null_floor_is_what_a_perfect_match_gives(name):
    prior = Prior(name, 2)
    floor = null_floor(prior, 540)
    codes = [prior.sample_independent(540, torch.Generator().manual_seed(s)) for s in range(9, 15)]
    mean = torch.stack([prior_distance(c, prior) for c in codes]).mean()
    assert 0 < floor < 0.02
    assert floor / 2 < mean < 2 * floor
