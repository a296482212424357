"""The variational autoencoder."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from models_support import IGNORED, build, call, one_thread, trained  # noqa: F401
from torch.distributions import Normal, kl_divergence

from models import runs
from models.autoencoder import Autoencoder
from models.data import Digits
from models.errors import InputError
from models.posterior import Posterior
from models.systems import VAE
from models.systems.vae import gaussian_kl, noise_share

pytestmark = IGNORED


def random_posterior(n=50, d=8):
    mean, log_variance = torch.randn(2, n, d, generator=torch.Generator().manual_seed(0))
    return Posterior(mean, log_variance.exp())


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_divergence_is_that_of_torch(scale):
    posterior = random_posterior()
    prior = Normal(torch.zeros(8), scale)
    expected = kl_divergence(Normal(posterior.mean, posterior.variance.sqrt()), prior).sum(1)
    torch.testing.assert_close(gaussian_kl(posterior, scale), expected)
    model = build(VAE, prior_scale=scale)
    charged = model.penalties(posterior, posterior.mean, None, None)
    assert charged.keys() == {"penalty"}
    torch.testing.assert_close(charged["penalty"], expected.mean())


@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_loss_is_the_evidence_bound_of_a_decoder_of_variance_weight_over_two(weight):
    model, images = build(VAE, weight=weight), Digits().train[:30][0]
    losses = model.losses(images, torch.Generator().manual_seed(5))

    posterior = model.posterior(images)
    codes = posterior.draw(torch.Generator().manual_seed(5))
    decoder = Normal(model.decoder(codes), (weight / 2) ** 0.5)
    encoder = Normal(posterior.mean, posterior.variance.sqrt())
    divergence = kl_divergence(encoder, Normal(0.0, 1.0)).sum(1)
    bound = (decoder.log_prob(images).sum((1, 2, 3)) - divergence).mean()
    constant = -64 / 2 * torch.tensor(torch.pi * weight).log()  # 64 pixels, 2 pi s^2 = pi weight
    torch.testing.assert_close(losses["loss"], weight * (constant - bound))


def test_noise_share():
    mean = torch.tensor([[1.0, 7.0], [-1.0, 7.0]])  # the second coordinate tells nothing
    shares = noise_share(Posterior(mean, torch.full((2, 2), 2.0)))
    assert shares["noise_share_max"] == 1
    assert shares["noise_share"] == pytest.approx((2 + 2) / (2 + 2 + 2))


def test_a_large_weight_collapses_the_posterior_and_it_shows():
    share = {}
    for weight in (0.01, 100.0):
        _, metrics = trained(build(VAE, weight=weight), epochs=8)
        share[weight] = metrics["val/noise_share"]
    assert share[0.01] < 0.7
    assert share[100.0] > 0.99


def test_weight_zero_is_the_plain_autoencoder_with_a_random_encoder():
    model, _ = trained(build(VAE, weight=0.0), epochs=2)
    plain, _ = trained(build(Autoencoder, weight=0.0, random_encoder=True), epochs=2)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_resumed_training_is_exact_and_loads_again(tmp_path):
    keep = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1) for _ in range(2)]
    whole, _ = trained(build(VAE), epochs=4, callbacks=keep[:1])
    resumed = build(VAE, seed=1)
    L.seed_everything(0, verbose=False)
    trained(resumed, epochs=4, callbacks=keep[1:], ckpt_path=tmp_path / "epoch=1.ckpt")
    loaded = runs.load(tmp_path / "epoch=3.ckpt")
    assert type(loaded) is VAE
    assert loaded.posterior(Digits().test[:2][0]).variance.shape == (2, 8)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
        assert torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": "uniform"}, "VAE: prior must be 'gaussian' for its divergence; got 'uniform'"),
        ({"random_encoder": False}, "VAE: random_encoder must be true; got False"),
        ({"weight": -1.0}, "VAE: weight must be finite and >= 0; got -1.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        VAE(**settings)


def test_config_runs():
    code, out, err = call("fit", "--config", "models/configs/digits_vae.yaml",
                          "--trainer.fast_dev_run", "true",
                          "--trainer.enable_progress_bar", "false")  # fmt: skip
    assert (code, err) == (0, "")
    assert "x KL(codes, prior)" in out
