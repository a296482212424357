"""Mean and covariance on the CPU: products of points moved to near their mean.

What the mean of the moved points is, is taken off the products again, so where they were moved to
need not be exact: for equal masses a mean over some of them will do. Small problems are handled
many at a time. Large ones go one by one, some rows at a time, through a workspace; so no second
copy of a large cloud is made.

Cost: N D (D + SIDE) operations, as blocks above the diagonal are those below it, and 3 passes over
N D numbers (4 with masses). Memory beyond results: GROUP or ROWS D numbers, with masses twice.
"""

import torch

from otkernels._ops import accumulation_dtype

# Numbers handled at a time where there are many small problems.
GROUP = 2**20
# Rows at a time of a large problem: enough that adding to sums costs little beside the product.
ROWS = 2**11
# Features in a block of a covariance. Smaller blocks save more of the products and slow them down.
SIDE = 128
# Beyond FEW numbers points move to the mean of every STRIDE-th of them, which is no farther from
# the mean of all than STRIDE^1/2 standard deviations, whatever the points are.
FEW, STRIDE = 2**16, 16


def moments(x, a, correction, double):
    """The raw op ``moments``: see otkernels/moments.py."""
    batch, (n, d) = x.shape[:-2], x.shape[-2:]
    dtype = torch.float64 if double else accumulation_dtype(x.dtype)
    points = x.reshape(-1, n, d)
    masses = None if a is None else a.reshape(-1, n)
    if d > SIDE or n > ROWS:
        mean, cov = _large(points, masses, dtype)
    else:
        mean, cov = _small(points, masses, dtype)
    if correction:
        cov *= _factor(points, masses, correction)
    return mean.view(*batch, d), cov.view(*batch, d, d)


def _factor(points, masses, correction):
    """Return n / (n - correction), NaN where n is too small: a number, or (P, 1, 1)."""
    if masses is None:
        n = points.shape[1]
        return n / (n - correction) if n > correction else torch.nan
    n = (masses != 0).sum(-1).double()[:, None, None]
    return n / torch.where(n > correction, n - correction, torch.nan)


# --- problems of one block, many at a time ------------------------------------------------------


def _small(points, masses, dtype):
    """Means (P, D) and covariances (P, D, D)."""
    problems, n, d = points.shape
    step = max(1, GROUP // (n * d))
    weights = None if masses is None else masses[..., None].to(dtype)
    if problems <= step:
        return _centred(points, weights, dtype)
    mean = points.new_empty((problems, d), dtype=dtype)
    cov = points.new_empty((problems, d, d), dtype=dtype)
    for start in range(0, problems, step):
        own = slice(start, start + step)
        part = None if weights is None else weights[own]
        mean[own], cov[own] = _centred(points[own], part, dtype)
    return mean, cov


def _centred(points, weights, dtype):
    """The same of points (G, N, D) and weights (G, N, 1), or None."""
    shift = _near_mean(points, weights, dtype)
    z = points - shift
    heavy = z if weights is None else z * weights
    unit = 1 / z.shape[1] if weights is None else 1.0
    rest = heavy.sum(-2, keepdim=True)
    # Products less that of the mean with itself; halves, to be completed by the transpose.
    half = rest.mT * rest
    half.baddbmm_(heavy.mT, z, beta=-0.5 * unit * unit, alpha=0.5 * unit)
    return torch.add(shift, rest, alpha=unit)[:, 0], half + half.mT


def _near_mean(points, weights, dtype):
    """Where to centre points (..., N, D): (..., 1, D), near their mean."""
    if weights is not None:
        pieces = zip(weights.split(ROWS, -2), points.split(ROWS, -2), strict=True)
        return sum(w.mT @ p.to(dtype) for w, p in pieces)
    some = points if points.numel() <= FEW else points[..., ::STRIDE, :]
    return some.sum(-2, keepdim=True, dtype=dtype).mul_(1 / some.shape[-2])


# --- problems of any size, one at a time --------------------------------------------------------


def _large(points, masses, dtype):
    """Means (P, D) and covariances (P, D, D)."""
    problems, n, d = points.shape
    mean = points.new_empty((problems, d), dtype=dtype)
    cov = points.new_empty((problems, d, d), dtype=dtype)
    rows, blocks = _slices(n, ROWS), _slices(d, SIDE)
    work = [points.new_empty((min(n, ROWS), b.stop - b.start), dtype=dtype) for b in blocks]
    for p in range(problems):
        weights = None if masses is None else masses[p, :, None].to(dtype)
        _fill(points[p], weights, rows, blocks, work, mean[p], cov[p])
    return mean, cov


def _fill(points, weights, rows, blocks, work, mean, cov):
    """Write mean (D,) and covariance (D, D) of points (N, D), weights (N, 1) or None."""
    unit = 1 / len(points) if weights is None else 1.0
    shift = _near_mean(points, weights, mean.dtype)[0]
    mean.zero_()
    for row in rows:
        part = points[row]
        z = [
            torch.sub(part[:, b], shift[b], out=w[: len(part)])
            for b, w in zip(blocks, work, strict=True)
        ]
        heavy = z if weights is None else [t * weights[row] for t in z]
        for i, left in enumerate(heavy):
            mean[blocks[i]] += left.sum(0)
            for right, block in zip(z[: i + 1], blocks, strict=False):
                tile = cov[blocks[i], block]
                tile.addmm_(left.mT, right, beta=0 if row.start == 0 else 1, alpha=unit)
    rest = mean * unit
    torch.add(shift, rest, out=mean)
    cov.addcmul_(rest[:, None], rest, value=-1)
    for block in blocks:
        own, before = cov[block, block], slice(0, block.start)
        own.copy_((own + own.mT) / 2)
        cov[before, block] = cov[block, before].mT


def _slices(size, step):
    return [slice(k, min(k + step, size)) for k in range(0, size, step)]
