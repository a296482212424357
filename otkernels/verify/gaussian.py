"""Float64 formulas of the Wasserstein distance between Gaussians, each with its allowance.

With factors S = F F^T of both covariances and the polar factor Q of F_x^T F_y, the distance has the
fidelity <Q, F_x^T F_y> and the gradient I - T, T = F_y Q^T F_x^+ being the matrix of the map from x
to y. What is allowed follows from that form: Q, made of products with D terms, may be off by
sqrt(D) eps in the 2-norm; but nothing by more than what is promised of it.
"""

import numpy as np

from .digits import fidelity_and_map
from .line import EPS64
from .reference import Solution

__all__ = ["all_pairs", "between_gaussians", "between_variances", "in_digits"]

# What float64 leaves of an eigenvalue 0 of a covariance, as a share of the largest.
NOISE = 1e-13
# What is promised in float32, for any D: of the distance relative to tr S_x + tr S_y, and of T
# relative to T for a condition K: 1e-7 sqrt(K), that is 1e-5 at 1e4 and 1e-4 at 1e6.
PROMISED_VALUE = 1e-6
PROMISED_PART, BY_ROOT_OF_CONDITION = 1e-6, 1e-7
EPS32 = float(np.finfo(np.float32).eps)


class Side:
    """A covariance by its range: a basis (D, R) and the standard deviations (R,) along it."""

    def __init__(self, basis, deviations):
        self.dimension = len(basis)
        self.factor, self.inverse = basis * deviations, (basis / deviations).T
        self.condition = (deviations.max() / deviations.min()) ** 2 if len(deviations) else 1.0
        regular = len(deviations) == len(basis)
        self.outside = (
            np.zeros(2 * [len(basis)]) if regular else np.eye(len(basis)) - basis @ basis.T
        )
        self.trace = np.sum(deviations**2)
        self.largest = deviations.max(initial=0.0) ** 2
        # Roots of the diagonals of S and of its pseudo-inverse.
        self.spread = np.linalg.norm(self.factor, axis=1)
        self.narrow = np.linalg.norm(self.inverse, axis=0)

    @classmethod
    def of_covariance(cls, cov):
        """From a symmetric matrix (D, D)."""
        values, vectors = np.linalg.eigh((cov + cov.T) / 2)
        kept = values > NOISE * values[-1]
        return cls(vectors[:, kept], np.sqrt(values[kept]))

    @classmethod
    def of_rows(cls, rows):
        """From rows X (N, D) of X^T X."""
        deviations, right = np.linalg.svd(rows, full_matrices=False)[1:]
        kept = deviations > NOISE * deviations[:1]
        return cls(right[kept].T, deviations[kept])


class Pair:
    """Fidelity of two sides and the matrices of the maps from one to the other."""

    def __init__(self, sides, equal=False):
        self.sides = sides
        x, y = sides
        if equal:
            self.fidelity, self.maps = x.trace, 2 * [np.eye(x.dimension) - x.outside]
            return
        left, values, right = np.linalg.svd(x.factor.T @ y.factor, full_matrices=False)
        kept = values > NOISE * values[:1]
        q = left[:, kept] @ right[kept]
        self.fidelity = np.sum(values)
        self.maps = y.factor @ q.T @ x.inverse, x.factor @ q @ y.inverse

    @property
    def dimension(self):
        return self.sides[0].dimension

    def part(self, k):
        """T of side k, symmetric: exact along its range and between range and null space."""
        t = self.maps[k]
        return symmetric(t + t.T @ self.sides[k].outside)

    def part_off(self, k, eps):
        """What each entry of T may be off by: (D, D)."""
        # |u^T dQ v| <= |dQ| |u| |v| for the rows u of F_y and the columns v of F_x^+.
        ours, other = self.sides[k], self.sides[1 - k]
        polar = np.sqrt(self.dimension) * eps * symmetric(np.outer(other.spread, ours.narrow))
        # What is left of convergence is a multiple of Q.
        left = PROMISED_PART * eps / EPS32 * np.abs(self.part(k))
        return self.promised(k, eps, polar) * polar + left + self.by_factoring(k)

    def promised(self, k, eps, polar):
        """The share of what rounding of Q may do to T that is promised, at most 1.

        The promise is one of the Frobenius norm; the largest of D^2 normal errors is
        (2 ln D^2)^1/2 times as large as they are on average.
        """
        condition = max(side.condition for side in self.sides)
        share = max(PROMISED_PART, BY_ROOT_OF_CONDITION * np.sqrt(condition)) * eps / EPS32
        largest = max(1.0, 2 * np.sqrt(np.log(self.dimension)))
        size = np.linalg.norm(polar)
        return min(1.0, largest * share * np.linalg.norm(self.maps[k]) / size) if size else 1.0

    def by_factoring(self, k):
        """What float64 factors of both covariances make of T, in every entry.

        dS_x = F_x E F_x^T moves T by at most |E|/2 of it, and E is one eps times the condition.
        """
        x, y = self.sides
        conditions = (x.condition + y.condition) / 2
        return np.sqrt(self.dimension) * EPS64 * conditions * np.linalg.norm(self.maps[k])

    def value_off(self, rounding):
        """What tr S_x + tr S_y - 2 fidelity may be off by."""
        x, y = self.sides
        # Every singular value as Q; and the factors, along the gradient.
        steep = [np.linalg.norm(t) * s.largest for t, s in zip(self.maps, self.sides, strict=True)]
        by_factoring = EPS64 * np.sqrt(self.dimension) * (x.trace + y.trace + sum(steep))
        of_polar = min(np.sqrt(self.dimension), PROMISED_VALUE / EPS32) * rounding.eps
        total = 2 * of_polar * self.fidelity + by_factoring
        return total + (self.value_by_products() if rounding.plain else 0.0)

    def product_off(self):
        """What an eigenvalue of S_x^1/2 S_y S_x^1/2, the largest being 1, may be off by."""
        return 2 * self.dimension * EPS64

    def value_by_products(self):
        """What a route by those eigenvalues adds: the root of a small one is far off."""
        x, y = self.sides
        squares = np.zeros(self.dimension)
        found = np.linalg.svd(x.factor.T @ y.factor, compute_uv=False) ** 2
        squares[: len(found)] = found
        off = self.product_off() * x.largest * y.largest
        return 2 * np.sum(np.sqrt(squares + off) - np.sqrt(np.maximum(squares - off, 0)))

    def part_by_products(self, k):
        """The same for the gradient, which divides by the least of them and by that of S."""
        share = self.product_off() * self.sides[0].condition * self.sides[1].condition
        return share * self.sides[k].condition * np.linalg.norm(self.maps[k])


class DigitsPair(Pair):
    """The same for regular covariances, by Newton's iteration in decimal numbers."""

    def __init__(self, sides, covs):
        self.sides = sides
        self.fidelity, *self.maps = fidelity_and_map(*covs)


def between_gaussians(mean_x, cov_x, mean_y, cov_y, rounding, *, digits=False):
    """|m_x - m_y|^2 + tr S_x + tr S_y - 2 fidelity, and the gradients to all four."""
    sides = [Side.of_covariance(cov) for cov in (cov_x, cov_y)]
    equal = np.array_equal(cov_x, cov_y)
    pair = DigitsPair(sides, (cov_x, cov_y)) if digits and not equal else Pair(sides, equal)
    gap = mean_x - mean_y
    value = gap @ gap + sum(side.trace for side in sides) - 2 * pair.fidelity
    off = pair.value_off(rounding)
    off += EPS64 * np.sqrt(len(gap) + 2) * (gap @ gap)
    result, slack = {"value": value}, {"value": off + rounding.eps * abs(value)}
    for k, (name, sign) in enumerate((("x", 2), ("y", -2))):
        result[f"grad mean_{name}"] = sign * gap
        slack[f"grad mean_{name}"] = 2 * EPS64 * np.abs(gap) + rounding.of_points(sign * gap)
        t = pair.part(k)
        grad = np.eye(len(gap)) - t
        result[f"grad cov_{name}"] = grad
        each = rounding.eps * (np.eye(len(gap)) + np.abs(t)) + pair.part_off(k, rounding.eps)
        each += pair.part_by_products(k) if rounding.plain else 0.0
        slack[f"grad cov_{name}"] = each + rounding.of_points(grad)
    return Solution(result, slack)


def in_digits(mean_x, cov_x, mean_y, cov_y, rounding):
    """The same for regular covariances, with fidelity and maps in decimal numbers."""
    return between_gaussians(mean_x, cov_x, mean_y, cov_y, rounding, digits=True)


def between_variances(mean_x, cov_x, mean_y, cov_y, rounding, *, diagonal):
    """The same for variances (D,): |m_x - m_y|^2 + |r_x - r_y|^2 for their roots r."""
    sides, roots = (cov_x, cov_y), (np.sqrt(cov_x), np.sqrt(cov_y))
    gap = mean_x - mean_y
    value = gap @ gap + np.sum((roots[0] - roots[1]) ** 2)
    size = gap @ gap + np.sum(cov_x + cov_y)
    off = EPS64 * (np.sqrt(len(gap)) + 4) * 2 * size
    result, slack = {"value": value}, {"value": off + rounding.eps * abs(value)}
    for k, (name, sign) in enumerate((("x", 2), ("y", -2))):
        result[f"grad mean_{name}"] = sign * gap
        slack[f"grad mean_{name}"] = 2 * EPS64 * np.abs(gap) + rounding.of_points(sign * gap)
        # A variance of 0 keeps its own gradient and none of the root's.
        ratio = np.divide(roots[1 - k], roots[k], out=np.zeros_like(gap), where=sides[k] > 0)
        result[f"grad cov_{name}"] = 1 - ratio
        each = 4 * rounding.eps * (1 + ratio) + rounding.of_points(1 - ratio)
        slack[f"grad cov_{name}"] = each
    return Solution(result, slack)


def all_pairs(mean_x, cov_x, mean_y, cov_y, rounding, *, pairwise):
    """:func:`between_gaussians` for every x (P, ...) and every y (Q, ...)."""
    given = {"mean_x": mean_x, "cov_x": cov_x, "mean_y": mean_y, "cov_y": cov_y}
    shape = len(mean_x), len(mean_y)
    totals = [{"value": np.zeros(shape)} for _ in range(2)]
    for total in totals:
        total.update({f"grad {name}": np.zeros_like(array) for name, array in given.items()})
    for i, j in np.ndindex(shape):
        one = between_gaussians(mean_x[i], cov_x[i], mean_y[j], cov_y[j], rounding)
        for total, found in zip(totals, one[:2], strict=True):
            total["value"][i, j] = found["value"]
            for name in given:
                total[f"grad {name}"][i if name[-1] == "x" else j] += found[f"grad {name}"]
    return Solution(*totals)


def symmetric(matrix):
    """The symmetric part."""
    return (matrix + matrix.T) / 2
