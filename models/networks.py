"""Encoder and decoder pairs by name, each ``(shape, n_outputs, latent_dim) -> (encoder, decoder)``.

The encoder maps items (n, *shape) to (n, n_outputs), which is latent_dim or, for a random encoder,
twice that; the decoder maps codes (n, latent_dim) to items.
"""

import math
from functools import partial

from torch import nn

from .errors import require

__all__ = ["NETWORKS"]


def mlp(shape, n_outputs, latent_dim, width=128):
    """Two hidden ReLU layers on each side, for images and points."""
    numbers = math.prod(shape)
    encoder = nn.Sequential(
        nn.Flatten(),  # (n, numbers)
        nn.Linear(numbers, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, n_outputs),  # (n, n_outputs)
    )
    decoder = nn.Sequential(
        nn.Linear(latent_dim, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, numbers),
        _in_range(shape),
        nn.Unflatten(1, shape),  # (n, *shape)
    )
    return encoder, decoder


def convolutional(shape, n_outputs, latent_dim, widths, name):
    """One halving of the sides for each of ``widths``, the channels after it; as many doublings.

    The blocks of Radford et al. 2016, "Unsupervised representation learning with deep
    convolutional generative adversarial networks": 4 x 4 convolutions of stride 2, batch
    normalisation and ReLU in between; ReLU in the encoder too, as in the code published with the
    WAE (Tolstikhin et al. 2018).
    """
    factor = 2 ** len(widths)
    ok = len(shape) == 3 and all(side % factor == 0 for side in shape[1:])
    condition = f"suit the data; it takes images with sides divisible by {factor}"
    require(ok, "models", "network", condition, f"{name!r} for items of shape {tuple(shape)}")
    channels, (rows, columns) = shape[0], (side // factor for side in shape[1:])
    numbers = widths[-1] * rows * columns
    pairs = list(zip([channels, *widths], widths, strict=False))
    encoder = nn.Sequential(
        *(layer for before, after in pairs for layer in _halve(before, after)),
        nn.Flatten(),  # (n, numbers)
        nn.Linear(numbers, n_outputs),  # (n, n_outputs)
    )
    decoder = nn.Sequential(
        nn.Linear(latent_dim, numbers, bias=False),
        nn.Unflatten(1, (widths[-1], rows, columns)),
        nn.BatchNorm2d(widths[-1]),
        nn.ReLU(),
        *(layer for before, after in pairs[:0:-1] for layer in _double(after, before)),
        nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1),
        _in_range(shape),  # (n, *shape)
    )
    return encoder, decoder


def identity(shape, n_outputs, latent_dim):
    """No network: the codes of points (n, dim) are the points."""
    require(shape == (latent_dim,), "identity", "latent_dim", f"fit the shape {shape}", latent_dim)
    require(n_outputs == latent_dim, "identity", "random_encoder", "be false", True)
    return nn.Identity(), nn.Identity()


def _in_range(shape):
    """The last step of a decoder: pixels lie in [0, 1], points anywhere."""
    return nn.Sigmoid() if len(shape) == 3 else nn.Identity()


def _halve(before, after):
    """(n, before, 2 h, 2 w) to (n, after, h, w); the normalisation has the bias."""
    convolution = nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU()


def _double(before, after):
    """(n, before, h, w) to (n, after, 2 h, 2 w)."""
    convolution = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU()


def _dcgan(width):
    return tuple(width * k for k in (1, 2, 4, 8))


NETWORKS = {
    "mlp": mlp,
    "identity": identity,
    "conv": partial(convolutional, widths=(32, 64), name="conv"),
    "dcgan": partial(convolutional, widths=_dcgan(64), name="dcgan"),
    # The channels of the code published with the WAE, four times the work.
    "dcgan128": partial(convolutional, widths=_dcgan(128), name="dcgan128"),
}
