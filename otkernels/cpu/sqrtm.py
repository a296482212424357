"""Square roots of covariances on the CPU, and the equation of their derivative.

With S = L L^T and the polar factor Q of L, the root of S is L Q^T and its inverse Q L^-1. Singular
covariances take eigenvalues. Both in float64.

Cost for each of the problems: a triangular factor and its inverse, D^3 operations together, the
steps of ``polar``, and 2 D^3 each for the root and its residual. The equation takes eigenvalues and
8 D^3.
"""

import math

import torch

from otkernels._ops import accumulation_dtype

from . import factors
from .polar import EPS, norm, polar_factor

# Numbers in the matrices that are handled together.
GROUP = 2**16


def square_root(a, inverse, cutoff):
    """The raw op ``square_root``: see otkernels/sqrtm.py."""
    batch, shape = a.shape[:-2], a.shape[-2:]
    a = a.reshape(math.prod(batch), *shape)
    roots = torch.empty_like(a, dtype=accumulation_dtype(a.dtype))
    residual = a.new_empty(len(a), dtype=torch.float64)
    step = max(1, GROUP // shape.numel())
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        roots[part] = _roots(a[part], inverse, cutoff)
        residual[part] = _residual(a[part].double(), roots[part].double(), inverse)
    return roots.view(*batch, *shape), residual.view(batch)


def _roots(a, inverse, cutoff):
    """Roots of some problems (P, D, D), float64."""
    lower, dual, ok = factors.cholesky(a, cutoff)
    q = polar_factor(lower, dual.mT, torch.float64)
    roots = factors.symmetric(q @ dual if inverse else lower @ q.mT)
    if not ok.all():
        roots[~ok] = _roots_by_eigenvalues(a[~ok], inverse, cutoff)
    return roots


def _roots_by_eigenvalues(a, inverse, cutoff):
    """The same of any a; NaN where it is not finite, or has no inverse."""
    root, inverted, ok = factors.root(a, cutoff)
    if not inverse:
        return factors.nan_unless(ok, root)
    # The trace of the projector on the range is the rank.
    rank = torch.einsum("pij,pji->p", root, inverted).round()
    return factors.nan_unless(ok & (rank == a.shape[-1]), inverted)


def _residual(a, roots, inverse):
    """How far a root's square is from a, or that of an inverse from a's inverse: (P,)."""
    if inverse:
        miss = roots @ a @ roots - torch.eye(a.shape[-1], dtype=a.dtype)
        return norm(miss)[:, 0, 0] / math.sqrt(a.shape[-1])
    return factors.ratio(roots @ roots - a, a)


def lyapunov(h, g):
    """The raw op ``lyapunov``: see otkernels/sqrtm.py."""
    batch, shape = g.shape[:-2], g.shape[-2:]
    h, right = (t.reshape(math.prod(batch), *shape).double() for t in (h, g))
    ok = (h.isfinite() & right.isfinite()).flatten(1).all(1)
    h, right = (torch.where(ok[:, None, None], t, 0) for t in (h, right))
    values, vectors = torch.linalg.eigh(h)
    sums = values[:, :, None] + values[:, None, :]
    none = sums <= shape[-1] * EPS * sums[:, -1:, -1:]
    parts = torch.where(none, 0, vectors.mT @ right @ vectors / torch.where(none, 1, sums))
    x = factors.nan_unless(ok, vectors @ parts @ vectors.mT)
    return x.to(g.dtype).view(*batch, *shape)
