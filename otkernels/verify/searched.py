"""What is known of the largest cost over all directions."""

import numpy as np

from .reference import LINKS, Slices, Solution, projection_error

__all__ = ["among_candidates", "between_bounds", "of_a_translation", "on_a_grid_of_angles"]

ANGLES = 4000


def _slices(x, y, theta, rounding, p, a=None, b=None):
    # Directions are normalised first, which costs them as much as projecting does.
    eta = 2 * projection_error((x, y), theta, rounding.eps)
    return Slices(x, y, theta, rounding, p, a, b, LINKS["linear"], eta).solution()


def _unit(theta):
    return theta / np.linalg.norm(theta, axis=0)


def _candidates(x, y, projections, a, b):
    shift = np.average(x, 0, a) - np.average(y, 0, b)
    return _unit(np.column_stack([projections, shift]))


def among_candidates(x, y, projections, rounding, *, p, a=None, b=None, n_steps=0):
    """The best of the given directions and the difference of the means; nothing is searched."""
    theta = _candidates(x, y, projections, a, b)
    costs = _slices(x, y, theta, rounding, p, a, b).result["costs"]
    best = np.argmax(costs)
    return _without_directions(_slices(x, y, theta[:, [best]], rounding, p, a, b))


def _without_directions(solved):
    for quantities in solved[:2]:
        del quantities["costs"], quantities["grad projections"]
    return solved


def of_a_translation(x, y, projections, rounding, *, p):
    """For y = x + shift it is |shift|^p, along the shift."""
    shift = y[0] - x[0]
    length = np.linalg.norm(shift)
    theta = shift / length
    solved = _without_directions(_slices(x, y, theta[:, None], rounding, p))
    value = length**p
    slope = p * length ** (p - 1) * theta / len(x)
    result = {
        "value": np.float64(value),
        "grad x": np.tile(-slope, (len(x), 1)),
        "grad y": np.tile(slope, (len(y), 1)),
    }
    # |cos angle|^p is 1 - p angle^2 / 2 near the maximum: costs tell directions apart no better.
    angle = np.sqrt(2 * solved.slack["value"] / (p * value))
    turned = angle * np.linalg.norm(slope)
    slack = {name: s if name == "value" else s + turned for name, s in solved.slack.items()}
    return Solution(result, slack, solved.near_ties)


def on_a_grid_of_angles(x, y, projections, rounding, *, p):
    """The best of 4000 directions in the plane, and what lies between two of them at most."""
    angle = np.arange(ANGLES) * np.pi / ANGLES
    theta = np.stack([np.cos(angle), np.sin(angle)])
    gaps = np.abs(np.sort(x @ theta, axis=0) - np.sort(y @ theta, axis=0))
    value = np.max(np.mean(gaps**p, axis=0))
    # W_p is Lipschitz in the direction, by the p-th moments of both clouds (triangle inequality).
    moments = sum(np.mean(np.linalg.norm(z, axis=1) ** p) ** (1 / p) for z in (x, y))
    root = value ** (1 / p)
    between = (root + moments * np.pi / (2 * ANGLES)) ** p - value
    eta = np.max(projection_error((x, y), theta, rounding.eps))
    slack = rounding.of_sum(len(x) + p, value) + (root + 2 * eta) ** p - value
    return Solution({"value": value}, {"value": slack}, chance={"value": between})


def between_bounds(x, y, projections, rounding, *, p):
    """Not below the best candidate, not above the cost of a plan in space: the middle of both."""
    best = among_candidates(x, y, projections, rounding, p=p)
    low = best.result["value"]
    high = np.mean(np.linalg.norm(x - y, axis=1) ** p)
    half = {"value": (high - low) / 2}
    return Solution({"value": low + half["value"]}, {"value": best.slack["value"]}, chance=half)
