"""Moments of codes, of priors, and those that run over batches."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from models_support import IGNORED, build, call, one_thread, trained  # noqa: F401
from wwae_cases import cloud, penalty, random_posterior

import otkernels
from models import runs
from models.posterior import Posterior
from models.priors import Prior
from models.systems import WWAE
from models.systems.wwae import code_moments, gaussian_distance, prior_moments

pytestmark = IGNORED


# --- moments ------------------------------------------------------------------------------------


def test_moments_of_codes_are_those_of_torch():
    codes = cloud().double()
    mean, cov = code_moments(Posterior(codes))
    torch.testing.assert_close(mean, codes.mean(0))
    torch.testing.assert_close(cov, codes.T.cov())


def test_total_variance_against_samples():
    posterior = random_posterior(n=1000, d=4)
    law = Posterior(posterior.mean.repeat(100, 1), posterior.variance.repeat(100, 1))
    codes = law.draw(torch.Generator().manual_seed(3)).double()
    mean, cov = code_moments(posterior)
    assert (codes.mean(0) - mean).abs().max() < 0.01 * cov.diagonal().max().sqrt()
    assert (codes.T.cov() - cov).abs().max() < 0.01 * cov.diagonal().max()


def test_total_variance_is_exact():
    posterior = random_posterior(d=3)
    expected = posterior.mean.T.cov() + posterior.variance.mean(0).diag()
    torch.testing.assert_close(code_moments(posterior)[1], expected)


def test_sampled_moments_are_those_of_the_drawn_codes():
    posterior, codes = random_posterior(), cloud(seed=5)
    by_codes, by_law = WWAE(moments="sampled"), WWAE(moments="analytic")
    expected = otkernels.gaussian_wasserstein_to_normal(codes, correction=1)
    torch.testing.assert_close(penalty(by_codes, posterior, codes), expected)
    total = gaussian_distance(code_moments(posterior), prior_moments(by_law.prior))
    torch.testing.assert_close(penalty(by_law, posterior, codes), total)
    assert abs(total - expected) > 0.1  # the two forms are told apart


@pytest.mark.parametrize(("prior", "scale"), [("gaussian", 2.0), ("uniform", 1.5), ("ring", 1.0)])
def test_moments_of_priors(prior, scale):
    law = Prior(prior, 2, scale)
    variance = {"gaussian": 4.0, "uniform": 1.5**2 / 3, "ring": 0.5 + 1e-4}[prior]
    mean, cov = prior_moments(law)
    accuracy = 0.01 if prior == "ring" else 1e-12  # 100 000 points; the others in closed form
    assert mean.abs().max() < accuracy
    assert (cov - variance * torch.eye(2)).abs().max() < accuracy
    points = law.sample(100_000, torch.Generator().manual_seed(1)).double()
    assert (points.T.cov() - cov).abs().max() < 0.02 * variance


# --- running moments ----------------------------------------------------------------------------


def test_running_moments_are_weighted_means_without_bias():
    model, clouds = build(WWAE, momentum=0.9), [cloud(seed=s) for s in range(4)]
    values = [penalty(model, Posterior(codes)) for codes in clouds]
    share = torch.tensor([0.9**k for k in (3, 2, 1, 0)])
    share = share / share.sum()
    moments = [code_moments(Posterior(codes)) for codes in clouds]
    mean, cov = (sum(w * part for w, part in zip(share, parts, strict=True))
                 for parts in zip(*moments, strict=True))  # fmt: skip
    torch.testing.assert_close(model.running_mean, mean)
    torch.testing.assert_close(model.running_cov, cov)
    torch.testing.assert_close(values[0], penalty(build(WWAE), Posterior(clouds[0])))
    torch.testing.assert_close(
        values[3], gaussian_distance((mean, cov), prior_moments(model.prior))
    )


def test_running_moments_do_not_damp_the_gradient():
    model, codes = build(WWAE, momentum=0.9), cloud(seed=1).requires_grad_()
    penalty(model, Posterior(cloud()))
    penalty(model, Posterior(codes)).backward()
    moments = [part.clone().requires_grad_() for part in (model.running_mean, model.running_cov)]
    slopes = torch.autograd.grad(gaussian_distance(moments, prior_moments(model.prior)), moments)
    other = cloud(seed=1).requires_grad_()
    expected = torch.autograd.grad(code_moments(Posterior(other)), other, slopes)[0]
    torch.testing.assert_close(codes.grad, expected)


def test_validation_leaves_running_moments_alone_and_does_not_use_them():
    model = build(WWAE, momentum=0.9)
    penalty(model, Posterior(cloud()))
    before = model.running_cov.clone()
    value = penalty(model.eval(), Posterior(cloud(seed=2)))
    torch.testing.assert_close(value, penalty(build(WWAE), Posterior(cloud(seed=2))))
    assert torch.equal(model.running_cov, before)
    assert model.batches == 1


def test_resumed_training_with_running_moments_is_exact(tmp_path):
    keep = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1) for _ in range(2)]
    whole, _ = trained(build(WWAE, momentum=0.9), epochs=4, callbacks=keep[:1])
    resumed = build(WWAE, seed=1, momentum=0.9)
    L.seed_everything(0, verbose=False)
    trained(resumed, epochs=4, callbacks=keep[1:], ckpt_path=tmp_path / "epoch=1.ckpt")
    state = resumed.state_dict()
    assert {"running_mean", "running_cov", "batches"} <= state.keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name]), name
    loaded = runs.load(tmp_path / "epoch=3.ckpt")
    assert torch.equal(loaded.running_cov, whole.running_cov)
    assert loaded.hparams.momentum == 0.9
