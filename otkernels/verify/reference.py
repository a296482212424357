"""Float64 formulas of the losses on the line and on slices, in NumPy, each with its allowance.

A formula takes the tensors of one problem by name, as arrays, and says what is true of them and how
far an implementation that rounds as :class:`Rounding` says may be from it.
"""

from typing import NamedTuple

import numpy as np

from .line import EPS64, line

__all__ = ["Rounding", "Solution", "sliced_wasserstein", "wasserstein_1d"]

Quantities = dict[str, np.ndarray]
"""By name: "value", "grad x" for the gradient to x, and whatever else an op returns."""


class Rounding(NamedTuple):
    """The precision of one computation of a loss and its gradient."""

    eps: float
    """Of the dtype in which it projects and sums, of its value and of gradients to weights."""
    eps_points: float
    """Of the dtype of the points and of the gradient to them."""
    tiny_points: float
    """The smallest positive number of that dtype."""
    cumulates: bool = False
    """Whether it adds up the weights even where sizes are equal and no weights are given."""
    plain: bool = False
    """Whether it takes distances as |x|^2 + |y|^2 - 2 <x, y>, not centred, of all pairs alike."""

    def of_sum(self, terms, magnitude):
        """What a sum of so many terms, of magnitudes of this total, may be off by."""
        return np.sqrt(terms) * self.eps * magnitude

    def of_points(self, grad):
        """What writing a gradient in the dtype of the points changes."""
        return self.eps_points * np.abs(grad) + (self.tiny_points if np.any(grad) else 0.0)


EXACT = Rounding(EPS64, EPS64, 0.0)


class Solution(NamedTuple):
    """What is true, the absolute error that is explained, and how ill-posed the order is."""

    result: Quantities
    slack: Quantities
    near_ties: float = 0.0
    """Share of projected points so close to another that rounding may exchange the two."""
    chance: Quantities = {}
    """What may differ for another reason than rounding: samples, the resolution of a grid."""


class Link(NamedTuple):
    """A function of projections that makes slices of them; its slope is at most 1."""

    value: callable
    slope: callable
    units: float
    """What evaluating either may be off by, in eps; also for slopes of arguments that are off."""


LINKS = {
    "linear": Link(lambda z: z, np.ones_like, 0.0),
    "tanh": Link(np.tanh, lambda z: 1 - np.tanh(z) ** 2, 4.0),
}


def wasserstein_1d(u, v, rounding, *, p, a=None, b=None):
    """W_p^p between numbers u (N,) and v (M,). Nothing is projected, so their order is exact."""
    slices = Slices(u[:, None], v[:, None], np.ones((1, 1)), rounding, p, a, b, eta=np.zeros(1))
    solved = slices.solution()
    rename = {"grad x": "grad u", "grad y": "grad v"}
    drop = ("grad projections", "costs")
    result, slack = (
        {rename.get(k, k): v[:, 0] if k in rename else v for k, v in q.items() if k not in drop}
        for q in solved[:2]
    )
    return Solution(result, slack, solved.near_ties)


def sliced_wasserstein(x, y, projections, rounding, *, p, a=None, b=None, slices="linear"):
    """Mean over the columns of projections (D, L) of W_p^p between x (N, D) and y (M, D)."""
    solved = Slices(x, y, projections, rounding, p, a, b, LINKS[slices]).solution()
    for quantities in solved[:2]:
        del quantities["costs"]
    return solved


def projection_error(clouds, projections, eps):
    """How far the difference of two projections of these clouds may be off, for each direction."""
    # It is a sum of 2 D products: the rule sqrt(n) eps sum|terms|.
    reach = np.max([np.max(np.abs(z) @ np.abs(projections), axis=0) for z in clouds], axis=0)
    return np.sqrt(2 * projections.shape[0]) * eps * 2 * reach


class Slices:
    """The mean of :func:`line` over L slices of two clouds.

    ``eta`` (L,) says how far a difference of two slices may be off; by default what the sum of
    products explains, and nothing for equal clouds, which go through equal arithmetic.
    """

    def __init__(self, x, y, projections, rounding, p, a=None, b=None, link=None, eta=None):
        self.clouds, self.weights = (x, y), (a, b)
        self.projections, self.rounding, self.p = projections, rounding, p
        self.link = LINKS["linear"] if link is None else link
        if eta is None:
            equal = a is None and b is None and np.array_equal(x, y)
            eps = 0.0 if equal else rounding.eps
            eta = projection_error((x, y), projections, eps) + self.link.units * eps
        self.eta = eta
        self.merged = rounding.cumulates or a is not None or b is not None or len(x) != len(y)
        sides = zip(self.weights, self.clouds, strict=True)
        exact = all(_cumulates_exactly(*side) for side in sides)
        # A level that needs no rounding may still lose its last bit on the way.
        terms = 1 if exact else len(x) + len(y)
        kappa = np.sqrt(terms) * EPS64 if self.merged else 0.0
        slices = (self.link.value(z @ projections).T for z in self.clouds)
        self.lines = [
            line(u, v, p, a, b, each, kappa, exact) for u, v, each in zip(*slices, eta, strict=True)
        ]

    def solution(self):
        """Value, costs and every gradient, with their allowances."""
        costs, moved = (np.array([getattr(s, k) for s in self.lines]) for k in ("cost", "moved"))
        rounding, p, count = self.rounding, self.p, len(costs)
        # Terms summed: in the value one a cell and direction, in a gradient one for each cell that
        # the point is in; each is a power, which counts for p more.
        points = sum(map(len, self.clouds))
        cells = points - 1 if self.merged else len(self.clouds[0])
        value = np.mean(costs)
        by_rounding = rounding.eps * value + rounding.of_sum(cells * count + p, value)
        result = {"value": value, "costs": costs}
        slack = {
            "value": by_rounding + np.mean(moved),
            "costs": rounding.eps * costs + rounding.of_sum(cells + p, costs) + moved,
        }
        along = [0.0] * 4
        for k, name in enumerate("xy"):
            grad, size, reach, terms = self._to_points(k, along)
            result[f"grad {name}"] = grad / count
            by_rounding = (
                rounding.of_points(grad / count) + rounding.of_sum(terms + p, size) / count
            )
            slack[f"grad {name}"] = by_rounding + reach / count
        grad, size, reach, terms = along
        result["grad projections"] = grad / count
        by_rounding = rounding.eps * np.abs(grad) + rounding.of_sum(terms + p, size)
        slack["grad projections"] = (by_rounding + reach) / count
        for k, name in enumerate("ab"):
            if self.weights[k] is not None:
                result[f"grad {name}"], slack[f"grad {name}"] = self._to_weights(k)
        close = sum(np.sum(side.close) for s in self.lines for side in s.sides)
        return Solution(result, slack, close / (count * points))

    def _each(self, k, field):
        """A field of side k of all lines: (N, L)."""
        return np.stack([getattr(s.sides[k], field) for s in self.lines], axis=-1)

    def _to_points(self, k, along):
        """L times the gradient to a cloud, the size of its terms, its reach, and their number.

        Adds the same for the gradient to the directions to ``along``.
        """
        cloud, theta = self.clouds[k], self.projections
        bend = self.link.slope(cloud @ theta)
        slope, size, moved = (bend * self._each(k, name) for name in ("slope", "size", "moved"))
        if self.link.units:  # the bend is off as well
            moved += self._each(k, "size") * self.eta
        cells = self._each(k, "cells")
        parts = cloud.T @ slope, *(np.abs(cloud).T @ each for each in (size, moved)), cells.sum(0)
        along[:] = map(np.add, along, parts)
        width = np.abs(theta).T
        return slope @ theta.T, size @ width, moved @ width, cells.sum(1, keepdims=True)

    def _to_weights(self, k):
        """Gradient to the weights of one side, which are normalised, and its allowance."""
        potentials = self._each(k, "potential")
        grad, total = through_normalisation(np.mean(potentials, axis=1), self.weights[k])
        size, moved = (np.mean(self._each(k, f"potential_{name}")) for name in ("size", "moved"))
        # A constant in all potentials, which may be as large as the cost itself, cancels.
        size += np.mean([s.cost for s in self.lines])
        # Twice: a potential, and the mean of all of them.
        reach = 2 * (self.rounding.of_sum(2 * potentials.size + self.p, size) + moved) / total
        return grad, self.rounding.eps * np.abs(grad) + reach


def through_normalisation(potential, weights):
    """The derivative to weights of a function of weights / total, and the total."""
    total = np.sum(weights)
    return (potential - potential @ weights / total) / total, total


def _cumulates_exactly(weights, points):
    """Whether every partial sum of the normalised weights is a float64 number."""
    weights = np.ones(len(points)) if weights is None else weights
    total = np.sum(weights)
    return bool(np.all(weights == np.round(weights)) and np.frexp(total)[0] == 0.5)
