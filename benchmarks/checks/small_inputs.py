"""Inputs of the small calls, from the seeded stream: ragged, transposed, exact."""

import torch


def transposed(t):
    """The same numbers, with another order in memory."""
    return t.mT.contiguous().mT


def apart(n, d, n_directions, *, m=None, batch=(2,), dtype=torch.float32):
    """Clouds and directions of small integers; no two points of a cloud have one projection.

    Projections are then exact in float32, and every implementation sorts them alike: the first
    coordinate is a permutation, times more than all the others can add up to.
    """
    step = 2 ** (2 * 24 * (d - 1)).bit_length()
    m = n if m is None else m
    assert 2 * step * max(n, m) <= 2**24

    def cloud(k, step):
        coordinates = torch.randint(-8, 9, (*batch, k, d)).to(dtype)
        coordinates[..., 0] = step * torch.rand(*batch, k).argsort(-1)
        return coordinates

    theta = torch.randint(-3, 4, (d, n_directions)).to(dtype)
    theta[0] = theta[0].sign() + (theta[0] == 0)
    return cloud(n, step), transposed(cloud(m, 2 * step)), theta


def weights(n, batch=()):
    """Random weights, some of them 0."""
    w = torch.rand(*batch, n)
    return w * (w > 0.1)


def normal(n, m, d, dtype=torch.float32, batch=(2,)):
    """Two normal clouds, the second shifted."""
    return torch.randn(*batch, n, d, dtype=dtype), 1 + torch.randn(*batch, m, d, dtype=dtype)


def near(n, m, d):
    """Two clouds, of which some points coincide, some nearly, and some are far from each other."""
    x, _ = normal(n, m, d)
    k = m // 3
    return x, torch.cat([x[:, :k], x[:, k : 2 * k] + 1e-4, x[:, 2 * k : m] + 4], dim=1)


def covariances(d, count, dtype=torch.float32, ranks=(None, None)):
    """Covariances (2, d, d), exact in float32, of 2d points or, one of each, as many as a rank."""
    for _ in range(count):
        points = [torch.randint(-8, 9, (d, k or 2 * d)).double() for k in ranks]
        yield torch.stack([p @ p.mT / 256 for p in points]).to(dtype)
