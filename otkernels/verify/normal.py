"""The distance to N(0, I), by quadrature of the normal quantile function and by samples."""

import functools
from statistics import NormalDist

import numpy as np

from .line import EPS64
from .reference import Slices, Solution, projection_error

__all__ = ["SAMPLES", "by_quadrature", "by_samples"]

SAMPLES = 10**6
STANDARD_ERRORS = 5
# Beyond +-12 the normal distribution has less mass than 1e-32.
END, PANEL, NODES = 12.0, 0.5, 20
HIGHEST_DENSITY = 0.4


@functools.lru_cache
def normal_cells(n):
    """Mean of the normal quantile function over n cells of equal mass, and the variance within.

    Substituting t = Phi(z), an integral over levels is one over z against the normal density;
    Gauss and Legendre's rule takes it on panels between the ends of the cells.
    """
    quantile = NormalDist().inv_cdf
    # The upper half by symmetry: a level near 1 has lost the digits that its quantile needs.
    lower = np.array([quantile(k / n) for k in range(1, n // 2 + 1)])
    edges = np.concatenate([lower, -lower[::-1][n % 2 == 0 :]])
    breaks = np.unique(np.concatenate([edges, np.arange(-END, END + PANEL, PANEL)]))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(breaks)[:, None] / 2
    z = breaks[:-1, None] + half * (1 + nodes)
    mass = half * weights * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    cell = np.searchsorted(edges, z.ravel())
    sums = [np.bincount(cell, (mass * z**k).ravel(), n) for k in range(3)]
    means = n * sums[1]
    return means, np.sum(sums[2]) - np.mean(means**2)


def by_quadrature(x, projections, rounding):
    """Mean over directions of W_2^2 between x theta and N(0, 1).

    To the cell means it is a distance between clouds: one more coordinate holds them, for which
    every direction has a 1.
    """
    n, d = x.shape
    means, within = normal_cells(n)
    x = np.pad(x, ((0, 0), (0, 1)))
    y = np.pad(means[:, None], ((0, 0), (d, 0)))
    theta = np.pad(projections, ((0, 1), (0, 0)), constant_values=1.0)
    # The library takes a mean as the difference of two densities, over the mass 1/n.
    of_means = np.sqrt(2) * EPS64 * 2 * HIGHEST_DENSITY * n
    eta = projection_error((x, y), theta, rounding.eps) + of_means
    solved = Slices(x, y, theta, rounding, 2, eta=eta).solution()
    result, slack = (
        {
            "value": q["value"],
            "grad x": q["grad x"][:, :d],
            "grad projections": q["grad projections"][:d],
        }
        for q in solved[:2]
    )
    result["value"] += within
    slack["value"] += rounding.eps * within + np.sqrt(n) * EPS64
    return Solution(result, slack, solved.near_ties)


@functools.lru_cache(maxsize=2)
def _sorted_samples(projections, d):
    projections = np.frombuffer(projections).reshape(d, -1)
    normal = np.random.default_rng(2).standard_normal((SAMPLES, d))
    return np.argsort(normal @ projections, axis=0), normal @ projections


def by_samples(x, projections, rounding):
    """The same between x and 10^6 samples of the normal distribution, for N a divisor of 10^6.

    The standard error is that of the mean over samples of the potential, which is the first-order
    effect of one sample on the distance.
    """
    costs, effect = [], np.zeros(SAMPLES)
    orders, samples = _sorted_samples(np.ascontiguousarray(projections).tobytes(), x.shape[1])
    for l, theta in enumerate(projections.T):
        v = samples[orders[:, l], l]
        u = np.repeat(np.sort(x @ theta), SAMPLES // len(x))
        costs.append(np.mean((u - v) ** 2))
        growth = (v[1:] - u[:-1]) ** 2 - (v[:-1] - u[:-1]) ** 2
        effect[orders[1:, l]] += np.cumsum(growth) / projections.shape[1]
    value = np.mean(costs)
    chance = STANDARD_ERRORS * np.std(effect) / np.sqrt(SAMPLES)
    slack = {"value": rounding.of_sum(SAMPLES, value)}
    return Solution({"value": value}, slack, chance={"value": chance})
