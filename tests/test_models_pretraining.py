"""Pre-training: the moments of the prior before the first step."""

import lightning as L
import pytest
import torch
from models_support import IGNORED, ROOT, build, call, one_thread, trained  # noqa: F401
from wae_cases import randn, wae

from models.data import Digits
from models.posterior import Posterior
from models.pretraining import match_moments, moment_gap
from models.priors import Prior
from models.streams import PRETRAIN, stream

pytestmark = IGNORED


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
