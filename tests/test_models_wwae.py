"""The Wasserstein-Wasserstein autoencoder."""

import pytest
import torch
from models_support import IGNORED, build, call, one_thread, trained  # noqa: F401
from wwae_cases import cloud, penalty, randn, random_posterior

import otkernels
from models.data import Digits
from models.errors import InputError
from models.posterior import Posterior
from models.systems import WWAE
from models.systems.wwae import code_moments, gaussian_distance, prior_moments

pytestmark = IGNORED


# --- the penalty --------------------------------------------------------------------------------


def test_full_penalty_is_the_distance_to_the_normal_law():
    codes = cloud()
    expected = otkernels.gaussian_wasserstein_to_normal(codes, correction=1)
    torch.testing.assert_close(penalty(build(WWAE), Posterior(codes)), expected)
    scaled = build(WWAE, prior_scale=3.0)
    torch.testing.assert_close(penalty(scaled, Posterior(3 * codes)), 9 * expected)


def test_diagonal_penalty_compares_deviations():
    posterior, model = random_posterior(), build(WWAE, covariance="diagonal", prior="uniform")
    variance = posterior.mean.var(0) + posterior.variance.mean(0)
    expected = posterior.mean.mean(0).square() + (variance.sqrt() - 3**-0.5).square()
    torch.testing.assert_close(penalty(model, posterior), expected.sum())


def test_correlations_cost_in_the_full_penalty_only():
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    codes = white(randn(500, 2)) @ root.T
    full = penalty(WWAE(latent_dim=2), Posterior(codes))
    assert full.item() == pytest.approx((1.9**0.5 - 1) ** 2 + (0.1**0.5 - 1) ** 2, rel=1e-4)
    diagonal = penalty(WWAE(latent_dim=2, covariance="diagonal"), Posterior(codes))
    assert abs(diagonal.item()) < 1e-5


def test_prior_is_not_sampled():
    values = [penalty(build(WWAE), Posterior(cloud()), points=p) for p in (None, cloud(seed=4))]
    assert torch.equal(*values)


def white(points):
    """Points with mean 0 and covariance I, the rotation free."""
    points = (points - points.mean(0)).double()
    root = torch.linalg.cholesky(torch.linalg.inv(points.T.cov()))
    return (points @ root).float()


def test_blind_spot_eight_clusters_with_the_right_moments_cost_nothing():
    angle = torch.arange(500) % 8 * torch.pi / 4
    codes = white(2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * randn(500, 2))
    model = build(WWAE, latent_dim=2)
    assert abs(penalty(model, Posterior(codes))) < 1e-3

    def mmd(x, seed):
        ladder = otkernels.wae_bandwidths(2)
        y = randn(500, 2, seed=seed)
        return otkernels.mmd(x, y, kernel="imq", bandwidth=ladder, unbiased=True)

    null = torch.stack([mmd(randn(500, 2, seed=100 + s), s) for s in range(20)])
    assert mmd(codes, 50) > 10 * null.std()


def test_properties_of_a_distance_that_a_wrong_axis_breaks():
    def ours(x, y):
        return gaussian_distance(code_moments(Posterior(x)), code_moments(Posterior(y)))

    def wrong(x, y):
        """Means over features, a covariance of samples, an element-wise root, as published once."""
        means, covs = [p.mean(1) for p in (x, y)], [torch.cov(p) for p in (x, y)]
        root = (covs[0] @ covs[1]).relu().sqrt()
        return (means[0] - means[1]).square().sum() + (covs[0] + covs[1] - 2 * root).trace()

    def is_distance(f):
        x, y = cloud(64, 8).double(), 2 * cloud(64, 8, seed=3).double()
        zero_at_equality = abs(f(x, x)) < 1e-9 * f(x, y).abs()
        identity = abs(f(x, 2 * x + 1) - (x.mean(0) + 1).square().sum() - x.var(0).sum()) < 1e-8
        symmetric = abs(f(x, y) - f(y, x)) < 1e-9 * f(x, y).abs()
        return bool(zero_at_equality & identity & symmetric & (f(x, y) > 0))

    assert is_distance(ours)
    assert not is_distance(wrong)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("n", [2, 5, 8])
def test_gradient_is_finite_for_fewer_codes_than_dimensions(covariance, n):
    codes = cloud(n, 8).requires_grad_()
    value = penalty(build(WWAE, covariance=covariance), Posterior(codes))
    value.backward()
    assert value.isfinite()
    assert codes.grad.isfinite().all()
    assert codes.grad.abs().max() > 0


def test_gradient_to_means_and_variances():
    posterior, model = random_posterior(n=6, d=3), build(WWAE, latent_dim=3)
    inputs = [part.double().requires_grad_() for part in (posterior.mean, posterior.variance)]
    assert torch.autograd.gradcheck(lambda *parts: penalty(model, Posterior(*parts)), inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_penalty_in_other_dtypes(dtype):
    posterior = random_posterior()
    codes = posterior.mean.to(dtype).requires_grad_()
    value = penalty(WWAE().to(dtype), Posterior(codes, posterior.variance.to(dtype)))
    value.backward()
    exact = penalty(WWAE(), posterior)
    assert abs(value - exact) < 0.01 * exact
    assert codes.grad.dtype == dtype
    assert codes.grad.abs().sum() > 0


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("random_encoder", [False, True])
def test_penalty_pulls_the_moments_to_the_prior(random_encoder):
    distance = {}
    for weight in (0.0, 1.0):
        model = build(WWAE, weight=weight, random_encoder=random_encoder)
        trained(model, epochs=6)
        codes = Posterior(model.posterior(Digits().test[:][0]).draw(torch.Generator()))
        distance[weight] = gaussian_distance(code_moments(codes), prior_moments(model.prior))
    assert distance[1.0] < distance[0.0] / 20


def test_floor_of_a_batch_is_the_one_documented():
    model, n, d = build(WWAE), 1000, 8
    values = torch.stack([penalty(model, Posterior(randn(n, d, seed=s))) for s in range(30)])
    assert values.mean() == pytest.approx((d + d * (d + 1) / 4) / n, rel=0.1)


def test_noise_is_watched_and_not_charged():
    model = build(WWAE, random_encoder=True).eval()
    posterior = random_posterior(n=540)
    metrics = model.evaluate(posterior, torch.ones(540))
    noise, signal = posterior.variance.mean(0), posterior.mean.var(0)
    assert metrics["noise_share"] == noise.sum() / (noise + signal).sum()
    assert "noise_share" not in build(WWAE).evaluate(Posterior(cloud(540)), torch.ones(540))
    losses = model.losses(Digits().test[:50][0], torch.Generator().manual_seed(0))
    assert losses.keys() == {"loss", "reconstruction", "penalty"}
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + losses["penalty"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance": "block"}, "WWAE: covariance must be 'full' or 'diagonal'; got 'block'"),
        ({"moments": "exact"}, "WWAE: moments must be 'analytic' or 'sampled'; got 'exact'"),
        ({"momentum": 1.0}, r"WWAE: momentum must be in \[0, 1\); got 1.0"),
        ({"momentum": float("nan")}, r"WWAE: momentum must be in \[0, 1\); got nan"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        WWAE(**settings)


def test_a_batch_of_one_has_no_covariance():
    with pytest.raises(InputError, match="WWAE: batch_size must be at least 2"):
        trained(build(WWAE), epochs=1, data=Digits(batch_size=1))


@pytest.mark.parametrize("name", ["digits_wwae", "digits_wwae_diagonal"])
def test_configs_run(name):
    config = f"models/configs/{name}.yaml"
    code, out, err = call("fit", "--config", config, "--trainer.fast_dev_run", "true",
                          "--trainer.enable_progress_bar", "false")  # fmt: skip
    assert (code, err) == (0, "")
    assert "1 x Gaussian W2^2(codes, prior)" in out
