"""Other libraries' Gaussian distances, maps, roots and moments: POT, SciPy, torch.cov."""

import torch

from .peers import Peer

__all__ = ["POT_CLOUDS", "POT_GAUSSIANS", "POT_MAP", "POT_PAIRS", "SCIPY", "SCIPY_INVERSE", "TORCH"]


def _gaussians(ot, mean_x, cov_x, mean_y, cov_y):
    root = ot.gaussian.bures_wasserstein_distance(mean_x, mean_y, cov_x, cov_y)
    return root.reshape(()) ** 2


def _pairs(ot, mean_x, cov_x, mean_y, cov_y, *, pairwise):
    return ot.gaussian.bures_wasserstein_distance(mean_x, mean_y, cov_x, cov_y) ** 2


def _map(ot, mean_x, cov_x, mean_y, cov_y, cotangent):
    a, b = ot.gaussian.bures_wasserstein_mapping(mean_x, mean_y, cov_x, cov_y)
    return {"value": (torch.cat([a, b[None]]) * cotangent).sum(), "A": a, "b": b}


def _clouds(ot, x, y, *, a=None, b=None, correction=0, eps=0.0, diagonal=False, squared=True):
    """Its function of samples where that has it; else torch's moments in that of moments."""
    if correction or diagonal:
        means, covs = zip(*(_fitted(*side, correction) for side in ((x, a), (y, b))), strict=True)
        covs = [torch.diag(cov.diagonal()) if diagonal else cov for cov in covs]
        root = ot.gaussian.bures_wasserstein_distance(*means, *covs)
    else:
        weights = {n: w[:, None] for n, w in (("ws", a), ("wt", b)) if w is not None}
        root = ot.gaussian.empirical_bures_wasserstein_distance(x, y, reg=eps, **weights)
    return root.reshape(()) ** (2 if squared else 1)


def _fitted(points, weights, correction):
    """Mean and covariance; the correction of torch.cov counts weights otherwise than ours."""
    cov = torch.cov(points.T, correction=0, aweights=weights).reshape(points.shape[1], -1)
    mean = points.mean(0) if weights is None else weights @ points / weights.sum()
    n = len(points) if weights is None else int((weights > 0).sum())
    return mean, cov * n / (n - correction)


def _root(linalg, cov_x, cotangent):
    root = torch.tensor(linalg.sqrtm(cov_x.detach().numpy()).real)
    return {"value": (root * cotangent).sum(), "root": root}


def _inverse_root(linalg, cov_x, cotangent):
    root = torch.tensor(linalg.inv(linalg.sqrtm(cov_x.detach().numpy()).real))
    return {"value": (root * cotangent).sum(), "root": root}


def _moments(torch, x, cotangent, *, weights=None, correction=0):
    mean, cov = _fitted(x, weights, correction)
    return {"value": (torch.cat([cov, mean[None]]) * cotangent).sum(), "mean": mean, "cov": cov}


# POT's divides by eigenvalues of S_x^1/2 S_y S_x^1/2, whose condition is the product of both.
ARGUMENTS = ("mean_x", "mean_y", "cov_x", "cov_y", "x", "y", "a", "b")
GRADIENTS = tuple(f"grad {name}" for name in ARGUMENTS)
ILL = dict.fromkeys(("rank", "onto", "equal", "condition", "constant", "twice", "few"), GRADIENTS)
POT_GAUSSIANS = Peer("POT", "ot", _gaussians, ILL)
POT_PAIRS = Peer("POT", "ot", _pairs)
POT_CLOUDS = Peer("POT", "ot", _clouds, ILL)
POT_MAP = Peer("POT", "ot", _map, ILL)
SCIPY = Peer("SciPy", "scipy.linalg", _root, {"rank": ("value", "root")})
SCIPY_INVERSE = Peer("SciPy", "scipy.linalg", _inverse_root)
TORCH = Peer("torch.cov", "torch", _moments)
