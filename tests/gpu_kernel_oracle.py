"""The MMD of large clouds in float64: its value by blocks of rows, its gradient at some points."""

import torch
from gpu_support import DEVICE
from kernel_oracle import PROFILES, pairs

ROWS = 512  # at a time
BANDWIDTHS = (0.8, 2.5)


def clouds(n, m, d):
    """Two clouds of different place and width, of about unit distances."""
    x, y = torch.randn(n, d, device=DEVICE), 1.3 * torch.randn(m, d, device=DEVICE) + 0.4
    return x / d**0.5, y / d**0.5


def _mean(kernel, x, y, bandwidths):
    """Mean of the kernel over all pairs, and of its size."""
    total = size = 0
    for rows in x.split(ROWS):
        if kernel == "polynomial":
            k = (rows @ y.mT / x.shape[1] + 1) ** 3
        else:
            distance = torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist")
            k = sum(PROFILES[kernel][0](distance, s) for s in bandwidths)
        total, size = total + k.sum(), size + k.abs().sum()
    return torch.stack([total, size]) / (len(x) * len(y))


def value(kernel, x, y, bandwidths=BANDWIDTHS):
    """MMD^2, and the sizes of all that it sums."""
    x, y = x.double(), y.double()
    bandwidths = (1,) if kernel == "energy" else bandwidths
    xx, xy, yy = (_mean(kernel, *t, bandwidths) for t in ((x, x), (x, y), (y, y)))
    return (xx + yy - 2 * xy)[0], (xx + yy + 2 * xy)[1]


def gradient(kernel, x, y, at, bandwidths=BANDWIDTHS):
    """The gradient of MMD^2 to the points ``at`` of x, and the sizes of all that it sums."""
    x, y = x.double(), y.double()
    own, far = (pairs(kernel, x[at], points, bandwidths)[1] / len(points) for points in (x, y))
    each = 2 / len(x)
    return each * (own.sum(1) - far.sum(1)), each * (own.abs().sum(1) + far.abs().sum(1))
