import pytest
import torch
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models.autoencoder import Autoencoder
from models.data import Digits
from models.errors import InputError
from models.networks import NETWORKS

pytestmark = IGNORED
FITTING = [
    ("mlp", (1, 8, 8)),
    ("mlp", (2,)),
    ("conv", (1, 28, 28)),
    ("conv", (3, 12, 8)),
    ("dcgan", (3, 64, 64)),
    ("dcgan", (1, 32, 48)),
]


def pair(name, shape, n_outputs=5, latent_dim=5):
    torch.manual_seed(0)
    return NETWORKS[name](shape, n_outputs, latent_dim)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_shapes_and_gradients(name, shape):
    encoder, decoder = pair(name, shape, n_outputs=10)
    codes = encoder(torch.rand(4, *shape))
    assert codes.shape == (4, 10)
    items = decoder(codes[:, :5])
    assert items.shape == (4, *shape)
    (items.square().sum() + codes.square().sum()).backward()
    for part in (encoder, decoder):
        for key, parameter in part.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_pixels_are_in_range_and_points_anywhere(name):
    _, decoder = pair(name, (3, 8, 8))
    pixels = decoder(100 * torch.randn(50, 5))
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert pixels.min() < 0.4
    assert pixels.max() > 0.6
    points = pair("mlp", (2,))[1](100 * torch.randn(50, 5))
    assert points.abs().max() > 1
    assert points.min() < 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    encoder, decoder = (part.to(dtype) for part in pair("conv", (3, 8, 8)))
    items = decoder(encoder(torch.rand(4, 3, 8, 8, dtype=dtype)))
    assert items.dtype == dtype
    items.sum().backward()
    assert all(p.grad.isfinite().all() for p in [*encoder.parameters(), *decoder.parameters()])


def test_bf16_by_autocast():
    encoder, decoder = pair("conv", (1, 8, 8))
    images = torch.rand(4, 1, 8, 8)
    expected = decoder(encoder(images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(decoder(encoder(images)).float(), expected, atol=0.05, rtol=0)


def test_channels_and_widths():
    def channels(name, layer):
        encoder, decoder = pair(name, (3, 64, 64))
        parts = [part for half in (encoder, decoder) for part in half if isinstance(part, layer)]
        return [part.out_channels for part in parts]

    assert channels("conv", torch.nn.Conv2d) == [32, 64]
    assert channels("conv", torch.nn.ConvTranspose2d) == [32, 3]
    assert channels("dcgan", torch.nn.Conv2d) == [64, 128, 256, 512]
    assert channels("dcgan", torch.nn.ConvTranspose2d) == [256, 128, 64, 3]
    assert channels("dcgan128", torch.nn.Conv2d) == [128, 256, 512, 1024]


def test_an_image_in_evaluation_does_not_depend_on_the_others():
    encoder, decoder = pair("conv", (1, 8, 8))
    images = torch.rand(6, 1, 8, 8)
    decoder(encoder(images))  # statistics of a batch
    encoder.eval(), decoder.eval()
    alone, together = (decoder(encoder(part))[0] for part in (images[:1], images))
    torch.testing.assert_close(alone, together)


BAD = [
    ("conv", (1, 30, 28), "sides divisible by 4; got 'conv' for items of shape (1, 30, 28)"),
    ("conv", (2,), "sides divisible by 4; got 'conv' for items of shape (2,)"),
    ("dcgan", (3, 64, 56), "sides divisible by 16; got 'dcgan'"),
    ("dcgan", (1, 28, 28), "sides divisible by 16"),
]


@pytest.mark.parametrize(("name", "shape", "expected"), BAD)
def test_networks_that_do_not_fit(name, shape, expected):
    with pytest.raises(InputError) as caught:
        Autoencoder(network=name, shape=shape)
    assert expected in str(caught.value)


def test_conv_learns_digits():
    _, metrics = trained(build(Autoencoder, network="conv"), epochs=6)
    mean = Digits().train[:][0].mean(0)
    constant = (Digits().test[:][0] - mean).square().mean()
    assert metrics["val/mse_per_pixel"] < 0.8 * constant  # what no code at all would give


def test_dcgan_learns_a_batch():
    model = build(Autoencoder, network="dcgan", shape=(3, 64, 64), latent_dim=8, lr=1e-3)
    images = torch.rand(4, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.999))
    losses = []
    for _ in range(8):
        loss = model.losses(images, None)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
