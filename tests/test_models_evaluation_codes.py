"""Distances between clouds of codes, and the laws that codes are drawn from."""

import pytest
import torch
from models_support import IGNORED, Mapped, build, one_thread  # noqa: F401

from models.autoencoder import Autoencoder
from models.errors import InputError
from models.evaluation import (
    LAWS,
)
from models.evaluation.codes import distances, prior_distances
from models.priors import Prior
from otkernels import gaussian_wasserstein_to_normal

pytestmark = IGNORED


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- codes --------------------------------------------------------------------------------------

FIGURES = ("mmd", "sw2", "gw2")


def test_distances_are_in_units_of_the_codes():
    codes, shift = 3 * normal(500, 4) @ torch.diag(torch.tensor([1.0, 1, 2, 4]).double()), 2.0
    scale = (codes - codes.mean(0)).square().mean().sqrt()
    figures = distances(codes, codes + shift)
    assert figures["gw2"] == pytest.approx(float(4 * shift**2 / scale**2))
    assert figures["sw2"] == pytest.approx(float(shift**2 / scale**2), rel=0.3)  # 200 directions
    moved = distances(7 * codes - 3, 7 * (codes + shift) - 3)
    assert moved == pytest.approx(figures, rel=1e-9)


def test_distances_of_one_point_in_place_of_the_points():
    codes = normal(400, 4)
    points = codes.mean(0).expand(400, 4)
    figures = distances(codes, points)
    assert figures["gw2"] == pytest.approx(4)  # the trace of the covariance
    assert figures["sw2"] == pytest.approx(1, abs=0.02)


def test_mmd_of_codes_is_the_unbiased_sum_over_seven_kernels():
    codes, points = 5 * normal(12, 3) + 2, 4 * normal(9, 3, seed=1)
    centre = codes.mean(0)
    scale = (codes - centre).square().mean().sqrt()
    x, y = (codes - centre) / scale, (points - centre) / scale
    total = 0.0
    for c in (0.1, 0.2, 0.5, 1, 2, 5, 10):
        c0 = c * 2 * 3

        def mean(a, b, pairs, c0=c0):
            values = [c0 / (c0 + float((a[i] - b[j]).square().sum())) for i, j in pairs]
            return sum(values) / len(values)

        inside = [[(i, j) for i in range(n) for j in range(n) if i != j] for n in (12, 9)]
        across = [(i, j) for i in range(12) for j in range(9)]
        total += mean(x, x, inside[0]) + mean(y, y, inside[1]) - 2 * mean(x, y, across)
    assert distances(codes, points)["mmd"] == pytest.approx(total, rel=1e-10)


def test_rotation_of_both_leaves_mmd_and_gaussian_distance():
    codes, points = normal(300, 6) + 1, normal(200, 6, seed=1) @ normal(6, 6, seed=2)
    rotation = torch.linalg.qr(normal(6, 6, seed=3)).Q
    before, after = distances(codes, points), distances(codes @ rotation, points @ rotation)
    for name in ("mmd", "gw2"):
        assert after[name] == pytest.approx(before[name], rel=1e-9)
    assert after["sw2"] == pytest.approx(before["sw2"], rel=0.1)  # in expectation only


def test_distances_to_the_prior_of_shifts_and_scales():
    prior, z = Prior("gaussian", 8), normal(2000, 8, dtype=torch.float32)
    shifted, scaled = prior_distances(z + 0.5, prior), prior_distances(z / 2, prior)
    # What calibration gave for the MMD; the others in closed form, sum over 8 axes or mean.
    assert shifted["mmd"] == pytest.approx(0.27, abs=0.02)
    assert scaled["mmd"] == pytest.approx(0.43, abs=0.02)
    # 8 * 0.25 times the mean of 200 squares of a coordinate on the sphere, of variance 14 / 640.
    assert shifted["sw2"] == pytest.approx(0.25, abs=4 * 2 * (14 / 640 / 200) ** 0.5)
    assert scaled["sw2"] == pytest.approx(0.25, abs=0.02)
    assert [shifted["gw2"], scaled["gw2"]] == pytest.approx([2, 2], rel=0.05)


def test_distances_to_the_prior_scale_with_it():
    z = normal(600, 3, dtype=torch.float32) + 0.3
    one, three = (prior_distances(s * z, Prior("gaussian", 3, float(s))) for s in (1, 3))
    assert three["mmd"] == pytest.approx(one["mmd"], rel=1e-4)
    for name in ("sw2", "sw2_floor", "gw2", "gw2_floor"):
        assert three[name] == pytest.approx(9 * one[name], rel=1e-4), name


def test_floors_are_what_a_perfect_match_gives():
    prior, n = Prior("gaussian", 8), 500
    matches = [
        prior_distances(normal(n, 8, seed=s, dtype=torch.float32), prior) for s in range(7, 17)
    ]
    for name in ("sw2", "gw2"):
        mean = sum(match[name] for match in matches) / 10
        assert mean == pytest.approx(matches[0][f"{name}_floor"], rel=0.25)
    mean = sum(match["mmd"] for match in matches) / 10
    assert abs(mean) < 0.002  # a tenth of a per cent of a collapsed cloud's
    assert set(prior_distances(normal(50, 2).float(), Prior("ring", 2))) == {"sw2", "sw2_floor"}


def alternative(name, seed):
    """2000 points of the plane, of N(0, I) or of a law that differs from it in one way."""
    z = normal(2000, 2, seed=seed)
    if name == "shift":
        return z + 0.5
    if name == "scale":
        return z / 2
    if name == "correlation":  # coordinates of variance 1
        return z @ torch.tensor([[1.0, 0.8], [0.0, 0.6]]).double()
    if name == "mixture":  # mean 0 and covariance I, as N(0, I)
        z[:, 0] = 0.97 * torch.sign(normal(2000, seed=seed + 99)) + 0.0591**0.5 * z[:, 0]
    return z


SEEN = {
    "match": set(),
    "shift": {"mmd", "sw2", "gw2", "diagonal"},
    "scale": {"mmd", "sw2", "gw2", "diagonal"},
    "correlation": {"mmd", "sw2", "gw2"},
    "mixture": {"mmd", "sw2"},
}


def to_normal(z):
    """Figures of points (n, 2) against N(0, I); "diagonal" is that of the WWAE's short form."""
    found = prior_distances(z.float(), Prior("gaussian", 2))
    found["diagonal"] = float(gaussian_wasserstein_to_normal(z, diagonal=True))
    return {key: found[key] for key in (*FIGURES, "diagonal")}


@pytest.fixture(scope="module")
def nulls():
    """Eight perfect matches."""
    return [to_normal(normal(2000, 2, seed=100 + s)) for s in range(8)]


@pytest.mark.parametrize("name", SEEN)
def test_what_every_distance_sees(name, nulls):
    value = to_normal(alternative(name, seed=1))
    for key in value:
        largest = max(abs(null[key]) for null in nulls)
        if key in SEEN[name]:
            assert value[key] > 4 * largest, key
        else:
            assert value[key] < 3 * largest, key


# --- laws ---------------------------------------------------------------------------------------


def drawn(law, codes, n, seed=0, model=None):
    return LAWS[law](model, codes, n, torch.Generator().manual_seed(seed))


def test_fitted_gaussian_has_the_moments_of_the_codes():
    codes = normal(300, 3, dtype=torch.float32) @ normal(3, 3, seed=1, dtype=torch.float32) + 2
    z = drawn("gaussian", codes, 50_000)
    assert z.dtype == codes.dtype
    torch.testing.assert_close(z.mean(0), codes.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(z.T.cov(), codes.T.cov(), atol=0.1, rtol=0.03)
    flat = codes * torch.tensor([1.0, 1.0, 0.0])  # a coordinate that the encoder does not use
    assert drawn("gaussian", flat, 50)[:, 2].abs().max() < 1e-5


def test_unit_law_has_one_scale():
    codes = normal(300, 3, dtype=torch.float32) * torch.tensor([1.0, 2.0, 3.0]) + 5
    z = drawn("unit", codes, 50_000)
    variance = (codes - codes.mean(0)).square().mean()
    torch.testing.assert_close(z.mean(0), codes.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(z.T.cov(), variance * torch.eye(3), atol=0.15, rtol=0)


def test_mixture_finds_clusters_and_comes_in_random_order():
    centres = 10 * torch.arange(10.0)[:, None]
    codes = centres.repeat(30, 2) + 0.1 * normal(300, 2, dtype=torch.float32)
    z = drawn("mixture", codes, 400)
    assert (z[:, :1] - centres.T).abs().min(1).values.max() < 1  # of the 10 clusters, none between
    stays = ((z[1:] - z[:-1]).abs()[:, 0] < 5).double().mean()
    assert stays < 0.2  # a tenth of the steps of a random order end in the cluster they came from
    with pytest.raises(InputError, match="codes must be at least 10; got 9"):
        drawn("mixture", codes[:9], 5)


def test_real_codes_are_drawn_once_each():
    codes = torch.arange(40.0)[:, None]
    z = drawn("codes", codes, 15)
    assert len(z.unique()) == 15
    assert set(z[:, 0].tolist()) <= set(codes[:, 0].tolist())
    assert len(drawn("codes", codes, 99).unique()) == 40


@pytest.mark.parametrize(("cls", "mean", "sd"), [(Autoencoder, 0, 1), (Mapped, 3, 2)])
def test_prior_law_is_what_the_system_decodes(cls, mean, sd):
    z = drawn("prior", None, 5000, model=build(cls))
    assert abs(z.mean() - mean) < 5 * sd / 40_000**0.5
    assert z.std() == pytest.approx(sd, rel=0.02)


@pytest.mark.parametrize("law", LAWS)
def test_laws_repeat_and_leave_the_global_stream_alone(law):
    model, codes = build(Autoencoder, latent_dim=2), normal(50, 2, dtype=torch.float32)
    before = torch.get_rng_state()
    first, again, other = (drawn(law, codes, 20, seed, model) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first.sort(0).values, other.sort(0).values)  # not in another order only
    assert torch.equal(torch.get_rng_state(), before)
