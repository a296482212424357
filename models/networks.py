"""Encoder and decoder pairs by name."""

import math

from torch import nn

__all__ = ["NETWORKS"]


def mlp(image_shape, latent_dim, width=128):
    """Two hidden ReLU layers on each side; the decoder ends in a sigmoid, for pixels in [0, 1]."""
    pixels = math.prod(image_shape)
    encoder = nn.Sequential(
        nn.Flatten(),  # (n, pixels)
        nn.Linear(pixels, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, latent_dim),  # (n, latent_dim)
    )
    decoder = nn.Sequential(
        nn.Linear(latent_dim, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, pixels),
        nn.Sigmoid(),
        nn.Unflatten(1, tuple(image_shape)),  # (n, channels, height, width)
    )
    return encoder, decoder


NETWORKS = {"mlp": mlp}
