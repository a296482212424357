r"""Kernels of the maximum mean discrepancy: what each one is, and the definition of their sums.

Each is a profile phi of one number u = rate * |x - y|^2 (of u = rate * <x, y> for "polynomial"), so
several bandwidths share the distances. With a bandwidth s:

    gaussian             exp(-|x-y|^2 / 2 s^2)           phi(u) = exp(-u),        rate 1 / 2 s^2
    laplacian            exp(-|x-y| / s)                 phi(u) = exp(-sqrt(u)),  rate 1 / s^2
    imq                  s^2 / (s^2 + |x-y|^2)           phi(u) = 1 / (1 + u),    rate 1 / s^2
    rational_quadratic   1 / (1 + |x-y|^2 / 2 s^2)       phi(u) = 1 / (1 + u),    rate 1 / 2 s^2
    energy               -|x-y|                          phi(u) = -sqrt(u),       rate 1
    polynomial           (<x, y> / D + 1)^3              phi(u) = (1 + u)^3,      rate 1 / D
"""

from typing import NamedTuple

import torch

from ._products import product


class Kernel(NamedTuple):
    """A profile, and how its rate comes from a bandwidth: factor / s^2; None takes none."""

    profile: str
    factor: float | None


KERNELS = {
    "gaussian": Kernel("gaussian", 0.5),
    "laplacian": Kernel("laplacian", 1.0),
    "imq": Kernel("cauchy", 1.0),
    "rational_quadratic": Kernel("cauchy", 0.5),
    "polynomial": Kernel("polynomial", None),
    "energy": Kernel("energy", None),
}


def _root(u):
    """The square root, with derivatives 0 at 0: the middle of the sub-gradients of a distance."""
    positive = u > 0
    return torch.where(positive, torch.where(positive, u, 1).sqrt(), u * 0)


PROFILES = {
    "gaussian": lambda u: torch.exp(-u),
    "laplacian": lambda u: torch.exp(-_root(u)),
    "cauchy": lambda u: 1 / (1 + u),
    "energy": lambda u: -_root(u),
    "polynomial": lambda u: (1 + u) ** 3,
}
# phi(0) where u is a distance.
AT_ZERO = {"gaussian": 1.0, "laplacian": 1.0, "cauchy": 1.0, "energy": 0.0}


def kernel_matrix(profile, x, y, rates):
    """Sum over K rates of phi(rate u) between x (..., N, D) and y (..., M, D): (..., N, M).

    ``rates (..., K)``. Distances are summed squares of differences, exact wherever the points lie.
    """
    if profile == "polynomial":
        u = product(x, y.mT)
    else:
        u = (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1)
    return summed(profile, u, rates[..., None, None, :])


def diagonal(profile, x, rates):
    """Kernel of each point with itself, summed over the rates: (..., N)."""
    if profile == "polynomial":
        return summed(profile, x.square().sum(-1), rates[..., None, :])
    return x.new_full(x.shape[:-1], rates.shape[-1] * AT_ZERO[profile])


def summed(profile, u, rates):
    """Sum of phi(rate u) over the last axis of ``rates``, each of which broadcasts with u."""
    return sum(PROFILES[profile](u * rate) for rate in rates.unbind(-1))
