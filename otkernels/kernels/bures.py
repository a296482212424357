"""The fidelity of two covariances and its gradients, on the GPU.

1. ``factor``    F and G = F^-1 of each covariance, float64                    1 launch each
2. ``product``   M = F1^T F2 and V = G1 G2^T = M^-T, float64                   1 each
3. ``polar``     Q and the value tr Q^T M; up to 64 rows                       3
                 beyond, products                                              3 a step
4. ``covariance_gradient``  F' Q' G, symmetric; what it lacks is the residual  1 each
5. ``polar_double``  what is singular or has too large a residual, once more   1
   ``covariance_gradient``  and its gradients                                  1 each

Nothing waits for the host: launches of step 5 look for themselves whether there is something to
do. Rows X, the factor X^T of a covariance, have no inverse, centred ones least of all: they take
steps 1, 2 and 5 only. More than LARGEST rows go to ``bures_large``.

FLOP of a regular pair: 24 D^3 in float64, and 6 D^3 a step in float32, 3 to 8 steps. Bytes,
float32 covariances: 16 D^2 of inputs and gradients, about 200 D^2 of float64 matrices in between.
"""

import torch

from otkernels._fidelity import TOLERANCE, regular_above
from otkernels._ops import empty_grad

from . import bures_large, covariance_gradient, factor, factor_large, polar, polar_double
from .factor import LARGEST, Factor, passes
from .products import product


def fidelity(x, y, x_rows, y_rows, cutoff, double, needs):
    """The raw op ``fidelity``: see otkernels._fidelity."""
    batch = x.shape[:-2]
    x_side = _side(x, x_rows, cutoff, double)
    sides = x_side, _identity(x) if y is None else _side(y, y_rows, cutoff, double)
    grads = _grads((x, y), needs)
    tolerance = TOLERANCE[torch.float64 if double else torch.float32]
    large = max(side.f.shape[2] for side in sides) > LARGEST
    if x_rows or y_rows:
        run = bures_large.with_rows if large else _with_rows
        value, residual, redone = run(sides, double, grads)
    else:
        run = bures_large.regular_first if large else _regular_first
        value, residual, redone = run(sides, double, grads, tolerance)
    gx, gy = (
        value.new_empty((*batch, 0))
        if t is None
        else empty_grad(t, False)
        if grad is None
        else grad.reshape(t.shape)
        for t, grad in zip((x, y), grads, strict=True)
    )
    return value.reshape(batch), residual.reshape(batch), redone.reshape(batch), gx, gy


def _side(t, rows, cutoff, double):
    """The :class:`Factor` of each problem of t (..., n, m); of rows F = X^T alone."""
    if rows:
        return Factor(t.reshape(-1, *t.shape[-2:]).mT, None, None)
    # Expanded axes hold the same matrix again and again.
    axes = range(t.dim() - 2)
    distinct = t[tuple(slice(1) if t.stride(k) == 0 else slice(None) for k in axes)]
    matrices = distinct.reshape(-1, *t.shape[-2:])
    if t.shape[-1] <= LARGEST:
        found = factor.factor(matrices, cutoff)
    else:
        s = matrices.double()
        found = factor_large.factor(((s + s.mT) / 2).contiguous(), cutoff)
    clear = passes(matrices.double(), found.g, regular_above(t.dtype, cutoff, double))
    found = found._replace(regular=found.regular * clear)
    return Factor(
        *(
            each.reshape(distinct.shape[:-2] + each.shape[1:])
            .expand(t.shape[:-2] + each.shape[1:])
            .reshape(-1, *each.shape[1:])
            .contiguous()  # flags are read by address
            for each in found
        )
    )


def _identity(x):
    """The factors of the identity, for each problem of x."""
    d = x.shape[-1]
    one = torch.eye(d, dtype=torch.float64, device=x.device).expand(x[..., 0, 0].numel(), d, d)
    return Factor(one, one, None)


def _regular_first(sides, double, grads, tolerance):
    """Value, residual, redone and gradients for two covariances: Newton step first, then checks."""
    x, y = sides
    m = product(x.f.mT, y.f, torch.empty_like(x.f))
    v = product(x.g, y.g.mT, torch.empty_like(m))
    if double:
        q, value, residual, _ = polar_double.polar(m, v, double)
    else:
        q = polar.polar(m, v)
        needs_residual = all(grad is None for grad in grads)
        h = product(q.mT, m, torch.empty_like(m)) if needs_residual else None
        value, residual = polar.value(m, q, h)
    _gradients(sides, q, residual, grads, double)
    flags = x.regular, x.regular if y.regular is None else y.regular
    q, *_, redone = polar_double.polar(m, None, double, (value, residual, *flags, tolerance))
    _gradients(sides, q, residual, grads, double, redone)
    return value, residual, redone != 0


def _with_rows(sides, double, grads):
    """The same where a side holds rows: float64 from the start, as centred rows have no inverse."""
    x, y = sides
    shape = x.f.shape[0], x.f.shape[2], y.f.shape[2]
    m = product(x.f.mT, y.f, torch.empty(shape, dtype=torch.float64, device=x.f.device))
    q, value, residual, redone = polar_double.polar(m, None, double)
    redone = torch.ones_like(redone)
    _gradients(sides, q, residual, grads, double, redone)
    return value, residual, redone != 0


def _grads(tensors, needs):
    """Memory for the gradients (B, n, m) that are asked for, else None."""
    return [
        empty_grad(t.reshape(-1, *t.shape[-2:]), True) if need else None
        for t, need in zip(tensors, needs, strict=True)
    ]


def _gradients(sides, q, residual, grads, double, redone=None):
    """Write gradients to those of ``grads`` that are not None."""
    x, y = sides
    for own, other, between, grad in ((x, y, q.mT, grads[0]), (y, x, q, grads[1])):
        if grad is None:
            continue
        if own.g is None:
            # The gradient to F is F' Q', and rows are its transpose.
            product(between.mT, other.f.mT, grad)
        else:
            covariance_gradient.gradient(other.f, between, own, residual, grad, double, redone)
