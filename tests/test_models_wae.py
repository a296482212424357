"""The Wasserstein autoencoder in both forms: its MMD, its training, its settings."""

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from models_support import IGNORED, ROOT, build, call, one_thread, trained  # noqa: F401
from wae_cases import randn, wae

from models.autoencoder import Autoencoder
from models.errors import InputError
from models.priors import Prior
from models.systems import WAE
from models.systems.wae import bandwidths
from otkernels import mmd, wae_bandwidths

pytestmark = IGNORED

FORMS = ("mmd", "gan")


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
    assert seen.seen[-1] == pytest.approx([2e-4, 1e-4])
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
