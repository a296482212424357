r"""Optimal transport on the line: the definition, by quantile functions.

For measures on the line the optimal plan is monotone, so with quantile functions F and G

    W_p^p(u, v) = \int_0^1 |F(t) - G(t)|^p dt.

Both are constant between the levels at which either jumps. Such a cell has an index into the sorted
points of each side, and a mass. docs/math.md, "On the line".
"""

import torch

from . import _transforms
from ._masses import COINCIDENT


def line_cost(u, v, p, a=None, b=None):
    """W_p^p between rows u (..., N) and v (..., M).

    Masses a (..., N) and b (..., M), float64 and of total one, are both given or both None.
    """
    if a is None and u.shape[-1] == v.shape[-1]:
        return power(u.sort(dim=-1).values - v.sort(dim=-1).values, p).mean(-1)
    u, order_u = u.sort(dim=-1)
    v, order_v = v.sort(dim=-1)
    if a is None:
        i, j, mass = uniform_cells(u.shape[-1], v.shape[-1], u.device)
        return (power(u[..., i] - v[..., j], p) * mass.to(u.dtype)).sum(-1)
    levels_u, levels_v = _levels(a, order_u), _levels(b, order_v)
    i, j, mass = _weighted_cells(levels_u.detach(), levels_v.detach())
    cost = (power(u.gather(-1, i) - v.gather(-1, j), p) * mass.to(u.dtype)).sum(-1)
    for side in ((u, v, levels_u, levels_v), (v, u, levels_v, levels_u)):
        if _transforms.is_differentiated(side[2]):
            cost = cost + _moving_levels(*side, p)
    return cost


def power(gap, p):
    """|gap|^p. At gap = 0 the sub-gradient is 0, for p = 1 too."""
    if p == 1:
        return gap.abs()
    return gap * gap if p == 2 else gap.abs().pow(p)


def uniform_cells(n, m, device):
    """Cells on which both quantile functions of n and m equal masses are constant.

    Levels i/n and j/m are the integers i*m and j*n over n*m, so cells are exact, and each level
    finds its place among those of the other side by division. Returns the index of the point of
    each side and the mass (float64) of each of the n + m - 1 cells; where two levels coincide a
    cell is empty.
    """
    of_u = torch.arange(1, n + 1, device=device) * m
    of_v = torch.arange(1, m, device=device) * n
    below_u = (of_u - 1) // n  # how many levels of v lie below; of equal ones that of u is first
    below_v = of_v // m
    levels = torch.empty(n + m - 1, dtype=torch.int64, device=device)
    levels[torch.arange(n, device=device) + below_u] = of_u
    levels[torch.arange(m - 1, device=device) + below_v] = of_v
    mass = torch.diff(levels, prepend=levels.new_zeros(1)).double() / (n * m)
    return (levels - 1) // m, (levels - 1) // n, mass


def _levels(masses, order):
    """Cumulated masses in sorted order; the last is exactly 1."""
    total = masses.expand(order.shape).gather(-1, order).cumsum(-1)
    return total / total[..., -1:]


def _weighted_cells(levels_u, levels_v):
    """As :func:`uniform_cells`, for arbitrary levels (..., N) and (..., M): N + M cells.

    Each level ends a cell, so that no point is without one: even if it has no mass, its NaN shows.
    """
    n, m = levels_u.shape[-1], levels_v.shape[-1]
    levels, order = torch.cat([levels_u, levels_v], dim=-1).sort(dim=-1, stable=True)
    mass = torch.diff(levels, dim=-1, prepend=torch.zeros_like(levels[..., :1]))
    ends_v = (order >= n).long()
    j = ends_v.cumsum(-1) - ends_v
    i = torch.arange(n + m, device=order.device) - j
    return i.clamp(max=n - 1), j.clamp(max=m - 1), mass


def _moving_levels(u, v, levels_u, levels_v, p):
    """Zero, with the derivative of the cost to the levels of u.

    Raising the level between ranks i and i+1 of u hands mass from the second to the first, at the
    point v that stands at this level: the cost changes by |u_i - v|^p - |u_{i+1} - v|^p. Where a
    level of v coincides, two points of v stand there, and the mean of both is the derivative: the
    middle of the interval of sub-gradients, and the same choice seen from either side. (Sorting
    the levels and differentiating their differences would give a number outside that interval.)
    """
    step = 0
    for below in _levels_below(levels_u.detach(), levels_v.detach()):
        other = v.gather(-1, below[..., :-1].clamp(max=v.shape[-1] - 1))
        step = step + power(u[..., :-1] - other, p) - power(u[..., 1:] - other, p)
    moved = (levels_u - levels_u.detach())[..., :-1]
    return (moved * step / 2).sum(-1).to(u.dtype)


def _levels_below(levels_u, levels_v):
    """How many levels of v lie below each of u, and how many not above it, up to rounding."""
    n, m = levels_u.shape[-1], levels_v.shape[-1]
    rank = torch.arange(n, device=levels_u.device)
    for shift in (-COINCIDENT * (n + m), COINCIDENT * (n + m)):
        both = torch.cat([levels_u + shift, levels_v], dim=-1)
        yield both.argsort(dim=-1, stable=True).argsort(dim=-1)[..., :n] - rank
