"""The adversary of the Wasserstein autoencoder and the losses of its game."""

import pytest
import torch
from models_support import IGNORED, ROOT, build, call, one_thread, trained  # noqa: F401
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from wae_cases import randn, wae

from models.adversary import Adversary
from models.data import Digits
from models.posterior import Posterior

pytestmark = IGNORED


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


def test_test_loss_is_what_the_encoder_pays():
    model, items = wae("gan", weight=3.0).eval(), Digits().test[:20][0]
    errors = torch.rand(20)
    posterior = model.posterior(items)
    expected = errors.mean() + 3 * model.adversary.encoder_loss(posterior.mean)
    torch.testing.assert_close(model.evaluate(posterior, errors)["loss"], expected)


def test_adversarial_losses_do_not_depend_on_batch_size(adversary, codes, points):
    twice, doubled = codes.repeat(2, 1), points.repeat(2, 1)
    torch.testing.assert_close(adversary.encoder_loss(twice), adversary.encoder_loss(codes))
    torch.testing.assert_close(adversary.loss(twice, doubled), adversary.loss(codes, points))
