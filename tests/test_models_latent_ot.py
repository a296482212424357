"""Latent optimal transport: its objective, its map, its evaluation."""

import math

import pytest
import torch
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

import models.systems
from models.data import EightGaussians
from models.duals import c_transform, solve
from models.errors import InputError
from models.posterior import Posterior
from models.systems import LatentOT

pytestmark = IGNORED
MODES = ["full", "batch"]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def plane(**settings):
    """A LatentOT of points of the plane, which has no first stage."""
    settings = {"first_epochs": 0, "latent_dim": 2, "shape": (2,), **settings}
    return build(LatentOT, network="identity", **settings)


def points_of(n, transform=lambda z: z):
    """Data of n points of the plane, to train and to test on, that are a transform of N(0, I)."""
    data = EightGaussians(n_train=n, n_test=n)
    for seed, part in ((11, data.train), (12, data.test)):
        part.tensors = (transform(randn(n, 2, seed=seed).float()), part.tensors[1])
    return data


# --- the objective --------------------------------------------------------------------------------


class Bowl(torch.nn.Module):
    """D(z) = a |z|^2 / 2 + b: its slope is a z."""

    def __init__(self, a, b=0.0):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.tensor(x)) for x in (a, b))

    def forward(self, points):
        return self.a * points.square().sum(1, keepdim=True) / 2 + self.b


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_loss_is_regression_plus_gamma_times_gradient_term(mode, gamma):
    model = plane(mode=mode, gamma=gamma, n_points=40)
    model.potential = Bowl(0.3, 0.1)
    codes = 2 + randn(40, 2, seed=3).float()
    model.begin_second_stage(codes)
    losses = model.second_losses(codes, torch.Generator().manual_seed(5))

    points = model.prior.sample(40, torch.Generator().manual_seed(5))
    duals = solve(codes, points)
    heights, match = duals.noise.float(), duals.match
    if mode == "full":
        heights, match = c_transform(points, codes, model.values)
    error = 0.3 * points.square().sum(1) / 2 + 0.1 - heights
    gap = 0.3 * points - (codes[match] - points)
    torch.testing.assert_close(losses["regression"], error.square().mean())
    torch.testing.assert_close(losses["gradient"], gap.square().sum(1).mean())
    total = error.square().mean() + gamma * gap.square().sum(1).mean()
    torch.testing.assert_close(losses["loss"], total)


def test_gradient_term_trains_the_potential():
    model = plane(gamma=1.0)
    model.potential = Bowl(0.3)
    points, targets = randn(20, 2).float(), randn(20, 2, seed=1).float()
    gradient = model._regression(points, torch.zeros(20), targets)["gradient"]
    (by_a,) = torch.autograd.grad(gradient, model.potential.a)
    expected = 2 * ((1.3 * points - targets) * points).sum(1).mean()
    torch.testing.assert_close(by_a, expected)


def test_dual_of_the_full_mode_is_that_of_all_codes_and_several_draws_of_noise(monkeypatch):
    seen = []

    def recorded(codes, noise):
        seen.append((codes, noise))
        return solve(codes, noise)

    monkeypatch.setattr(models.systems.latent_ot, "solve", recorded)
    model, codes = plane(n_noise=3), randn(40, 2).float()
    model.begin_second_stage(codes)
    model.second_losses(codes[:10], torch.Generator())
    (given, noise), duals = seen[0], solve(*seen[0])
    assert len(seen) == 1  # once for all steps
    assert torch.equal(given, codes)
    assert noise.shape == (120, 2)
    torch.testing.assert_close(model.values, duals.codes.float())


def test_no_more_codes_are_kept_than_asked_for():
    model, codes = plane(max_codes=15), randn(40, 2).float()
    model.begin_second_stage(codes)
    assert model.codes.shape == (15, 2)
    assert model.values.shape == (15,)
    found = (model.codes[:, None] == codes).all(2)
    assert found.sum(1).eq(1).all()
    assert found.sum() == found.any(0).sum() == 15  # none twice


# --- the map --------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_transport_adds_the_slope_in_any_grad_mode(context):
    model = plane().eval()
    model.centre.copy_(torch.tensor([1.0, -2.0]))
    model.scale.fill_(3.0)
    model.potential = Bowl(0.25)
    points = randn(5, 2).float()
    with context():
        moved = model.transport(points)
        images = model.generate(points)
    assert not moved.requires_grad
    torch.testing.assert_close(moved, torch.tensor([1.0, -2.0]) + 3 * 1.25 * points)
    assert torch.equal(moved, images)


@pytest.mark.parametrize("shape", [{"width": 8, "depth": 1}, {"width": 8, "depth": 3}])
def test_potential_is_a_smooth_network_of_the_size_asked_for(shape):
    model, points = plane(sharpness=2.0, **shape).double(), randn(6, 2)
    layers = [layer for layer in model.potential if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == [8] * shape["depth"] + [1]
    step = 1e-5 * torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        high, low = (model.potential(points[:, None] + s * step).squeeze(2) for s in (1, -1))
    slope = model._value_and_slope(points)[1]
    torch.testing.assert_close(slope, (high - low) / 2e-5, atol=1e-8, rtol=1e-6)
    value = layers[0](points)
    by_hand = torch.log1p(torch.exp(2 * value)) / 2
    torch.testing.assert_close(model.potential[1](value), by_hand)


def test_map_between_gaussians_is_the_known_one():
    root, shift = torch.tensor([[1.5, 0.5], [0.5, 0.8]]), torch.tensor([4.0, -3.0])
    data = points_of(500, lambda z: z @ root + shift)
    # A map without bends needs few units and few steps.
    model = plane(sharpness=1.0, width=32, depth=1, potential_lr=2e-2)
    model, _ = trained(model, 40, data=data, trainer={"check_val_every_n_epoch": 100})
    points = randn(4000, 2, seed=2).float()
    moved, known = model.transport(points), points @ root + shift
    identity = (root - torch.eye(2)).square().sum()  # mean squared error of the mere shift
    assert (moved - known).square().sum(1).mean() < 0.1 * identity
    assert abs(moved.var(0).sum() / data.train[:][0].var(0).sum() - 1) < 0.1
    ahead = ((moved[:1000] - moved[1000:2000]) * (points[:1000] - points[1000:2000])).sum(1)
    assert (ahead > 0).double().mean() > 0.99


# --- evaluation -----------------------------------------------------------------------------------


def test_distance_is_between_transported_noise_and_codes_in_standard_units():
    model, shift = plane().eval(), torch.tensor([30.0, 40.0])
    model.potential = Bowl(0.0)  # T(z) = z
    model.scale.fill_(10.0)
    codes = 10 * randn(2000, 2).float()
    near, far = (model.evaluate(Posterior(x), torch.ones(2000)) for x in (codes, codes + shift))
    assert near["prior_distance"] < 0.01
    assert abs(far["prior_distance"] - 25 / 2) < 0.1 * 25 / 2
    assert "prior_floor" not in near  # no training codes are known yet


def test_floor_and_memory_are_measured_against_the_training_codes():
    model = plane(mode="batch").eval()
    model.potential = Bowl(-1.0)  # T(z) = 0, wherever z is
    codes = 5 + torch.arange(12.0).reshape(6, 2)
    model.begin_second_stage(codes)
    same_codes = model.evaluate(Posterior(codes), torch.zeros(6))
    assert same_codes["prior_floor"] == pytest.approx(0, abs=1e-10)
    assert same_codes["nearest_code_of_test"] == 0
    assert same_codes["nearest_code"] == pytest.approx(math.hypot(5, 6))
    moved = model.evaluate(Posterior(codes + torch.tensor([0.3, 0.0])), torch.zeros(6))
    assert moved["nearest_code_of_test"] == pytest.approx(0.3, rel=1e-5)
    assert moved["prior_floor"] == pytest.approx(0.09 / 2, rel=0.2)  # of 200 directions


def test_test_loss_is_the_objective_on_the_dual_of_test_codes():
    model, codes = plane(mode="full").eval(), randn(300, 2).float()
    model.potential = Bowl(0.5)
    metrics = model.evaluate(Posterior(codes), torch.full((300,), 2.0))
    points = model.prior.sample(256, torch.Generator().manual_seed(0))
    duals = solve(codes[:256], points)
    second = model._regression(points, duals.noise, codes[duals.match])["loss"]
    torch.testing.assert_close(metrics["loss"], 2 + second)
    assert metrics["reconstruction"] == 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mode", "both"),
        ("gamma", -1.0),
        ("sharpness", 0.0),
        ("width", 0),
        ("depth", 0),
        ("n_noise", 0),
        ("n_points", 0),
        ("potential_lr", 0.0),
        ("max_codes", 0),
        ("weight", 1.0),
        ("first_epochs", -1),
    ],
)
def test_bad_settings(argument, value):
    with pytest.raises(InputError, match=f"LatentOT: {argument} must .*; got {value!r}"):
        LatentOT(**{argument: value})


def test_objective_is_said():
    text = LatentOT(gamma=0.5, mode="batch").objective_text()
    assert "0.5 x |grad D - (y* - z)|^2" in text
    assert "(batch)" in text
