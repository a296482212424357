"""Transport on the line in float64 NumPy, and how far rounding may move value and gradient.

Written apart from the library it judges: sort, subtract, and for unequal sizes or weights merge the
two quantile functions; the gradient is the closed form p |d|^(p-1) sign(d), carried back through
the argsort. docs/verification.md derives the bound.
"""

from typing import NamedTuple

import numpy as np

EPS64 = np.finfo(np.float64).eps


class Rounding(NamedTuple):
    """The precision of one computation of a loss and its gradient."""

    eps: float
    """Of the dtype in which it projects and sums, and of its value."""
    eps_grad: float
    """Of the dtype of its gradient."""
    tiny_grad: float
    """The smallest positive number of the gradient's dtype."""
    cumulates: bool = False
    """Whether it adds up the weights even where sizes are equal and no weights are given."""


class Result(NamedTuple):
    """A loss and its gradient with respect to both clouds; or an allowance for each entry of it."""

    value: np.ndarray
    grad_x: np.ndarray
    grad_y: np.ndarray


class Solution(NamedTuple):
    """What is true, the absolute error that rounding explains, and how ill-posed the order is."""

    result: Result
    slack: Result
    near_ties: float
    """Share of projected points so close to another that rounding may exchange the two."""


def wasserstein_1d(u, v, rounding, *, p, a=None, b=None):
    """W_p^p between numbers u (N,) and v (M,). Nothing is projected, so their order is exact."""
    one = np.ones((1, 1))
    solution = _mean_over_lines(u[:, None], v[:, None], one, np.zeros(1), rounding, p, a, b)
    result, slack = (r._replace(grad_x=r.grad_x[:, 0], grad_y=r.grad_y[:, 0]) for r in solution[:2])
    return Solution(result, slack, solution.near_ties)


def sliced_wasserstein(x, y, rounding, *, p, projections, a=None, b=None):
    """Mean over the columns of projections (D, L) of W_p^p between x (N, D) and y (M, D)."""
    # The difference of two projections is a sum of 2 D products: the rule sqrt(n) eps sum|terms|.
    reach = np.maximum(*(np.max(np.abs(z) @ np.abs(projections), axis=0) for z in (x, y)))
    eta = np.sqrt(2 * x.shape[1]) * rounding.eps * 2 * reach
    if a is None and b is None and np.array_equal(x, y):
        eta = 0 * eta  # equal points go through equal arithmetic: every gap is exactly 0
    return _mean_over_lines(x, y, projections, eta, rounding, p, a, b)


def _mean_over_lines(x, y, projections, eta, rounding, p, a, b):
    """The mean of :func:`line` over directions, and the bound of docs/verification.md."""
    count, points = projections.shape[1], len(x) + len(y)
    merged = a is not None or b is not None or len(x) != len(y)
    kappa = np.sqrt(points) * EPS64 if merged or rounding.cumulates else 0.0
    value = value_moved = near_ties = 0.0
    grads, sizes, moves = ([np.zeros(z.shape) for z in (x, y)] for _ in range(3))
    terms = [np.zeros((len(z), 1)) for z in (x, y)]
    for theta, eta_l in zip(projections.T, eta, strict=True):
        cost, cost_moved, sides = line(x @ theta, y @ theta, p, a, b, eta_l, kappa)
        value += cost / count
        value_moved += cost_moved / count
        for k, side in enumerate(sides):
            grads[k] += np.outer(side.slope, theta) / count
            sizes[k] += np.outer(side.size, np.abs(theta)) / count
            moves[k] += np.outer(side.moved, np.abs(theta)) / count
            terms[k] += side.cells[:, None]
            near_ties += np.sum(side.close) / (count * points)
    # Terms summed: in the value one a cell and direction, in a gradient one for each cell that the
    # point is in; each is a power, which counts for p more.
    cells = points - 1 if merged else len(x)
    value_slack = (rounding.eps + np.sqrt(cells * count + p) * rounding.eps) * value + value_moved
    grad_slacks = (
        rounding.eps_grad * np.abs(grad)
        + (rounding.tiny_grad if np.any(grad) else 0.0)
        + np.sqrt(n + p) * rounding.eps * size
        + moved
        for grad, n, size, moved in zip(grads, terms, sizes, moves, strict=True)
    )
    result, slack = Result(value, *grads), Result(value_slack, *grad_slacks)
    return Solution(result, slack, near_ties)


class Side(NamedTuple):
    """What belongs to each point of one side of a line."""

    slope: np.ndarray
    """The gradient."""
    size: np.ndarray
    """The sum of the magnitudes of its terms."""
    moved: np.ndarray
    """The largest change of the gradient."""
    cells: np.ndarray
    """The number of its terms: a cell is an interval of levels with constant quantiles."""
    close: np.ndarray
    """Whether another point is so near that rounding may exchange the two."""


def line(u, v, p, a=None, b=None, eta=0.0, kappa=0.0):
    """W_p^p between u (N,) and v (M,), and the reach of rounding.

    Args:
        u: numbers with weights ``a``, or uniform.
        v: numbers with weights ``b``, or uniform.
        p: exponent.
        a: weights of u, normalised here.
        b: weights of v, normalised here.
        eta: how far rounding may move the difference of any two numbers.
        kappa: how far rounding may move a cumulated weight.

    Returns:
        the cost, the largest change of it, and a :class:`Side` for u and one for v.
    """
    order_u, order_v = np.argsort(u), np.argsort(v)
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
    return mass @ power, moved, (_unsorted(side_u, order_u), _unsorted(side_v, order_v))


def _levels(weights, order):
    """Cumulated normalised weights in sorted order; the last is exactly 1."""
    if weights is None:
        return np.arange(1, len(order) + 1) / len(order)
    total = np.cumsum(weights[order])
    return total / total[-1]


def _slope(gap, p):
    """The derivative of |gap|^p, 0 at 0: monotone, since p >= 1."""
    return p * np.abs(gap) ** (p - 1) * np.sign(gap)


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
    start = np.concatenate([[0.0], level_u])[first] - kappa
    end = level_u[last] + kappa
    low = vs[np.minimum(np.searchsorted(level_v, start, "right"), len(vs) - 1)]
    high = vs[np.minimum(np.searchsorted(level_v, end, "left"), len(vs) - 1)]
    close = last > first
    own = np.bincount(i, mass, n)
    highest = np.where(close, own * _slope(us + eta - low, p), highest)
    lowest = np.where(close, own * _slope(us - eta - high, p), lowest)
    moved = np.maximum(np.maximum(highest - slope, slope - lowest), 0.0)
    edge = np.maximum(np.abs(_slope(us - low, p)), np.abs(_slope(us - high, p)))
    size = np.bincount(i, mass * np.abs(_slope(gap, p)), n)
    return Side(slope, size, moved + 4 * kappa * edge, np.bincount(i, minlength=n), close)


def _unsorted(side, order):
    """The side with its points back at the places they had before the argsort."""
    back = np.argsort(order)
    return Side(*(values[back] for values in side))
