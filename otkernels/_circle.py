r"""Optimal transport on the circle of length 1: the definition, by quantile functions and a shift.

Cut open, the circle is a line on which every point recurs after each full turn: quantile functions
go on beyond [0, 1] by F(t + 1) = F(t) + 1, and a plan may match F at t with G at t + s:

    W_p^p(u, v) = min_s C(s),    C(s) = \int_0^1 |F(t) - G(t + s)|^p dt.

C is convex, and linear between the shifts at which a level of v meets one of u (Delon, Salomon,
Sobolevski 2010). Here levels are integers out of a common whole, so the shifts at which the slope
may change are integers, and bisection ends at the minimum itself. docs/spherical.md.

Points of a row are numbered 0 .. N - 1 in sorted order; number N is point 0 one turn further on.
"""

from typing import NamedTuple

import torch

from . import _transforms
from ._quantiles import power

# Levels of weighted points are rounded to multiples of 2^-53, as float64 numbers below 1 are.
FINE = 2**53


class Levels(NamedTuple):
    """Cumulated masses of N sorted points, as integers of which the last is ``whole``.

    ``ends`` is (N,), or (..., N) with one row each; ``step`` is the mass of each of equal points.
    """

    ends: torch.Tensor
    whole: int
    step: int | None = None

    def point(self, t):
        """The number of the point between the levels t and t + 1, for integers t (..., K)."""
        if self.step is not None:
            return t if self.step == 1 else t.div(self.step, rounding_mode="floor")
        turns = t.div(self.whole, rounding_mode="floor")
        inside = t - turns * self.whole
        return torch.searchsorted(self.ends, inside, right=True) + turns * self.ends.shape[-1]

    def start(self, point):
        """The level at which a point (..., K) starts."""
        if self.step is not None:
            return point * self.step
        n = self.ends.shape[-1]
        turns = point.div(n, rounding_mode="floor")
        starts = self.ends.roll(1, -1)
        starts[..., 0] = 0
        return starts.gather(-1, point - turns * n) + turns * self.whole


def circle_cost(u, v, p, a=None, b=None, plan=None):
    """W_p^p between rows u (..., N) and v (..., M), all within one turn: [c, c + 1] for some c.

    Masses a (..., N) and b (..., M), float64 and of total one, are both given or both None.
    ``plan`` is a fast form of :func:`find_plan`.
    """
    fixed = [None if t is None else t.detach() for t in (u, v, a, b)]
    order_u, order_v, shift = (find_plan if plan is None else plan)(*fixed, p)
    u, v = u.gather(-1, order_u), v.gather(-1, order_v)
    if a is None:
        side_u, side_v = sides = equal_levels(u.shape[-1], v.shape[-1], u.device)
    else:
        exact = [cumulated(m, order) for m, order in ((a, order_u), (b, order_v))]
        side_u, side_v = sides = [rounded_levels(levels) for levels in exact]
    cost = _cost_of_cells(u, side_u, v, side_v, shift, p, shared=True)
    if a is not None or u.shape[-1] != v.shape[-1]:
        cost = cost + _cost_of_cells(v, side_v, u, side_u, -shift, p, shared=False)
    if a is None:
        return cost
    if any(_transforms.is_differentiated(levels) for levels in exact):
        cost = cost + _moving_levels(u, v, sides, shift, exact, p)
    # The last level is 1, or NaN where the masses are none.
    return cost * (exact[0][..., -1] * exact[1][..., -1]).to(cost.dtype)


# --- the plan: orders and shift, integers -------------------------------------------------------


@torch.no_grad()
def find_plan(u, v, a, b, p):
    """Orders (..., N) and (..., M) that sort u and v, and the best shift (..., 1) of the levels."""
    (u, order_u), (v, order_v) = u.sort(dim=-1), v.sort(dim=-1)
    if a is None:
        sides = equal_levels(u.shape[-1], v.shape[-1], u.device)
    else:
        sides = [rounded_levels(cumulated(m, o)) for m, o in ((a, order_u), (b, order_v))]
    return order_u, order_v, best_shift(u, v, *sides, p)


def equal_levels(n, m, device):
    """Levels of n and of m equal masses, out of n if both are the same and n m if not.

    Their least common multiple would do, but torch.compile does not trace it.
    """
    whole = n if n == m else n * m
    return [
        Levels(torch.arange(1, k + 1, device=device) * (whole // k), whole, whole // k)
        for k in (n, m)
    ]


def cumulated(masses, order):
    """Cumulated masses in sorted order (..., N); the last is exactly 1."""
    total = masses.expand(order.shape).gather(-1, order).cumsum(-1)
    return total / total[..., -1:]


def rounded_levels(levels):
    """:class:`Levels` of cumulated masses; levels that are NaN become whole."""
    ends = (levels.detach() * FINE).round().nan_to_num(nan=FINE).long()
    return Levels(ends.contiguous(), FINE)


def best_shift(u, v, side_u, side_v, p):
    """The least integer shift (..., 1) at which C rises to the right, for sorted u and v.

    It lies within one whole of 0: a shift of -1 leaves no point of v above its partner, and a shift
    of 1 none below, so beyond these C can only rise.
    """
    whole, n = side_u.whole, u.shape[-1]
    # Three turns of u and a point, so that points numbered from -N on are found without division.
    turns = torch.cat([u - 1, u, u + 1, u[..., :1] + 2], dim=-1)
    following = torch.cat([v[..., 1:], v[..., :1] + 1], dim=-1)
    low = torch.full((*u.shape[:-1], 1), -whole, device=u.device)
    high = -low
    # As 2 whole + 1 shifts remain, and each round halves them.
    for _ in range((2 * whole).bit_length()):
        middle = (low + high) >> 1
        at = turns.gather(-1, side_u.point(side_v.ends - 1 - middle) + n)
        slope = (power(at - following, p) - power(at - v, p)).sum(-1, keepdim=True)
        rises = slope >= 0
        high = torch.where(rises, middle, high)
        low = torch.where(rises, low, middle + 1)
    return high


# --- the cost at a shift ------------------------------------------------------------------------


def _cost_of_cells(u, side_u, v, side_v, shift, p, shared):
    """The part of C(shift) on the cells between levels that end with a point of u.

    shared: count the cells that end with a point of each side.
    """
    ends = side_u.ends
    j = side_v.point(ends - 1 + shift)
    other = j if shared else side_v.point(ends + shift)
    before = torch.cat([torch.zeros_like(ends[..., :1]), ends[..., :-1]], dim=-1)
    mass = ends - torch.maximum(before, side_v.start(other) - shift)
    mass = mass.double() / side_u.whole
    return (power(_gap(u, v, j), p) * mass.to(u.dtype)).sum(-1)


def _gap(u, v, j):
    """Points u minus those of v numbered j, which may be some turns away."""
    turns = j.div(v.shape[-1], rounding_mode="floor")
    # The turns last: the difference of two nearby points is exact, a point plus one is not.
    return u - v.gather(-1, j - turns * v.shape[-1]) - turns


def _moving_levels(u, v, sides, shift, exact, p):
    """Zero, with the derivative of the minimum of C to the levels of u and v.

    Raising the level between two points of u hands mass from the second to the first, at the point
    of v that stands there. At the best shift some level of v coincides, and one of two points of v
    stands there; which, depends on the side from which the shift is approached. The mean of both,
    weighted so that C is stationary in the shift, is a sub-gradient of the minimum: its
    potentials are feasible from either side, and then fit together after a full turn.
    """
    (side_u, side_v), (levels_u, levels_v) = sides, exact
    from_left, from_right = _steps(v, side_v, u, side_u, -shift, p)
    right_slope, left_slope = (-s.sum(-1, keepdim=True) for s in (from_left, from_right))
    spread = right_slope - left_slope
    share = torch.where(spread > 0, right_slope, 0) / torch.where(spread > 0, spread, 1)
    cost = ((levels_v - levels_v.detach()) * torch.lerp(from_left, from_right, share)).sum(-1)
    before, after = _steps(u, side_u, v, side_v, shift, p)
    cost = cost + ((levels_u - levels_u.detach()) * torch.lerp(after, before, share)).sum(-1)
    return cost.to(u.dtype)


def _steps(u, side_u, v, side_v, shift, p):
    """Change of cost as the level behind each point of u rises, seen from its left and right."""
    following = torch.cat([u[..., 1:], u[..., :1] + 1], dim=-1)
    at = [side_v.point(side_u.ends + shift - before) for before in (1, 0)]
    return [power(_gap(u, v, j), p) - power(_gap(following, v, j), p) for j in at]
