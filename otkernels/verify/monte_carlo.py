"""The mean over directions as an estimate: standard errors, control variate, expectations."""

import math

import numpy as np

from .line import EPS64
from .reference import Slices, Solution, through_normalisation

__all__ = ["expected_translation", "mean_over_the_circle", "with_control_variate", "with_info"]

STANDARD_ERRORS = 5
ANGLES = 4000
# Forms may be dependent, up to the rounding of the directions: with equal covariances, for one.
RANK = 1e-6


def with_info(x, y, projections, rounding, *, p, a=None, b=None):
    """Value, costs, the standard deviation of the costs over sqrt(L), and gradients."""
    solved = Slices(x, y, projections, rounding, p, a, b).solution()
    costs, slack = solved.result["costs"], solved.slack["costs"]
    count = len(costs)
    solved.result["standard_error"] = np.std(costs, ddof=1) / np.sqrt(count)
    # A norm of costs less their mean changes by no more than the norm of their change.
    reach = np.linalg.norm(slack + rounding.eps * costs) / np.sqrt(count * (count - 1))
    solved.slack["standard_error"] = reach + rounding.of_sum(count, solved.result["standard_error"])
    return solved


def with_control_variate(x, y, projections, rounding, *, p, a=None, b=None):
    """Costs less one quadratic form of zero mean: the intercept of their fit by two more."""
    solved = with_info(x, y, projections, rounding, p=p, a=a, b=b)
    result, slack = solved.result, solved.slack
    forms = _Forms(x, y, a, b)
    of_shift, *others = forms.values(projections).T
    design = np.column_stack([np.ones(projections.shape[1]), *others])
    rest = result["costs"] - of_shift
    fit, _, rank, singular = np.linalg.lstsq(design, rest, rcond=RANK)
    inverse = np.linalg.pinv(design, rcond=RANK)
    left = rest - design @ fit
    freedom = len(left) - 3
    lever = np.linalg.norm(inverse[0])
    # Backward stability of the fit: its solution is as good as the costs times the condition.
    condition = singular[0] / singular[rank - 1]
    size = np.abs(result["costs"]) + np.abs(of_shift)
    unsure = slack["costs"] + np.sqrt(len(left)) * EPS64 * condition * size
    result["value"] = fit[0]
    slack["value"] += np.abs(inverse[0]) @ unsure
    result["standard_error"] = np.linalg.norm(left) / np.sqrt(freedom) * lever
    slack["standard_error"] = np.linalg.norm(unsure) * lever / np.sqrt(freedom) + rounding.of_sum(
        len(left), result["standard_error"]
    )
    coefficients = np.concatenate([[1.0], fit[1:]])
    moved = np.concatenate([[0.0], np.abs(inverse[1:]) @ unsure])
    for name, parts in forms.gradients(projections).items():
        part = np.tensordot(coefficients, parts, 1)
        result[f"grad {name}"] = result[f"grad {name}"] - part
        size = np.tensordot(np.abs(coefficients), np.abs(parts), 1)
        slack[f"grad {name}"] = (
            slack[f"grad {name}"]
            + np.tensordot(moved, np.abs(parts), 1)
            + rounding.of_sum(projections.shape[1] + len(x) + len(y), size)
            + (rounding.of_points(part) if name in "xy" else rounding.eps * np.abs(part))
        )
    return solved


class _Forms:
    """(theta . shift)^2, theta' cov_x theta, theta' cov_y theta, less their means on the sphere."""

    def __init__(self, x, y, a, b):
        self.clouds, self.weights = (x, y), (a, b)
        self.masses = [
            np.full(len(z), 1 / len(z)) if w is None else w / w.sum()
            for z, w in zip(self.clouds, self.weights, strict=True)
        ]
        self.means = [m @ z for m, z in zip(self.masses, self.clouds, strict=True)]
        self.centred = [z - mean for z, mean in zip(self.clouds, self.means, strict=True)]
        covariances = [(z.T * m) @ z for z, m in zip(self.centred, self.masses, strict=True)]
        self.shift = self.means[0] - self.means[1]
        self.matrices = np.stack([np.outer(self.shift, self.shift), *covariances])

    def values(self, theta):
        """(L, 3)."""
        traces = np.trace(self.matrices, axis1=1, axis2=2) / len(theta)
        return np.einsum("dl,kde,el->lk", theta, self.matrices, theta) - traces

    def gradients(self, theta):
        """Of the mean of each form over the directions, by name: three along the first axis."""
        d, count = theta.shape
        spread = theta @ theta.T / count - np.eye(d) / d  # the mean of a form is tr(spread matrix)
        found = {"projections": 2 / count * np.einsum("kde,el->kdl", self.matrices, theta)}
        for k, name in enumerate("xy"):
            mass, sign = self.masses[k][:, None], (1, -1)[k]
            parts = np.zeros((3, *self.clouds[k].shape))
            parts[0] = 2 * sign * mass * (spread @ self.shift)
            parts[1 + k] = 2 * mass * (self.centred[k] @ spread)
            found[name] = parts
            if self.weights[k] is not None:
                effects = np.zeros((3, len(mass)))
                effects[0] = 2 * sign * self.clouds[k] @ spread @ self.shift
                effects[1 + k] = np.sum((self.centred[k] @ spread) * self.centred[k], axis=1)
                weights = self.weights[k]
                found["ab"[k]] = np.stack([through_normalisation(e, weights)[0] for e in effects])
        return found


def mean_over_the_circle(x, y, projections, rounding, *, p, draws):
    """What estimates from ``draws`` sets of directions in the plane average to.

    The mean over the circle is taken on a grid; the standard error is that of the very estimates,
    in float64.
    """
    angle = np.arange(ANGLES) * np.pi / ANGLES
    theta = np.stack([np.cos(angle), np.sin(angle)])
    value = np.mean(np.abs(np.sort(x @ theta, axis=0) - np.sort(y @ theta, axis=0)) ** p)
    sets = np.split(projections, draws, axis=1)
    estimates = [_fitted(x, y, theta, p) for theta in sets]
    chance = STANDARD_ERRORS * np.std(estimates, ddof=1) / np.sqrt(draws)
    slack = {"value": rounding.of_sum(len(x) * projections.shape[1], value)}
    return Solution({"value": value}, slack, chance={"value": chance})


def _fitted(x, y, theta, p):
    costs = np.mean(np.abs(np.sort(x @ theta, axis=0) - np.sort(y @ theta, axis=0)) ** p, axis=0)
    of_shift, *others = _Forms(x, y, None, None).values(theta).T
    design = np.column_stack([np.ones(len(costs)), *others])
    return np.linalg.lstsq(design, costs - of_shift, rcond=RANK)[0][0]


def expected_translation(x, y, rounding, *, p, n_projections, method):
    """For y = x + shift the mean over the whole sphere of |theta . shift|^p, in closed form.

    Drawn directions differ from it by chance, at most as much as independent ones do.
    """
    shift = np.linalg.norm(y[0] - x[0])
    d = x.shape[1]

    def moment(p):
        """Of one coordinate of a uniform direction (a beta distribution)."""
        logs = math.lgamma(d / 2) + math.lgamma((p + 1) / 2) - math.lgamma((d + p) / 2)
        return math.exp(logs) / math.sqrt(math.pi)

    value = shift**p * moment(p)
    spread = shift**p * math.sqrt(moment(2 * p) - moment(p) ** 2)
    chance = STANDARD_ERRORS * spread / math.sqrt(n_projections)
    slack = {"value": rounding.of_sum(n_projections, value)}
    return Solution({"value": np.float64(value)}, slack, chance={"value": chance})
