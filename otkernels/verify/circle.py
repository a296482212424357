"""Transport on the circle of length 1, and on the sphere along great circles, in float64 NumPy.

Some optimal plan moves no mass past a place where a level of both sides meets. Cut there, the
circle is a line; the cost is a convex function of where on the two sides that is.
"""

from typing import NamedTuple

import numpy as np

from .line import EPS64, line
from .peers import STOP
from .reference import Solution, through_normalisation

__all__ = ["sliced_wasserstein_sphere", "wasserstein_circle"]

TURN = 2 * np.pi


class _Cut(NamedTuple):
    """A problem on the circle, cut open; fields of both sides in the given order."""

    cost: float
    moved: float
    sides: list


def _solve(u, v, p, a, b, eta, kappa):
    """The best cut, and all that rounding cannot tell from it."""
    orders = [np.argsort(z, kind="stable") for z in (u, v)]
    levels = [
        np.concatenate(
            [[0.0], np.cumsum(np.full(len(o), 1 / len(o)) if w is None else w[o] / w.sum())]
        )[:-1]
        for o, w in zip(orders, (a, b), strict=True)
    ]
    shifts = levels[1][None, :] - levels[0][:, None]
    shifts = np.round(np.stack([shifts + turn for turn in (-1, 0, 1)]), 12)
    unique, where = np.unique(shifts, return_index=True)
    cuts = {}

    def cut(k):
        if k not in cuts:
            turn, *starts = np.unravel_index(where[k], shifts.shape)
            cuts[k] = _cut_open((u, v), (a, b), orders, starts, turn - 1, p, eta, kappa)
        return cuts[k]

    low, high = 0, len(unique) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if cut(middle).cost <= cut(middle + 1).cost else (middle + 1, high)
        )
    best = cut(low)
    close = [best]
    for step in (-1, 1):
        k = low + step
        while 0 <= k < len(unique) and cut(k).cost <= best.cost + 2 * best.moved:
            close.append(cut(k))
            k += step
    return best, close


def _cut_open(sets, weights, orders, starts, turn, p, eta, kappa):
    """The line that starts with the points of these ranks; v is ``turn`` turns further on."""
    turned, rolled = [], []
    for points, order, start in zip(sets, orders, starts, strict=True):
        rolled.append(np.roll(order, -start))
        turned.append(points[rolled[-1]] + (np.arange(len(order)) >= len(order) - start))
    turned[1] = turned[1] + turn
    masses = [None if w is None else w[r] for w, r in zip(weights, rolled, strict=True)]
    solved = line(*turned, p, *masses, eta, kappa)
    sides = []
    for side, roll in zip(solved.sides, rolled, strict=True):
        back = np.argsort(roll)
        sides.append(type(side)(*(s[back] if np.ndim(s) else s for s in side)))
    return _Cut(solved.cost, solved.moved, sides)


class _Sum:
    """The mean of L problems on circles, and the allowances of its parts."""

    def __init__(self, n, m, weights, rounding, p):
        self.weights, self.rounding, self.p = weights, rounding, p
        self.sizes, self.points = (n, m), n + m
        merged = rounding.cumulates or n != m or any(w is not None for w in weights)
        self.kappa = np.sqrt(n + m) * EPS64 if merged else 0.0
        if rounding.cumulates:  # the peer, which also searches for the cut by bisection
            self.kappa += STOP
        self.costs, self.moved, self.close = [], [], 0
        self.potentials = [np.zeros(n), np.zeros(m)]
        self.reach, self.potential_size = np.zeros(2), np.zeros(2)

    def add(self, u, v, eta):
        """Slopes, their sizes and reaches, and numbers of cells, of both sides of one circle."""
        best, close = _solve(u, v, self.p, *self.weights, eta, self.kappa)
        self.costs.append(best.cost)
        self.moved.append(best.moved)
        found = []
        for k, side in enumerate(best.sides):
            others = [c.sides[k] for c in close]
            moved = np.max([np.abs(o.slope - side.slope) + o.moved for o in others], axis=0)
            found.append((side.slope, side.size, moved, side.cells))
            self.close += np.sum(side.close)
            self.potentials[k] += side.potential
            self.potential_size[k] += side.potential_size + best.cost
            # Potentials are compared up to a constant.
            apart = [np.ptp(o.potential - side.potential) + o.potential_moved for o in others]
            self.reach[k] += np.max(apart)
        return found

    def solution(self, points):
        """With ``points``: name to gradient, size of its terms, reach and number of terms."""
        count, rounding = len(self.costs), self.rounding
        value = np.mean(self.costs)
        result, slack = {"value": value}, {}
        terms = (self.points - 1) * count + self.p
        slack["value"] = rounding.eps * value + rounding.of_sum(terms, value) + np.mean(self.moved)
        for name, (grad, size, moved, terms) in points.items():
            result[f"grad {name}"] = grad / count
            write = (
                rounding.of_points if name != "projections" else lambda g: rounding.eps * np.abs(g)
            )
            slack[f"grad {name}"] = (
                write(grad / count) + (rounding.of_sum(terms + self.p, size) + moved) / count
            )
        for k, name in enumerate("ab"):
            if self.weights[k] is not None:
                grad, total = through_normalisation(self.potentials[k] / count, self.weights[k])
                terms = 2 * self.sizes[k] * count + self.p
                unsure = rounding.of_sum(terms, self.potential_size[k]) + self.reach[k]
                result[f"grad {name}"] = grad
                slack[f"grad {name}"] = rounding.eps * np.abs(grad) + 2 * unsure / (count * total)
        return Solution(result, slack, self.close / (count * self.points))


def wasserstein_circle(u, v, rounding, *, p, a=None, b=None):
    """W_p^p between coordinates u (N,) and v (M,) in turns."""
    total = _Sum(len(u), len(v), (a, b), rounding, p)
    # A point of the next turn is rounded where it is at most 2.
    found = total.add(u % 1, v % 1, 2 * rounding.eps)
    return total.solution(dict(zip("uv", found, strict=True)))


def sliced_wasserstein_sphere(x, y, projections, rounding, *, p, a=None, b=None):
    """Mean over planes (L, D, 2) of W_p^p between the points next to x and y on their circles."""
    clouds = (x, y)
    total = _Sum(len(x), len(y), (a, b), rounding, p)
    sums = [[np.zeros(z.shape) for _ in range(3)] + [np.zeros((len(z), 1))] for z in clouds]
    planes = [np.zeros(projections.shape) for _ in range(4)]
    for l, frame in enumerate(projections):
        arcs = [_Arc(z, frame, rounding) for z in clouds]
        eta = 2 * max(np.max(arc.unsure) for arc in arcs) + 2 * rounding.eps
        found = total.add(*(arc.turns % 1 for arc in arcs), eta)
        for arc, z, parts, (slope, size, moved, cells) in zip(
            arcs, clouds, sums, found, strict=True
        ):
            weighed = (
                slope[:, None] * arc.to,
                size[:, None] * arc.width,
                moved[:, None] * arc.width + size[:, None] * arc.bend,
            )
            for k, each in enumerate(weighed):
                along = (z if k == 0 else np.abs(z)).T @ each
                planes[k][l] += along
                parts[k] += each @ (frame if k == 0 else np.abs(frame)).T
            parts[3] += cells[:, None]
            planes[3][l] += np.sum(cells)
    return total.solution({"x": sums[0], "y": sums[1], "projections": planes})


class _Arc:
    """Coordinates in turns of points z (N, D) on the circle of a frame (D, 2).

    ``to (N, 2)`` is the derivative to the two products with the frame, of magnitude ``width``; off
    by at most ``bend``, as the coordinate is by ``unsure``.
    """

    def __init__(self, z, frame, rounding):
        first, second = (z @ frame).T
        square = first**2 + second**2
        off = np.max(np.sqrt(z.shape[1]) * rounding.eps * np.abs(z) @ np.abs(frame), axis=1)
        off = off / np.sqrt(square)
        self.turns = np.arctan2(second, first) / TURN
        self.unsure = (np.sqrt(2) * off + 4 * rounding.eps) / TURN
        self.to = np.stack([-second, first], axis=1) / (TURN * square[:, None])
        self.width = np.abs(self.to)
        # Both products and the squared radius are off by that share of the radius.
        spare = 4 * (off + rounding.eps) / (TURN * np.sqrt(square))
        self.bend = spare[:, None] + np.zeros((1, 2))
