"""Float64 formulas of moments of clouds and of distances between the Gaussians fitted to them."""

import numpy as np

from .gaussian import Pair, Side, symmetric
from .line import EPS64
from .reference import Solution, through_normalisation

__all__ = ["between_clouds", "mean_and_covariance", "to_normal"]


class Cloud:
    """A cloud of points, its masses, and the Gaussian fitted to it."""

    def __init__(self, points, weights, correction, eps, diagonal):
        n, self.dimension = points.shape
        self.points, self.weights = points, weights
        self.masses = np.full(n, 1 / n) if weights is None else weights / weights.sum()
        counted = np.count_nonzero(self.masses)
        self.factor = counted / (counted - correction)
        self.mean = self.masses @ points
        self.gaps = points - self.mean
        self.rows = np.sqrt(self.factor * self.masses)[:, None] * self.gaps
        # A feature without spread has none left by rounding of its mean either.
        self.rows[:, np.ptp(points[self.masses > 0], axis=0) == 0] = 0.0
        if diagonal:
            variances = np.sum(self.rows**2, axis=0) + eps
            kept = variances > 0
            self.side = Side(np.eye(self.dimension)[:, kept], np.sqrt(variances[kept]))
        else:
            ridge = np.sqrt(eps) * np.eye(self.dimension)
            self.side = Side.of_rows(np.concatenate([self.rows, ridge]))


class Unit(Side):
    """The standard normal distribution."""

    def __init__(self, dimension):
        super().__init__(np.eye(dimension), np.ones(dimension))


def between_clouds(
    x, y, rounding, *, a=None, b=None, correction=0, eps=0.0, diagonal=False, squared=True
):
    """W_2^2 between the Gaussians fitted to both clouds, and every gradient; or the root."""
    clouds = [Cloud(z, w, correction, eps, diagonal) for z, w in ((x, a), (y, b))]
    sides = [cloud.side for cloud in clouds]
    equal = np.array_equal(clouds[0].rows, clouds[1].rows)
    pair = Pair(sides, equal)
    solved = _distance(clouds, pair, clouds[0].mean - clouds[1].mean, rounding)
    return solved if squared else root(solved, rounding)


def to_normal(x, rounding, *, a=None, correction=0, eps=0.0, diagonal=False):
    """The same between the Gaussian fitted to x and N(0, I)."""
    cloud = Cloud(x, a, correction, eps, diagonal)
    return _distance([cloud], Pair([cloud.side, Unit(cloud.dimension)]), cloud.mean, rounding)


def _distance(clouds, pair, gap, rounding):
    value = gap @ gap + sum(side.trace for side in pair.sides) - 2 * pair.fidelity
    off = pair.value_off(rounding)
    # Moments are summed in float64, the mean of as many points as there are.
    for cloud in clouds:
        size = cloud.masses @ np.abs(cloud.points) + np.abs(gap)
        off += 2 * np.sqrt(len(cloud.points)) * EPS64 * (size @ np.abs(gap) + cloud.side.trace)
    result, slack = {"value": value}, {"value": off + rounding.eps * abs(value)}
    for k, (cloud, point, weight) in enumerate(zip(clouds, "xy", "ab", strict=False)):
        each = _ToCloud(pair, k, cloud, gap if k == 0 else -gap, rounding)
        result[f"grad {point}"], slack[f"grad {point}"] = each.points()
        if cloud.weights is not None:
            result[f"grad {weight}"], slack[f"grad {weight}"] = each.weights()
    return Solution(result, slack)


class _ToCloud:
    """The gradient to one cloud, through its mean and its covariance."""

    def __init__(self, pair, k, cloud, gap, rounding):
        self.cloud, self.gap, self.rounding = cloud, gap, rounding
        self.own, self.other = pair.sides[k], pair.sides[1 - k]
        self.part = pair.part(k)
        self.off = pair.by_factoring(k)
        self.off += pair.part_by_products(k) if rounding.plain else 0.0
        self.polar = np.sqrt(pair.dimension) * rounding.eps
        self.moved = cloud.gaps @ self.part

    def points(self):
        """Gradient (N, D) to the points and its allowance."""
        cloud, rounding = self.cloud, self.rounding
        share = 2 * cloud.masses[:, None]
        grad = share * (self.gap + cloud.factor * (cloud.gaps - self.moved))
        # |u^T dQ v|, from both sides of a T that is made symmetric.
        near = np.linalg.norm(cloud.gaps @ self.own.inverse.T, axis=1)
        far = np.linalg.norm(cloud.gaps @ self.other.factor, axis=1)
        polar = self.polar * (np.outer(near, self.other.spread) + np.outer(far, self.own.narrow))
        gaps = np.linalg.norm(cloud.gaps, axis=1, keepdims=True)
        size = np.abs(self.gap) + cloud.factor * (np.abs(cloud.gaps) + np.abs(self.moved))
        mean = cloud.masses @ np.abs(cloud.points) + np.abs(self.gap)
        terms = np.sqrt(len(cloud.points))
        reach = cloud.factor * (polar / 2 + self.off * gaps) + 4 * rounding.eps * size
        reach += terms * EPS64 * (mean + cloud.factor * mean @ np.abs(self.part))
        return grad, share * reach + rounding.of_points(grad)

    def weights(self):
        """Gradient to the weights, which are normalised, and its allowance."""
        cloud, rounding = self.cloud, self.rounding
        gaps = cloud.gaps
        near = np.linalg.norm(gaps @ self.own.inverse.T, axis=1)
        far = np.linalg.norm(gaps @ self.other.factor, axis=1)
        own, moved = np.sum(gaps**2, axis=1), np.sum(gaps * self.moved, axis=1)
        potential = 2 * cloud.points @ self.gap + cloud.factor * (own - moved)
        each = cloud.factor * (self.polar * near * far + self.off * own)
        size = 2 * np.abs(cloud.points) @ np.abs(self.gap) + cloud.factor * (own + np.abs(moved))
        each = each + np.sqrt(len(gaps)) * EPS64 * size + rounding.eps * cloud.factor * moved
        grad, total = through_normalisation(potential, cloud.weights)
        return grad, rounding.eps * np.abs(grad) + (each + each @ cloud.masses) / total


def root(solved, rounding):
    """The root of a distance that is not 0."""
    square, off = solved.result["value"], solved.slack["value"]
    value, low = np.sqrt(square), np.sqrt(square - off)
    result, slack = {"value": value}, {"value": value - low + rounding.eps * value}
    for name in (name for name in solved.result if name.startswith("grad")):
        grad = solved.result[name]
        result[name] = grad / (2 * value)
        slack[name] = solved.slack[name] / (2 * low) + np.abs(grad) * (1 / low - 1 / value) / 2
    return Solution(result, slack)


def mean_and_covariance(x, cotangent, rounding, *, weights=None, correction=0):
    """Mean (D,) and covariance (D, D), the sum of all their entries times C (D + 1, D), gradients.

    C's last row is for the mean.
    """
    cloud = Cloud(x, weights, correction, 0.0, False)
    to_cov, to_mean = symmetric(cotangent[:-1]), cotangent[-1]
    gaps, masses, c = cloud.gaps, cloud.masses, cloud.factor
    cov = c * (gaps * masses[:, None]).T @ gaps
    sizes = np.sqrt(c * masses)[:, None] * np.abs(gaps)
    terms = len(x)
    # Points about their mean: what is lost far from the origin is the mean's.
    mean_off = rounding.of_sum(terms, masses @ np.abs(x))
    cov_off = rounding.of_sum(terms, sizes.T @ sizes) + np.outer(mean_off, mean_off)
    value = np.sum(cov * to_cov) + cloud.mean @ to_mean
    pulled = gaps @ to_cov
    grad = masses[:, None] * (to_mean + 2 * c * pulled)
    d = x.shape[1]
    size = np.abs(to_mean) + 2 * c * (np.abs(gaps) + mean_off) @ np.abs(to_cov)
    each = rounding.of_sum(d + 1, size) + 2 * c * mean_off @ np.abs(to_cov)
    result = {"value": value, "mean": cloud.mean, "cov": cov, "grad x": grad}
    total = np.sum(np.abs(to_cov) * np.abs(cov)) + np.abs(cloud.mean) @ np.abs(to_mean)
    slack = {
        "value": np.sum(np.abs(to_cov) * cov_off)
        + mean_off @ np.abs(to_mean)
        + rounding.of_sum(d * d + d, total),
        "mean": mean_off + rounding.eps * np.abs(cloud.mean),
        "cov": cov_off + rounding.eps * np.abs(cov),
        "grad x": masses[:, None] * each + rounding.of_points(grad),
    }
    if weights is not None:
        potential = x @ to_mean + c * np.sum(gaps * pulled, axis=1)
        size = np.abs(x) @ np.abs(to_mean)
        size += c * np.sum((np.abs(gaps) + mean_off) ** 2 @ np.abs(to_cov), axis=1)
        each = rounding.of_sum(2 * d + terms, size)
        grad, total = through_normalisation(potential, weights)
        result["grad weights"] = grad
        slack["grad weights"] = rounding.eps * np.abs(grad) + (each + each @ masses) / total
    return Solution(result, slack)
