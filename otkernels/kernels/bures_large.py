"""The fidelity of two covariances and its gradients, for more rows than a program can hold.

The way of ``bures`` in batched products: factors and V = M^-T from the library, a Newton step in
float64, steps for all problems of a batch at once (``polar_large``), and a second pass in float64
for problems that are singular or have too large a residual. Where there are none, its launches
find nothing to do. Rows take the second pass only.

FLOP of a regular pair: 24 D^3 in float64 and 4 D^3 a step, 3 to 8 of them; half the products and
all the steps are as many launches each. Memory: about 20 D^2 float64 numbers a problem.
"""

import torch

from . import polar_large
from .polar_double import LEAST
from .products import product

# Lower ends down to 2^-octaves get steps of their own; in the second pass all begin at LEAST.
OCTAVES = {torch.float32: 27, torch.float64: 40}


def regular_first(sides, double, grads, tolerance):
    """Value, residual, redone (B,) for two covariances; gradients are written to ``grads``."""
    x, y = sides
    m = product(x.f.mT, y.f, torch.empty_like(x.f))
    regular = x.regular != 0
    if y.regular is not None:
        regular &= y.regular != 0
    start = torch.where(regular[:, None, None], _newton(m, product_of(x.g, y.g.mT)), 0)
    x0, unit = polar_large.scaled(start)
    q = polar_large.polar(x0, torch.where(regular, unit, 1), double)
    value = (m * q).sum((-2, -1))
    each = _maps(sides, q, grads)
    residual = _worst([_asymmetry(t) for t in each if t is not None] or [_of_polar(m, q)])
    active = (~regular & ~residual.isnan()) | (residual > tolerance)
    q, again, error = _slow_polar(m, active, double)
    value = torch.where(active, again, value)
    maps = _maps(sides, q, grads, active)
    for own, grad, first, t in zip(sides, grads, each, maps, strict=True):
        if grad is not None:
            t, part = _along_range(own, t, active, double)
            error = torch.maximum(error, _asymmetry(part))
            t, part = (torch.where(active[:, None, None], new, first) for new in (t, part))
            # Half of T + T^T - (A + A^T) / 2, A being the part of T along the range.
            grad.copy_((t + t.mT - (part + part.mT) / 2) / 2)
    return value, torch.where(active, error, residual), active


def with_rows(sides, double, grads):
    """The same where a side holds rows."""
    x, y = sides
    m = product_of(x.f.mT, y.f)
    q, value, residual = _slow_polar(m, torch.ones_like(m[:, 0, 0], dtype=torch.bool), double)
    active = torch.ones_like(value, dtype=torch.bool)
    for own, other, between, grad in ((x, y, q.mT, grads[0]), (y, x, q, grads[1])):
        if grad is None:
            continue
        if own.g is None:
            product(between.mT, other.f.mT, grad)
        else:
            t = product_of(product_of(other.f, between), own.g)
            t, part = _along_range(own, t, active, double)
            residual = torch.maximum(residual, _asymmetry(part))
            grad.copy_((t + t.mT - (part + part.mT) / 2) / 2)
    return value, residual, active


def product_of(a, b, active=None):
    """A B in float64; 0 where not ``active``."""
    make = torch.empty if active is None else torch.zeros
    out = make((a.shape[0], a.shape[1], b.shape[2]), dtype=torch.float64, device=a.device)
    return product(a, b, out, active=None if active is None else active.int())


def _newton(m, v):
    """Half of g m + v / g with the g that makes both the same size."""
    g = (_norm(v) / _norm(m)).sqrt()[:, None, None]
    return (g * m + v / g) / 2


def _norm(t):
    return t.square().sum((-2, -1)).sqrt()


def _relative(error, t):
    size = _norm(t)
    return error / torch.where(size == 0, 1, size)


def _asymmetry(t):
    """|T - T^T| / 2 |T|: (B,)."""
    return _relative(_norm(t - t.mT) / 2, t)


def _worst(errors):
    return torch.stack(errors).amax(0)


def _of_polar(m, q):
    """How far H = Q^T M is from symmetric, and Q H from M."""
    if m.shape[1] < m.shape[2]:
        return _of_polar(m.mT, q.mT)
    h = product_of(q.mT, m)
    return torch.maximum(_asymmetry(h), _relative(_norm(m - product_of(q, h)), m))


def _maps(sides, q, grads, active=None):
    """T = F' Q' G of each covariance, None where no gradient is asked for."""
    x, y = sides
    return [
        None if grad is None else product_of(product_of(other.f, between, active), own.g, active)
        for own, other, between, grad in ((x, y, q.mT, grads[0]), (y, x, q, grads[1]))
    ]


def _slow_polar(m, active, double):
    """Polar factor, value and residual in float64 of the problems that are ``active``."""
    q = _projecting(m, active, double)
    return q, (m * q).sum((-2, -1)), _of_polar(m, q)


def _projecting(m, active, double):
    """The polar factor of m without an inverse; undefined where not ``active``."""
    dtype = torch.float64 if double else torch.float32
    wide = m.shape[1] <= m.shape[2]
    x0, _ = polar_large.scaled(m if wide else m.mT)
    l0 = torch.where(active, LEAST[dtype], 1.0).double()
    q = polar_large.polar(x0, l0, True, OCTAVES[dtype])
    return q if wide else q.mT


def _along_range(own, t, active, double):
    """T P and P T P, P the projector on the range of the covariance; both T if that is regular."""
    singular = active & (own.regular == 0)
    u = _projecting(own.f, singular, double)
    projected = product_of(product_of(t, u, singular), u.mT, singular)
    along = product_of(u, product_of(u.mT, projected, singular), singular)
    where = singular[:, None, None]
    return torch.where(where, projected, t), torch.where(where, along, t)
