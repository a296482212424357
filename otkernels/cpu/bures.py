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
together, 4 D^3 for M and its inverse, the steps of ``polar``, 4 D^3 for each gradient, and some 30
passes over D^2 numbers.
"""

import functools
import math

import torch

from otkernels._fidelity import TOLERANCE, regular_above
from otkernels._ops import empty_grad

from . import factors
from .polar import newton, polar_factor

# Numbers in the matrices of one side that are handled together.
GROUP = 2**17
# Where |M| |M^-1| is up to this times D, which is the least it can be, both may be formed in
# float32, too.
WELL = 64


def fidelity(x, y, x_rows, y_rows, cutoff, double, needs):
    """The raw op ``fidelity``: see otkernels/_fidelity.py."""
    batch = x.shape[:-2]
    given = [t for t in (x, y) if t is not None]
    grads = [empty_grad(t, need) for t, need in zip(given, needs, strict=False)]
    out = _Answers(math.prod(batch), grads)
    dtype = torch.float64 if double else torch.float32
    step = max(1, GROUP // max(t.shape[-2:].numel() for t in given))
    room = _room(given, (x_rows, y_rows), min(step, math.prod(batch)))
    sides = [
        _Side(t, space, cutoff, regular_above(t.dtype, cutoff, double))
        for t, space in zip(given, room, strict=True)
    ]
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


def _room(given, rows, problems):
    """Memory for the factors of so many problems, for each side; None for rows, which need none.

    It is one block for all groups: beyond twice the largest block that it has seen, the allocator
    of glibc gives memory back to the system and fetches it again page by page. Without this block
    that took a third of the time.
    """
    covariances = [not by_rows for _, by_rows in zip(given, rows, strict=False)]
    d = given[0].shape[-1]
    room = torch.empty((sum(covariances), factors.ROOM, problems, d, d), dtype=torch.float64)
    rooms = iter(room)
    return [next(rooms) if is_one else None for is_one in covariances]


class _Answers:
    """What the op returns, with all problems in one axis."""

    def __init__(self, problems, grads):
        self.value, self.residual = (torch.empty(problems, dtype=torch.float64) for _ in range(2))
        self.redone = torch.zeros(problems, dtype=torch.bool)
        self.grads = [g.view(problems, *g.shape[-2:]) for g in grads]

    def write(self, part, *found):
        """Value, residual and gradients of the problems ``part``; None without need."""
        for kept, new in zip((self.value, self.residual, *self.grads), found, strict=True):
            if new is not None:
                kept[part] = new.to(kept.dtype)


class _Side:
    """One side of all problems: covariances, or rows; those that recur are factored once.

    room: memory for the factors of a group of covariances; None says that these are rows.
    regular_above: part of the largest eigenvalue up to which others are left to the safe way.
    """

    def __init__(self, given, room, cutoff, regular_above):
        self.room, self.cutoff, self.regular_above = room, cutoff, regular_above
        batch = given.shape[:-2]
        for dim, stride in enumerate(given.stride()[:-2]):
            if stride == 0 and given.shape[dim] > 1:
                given = given.narrow(dim, 0, 1)
        self.matrices = given.reshape(-1, *given.shape[-2:])
        places = torch.arange(len(self.matrices)).view(given.shape[:-2])
        self.places = places.expand(batch).reshape(-1)
        self.factors = None
        if len(self.matrices) < len(self.places):
            if room is not None:
                self.room = room.new_empty((factors.ROOM, *self.matrices.shape))
            self.factors = self._factor(self.matrices)

    def fast(self, part):
        """Factors of the problems ``part``, a slice."""
        if self.factors is not None:
            return self.factors.take(self.places[part])
        return self._factor(self.matrices[part])

    def safe(self, part):
        """Factors of the problems ``part``, also of singular covariances."""
        chosen = self.matrices[self.places[part]]
        return factors.points(chosen) if self.room is None else factors.root(chosen, self.cutoff)

    def _factor(self, matrices):
        if self.room is None:
            return factors.points(matrices)
        return factors.cholesky(matrices, self.regular_above, self.room)


def _fast(exact, dtype, needs):
    """What _Answers.write takes, from regular covariances or from rows."""
    sides = [side.to(dtype) for side in exact]
    if any(side.inverse is None for side in sides):
        m, q, *errors = _by_eigenvectors(exact, dtype)
    else:
        m, q, *errors = _by_products(exact, sides)
    value = _inner(m, q) if errors else _inner(m, q) + _inner(m, _what_is_missing(q))
    q, grads = q.to(dtype), []
    for side, grad in zip(sides, _pulls(sides, q, needs), strict=True):
        if grad is not None and side.inverse is not None:
            grad, error = _symmetric_part(grad)
            errors.append(error)
        grads.append(grad)
    if not errors:
        errors.append(_symmetric_part(torch.bmm(q.mT, m.to(dtype)))[1])
    error = functools.reduce(torch.maximum, errors)
    return value, torch.where(_sound(sides), error, torch.nan), *grads


def _inner(m, q):
    """Tr Q^T M, in M's dtype."""
    return (m * q.to(m.dtype)).flatten(1).sum(1)


def _what_is_missing(q):
    """Q (I - Q^T Q) / 2, to first order what Q lacks of a polar factor.

    What steps in float32 leave is of one sign and adds up: without it the distance of a covariance
    from itself was 3e-6 of the traces at D = 512.
    """
    gram = torch.bmm(q.mT, q).neg_()
    gram.diagonal(dim1=1, dim2=2).add_(1)
    return torch.bmm(q, gram.mul_(0.5))


def _by_products(exact, sides):
    """M and its polar factor in the dtype of ``sides``, from regular covariances."""
    dtype, d = sides[0].factor.dtype, sides[0].factor.shape[-1]
    m, x, square = _newton(sides)
    # It is NaN or infinite where the scale is out of float32's range.
    if dtype == torch.float32 and not (square <= WELL / 2 * d).all():
        m, x, square = _newton(exact)
    return m, polar_factor(x.to(dtype), square.double().rsqrt())


def _newton(sides):
    """M, and what ``polar.newton`` makes of it."""
    m = _product([side.factor for side in sides])
    return m, *newton(m, _product([side.inverse.mT for side in sides]))


def _by_eigenvectors(sides, dtype):
    """M and its polar factor in float64, where M may be singular, and the error (P,) of that."""
    m = _product([side.factor for side in sides])
    if dtype == torch.float32:
        return m, *factors.gram_polar_factor(m)
    q = factors.singular_polar_factor(m)
    return m, q, _symmetric_part(q.mT @ m)[1]


def _safe(sides, needs):
    """The same from any covariances or rows; NaN where they are not finite."""
    m = _product([side.factor for side in sides])
    q = factors.singular_polar_factor(m)
    h = q.mT @ m
    value = h.diagonal(dim1=1, dim2=2).sum(1)
    # In units of the value, whose square may be out of range.
    _, error = _symmetric_part(h / torch.where(value == 0, 1, value)[:, None, None])
    found = [value, error]
    for side, grad in zip(sides, _pulls(sides, q, needs), strict=True):
        if grad is not None and side.inverse is not None:
            null = torch.eye(side.factor.shape[1]) - side.factor @ side.inverse
            grad = factors.symmetric(grad + grad.mT @ null)
        found.append(grad)
    ok = _sound(sides)
    return [None if t is None else factors.nan_unless(ok, t) for t in found]


def _sound(sides):
    return sides[0].ok & sides[-1].ok


def _product(given):
    """F1^T F2; the second factor of a single one is the identity."""
    first, *second = given
    return torch.bmm(first.mT, *second) if second else first.mT


def _pulls(sides, q, needs):
    """Gradients to rows, and those to covariances, not symmetric yet; None without need."""
    half = q / 2
    for k, (own, need) in enumerate(zip(sides, needs, strict=False)):
        if not need:
            yield None
            continue
        pull = q if own.inverse is None else half
        pull = pull if k else pull.mT
        if len(sides) > 1:
            pull = torch.bmm(sides[1 - k].factor, pull)
        yield pull.mT if own.inverse is None else torch.bmm(pull, own.inverse)


def _symmetric_part(a):
    """That of matrices A (P, D, D), which are overwritten, and |A - A^T| / |A + A^T| (P,)."""
    part = torch.lerp(a, a.mT, 0.5)
    return part, factors.ratio(a.sub_(part), part)
