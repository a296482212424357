"""Covariances and clouds of a given condition, and the distance between them in float64."""

import math

import torch

DIMENSION, POINTS = 32, 256


def problem(kind, condition, number):
    """Two float32 covariances (D, D), or two clouds (N, D) of such covariances."""
    generator = torch.Generator().manual_seed(number)
    if kind == "multiples":
        cov = _covariance(condition, generator)
        return cov, 4 * cov
    if kind == "covariances":
        return tuple(_covariance(condition, generator) for _ in range(2))
    spread = torch.logspace(0, -math.log10(condition) / 2, DIMENSION, dtype=torch.float64)
    clouds = []
    for _ in range(2):
        points = torch.randn(POINTS, DIMENSION, dtype=torch.float64, generator=generator)
        clouds.append(((points * spread) @ _basis(generator)).float())
    return tuple(clouds)


def _covariance(condition, generator):
    """Eigenvalues from 1 down to 1 / condition, evenly in logarithms, in a random basis."""
    basis = _basis(generator)
    values = torch.logspace(0, -math.log10(condition), DIMENSION, dtype=torch.float64)
    return ((basis * values) @ basis.mT).float()


def _basis(generator):
    normal = torch.randn(DIMENSION, DIMENSION, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(normal).Q


def truth(kind, x, y):
    """Value, tr S_x + tr S_y, gradients to both, and the sizes of their parts with the map.

    By factors S = F F^T and the singular value decomposition of F_x^T F_y, in float64.
    """
    if kind == "clouds":
        gaps = [t.double() - t.double().mean(0) for t in (x, y)]
        covs = [g.mT @ g / len(g) for g in gaps]
        means = x.double().mean(0) - y.double().mean(0)
    else:
        gaps, covs = (None, None), [t.double() for t in (x, y)]
        means = torch.zeros(DIMENSION, dtype=torch.float64)
    factors, inverses = [], []
    for cov in covs:
        values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
        factors.append(vectors * values.sqrt())
        inverses.append((vectors / values.sqrt()).mT)
    left, values, right = torch.linalg.svd(factors[0].mT @ factors[1])
    q = left @ right
    traces = sum(cov.trace() for cov in covs)
    value = means.square().sum() + traces - 2 * values.sum()
    maps = factors[1] @ q.mT @ inverses[0], factors[0] @ q @ inverses[1]
    grads, sizes = [], []
    for k, sign in ((0, 1), (1, -1)):
        grad = torch.eye(DIMENSION, dtype=torch.float64) - maps[k]
        part = maps[k]
        if kind == "clouds":
            grad = (gaps[k] @ grad + sign * means) * 2 / len(gaps[k])
            part = gaps[k] @ part * 2 / len(gaps[k])
        grads.append(grad)
        sizes.append(torch.linalg.matrix_norm(part))
    return value, traces, grads, sizes
