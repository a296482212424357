"""Float64 formulas of kernel discrepancies: all pairs, in NumPy, each with its allowance.

A kernel is a function of the squared distance t and a bandwidth s. What is allowed to a sum over
pairs follows from what a squared distance may be off by: every kernel falls in t and is convex, so
it moves most where t is too small.
"""

from typing import NamedTuple

import numpy as np

from .reference import Solution, through_normalisation

__all__ = [
    "between_gaussians",
    "discrepancy",
    "median_bandwidth",
    "root_of_discrepancy",
    "with_median",
]

# Distances with a root are promised to be taken by differences where these are, squared, below so
# much of |x|^2 + |y|^2; a root of what the difference of two large numbers leaves is worthless.
BY_DIFFERENCES = 1e-3
# Roundings in one value of a kernel and its product with two masses.
EVALUATION = 6
MEDIAN_POINTS = 128
STANDARD_ERRORS = 5


def _gaussian(t, s):
    k = np.exp(-t / (2 * s**2))
    return k, -k / (2 * s**2)


def _laplacian(t, s):
    r = np.sqrt(t)
    k = np.exp(-r / s)
    return k, -k * _inverse(2 * s * r)


def _imq(t, s):
    k = s**2 / (s**2 + t)
    return k, -(k**2) / s**2


def _rational_quadratic(t, s):
    k = 1 / (1 + t / (2 * s**2))
    return k, -(k**2) / (2 * s**2)


def _energy(t, s):
    r = np.sqrt(t)
    return -r, -_inverse(2 * r)


def _inverse(r):
    """1 / r, and 0 where r is: the sub-gradient of a distance."""
    return np.divide(1.0, r, out=np.zeros_like(r), where=r > 0)


# Value, and derivative to t.
KERNELS = {
    "gaussian": _gaussian,
    "laplacian": _laplacian,
    "imq": _imq,
    "rational_quadratic": _rational_quadratic,
    "energy": _energy,
}
WITH_ROOT = ("laplacian", "energy")


class Pairs(NamedTuple):
    """The kernel between two clouds: matrices (N, M), and what each entry may be off by."""

    k: np.ndarray
    k_off: np.ndarray
    slope: np.ndarray
    """Derivative to the squared distance (to the product, for the polynomial)."""
    slope_off: np.ndarray

    def transposed(self):
        return Pairs(*(matrix.T for matrix in self))

    def without_itself(self, at_zero):
        """Between a cloud and itself: every pair of a point with itself is known exactly."""
        diagonal = (at_zero, 0.0, 0.0, 0.0)
        own = np.eye(len(self.k), dtype=bool)
        return Pairs(*(np.where(own, d, matrix) for d, matrix in zip(diagonal, self, strict=True)))


def _of_distances(x, y, kernel, bandwidths, scaled, rounding):
    """Pairs of centred clouds for a sum of kernels, whose bandwidths may be off by ``scaled``."""
    t = sum((x[:, d, None] - y[:, d]) ** 2 for d in range(x.shape[1]))
    left, right = (np.linalg.norm(z, axis=1) for z in (x, y))
    size = left[:, None] ** 2 + right**2
    if kernel in WITH_ROOT and not rounding.plain:
        size = np.minimum(size, t / BY_DIFFERENCES)
    # Sums of D products, of total magnitude |x|^2 + |y|^2 and again at most that for 2 <x, y>.
    off = rounding.of_sum(3 * x.shape[1], 2 * size)
    # The centre is subtracted, which rounds; the rate is as good as the bandwidth.
    off += rounding.eps * np.sqrt(t) * (left[:, None] + right)
    off += t * (2 * scaled + rounding.eps)
    low = np.maximum(t - off, t / 4) if kernel in WITH_ROOT else t - off
    total = Pairs(*np.zeros((4, *t.shape)))
    for s in bandwidths:
        (k, slope), (high, steep) = KERNELS[kernel](t, s), KERNELS[kernel](low, s)
        total = Pairs(*map(np.add, total, (k, high - k, slope, np.abs(steep - slope))))
    return total


def _of_products(x, y, rounding):
    """Pairs for (<x, y> / D + 1)^3."""
    d = x.shape[1]
    t = x @ y.T / d + 1
    off = rounding.of_sum(d, np.abs(x) @ np.abs(y).T / d) + rounding.eps * np.abs(t)
    high = np.abs(t) + off
    return Pairs(t**3, high**3 - np.abs(t) ** 3, 3 * t**2 / d, 3 * (high**2 - t**2) / d)


def discrepancy(
    x, y, rounding, *, kernel, bandwidth=None, unbiased=False, a=None, b=None, scaled=0.0
):
    """MMD^2 of a kernel, or of the sum over several bandwidths, as V- or as U-statistic.

    The bandwidths may be off by ``scaled`` times themselves.
    """
    return Discrepancy((x, y), (a, b), rounding, kernel, bandwidth, unbiased, scaled).solution()


class Discrepancy:
    """The sums of a kernel over all pairs of two clouds, and what they give."""

    def __init__(self, clouds, weights, rounding, kernel, bandwidth, unbiased, scaled=0.0):
        self.rounding, self.weights, self.unbiased = rounding, weights, unbiased
        self.masses = [
            np.full(len(z), 1 / len(z)) if w is None else w / w.sum()
            for z, w in zip(clouds, weights, strict=True)
        ]
        self.rest = [1 - m @ m if unbiased else 1.0 for m in self.masses]
        self.terms = sum(map(len, clouds)) + EVALUATION
        self.radial = kernel != "polynomial"
        bandwidths = np.atleast_1d(1.0 if bandwidth is None else bandwidth)
        self.at_zero = 0.0 if kernel in ("energy", "polynomial") else float(len(bandwidths))
        # No discrepancy at all, and promised to be seen as none, whatever the sums round.
        self.equal = np.array_equal(*clouds) and not unbiased and weights == (None, None)
        self.clouds = clouds
        if self.radial and not rounding.plain:
            centre = np.mean(np.concatenate(clouds), axis=0)
            self.clouds = [z - centre for z in clouds]

        def pairs(i, j):
            points = self.clouds[i], self.clouds[j]
            if self.radial:
                return _of_distances(*points, kernel, bandwidths, scaled, rounding)
            return _of_products(*points, rounding)

        within = [pairs(k, k) for k in (0, 1)]
        if unbiased or (self.radial and (kernel in WITH_ROOT or not rounding.plain)):
            at_zero = 0.0 if unbiased else self.at_zero
            within = [each.without_itself(at_zero) for each in within]
        between = pairs(0, 1)
        self.within, self.between = within, (between, between.transposed())

    def solution(self):
        """Value and every gradient, with their allowances."""
        a, b = self.masses
        parts = [
            (self.within[0], a, a, 1 / self.rest[0]),
            (self.within[1], b, b, 1 / self.rest[1]),
            (self.between[0], a, b, -2.0),
        ]
        value = sum(c * (u @ p.k @ v) for p, u, v, c in parts)
        size = sum(abs(c) * (u @ np.abs(p.k) @ v) for p, u, v, c in parts)
        reach = sum(abs(c) * (u @ p.k_off @ v) for p, u, v, c in parts)
        off = self.rounding.of_sum(self.terms, size) + reach
        if self.equal and self.at_zero and not self.rounding.plain:
            off = min(off, self.rounding.eps * self.at_zero)
        result = {"value": value}
        slack = {"value": off + self.rounding.eps * abs(value)}
        for k, name in enumerate("xy"):
            result[f"grad {name}"], slack[f"grad {name}"] = self._to_points(k)
        for k, name in enumerate("ab"):
            if self.weights[k] is not None:
                result[f"grad {name}"], slack[f"grad {name}"] = self._to_weights(k)
        if self.equal:
            result = {name: np.zeros_like(array) for name, array in result.items()}
        return Solution(result, slack)

    def _to_points(self, k):
        """Gradient (N, D) to a cloud, and its allowance."""
        own = self._moves(self.clouds[k], self.clouds[k], self.masses[k], self.within[k])
        other = self._moves(self.clouds[k], self.clouds[1 - k], self.masses[1 - k], self.between[k])
        mass = 2 * self.masses[k][:, None]
        grad = mass * (own[0] / self.rest[k] - other[0])
        size, reach = (
            mass * (p / self.rest[k] + q) for p, q in zip(own[1:], other[1:], strict=True)
        )
        return grad, self.rounding.of_points(grad) + self.rounding.of_sum(self.terms, size) + reach

    def _moves(self, x, y, masses, pairs):
        """Gradient of sum_j m_j k(x_i, y_j) to x, the size of its terms, and its reach."""
        w, off = pairs.slope * masses, pairs.slope_off * masses
        if not self.radial:
            return w @ y, np.abs(w) @ np.abs(y), off @ np.abs(y)
        total = np.sum(w, axis=1, keepdims=True)
        apart = [np.sum(off * np.abs(x[:, d, None] - y[:, d]), axis=1) for d in range(x.shape[1])]
        size = np.abs(x) * np.abs(total) + np.abs(w) @ np.abs(y)
        return 2 * (x * total - w @ y), 2 * size, 2 * np.stack(apart, axis=1)

    def _to_weights(self, k):
        """Gradient to the weights of one side, which are normalised, and its allowance."""
        own, other = self.within[k], self.between[k]
        m, opposite, rest = self.masses[k], self.masses[1 - k], self.rest[k]
        inner = own.k @ m
        grad = 2 * inner / rest - 2 * other.k @ opposite
        size = 2 * np.abs(own.k) @ m / rest + 2 * np.abs(other.k) @ opposite
        reach = 2 * own.k_off @ m / rest + 2 * other.k_off @ opposite
        if self.unbiased:
            share = 2 * m / rest**2
            grad += share * (m @ inner)
            size += share * (m @ np.abs(own.k) @ m)
            reach += share * (m @ own.k_off @ m)
        each = self.rounding.of_sum(self.terms, size) + reach
        grad, total = through_normalisation(grad, self.weights[k])
        # A potential, and the mean of all of them.
        return grad, self.rounding.eps * np.abs(grad) + (each + each @ m) / total


def root_of_discrepancy(x, y, rounding, **keywords):
    """The root of :func:`discrepancy`, where that is not 0."""
    solved = discrepancy(x, y, rounding, **keywords)
    square, off = solved.result["value"], solved.slack["value"]
    low = np.sqrt(square - off)
    result, slack = {"value": np.sqrt(square)}, {"value": np.sqrt(square) - low}
    slack["value"] += rounding.eps * result["value"]
    for name in (name for name in solved.result if name.startswith("grad")):
        grad = solved.result[name]
        result[name] = grad / (2 * result["value"])
        steeper = np.abs(grad) * (1 / low - 1 / result["value"]) / 2
        slack[name] = solved.slack[name] / (2 * low) + steeper
    return Solution(result, slack)


def median_bandwidth(x, rounding, *, y=None):
    """The lower median of the positive distances between 128 points, evenly spaced in x, then y."""
    points = x if y is None else np.concatenate([x, y])
    taken = min(MEDIAN_POINTS, len(points))
    points = points[np.arange(taken) * len(points) // taken]
    apart = np.linalg.norm(points[:, None] - points, axis=-1)[np.triu_indices(taken, 1)]
    apart = np.sort(apart[apart > 0])
    median = apart[(len(apart) - 1) // 2] if len(apart) else np.float64(1.0)
    # If no distance is off by a larger share of it, neither is any quantile of them.
    return Solution({"value": median}, {"value": rounding.of_sum(x.shape[1] + 1, median)})


def with_median(x, y, rounding, *, kernel, a=None, b=None):
    """MMD^2 with the median of distances as bandwidth."""
    solved = median_bandwidth(x, rounding, y=y)
    s = solved.result["value"]
    scaled = solved.slack["value"] / s
    return discrepancy(x, y, rounding, kernel=kernel, bandwidth=s, a=a, b=b, scaled=scaled)


def between_gaussians(x, y, rounding, *, spread, shift, bandwidth):
    """The gaussian kernel's MMD^2 between N(0, I) and N(shift, spread^2 I), in closed form.

    U-statistics of draws x (S, N, D) and y (S, M, D) average to it; the standard error is that of
    these very statistics, in float64.
    """
    d = x.shape[-1]

    def mean(variance, distance):
        """Of the kernel between draws whose difference has this variance and mean."""
        wide = bandwidth**2 + variance
        return (bandwidth**2 / wide) ** (d / 2) * np.exp(-d * distance**2 / (2 * wide))

    value = mean(2.0, 0.0) + mean(2 * spread**2, 0.0) - 2 * mean(1 + spread**2, shift)
    estimates = _mean(x, x, bandwidth) + _mean(y, y, bandwidth) - 2 * _mean(x, y, bandwidth)
    chance = STANDARD_ERRORS * np.std(estimates, ddof=1) / np.sqrt(len(x))
    slack = {"value": rounding.of_sum(len(x), 4.0)}
    return Solution({"value": value}, slack, chance={"value": chance})


def _mean(x, y, s):
    """Of the gaussian kernel over pairs in each draw, of different points if the clouds are one."""
    t = np.sum((x[:, :, None] - y[:, None]) ** 2, axis=-1)
    own = x.shape[1] if x is y else 0
    return (np.sum(np.exp(-t / (2 * s**2)), axis=(1, 2)) - own) / (t[0].size - own)
