"""The Wasserstein autoencoder in both forms, its adversary and its pre-training."""

import functools
import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from models_support import IGNORED, ROOT, build, call, one_thread, trained  # noqa: F401
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from models.adversary import Adversary
from models.autoencoder import Autoencoder
from models.data import Digits
from models.errors import InputError
from models.evaluation import evaluate
from models.posterior import Posterior
from models.pretraining import match_moments, moment_gap
from models.priors import Prior
from models.streams import PRETRAIN, stream
from models.systems import WAE
from models.systems.wae import bandwidths
from otkernels import mmd, wae_bandwidths

pytestmark = IGNORED

FORMS = ("mmd", "gan")


def wae(form="mmd", seed=0, **settings):
    small = {"adversary_width": 16} if form == "gan" else {}
    return build(WAE, seed, form=form, **{**small, **settings})


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def is_equal(one, other):
    """Whether two models have the same parameters, bit for bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


# --- MMD ----------------------------------------------------------------------------------------


def published_mmd(codes, points, base):
    """The statistic of the published code, pair by pair."""

    def kernel(x, y):
        r2 = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        return sum(c * base / (c * base + r2) for c in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    def own(sample):
        n = len(sample)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        return sum(kernel(sample[i], sample[j]) for i, j in pairs) / (n * (n - 1))

    codes, points = codes.tolist(), points.tolist()
    cross = sum(kernel(x, y) for x in codes for y in points) / (len(codes) * len(points))
    return own(codes) + own(points) - 2 * cross


@pytest.mark.parametrize(
    ("prior", "scale", "base"),
    [("gaussian", 1.0, 6), ("gaussian", 2**0.5, 12), ("uniform", 1.0, 3), ("sphere", 1.0, 2)],
)
def test_mmd_is_that_of_the_published_code(prior, scale, base):
    model = wae(prior=prior, prior_scale=scale, latent_dim=3)
    codes = 0.3 + 0.5 * randn(12, 3, seed=1, dtype=torch.float64)
    points = model.prior.sample(12, torch.Generator().manual_seed(2)).double()
    value = model.penalty(codes, points, None).item()
    assert value == pytest.approx(published_mmd(codes, points, base), rel=1e-10)


def test_mmd_has_the_right_gradient():
    model = wae(latent_dim=3)
    codes = (0.3 + 0.5 * randn(6, 3, seed=1, dtype=torch.float64)).requires_grad_()
    points = randn(6, 3, seed=2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: model.penalty(z, points, None), codes)


def batches(n_draws, seed=0):
    """Pairs of independent batches of N(0, I) of the size of a training step."""
    return randn(n_draws, 2, 100, 8, seed=seed)


def test_mmd_is_unbiased_and_keeping_the_diagonal_is_not():
    model, pairs = wae(), batches(300)
    null = torch.stack([model.penalty(x, y, None) for x, y in pairs])
    assert abs(null.mean()) < 3 * null.std() / 300**0.5
    assert 0.010 < null.std() < 0.016  # 0.013, with the error of 300 draws
    kept = [mmd(x, y, kernel="imq", bandwidth=model.bandwidths) for x, y in pairs[:50]]
    assert 0.060 < torch.stack(kept).mean() < 0.072


@pytest.mark.parametrize(
    ("alternative", "expected"), [(lambda z: z + 0.5, 0.27), (lambda z: 0.5 * z, 0.42)]
)
def test_mmd_sees_a_shift_and_a_scale(alternative, expected):
    model = wae()
    values = torch.stack([model.penalty(alternative(x), y, None) for x, y in batches(20)])
    assert values.mean() == pytest.approx(expected, abs=0.03)
    assert values.min() > 5 * 0.013  # five standard deviations of the null


def test_bandwidths_follow_the_spread_of_the_prior():
    assert bandwidths(Prior("gaussian", 8, 2.0)) == wae_bandwidths(8, scale=2.0)
    # E |z|^2 = 1 + 2 0.01^2 on the ring and 3/5 on the bowl; half of it a coordinate.
    for name, variance in (("ring", 0.5001), ("bowl", 0.3)):
        expected = wae_bandwidths(2, scale=3 * math.sqrt(variance))
        assert bandwidths(Prior(name, 2, 3.0)) == pytest.approx(expected, rel=0.01)


# --- adversary ----------------------------------------------------------------------------------


@pytest.fixture
def adversary():
    torch.manual_seed(0)
    return Adversary(3, width=16, log_prior_scale=2.0).double()


@pytest.fixture
def codes():
    return (0.3 + 0.5 * randn(7, 3, seed=1, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def points():
    return randn(5, 3, seed=2, dtype=torch.float64).requires_grad_()


def test_losses_of_the_game(adversary, codes, points):
    of_codes, of_points = adversary(codes), adversary(points)
    ones, zeros = torch.ones_like, torch.zeros_like
    encoder = cross_entropy(of_codes, ones(of_codes))
    both = cross_entropy(of_codes, zeros(of_codes)) + cross_entropy(of_points, ones(of_points))
    torch.testing.assert_close(adversary.encoder_loss(codes), encoder)
    torch.testing.assert_close(adversary.loss(codes, points), both)


def test_each_side_moves_its_own_parameters_only(adversary, codes, points):
    adversary.encoder_loss(codes).backward()
    assert codes.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())
    codes.grad = None
    adversary.loss(codes, points).backward()
    assert codes.grad is None
    assert points.grad is None
    assert all(p.grad.abs().sum() > 0 for p in adversary.parameters())


def test_encoder_loss_has_the_right_gradient(adversary, codes):
    assert torch.autograd.gradcheck(adversary.encoder_loss, codes)


def test_score_is_network_plus_log_density_of_the_prior(adversary, codes):
    law = torch.distributions.Normal(0, 2.0)
    expected = adversary.net(codes) + law.log_prob(codes).sum(1)
    torch.testing.assert_close(adversary(codes), expected)
    adversary.log_prior_scale = None
    assert torch.equal(adversary(codes), adversary.net(codes))


def test_the_log_density_is_that_of_the_scaled_prior():
    assert wae("gan", prior_scale=2.0).adversary.log_prior_scale == 2
    assert wae("gan", log_prior=False).adversary.log_prior_scale is None


def test_log_density_is_not_rounded_to_half_precision():
    points = randn(50, 8).bfloat16()
    torch.manual_seed(0)
    model = Adversary(8, 16, 1.0).bfloat16()
    expected = torch.distributions.Normal(0, 1.0).log_prob(points.float()).sum(1)
    torch.testing.assert_close(model(points) - model.net(points), expected)


def test_an_untrained_adversary_is_undecided():
    torch.manual_seed(0)
    scores = Adversary(8, 128, log_prior_scale=3.0)(3 * randn(5000, 8))
    assert abs(scores.mean()) < 0.2  # sd of |z|^2 / 2 is 2; the network adds a little
    assert 1.8 < scores.std() < 2.2


def test_adversary_is_that_of_the_published_code():
    linear = [m for m in Adversary(8, 512).modules() if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linear] == [512, 512, 512, 512, 1]


def test_adversary_finds_the_log_ratio_of_densities():
    torch.manual_seed(0)
    model = Adversary(1, 32, log_prior_scale=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for seed in range(250):
        prior, other = randn(500, 1, seed=2 * seed), 1 + randn(500, 1, seed=2 * seed + 1)
        optimizer.zero_grad()
        model.loss(other, prior).backward()
        optimizer.step()
    z = torch.linspace(-1, 2, 7)
    ratio = -(z**2) / 2 + (z - 1) ** 2 / 2  # log N(z; 0, 1) - log N(z; 1, 1)
    assert (model(z[:, None]) - ratio).abs().max() < 0.25


def test_accuracy_counts_both_kinds_by_their_own_side():
    model = wae("gan", latent_dim=2, log_prior=False)
    model.adversary.net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0))
    model.adversary.net[0].weight.data = torch.tensor([[1.0, 0.0]])  # the score is a coordinate
    model.adversary.net[0].bias.data.zero_()
    codes = torch.tensor([[-1.0, 0], [-1, 0], [-1, 0], [1, 0]])
    points = torch.tensor([[1.0, 0], [-1, 0]])
    assert model.adversary.accuracy(codes, points) == (3 / 4 + 1 / 2) / 2
    metrics = model.evaluate(Posterior(codes), torch.zeros(4))
    points = model.prior.sample_independent(4, torch.Generator().manual_seed(0))
    assert metrics["adversary_accuracy"] == (3 / 4 + (points[:, 0] > 0).double().mean()) / 2


def test_losses_of_a_batch():
    model, items = wae("gan"), Digits().test[:20][0]
    losses = model.losses(items, torch.Generator().manual_seed(0))
    points = model.prior.sample(20, torch.Generator().manual_seed(0))
    codes = model.encode(items)
    torch.testing.assert_close(losses["penalty"], model.adversary.encoder_loss(codes))
    torch.testing.assert_close(losses["adversary"], model.adversary.loss(codes, points))
    heavy = wae("gan", weight=3.0).losses(items, torch.Generator().manual_seed(0))
    expected = losses["reconstruction"] + 3 * (losses["penalty"] + losses["adversary"])
    torch.testing.assert_close(heavy["loss"], expected)


def test_adversarial_losses_do_not_depend_on_batch_size(adversary, codes, points):
    twice, doubled = codes.repeat(2, 1), points.repeat(2, 1)
    torch.testing.assert_close(adversary.encoder_loss(twice), adversary.encoder_loss(codes))
    torch.testing.assert_close(adversary.loss(twice, doubled), adversary.loss(codes, points))


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_weight_zero_is_the_plain_autoencoder(form):
    model, _ = trained(wae(form, weight=0.0), epochs=1)
    plain, _ = trained(build(Autoencoder), epochs=1)
    assert is_equal(model, plain)


@pytest.mark.parametrize("form", FORMS)
def test_resumed_training_equals_uninterrupted_training(form, tmp_path):
    # Random codes have about the right moments from the start: nothing to pre-train.
    settings = {"pretrain_steps": 5, "random_encoder": form == "gan"}
    keep = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1) for _ in range(2)]
    whole, _ = trained(wae(form, **settings), epochs=2, callbacks=keep[:1])
    resumed = wae(form, seed=1, **settings)
    L.seed_everything(0, verbose=False)
    trained(resumed, epochs=2, callbacks=keep[1:], ckpt_path=tmp_path / "epoch=0.ckpt")
    assert is_equal(whole, resumed)


class StepSizes(L.Callback):
    """The step sizes of all parameter groups in every step."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        groups = trainer.optimizers[0].param_groups
        self.seen = [*getattr(self, "seen", []), [group["lr"] for group in groups]]


def test_adversary_learns_at_its_own_pace_and_everything_learns():
    before, seen = wae("gan"), StepSizes()
    model, metrics = trained(wae("gan"), epochs=2, callbacks=[seen])
    assert seen.seen[0] == [1e-3, 1e-4]
    assert seen.seen[-1] == pytest.approx([2e-4, 2e-5])
    pairs = zip(before.parameters(), model.parameters(), strict=True)
    assert not any(torch.equal(p, q) for p, q in pairs)
    assert {"train/penalty", "train/adversary", "val/adversary_accuracy"} <= set(metrics)


@pytest.fixture(scope="module")
def plain():
    """Distance of the codes of a plain autoencoder to the normal prior."""
    model, metrics = trained(build(Autoencoder, latent_dim=2), epochs=5)
    return metrics["val/prior_distance"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("random_encoder", [False, True])
def test_penalty_pulls_the_codes_to_the_prior(form, random_encoder, plain):
    settings = {"latent_dim": 2, "adversary_width": 64, "random_encoder": random_encoder}
    model, metrics = trained(build(WAE, form=form, **settings), epochs=5)
    assert model.hparams.weight == {"mmd": 10.0, "gan": 1.0}[form]
    assert metrics["val/prior_distance"] < plain / 5


@pytest.mark.parametrize("form", FORMS)
def test_mixed_precision(form):
    _, metrics = trained(wae(form), epochs=1, trainer={"precision": "bf16-mixed"})
    assert metrics["train/penalty"].isfinite()
    assert metrics["val/loss"].isfinite()


# --- pre-training -------------------------------------------------------------------------------


def test_moment_gap():
    codes, points = randn(40, 3, seed=1).double() @ randn(3, 3).double(), 1 + randn(30, 3, seed=2)
    points = points.double()
    centred, drawn = codes - codes.mean(0), points - points.mean(0)
    gap = centred.T @ centred / 39 - drawn.T @ drawn / 29
    variance = drawn.square().sum() / 29 / 3
    of_mean = (codes.mean(0) - points.mean(0)).square().sum() / (3 * variance)
    of_covariance = gap.square().sum() / (3 * variance**2)
    torch.testing.assert_close(moment_gap(Posterior(codes), points), of_mean + of_covariance)


@pytest.mark.parametrize(("dim", "scale"), [(2, 1.0), (64, 3.0)])
def test_moment_gap_of_collapsed_codes_is_one_in_any_dimension(dim, scale):
    points = Prior("gaussian", dim, scale).sample(20_000, torch.Generator().manual_seed(0))
    assert moment_gap(Posterior(torch.zeros(10, dim)), points) == pytest.approx(1, abs=0.02)


def test_moment_gap_of_a_random_encoder_counts_its_own_variance():
    posterior = Posterior(randn(2000, 3), 1 + randn(2000, 3, seed=1).square())
    many = Posterior(posterior.mean.repeat(50, 1), posterior.variance.repeat(50, 1))
    codes, points = many.draw(torch.Generator().manual_seed(5)), torch.zeros(2, 3)
    drawn = moment_gap(Posterior(codes), points)
    assert moment_gap(posterior, points) == pytest.approx(drawn.item(), rel=0.02)


@pytest.mark.parametrize("random_encoder", [False, True])
def test_pretraining_brings_the_moments_of_the_prior(random_encoder):
    settings = {"latent_dim": 4, "random_encoder": random_encoder, "prior_scale": 0.8}
    model, items = wae(**settings), Digits().train
    decoder, state = model.decoder[0].weight.clone(), torch.get_rng_state()
    before = covariance_error(model, items)
    gaps = match_moments(model, items, 200, stream(PRETRAIN))
    assert gaps[-1] < 0.1 <= min(gaps[:-1])
    assert len(gaps) <= 201
    assert covariance_error(model, items) < before / 2
    assert torch.equal(model.decoder[0].weight, decoder)
    assert torch.equal(torch.get_rng_state(), state)


def covariance_error(model, items):
    posterior = model.posterior(items[:][0])
    covariance = posterior.mean.T.cov()
    if posterior.variance is not None:
        covariance = covariance + posterior.variance.mean(0).diag()
    target = model.prior.scale**2 * torch.eye(model.prior.dim)
    return (covariance - target).norm().item()


def test_pretraining_stops_after_its_steps():
    model, first = wae(), wae().encoder[1].weight
    assert len(match_moments(model, Digits().train, 3, stream(PRETRAIN))) == 4
    assert not torch.equal(model.encoder[1].weight, first)


class FirstStep(L.Callback):
    """The encoder as the first step of training finds it."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if index == 0:
            self.weight = module.encoder[1].weight.detach().clone()


def test_pretraining_comes_before_the_first_step_of_a_run():
    seen, expected = FirstStep(), wae()
    match_moments(expected, Digits().train, 20, stream(PRETRAIN))
    trained(wae(pretrain_steps=20), epochs=1, callbacks=[seen])
    assert torch.equal(seen.weight, expected.encoder[1].weight)
    trained(wae(), epochs=1, callbacks=[seen])
    assert torch.equal(seen.weight, wae().encoder[1].weight)


# --- input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "rbf"}, "WAE: form must be one of 'mmd', 'gan'; got 'rbf'"),
        ({"pretrain_steps": -1}, "WAE: pretrain_steps must be at least 0; got -1"),
        ({"form": "gan", "adversary_lr": 0.0}, "adversary_lr must be finite and > 0; got 0.0"),
        ({"form": "gan", "adversary_width": 0}, "adversary_width must be at least 1; got 0"),
        ({"form": "gan", "prior": "uniform"}, "log_prior must be false for the uniform prior"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError) as error:
        WAE(**settings)
    assert message in str(error.value)


def test_mmd_needs_two_items():
    with pytest.raises(InputError, match="batch must hold 2 items or more; got 1"):
        wae().penalty(torch.zeros(1, 8), torch.zeros(1, 8), None)


@pytest.mark.parametrize("form", FORMS)
def test_config_runs(form):
    config = ROOT / "models" / "configs" / f"digits_wae_{form}.yaml"
    code, out, err = call("fit", "--config", config, "--trainer.fast_dev_run", "true",
                          "--trainer.enable_progress_bar", "false")  # fmt: skip
    assert (code, err) == (0, "")
    assert f"x {WAE(form=form).penalty_name}(codes, prior)" in out


# --- claims, minutes of training each -----------------------------------------------------------


@functools.cache
def figures(cls, seed=0, **settings):
    """Those of a system trained on digits for as long as all the others."""
    data = Digits()
    model, metrics = trained(build(cls, seed, **settings), epochs=350, data=data)
    return {**evaluate(model.eval(), data), **{k: v.item() for k, v in metrics.items()}}


@pytest.mark.training
def test_mmd_matches_the_prior_at_little_cost():
    plain, matched = figures(Autoencoder), figures(WAE, form="mmd")
    assert plain["prior_mmd"] > 1
    assert matched["prior_mmd"] < 0.03
    assert matched["mse_per_pixel"] < 1.15 * plain["mse_per_pixel"]
    assert plain["fd"] > 100
    assert matched["fd"] < 8


@pytest.mark.training
@pytest.mark.parametrize("seed", range(3))
def test_gan_matches_the_prior(seed):
    matched = figures(WAE, seed, form="gan")
    assert matched["fd"] < 5
    assert abs(matched["prior_mmd"]) < 3 * 0.0024  # sd of the null at 540 codes
    assert 0.45 < matched["val/adversary_accuracy"] < 0.6


@pytest.mark.training
def test_a_larger_weight_costs_reconstruction():
    errors = [figures(WAE, form="mmd", weight=w)["mse_per_pixel"] for w in (3.0, 10.0, 30.0)]
    assert errors == sorted(errors)
