"""Encoder and decoder pairs by name, each ``(shape, n_outputs, latent_dim) -> (encoder, decoder)``.

The encoder maps items (n, *shape) to (n, n_outputs), which is latent_dim or, for a random encoder,
twice that; the decoder maps codes (n, latent_dim) to items.
"""

import math

from torch import nn

from .errors import require

__all__ = ["NETWORKS"]


def mlp(shape, n_outputs, latent_dim, width=128):
    """Two hidden ReLU layers on each side; the decoder ends in a sigmoid, for pixels in [0, 1]."""
    pixels = math.prod(shape)
    encoder = nn.Sequential(
        nn.Flatten(),  # (n, pixels)
        nn.Linear(pixels, width),
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
        nn.Linear(width, pixels),
        nn.Sigmoid(),
        nn.Unflatten(1, shape),  # (n, channels, height, width)
    )
    return encoder, decoder


def identity(shape, n_outputs, latent_dim):
    """No network: the codes of points (n, dim) are the points."""
    require(shape == (latent_dim,), "identity", "latent_dim", f"fit the shape {shape}", latent_dim)
    require(n_outputs == latent_dim, "identity", "random_encoder", "be false", True)
    return nn.Identity(), nn.Identity()


NETWORKS = {"mlp": mlp, "identity": identity}
