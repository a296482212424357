"""Float64 formulas of square roots, their inverses and the map between Gaussians.

A matrix R is judged entry by entry, and through its gradients by the sum of its entries times a
given matrix, in which no two entries count alike.
"""

import numpy as np

from .gaussian import Pair, Side, symmetric
from .line import EPS64
from .reference import Solution

__all__ = ["inverse_root", "map_between", "square_root"]


def square_root(cov_x, cotangent, rounding):
    """S^1/2, the sum of its entries times C, and the gradient of that."""
    side, values, vectors = _spectrum(cov_x)
    roots = np.sqrt(values)
    root = _with(vectors, roots)
    # S^1/2 = F U for an orthogonal U that is off by one eps.
    off = _polar(rounding.eps, side.spread, np.ones(len(root))) + _factoring(side, root)
    sums = roots[:, None] + roots
    weights = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    error = np.sqrt(len(root)) * rounding.eps * roots.max(initial=0.0)
    grad, grad_off = _through(vectors, weights, cotangent, error)
    grad_off += _factoring(side, grad)
    return _solution(root, off, grad, grad_off, cotangent, rounding)


def inverse_root(cov_x, cotangent, rounding):
    """S^-1/2, the sum of its entries times C, and the gradient of that."""
    side, values, vectors = _spectrum(cov_x)
    inverses = 1 / np.sqrt(values)
    root = _with(vectors, inverses)
    off = _polar(rounding.eps, side.narrow, np.ones(len(root))) + _factoring(side, root)
    # d(S^-1) = Z dZ + dZ Z for Z = S^-1/2, and d(S^-1) = -Z^2 dS Z^2.
    weights = 1 / (inverses[:, None] + inverses)
    error = np.sqrt(len(root)) * rounding.eps * inverses.max()
    middle = vectors.T @ symmetric(cotangent) @ vectors * weights
    squares = inverses**2
    grad = -squares[:, None] * middle * squares
    # Along eigenvectors: Z may be off by ``error`` in the 2-norm, its square by twice Z times that.
    columns = np.linalg.norm(middle, axis=0)
    moved = squares[:, None] * (error * (columns + columns[:, None]) * weights) * squares
    rows = np.linalg.norm(middle * squares, axis=0)
    moved += 2 * error * inverses.max() * (rows + rows[:, None])
    grad, grad_off = _turned(vectors, grad, moved)
    grad_off += _factoring(side, grad)
    return _solution(root, off, grad, grad_off, cotangent, rounding)


def map_between(mean_x, cov_x, mean_y, cov_y, cotangent, rounding):
    """A and b of x -> A x + b, their entries times C (D + 1, D), its last row for b, gradients."""
    sides = [Side.of_covariance(cov) for cov in (cov_x, cov_y)]
    pair = Pair(sides)
    a, off = pair.part(0), pair.part_off(0, rounding.eps)
    off += pair.part_by_products(0) if rounding.plain else 0.0
    b = mean_y - a @ mean_x
    b_off = off @ np.abs(mean_x) + 4 * EPS64 * (np.abs(mean_y) + np.abs(a) @ np.abs(mean_x))
    to_b = cotangent[-1]
    to_a = symmetric(cotangent[:-1] - np.outer(to_b, mean_x))
    grad_x, grad_y, (off_x, off_y) = _map_gradients(pair, to_a, rounding)
    result = {
        "value": np.sum(a * cotangent[:-1]) + b @ to_b,
        "A": a,
        "b": b,
        "grad mean_x": -a @ to_b,
        "grad mean_y": to_b,
        "grad cov_x": grad_x,
        "grad cov_y": grad_y,
    }
    size = np.sum(np.abs(a) * np.abs(cotangent[:-1])) + np.abs(b) @ np.abs(to_b)
    summed = rounding.of_sum(a.size + b.size, size)
    slack = {
        "value": np.sum(off * np.abs(cotangent[:-1])) + b_off @ np.abs(to_b) + summed,
        "A": off + rounding.eps * np.abs(a),
        "b": b_off + rounding.eps * np.abs(b),
        "grad mean_x": off @ np.abs(to_b),
        "grad mean_y": np.zeros_like(to_b),
        "grad cov_x": off_x,
        "grad cov_y": off_y,
    }
    for name in (name for name in slack if name.startswith("grad")):
        slack[name] = slack[name] + rounding.of_points(result[name])
    return Solution(result, slack)


def _map_gradients(pair, to_a, rounding):
    """Gradients of <to_a, T> to both covariances, T S_x T = S_y, and what they may be off by.

    With S_x = F F^T, H = F^T T F and dT = F^-T Y F^-1: H Y + Y H = F^T dS_y F - H E H for
    dS_x = F E F^T.
    """
    x, y = pair.sides
    h = symmetric(x.factor.T @ pair.maps[0] @ x.factor)
    values, vectors = np.linalg.eigh(h)
    sums = np.add.outer(values, values)
    pulled = vectors.T @ x.inverse @ to_a @ x.inverse.T @ vectors
    z = vectors @ (pulled / sums) @ vectors.T
    grad_y = x.factor @ z @ x.factor.T
    grad_x = -x.inverse.T @ h @ z @ h @ x.inverse
    # Twice what the map itself is off by, relative to it, where that is least well determined:
    # an error e of the polar factor moves every sum of eigenvalues by e times the largest of them.
    share = np.sqrt(x.dimension) * rounding.eps * values[-1] / values[0]
    share += np.sqrt(x.dimension) * EPS64 * (x.condition + y.condition) * values[-1] / values[0]
    if rounding.plain:
        share += pair.product_off() * (x.condition * y.condition) ** 2
    return grad_x, grad_y, [2 * share * np.linalg.norm(g) for g in (grad_x, grad_y)]


def _spectrum(cov):
    values, vectors = np.linalg.eigh(symmetric(cov))
    side = Side.of_covariance(cov)
    kept = len(values) - len(side.inverse)
    values[:kept] = 0.0
    return side, values, vectors


def _with(vectors, values):
    return (vectors * values) @ vectors.T


def _polar(eps, u, v):
    return np.sqrt(len(u)) * eps * symmetric(np.outer(u, v))


def _factoring(side, matrix):
    """What a float64 eigendecomposition or factor makes of a function of S, in every entry."""
    return np.sqrt(side.dimension) * EPS64 * side.condition * np.linalg.norm(matrix)


def _through(vectors, weights, cotangent, error):
    """The cotangent with weights along eigenvectors; what an error of the root makes of that."""
    middle = vectors.T @ symmetric(cotangent) @ vectors * weights
    columns = np.linalg.norm(middle, axis=0)
    return _turned(vectors, middle, error * (columns + columns[:, None]) * weights)


def _turned(vectors, middle, off):
    """Back from the basis of eigenvectors, sizes with sizes."""
    return vectors @ middle @ vectors.T, np.abs(vectors) @ off @ np.abs(vectors).T


def _solution(root, off, grad, grad_off, cotangent, rounding):
    value = np.sum(root * cotangent)
    size = np.sum(np.abs(root) * np.abs(cotangent))
    slack = np.sum(off * np.abs(cotangent)) + rounding.of_sum(root.size, size)
    return Solution(
        {"value": value, "root": root, "grad cov_x": grad},
        {
            "value": slack,
            "root": off + rounding.eps * np.abs(root),
            "grad cov_x": grad_off + rounding.of_points(grad) + rounding.eps * np.abs(grad),
        },
    )
