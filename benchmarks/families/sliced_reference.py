"""Sliced losses in float64, a few directions at a time, and what rounding alone may change."""

import math

import torch

import otkernels

from ..case import Expected

# Projections of one cloud held at a time.
CHUNK = 2**22
# Levels this close are one: far above their rounding in float64, far below any mass of a case.
SAME_LEVEL = 1e-9


def expect(x, y, projections, *, a=None, b=None, x_lengths=None, y_lengths=None):
    """Value and gradients by the definition in float64.

    The longest chain of additions behind a value is D (a projection), then N cells (N + M where
    sizes or masses differ), then L; behind an entry of a gradient it is D, then L.
    """
    eps = torch.finfo(x.dtype).eps
    x, y, projections = (t.detach().double() for t in (x, y, projections))
    x.requires_grad_()
    y.requires_grad_()
    measures = {"a": a, "b": b, "x_lengths": x_lengths, "y_lengths": y_lengths}
    masses = _masses(x, a, x_lengths), _masses(y, b, y_lengths)

    def part(theta):
        value = otkernels.sliced_wasserstein(x, y, projections=theta, impl="torch", **measures)
        grads = torch.autograd.grad(value.sum(), (x, y))
        u, v = ((t.detach() @ theta).mT for t in (x, y))
        slack = order_slack(u, masses[0], v, masses[1], theta, eps)
        return value.detach(), *grads, slack, order_slack(v, masses[1], u, masses[0], theta, eps)

    value, grad_x, grad_y, *slack = mean_over_directions(part, projections, x.numel())
    (n, d), m = x.shape[-2:], y.shape[-2]
    cells = n if n == m and not any(t is not None for t in measures.values()) else n + m
    terms = projections.shape[-1] + d
    return Expected(value, (grad_x, grad_y), tuple(slack), terms + cells, terms)


def mean_over_directions(part, projections, size):
    """The tensors ``part(theta)``, means over some directions theta, as means over all of them.

    ``size`` is the number of elements of the cloud that is projected.
    """
    d, total = projections.shape[-2:]
    sums = None
    for theta in projections.split(max(1, CHUNK * d // size), dim=-1):
        scaled = [theta.shape[-1] / total * t for t in part(theta)]
        sums = scaled if sums is None else [s + t for s, t in zip(sums, scaled, strict=True)]
    return sums


def _masses(cloud, weights, lengths):
    """The mass of each point (..., N), of total one."""
    n = cloud.shape[-2]
    if weights is None:
        weights = torch.ones(n, device=cloud.device)
    if lengths is not None:
        weights = weights * (torch.arange(n, device=cloud.device) < lengths[..., None])
    weights = weights.double()
    return weights / weights.sum(-1, keepdim=True)


@torch.no_grad()
def order_slack(u, mass_u, v, mass_v, theta, eps):
    """How far a gradient may move because rounded projections leave the order of points open.

    Rounding moves a projection by up to (1 + sqrt(D)) eps of the largest one, the rule of
    ``measure.check``. Points closer than two such moves may be sorted either way, and each may then
    be matched to whatever stands opposite any of them.

    Args:
        u: (..., L, N) projections of the points whose gradient it is.
        mass_u: (..., N) their masses.
        v: (..., L, M) projections of the other side.
        mass_v: (..., M) its masses.
        theta: (D, L) the directions.
        eps: that of the dtype in which the points are projected.
    """
    reach = 2 * (1 + math.sqrt(theta.shape[-2])) * eps * torch.maximum(u.abs().max(), v.abs().max())
    (u, levels_u, order), (v, levels_v, _) = _in_order(u, mass_u), _in_order(v, mass_v)
    first = torch.searchsorted(u, u - reach)
    last = torch.searchsorted(u, u + reach, right=True)
    start = levels_u.gather(-1, first) + SAME_LEVEL
    end = levels_u.gather(-1, last) - SAME_LEVEL
    low, high = (
        v.gather(
            -1, torch.searchsorted(levels_v[..., 1:].contiguous(), t).clamp(max=v.shape[-1] - 1)
        )
        for t in (start, end)
    )
    spread = torch.where(last - first > 1, high - low, 0)
    spread = torch.empty_like(spread).scatter_(-1, order, spread) * mass_u[..., None, :]
    return spread.mT @ theta.abs().mT * (2 / theta.shape[-1])


def _in_order(row, mass):
    """Sorted rows, the levels between their points from 0 on, and the permutation."""
    row, order = row.contiguous().sort(dim=-1)
    levels = mass[..., None, :].expand(row.shape).gather(-1, order).cumsum(-1)
    return row, torch.nn.functional.pad(levels, (1, 0)), order
