"""What tests of Gaussian distances share: covariances, the formula in float64, bounds on errors."""

import torch

# What is promised in float32 of the value, as a part of tr S_x + tr S_y, and of a gradient to a
# covariance, as a part of its norm, by the condition number of the covariances.
VALUE = 1e-6
GRADIENT = {1e4: 1e-5, 1e6: 1e-4}


def covariance(*shape, condition=10.0, rank=None, dtype=torch.float64, device="cpu"):
    """Covariances (*shape, shape[-1]) in random bases, eigenvalues from 1 down evenly in logs."""
    d = shape[-1]
    basis = torch.linalg.qr(torch.randn(*shape, d, dtype=torch.float64)).Q
    values = torch.logspace(0, -1, d, base=condition, dtype=torch.float64)
    if rank is not None:
        values[rank:] = 0
    cov = (basis * values) @ basis.mT
    return ((cov + cov.mT) / 2).to(device, dtype)


def means(*shape, dtype=torch.float64, device="cpu"):
    return torch.randn(*shape, dtype=torch.float64).to(device, dtype)


def root(a, power=0.5, cutoff=0.0):
    """A^power of symmetric A, on its range, from eigenvalues."""
    values, vectors = torch.linalg.eigh(a)
    kept = values > cutoff * values[..., -1:]
    powers = torch.where(kept, torch.where(kept, values, 1) ** power, 0)
    return (vectors * powers[..., None, :]) @ vectors.mT


def truth(mean_x, cov_x, mean_y, cov_y):
    """W_2^2 of regular Gaussians, its gradients to all four, and tr S_x + tr S_y; float64."""
    mean_x, cov_x, mean_y, cov_y = (t.double().cpu() for t in (mean_x, cov_x, mean_y, cov_y))
    half, inverse = root(cov_x), root(cov_x, -0.5)
    middle = root(half @ cov_y @ half)
    traces = sum(t.diagonal(dim1=-2, dim2=-1).sum(-1) for t in (cov_x, cov_y))
    gap = mean_x - mean_y
    value = gap.square().sum(-1) + traces - 2 * middle.diagonal(dim1=-2, dim2=-1).sum(-1)
    there = inverse @ middle @ inverse  # the map from x to y; that from y to x is its inverse
    one = torch.eye(cov_x.shape[-1], dtype=torch.float64)
    back = half @ root(middle @ middle, -0.5) @ half
    return value, 2 * gap, one - there, -2 * gap, one - back, traces


def close_gradient(actual, expected, bound):
    """Frobenius norm of the difference within ``bound`` of that of the gradient and the unit."""
    error = torch.linalg.matrix_norm(actual.double().cpu() - expected)
    size = torch.linalg.matrix_norm(expected) + expected.shape[-1] ** 0.5
    assert (error <= bound * size).all(), (error / size).max().item()


def cloud(*shape, dtype=torch.float32, device="cpu"):
    """Points (*shape) with unequal spreads of their features, of few bits: exact in every dtype."""
    spread = torch.linspace(1, 3, shape[-1])
    points = (torch.randn(*shape) * spread * 8).round() / 8
    return points.clamp(-15, 15).to(device, dtype)


def moments(x, masses=None, correction=0):
    """Mean and covariance of points (..., N, D) by the formula, float64."""
    x = x.double().cpu()
    n = x.shape[-2]
    masses = torch.full((n,), 1 / n).double() if masses is None else masses.double().cpu()
    masses = masses / masses.sum(-1, keepdim=True)
    n = (masses > 0).sum(-1)[..., None, None]
    mean = (x * masses[..., None]).sum(-2)
    gap = x - mean[..., None, :]
    return mean, n / (n - correction) * ((gap * masses[..., None]).mT @ gap)
