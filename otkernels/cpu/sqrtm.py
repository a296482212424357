"""Square roots of covariances on the CPU, and the equation of their derivative.

Both by eigenvalues in float64, which take less time here than an iteration on triangular factors.

Cost for each of the problems: an eigendecomposition, and 2 D^3 operations for the root; 8 D^3 for
the equation.
"""

import math

import torch

from otkernels._ops import accumulation_dtype

from . import factors
from .polar import EPS

# Numbers in the matrices that are handled together.
GROUP = 2**16


def square_root(a, inverse, cutoff):
    """The raw op ``square_root``: see otkernels/sqrtm.py."""
    batch, shape = a.shape[:-2], a.shape[-2:]
    a = a.reshape(math.prod(batch), *shape)
    roots = torch.empty_like(a, dtype=accumulation_dtype(a.dtype))
    step = max(1, GROUP // shape.numel())
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        roots[part] = _roots(a[part], inverse, cutoff)
    return roots.view(*batch, *shape)


def _roots(a, inverse, cutoff):
    """Roots of some problems (P, D, D), float64; NaN where a is not finite, or has no inverse."""
    values, vectors, ok = factors.eigen(a, cutoff)
    if inverse:
        ok = ok & (values > 0).all(1)
    scales = values.rsqrt() if inverse else values.sqrt()
    return factors.nan_unless(ok, factors.symmetric((vectors * scales[:, None, :]) @ vectors.mT))


def lyapunov(h, g):
    """The raw op ``lyapunov``: see otkernels/sqrtm.py."""
    # A root in float32 has eigenvalues of its rounding where the covariance had none.
    rounding = max(4 * torch.finfo(h.dtype).eps, h.shape[-1] * EPS)
    batch, shape = g.shape[:-2], g.shape[-2:]
    h, right = (t.reshape(math.prod(batch), *shape).double() for t in (h, g))
    ok = (h.isfinite() & right.isfinite()).flatten(1).all(1)
    h, right = (torch.where(ok[:, None, None], t, 0) for t in (h, right))
    values, vectors = torch.linalg.eigh(h)
    sums = values[:, :, None] + values[:, None, :]
    none = sums <= rounding * sums[:, -1:, -1:]
    parts = torch.where(none, 0, vectors.mT @ right @ vectors / torch.where(none, 1, sums))
    x = factors.nan_unless(ok, vectors @ parts @ vectors.mT)
    return x.to(g.dtype).view(*batch, *shape)
