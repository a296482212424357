"""Fidelities on the CPU: value and gradients from triangular factors and one polar factor.

With S1 = L1 L1^T, S2 = L2 L2^T and the polar factor Q of M = L1^T L2, the fidelity is tr Q^T M, and
T = L1 Q L2^-1 maps the second Gaussian to the first: T S2 T = S1. The gradient to S2 is T / 2, that
to S1 half of T^-1 = L2 Q^T L1^-1. T is symmetric but for rounding and for what Q lacks, so how far
it is from symmetry measures the error.

Rows X are factors themselves: F1 = X^T, with gradient Q F2^T. As M may be singular then, Q comes
from eigenvectors.

Problems that are singular to the cutoff or in error are done again the safe way, by eigenvalues and
singular values in float64. With the projector P = F2 F2^+ on the range of S2 the gradient there is
(T + T^T (I - P)) / 2: right for every change of the factors, also out of that range.

Cost for each of the problems: two triangular factors and inverses in float64, some 2 D^3 operations
together, 4 D^3 for M and its inverse, the steps of ``polar``, and 4 D^3 for each gradient.
"""

import math

import torch

from otkernels._ops import empty_grad

from . import factors
from .polar import norm, polar_factor

# Numbers in the matrices of one side that are handled together.
GROUP = 2**17
# Errors above which a problem is done again the safe way.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
# Where |M| |M^-1| is up to this times D, on average over the singular values, both may be formed in
# float32, too.
WELL = 64


def fidelity(x, y, x_rows, y_rows, cutoff, double, needs):
    """The raw op ``fidelity``: see otkernels/_fidelity.py."""
    batch = x.shape[:-2]
    given = [t for t in (x, y) if t is not None]
    sides = [_Side(t, rows, cutoff) for t, rows in zip(given, (x_rows, y_rows), strict=False)]
    grads = [empty_grad(t, need) for t, need in zip(given, needs, strict=False)]
    out = _Answers(math.prod(batch), grads)
    dtype = torch.float64 if double else torch.float32
    step = max(1, GROUP // max(side.size for side in sides))
    for start in range(0, math.prod(batch), step):
        part = slice(start, start + step)
        out.write(part, *_fast([side.fast(part) for side in sides], dtype, needs))
        again = start + (~(out.residual[part] <= TOLERANCE[dtype])).nonzero()[:, 0]
        if len(again):
            out.write(again, *_safe([side.safe(again) for side in sides], needs))
            out.redone[again] = ~out.residual[again].isnan()
    if y is None:
        grads.append(x.new_empty((*batch, 0), dtype=torch.float64))
    return *(t.view(batch) for t in (out.value, out.residual, out.redone)), *grads


class _Answers:
    """What the op returns, with all problems in one axis."""

    def __init__(self, problems, grads):
        self.value, self.residual = (torch.empty(problems, dtype=torch.float64) for _ in range(2))
        self.redone = torch.zeros(problems, dtype=torch.bool)
        self.grads = [g.view(problems, *g.shape[-2:]) for g in grads]

    def write(self, part, ok, value, residual, grads):
        """The answers to the problems ``part``; NaN where not ok."""
        mine, found = (self.value, self.residual, *self.grads), (value, residual, *grads)
        every = ok.all()
        for kept, new in zip(mine, found, strict=True):
            if new is not None:
                kept[part] = (new if every else factors.nan_unless(ok, new)).to(kept.dtype)


class _Side:
    """Covariances, or rows, of one side of all problems; those that recur are factored once."""

    def __init__(self, given, rows, cutoff):
        self.rows, self.cutoff = rows, cutoff
        batch, self.size = given.shape[:-2], given.shape[-2:].numel()
        for dim, stride in enumerate(given.stride()[:-2]):
            if stride == 0 and given.shape[dim] > 1:
                given = given.narrow(dim, 0, 1)
        self.matrices = given.reshape(-1, *given.shape[-2:])
        places = torch.arange(len(self.matrices)).view(given.shape[:-2])
        self.places = places.expand(batch).reshape(-1)
        shared = len(self.matrices) < len(self.places)
        self.factors = self._factor(self.matrices) if shared else None

    def fast(self, part):
        """Factors of the problems ``part``, a slice."""
        if self.factors is not None:
            return self.factors.take(self.places[part])
        return self._factor(self.matrices[part])

    def safe(self, part):
        """Factors of the problems ``part``, also of singular covariances."""
        chosen = self.matrices[self.places[part]]
        return factors.points(chosen) if self.rows else factors.root(chosen, self.cutoff)

    def _factor(self, matrices):
        return factors.points(matrices) if self.rows else factors.cholesky(matrices, self.cutoff)


def _fast(sides, dtype, needs):
    """What _Answers.write takes, from regular covariances or from rows."""
    if any(side.inverse is None for side in sides):
        m, q, error = _by_eigenvectors(sides, dtype)
    else:
        m, q = _by_products(sides, dtype)
        error = q.new_zeros(len(q), dtype=torch.float64)
    value = (m * q).sum(2).double().sum(1)
    q, grads, measured = q.to(dtype), [], False
    for side, need, grad in zip(sides, needs, _pulls(sides, q, needs), strict=False):
        if need and side.inverse is not None:
            total = grad + grad.mT
            error = torch.maximum(error, factors.ratio(grad.mul_(2).sub_(total), total))
            grad, measured = total.mul_(0.25), True
        grads.append(grad)
    if not measured:
        error = torch.maximum(error, _asymmetry(torch.bmm(q.mT, m.to(dtype))))
    return _sound(sides), value, error, grads


def _by_products(sides, dtype):
    """M and its polar factor in ``dtype``, from regular covariances."""
    lower, upper = [s.factor for s in sides], [s.inverse.mT for s in sides]
    if dtype == torch.float32:
        m, dual = (_product([t.float() for t in given]) for given in (lower, upper))
        if (norm(m) * norm(dual)).max() <= WELL * m.shape[-1]:
            return m, polar_factor(m, dual, dtype)
    m, dual = _product(lower), _product(upper)
    return m, polar_factor(m, dual, dtype)


def _by_eigenvectors(sides, dtype):
    """M and its polar factor in float64, where M may be singular, and the error (P,) of that."""
    m = _product([side.factor for side in sides])
    if dtype == torch.float32:
        return m, *factors.gram_polar_factor(m)
    q = factors.singular_polar_factor(m)
    return m, q, _asymmetry(q.mT @ m)


def _safe(sides, needs):
    """The same from any covariances or rows."""
    m = _product([side.factor for side in sides])
    q = factors.singular_polar_factor(m)
    h = q.mT @ m
    grads = []
    for side, need, grad in zip(sides, needs, _pulls(sides, q, needs), strict=False):
        if need and side.inverse is not None:
            null = torch.eye(side.factor.shape[1]) - side.factor @ side.inverse
            grad = (grad + grad.mT @ null) / 2
            grad = factors.symmetric(grad)
        grads.append(grad)
    return _sound(sides), h.diagonal(dim1=1, dim2=2).sum(1), _asymmetry(h), grads


def _sound(sides):
    return sides[0].ok & sides[-1].ok


def _product(given):
    """F1^T F2; the second factor of a single one is the identity."""
    first, *second = given
    return torch.bmm(first.mT, *second) if second else first.mT


def _pulls(sides, q, needs):
    """For each side, None without need: the gradient to rows, twice that to a covariance."""
    for k, (own, need) in enumerate(zip(sides, needs, strict=False)):
        if not need:
            yield None
            continue
        pull = q if k else q.mT
        if len(sides) > 1:
            pull = torch.bmm(sides[1 - k].factor.to(q.dtype), pull)
        yield pull.mT if own.inverse is None else torch.bmm(pull, own.inverse.to(q.dtype))


def _asymmetry(a):
    """|A - A^T| / |A + A^T| of matrices (P, D, D): (P,), float64; 0 for A = 0."""
    return factors.ratio(a - a.mT, a + a.mT)
