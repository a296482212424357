import math
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from models_support import IGNORED, build, one_thread, trained  # noqa: F401
from scipy.optimize import linprog

import models.systems
from models import evaluation, runs
from models.autoencoder import Autoencoder
from models.data import Digits, EightGaussians
from models.duals import c_transform, solve
from models.errors import InputError
from models.posterior import Posterior
from models.systems import LatentOT

pytestmark = IGNORED
CONFIGS = Path(models.systems.__file__).parent.parent / "configs"
MODES = ["full", "batch"]
TINY = {"width": 16, "depth": 2, "max_codes": 200}


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


# --- exact duals ----------------------------------------------------------------------------------


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


# --- training -------------------------------------------------------------------------------------


def weights(model, names=("encoder", "decoder")):
    state = model.state_dict()
    return {k: v.clone() for k, v in state.items() if k.startswith(names)}


def same(x, y):
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("mode", MODES)
def test_autoencoder_is_the_plain_one_and_never_touched(mode):
    short = {"check_val_every_n_epoch": 10}
    model, _ = trained(build(LatentOT, mode=mode, first_epochs=1, **TINY), 3, trainer=short)
    plain, _ = trained(build(Autoencoder), 1, trainer=short)
    assert same(weights(model), weights(plain))
    moved = weights(model, "potential")
    assert not same(moved, weights(build(LatentOT, mode=mode, **TINY), "potential"))
    images = Digits().test[:][0]
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("done", [1, 2])
def test_resumed_training_equals_uninterrupted_training(mode, done, tmp_path):
    data, settings = EightGaussians(n_train=300, n_test=100), {**TINY, "mode": mode}
    keep = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1) for _ in range(2)]
    whole, first = trained(plane(**settings), 3, keep[:1], data)
    resumed = plane(seed=1, **settings)
    L.seed_everything(0, verbose=False)
    path = tmp_path / f"epoch={done - 1}.ckpt"
    resumed, second = trained(resumed, 3, keep[1:], data, ckpt_path=path)
    assert same(weights(whole, ("",)), weights(resumed, ("",)))
    assert first == second
    loaded = runs.load(tmp_path / "epoch=2.ckpt")
    assert same(weights(whole, ("",)), weights(loaded, ("",)))
    points = randn(10, 2).float()
    assert torch.equal(loaded.transport(points), whole.eval().transport(points))


@pytest.mark.parametrize("mode", MODES)
def test_there_is_one_loss_that_falls_and_a_seed_repeats_it(mode):
    class Losses(L.Callback):
        """On fixed noise and test codes, before training and after each epoch."""

        def on_validation_end(self, trainer, module):
            self.seen = [*getattr(self, "seen", []), float(trainer.callback_metrics["val/loss"])]
            self.optimizers = len(trainer.optimizers)

    twice = [Losses(), Losses()]
    for callback in twice:
        data = EightGaussians(n_train=300, n_test=100)
        trained(plane(mode=mode, width=32), 4, [callback], data)
    losses = twice[0].seen
    assert losses == twice[1].seen
    assert twice[0].optimizers == 1
    assert losses[-1] < 0.7 * losses[0]
    assert sum(losses[3:]) < sum(losses[:2])


def test_step_sizes_of_autoencoder_and_potential():
    model = build(LatentOT, lr=1e-3, potential_lr=7e-3, **TINY)
    first, second = model.parameter_groups()
    assert second["lr"] == 7e-3
    assert "lr" not in first
    given = {id(x) for group in (first, second) for x in group["params"]}
    assert given == {id(x) for x in model.parameters()}


def test_mixed_precision_leaves_potential_and_map_in_single():
    settings = {"precision": "bf16-mixed", "check_val_every_n_epoch": 10}
    model, metrics = trained(build(LatentOT, first_epochs=1, **TINY), 2, trainer=settings)
    assert all(value.isfinite() for value in metrics.values())
    with torch.autocast("cpu", torch.bfloat16):
        value, slope = model._value_and_slope(randn(5, 8).float())
    assert value.dtype == slope.dtype == torch.float32


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


# --- the claims, at the settings of models/configs ------------------------------------------------


def from_config(name, seed, **settings):
    """Model and data of a config after its training."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    given = {part: config[part]["init_args"] for part in ("model", "data")}
    data = getattr(models.data, config["data"]["class_path"].split(".")[-1])(**given["data"])
    model = build(LatentOT, seed, **{**given["model"], "shape": data.shape, **settings})
    quiet = {"check_val_every_n_epoch": 10**6, "num_sanity_val_steps": 0}
    model, _ = trained(model, config["trainer"]["max_epochs"], data=data, trainer=quiet)
    return model, data


@pytest.mark.training
@pytest.mark.parametrize("seed", range(3))
def test_eight_gaussians_are_all_reached(seed):
    model, data = from_config("eight_gaussians_latent_ot", seed)
    figures = evaluation.evaluate(model, data, n_samples=4000)
    assert figures["modes"] == 8
    assert figures["tv"] < 0.1
    assert figures["within"] > 0.85
    points, others = randn(2, 1000, 2, seed=4).float()
    ahead = ((model.transport(points) - model.transport(others)) * (points - others)).sum(1)
    assert (ahead > 0).double().mean() > 0.99


@pytest.mark.training
@pytest.mark.parametrize("seed", range(3))
def test_digits_are_better_than_a_gaussian_of_the_scale_of_the_codes(seed):
    model, data = from_config("digits_latent_ot", seed)
    distance = {law: evaluation.evaluate(model, data, law=law)["fd"] for law in ("prior", "unit")}
    assert distance["prior"] < 2.5
    assert distance["prior"] < distance["unit"] / 5
