"""Transport on the line in float64 NumPy, and how far rounding may move value and gradient.

Written apart from the library it judges: sort, subtract, and for unequal sizes or weights merge the
two quantile functions. The gradient to a point is the closed form p |d|^(p-1) sign(d), carried back
through the argsort; that to a weight is a Kantorovich potential. docs/verification.md derives the
bounds.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["EPS64", "Line", "Side", "line"]

EPS64 = np.finfo(np.float64).eps


class Side(NamedTuple):
    """What belongs to the points of one side of a line, in the order in which they were given."""

    slope: np.ndarray
    """The gradient to each point."""
    size: np.ndarray
    """The sum of the magnitudes of its terms."""
    moved: np.ndarray
    """The largest change of it by rounding."""
    cells: np.ndarray
    """The number of its terms: a cell is an interval of levels with constant quantiles."""
    close: np.ndarray
    """Whether another point is so near that rounding may exchange the two."""
    potential: np.ndarray
    """The change of the cost by mass added at each point, up to a constant; 0 without weights."""
    potential_size: float
    """The sum of the magnitudes of the terms of all potentials."""
    potential_moved: float
    """The largest change of any difference of two potentials by rounding."""


class Line(NamedTuple):
    """One problem on the line, solved."""

    cost: float
    moved: float
    """The largest change of the cost by rounding."""
    sides: tuple[Side, Side]


def line(u, v, p, a=None, b=None, eta=0.0, kappa=0.0, exact=False):
    """W_p^p between u (N,) and v (M,), and the reach of rounding.

    Args:
        u: numbers with weights ``a``, or uniform.
        v: numbers with weights ``b``, or uniform.
        p: exponent.
        a: weights of u, normalised here.
        b: weights of v, normalised here.
        eta: how far rounding may move the difference of any two numbers.
        kappa: how far rounding may move a cumulated weight.
        exact: whether levels of both sides that are equal here are equal for everybody.

    Returns:
        :class:`Line`.
    """
    order_u, order_v = np.argsort(u, kind="stable"), np.argsort(v, kind="stable")
    us, vs = u[order_u], v[order_v]
    level_u, level_v = _levels(a, order_u), _levels(b, order_v)
    if a is None and b is None and len(u) == len(v):
        i = j = np.arange(len(u))
        mass = np.full(len(u), 1 / len(u))
    else:
        levels = np.sort(np.concatenate([level_u, level_v]))
        mass = np.diff(levels, prepend=0.0)
        i, j = (np.searchsorted(side, levels) for side in (level_u, level_v))
    gap = us[i] - vs[j]
    power = np.abs(gap) ** p
    moved = mass @ ((np.abs(gap) + eta) ** p - power) + kappa * np.sum(np.abs(np.diff(power)))
    side_u = _side(us, vs, level_u, level_v, i, gap, mass, p, eta, kappa)
    side_v = _side(vs, us, level_v, level_u, j, -gap, mass, p, eta, kappa)
    if a is not None or b is not None:
        reach = eta, 0.0 if exact else kappa
        side_u = side_u._replace(**_potential(us, vs, level_u, level_v, p, *reach))
        side_v = side_v._replace(**_potential(vs, us, level_v, level_u, p, *reach))
    return Line(mass @ power, moved, (_unsorted(side_u, order_u), _unsorted(side_v, order_v)))


def _levels(weights, order):
    """Cumulated normalised weights in sorted order; the last is exactly 1."""
    if weights is None:
        return np.arange(1, len(order) + 1) / len(order)
    total = np.cumsum(weights[order])
    return total / total[-1]


def _slope(gap, p):
    """The derivative of |gap|^p, 0 at 0: monotone, since p >= 1."""
    return p * np.abs(gap) ** (p - 1) * np.sign(gap)


def _at(levels, points, level, side="left"):
    """The quantile function of sorted points at a level; where it jumps, as seen from a side."""
    return points[np.minimum(np.searchsorted(levels, level, side), len(points) - 1)]


def _side(us, vs, level_u, level_v, i, gap, mass, p, eta, kappa):
    """The :class:`Side` of the sorted us; ``i`` is the point of each cell."""
    n = len(us)
    slope = np.bincount(i, mass * _slope(gap, p), n)
    highest = np.bincount(i, mass * _slope(gap + eta, p), n)
    lowest = np.bincount(i, mass * _slope(gap - eta, p), n)
    # A point may change places with those within eta. Its own mass then lies anywhere in theirs,
    # between the levels start and end, and meets the vs whose levels those are.
    first = np.searchsorted(us, us - eta, "left")
    last = np.searchsorted(us, us + eta, "right") - 1
    low = _at(level_v, vs, np.concatenate([[0.0], level_u])[first] - kappa, "right")
    high = _at(level_v, vs, level_u[last] + kappa)
    close = last > first
    own = np.bincount(i, mass, n)
    highest = np.where(close, own * _slope(us + eta - low, p), highest)
    lowest = np.where(close, own * _slope(us - eta - high, p), lowest)
    moved = np.maximum(np.maximum(highest - slope, slope - lowest), 0.0)
    edge = np.maximum(np.abs(_slope(us - low, p)), np.abs(_slope(us - high, p)))
    size = np.bincount(i, mass * np.abs(_slope(gap, p)), n)
    cells = np.bincount(i, minlength=n)
    return Side(slope, size, moved + 4 * kappa * edge, cells, close, np.zeros(n), 0.0, 0.0)


def _potential(us, vs, level_u, level_v, p, eta, kappa):
    """The potentials of the sorted us, as fields of :class:`Side`.

    From one point to the next a potential grows by c(u_(k+1), v) - c(u_(k), v), v being the point
    that stands at the level between both (complementary slackness). Where that is a level of v too,
    two points stand there and every number between both growths will do: the middle is taken.
    """
    left, right = us[:-1], us[1:]

    def growth(level, shift=0.0):
        others = [_at(level_v, vs, level, side) for side in ("left", "right")]
        ends = [[np.abs(u + shift - v) ** p for v in others] for u in (left, right)]
        return np.mean(np.subtract(*ends[::-1]), axis=0), np.sum(ends)

    grown, size = growth(level_u[:-1])
    # Points within eta of the level's two may stand on either side of it. As a function of gap and
    # level the growth is monotone in both, so the ends of their ranges bound it.
    before = np.searchsorted(us, right - eta, "left")
    behind = np.searchsorted(us, left + eta, "right") - 1
    start = np.concatenate([[0.0], level_u])[before] - kappa
    end = level_u[behind] + kappa
    most, least = growth(start, eta)[0], growth(end, -eta)[0]
    moved = np.sum(np.maximum(np.maximum(most - grown, grown - least), 0.0))
    if eta > 0:
        # Where a growth ends the next begins, so moving a point costs the difference of slopes;
        # but for the two points that are compared.
        low, high = _at(level_v, vs, start), _at(level_v, vs, end, "right")
        steepest, flattest = _slope(right + eta - low, p), _slope(left - eta - high, p)
        moved += eta * np.sum(np.maximum(steepest[:-1] - flattest[1:], 0.0))
        slopes = np.concatenate([[0.0], np.abs(steepest), np.abs(flattest)])
        moved += 2 * eta * np.max(slopes)
    potential = np.concatenate([[0.0], np.cumsum(grown)])
    return {"potential": potential, "potential_size": size, "potential_moved": moved}


def _unsorted(side, order):
    """The side with its points back at the places they had before the argsort."""
    back = np.argsort(order)
    return Side(*(values[back] if np.ndim(values) else values for values in side))
