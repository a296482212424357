"""Codes and posteriors, and what WWAE charges for them: shared by the tests of its parts."""

import torch

from models.posterior import Posterior

__all__ = ["cloud", "penalty", "randn", "random_posterior"]


def randn(*shape, seed=0, dtype=torch.float32):
    """Normal numbers from one seed, drawn in single precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def cloud(n=200, d=8, seed=0):
    """Points with a mean and correlations of their own."""
    return randn(n, d, seed=seed) @ (torch.eye(d) + 0.3 * randn(d, d, seed=9)) + 0.5


def random_posterior(n=200, d=8, seed=0):
    """Means and variances of a random encoder."""
    return Posterior(cloud(n, d, seed), 0.1 + randn(n, d, seed=seed + 1).square())


def penalty(model, posterior, codes=None, points=None):
    """What the model charges, in float32."""
    codes = posterior.mean if codes is None else codes
    return model.penalties(posterior, codes, points, None)["penalty"]
