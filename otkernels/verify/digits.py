"""Fidelity and maps of two regular covariances in decimal numbers of 50 digits.

For covariances so ill-conditioned that float64 eigenvalues of them are no truth: Cholesky factors
and Newton's iteration for the polar factor of their product, X <- (g X + X^-T / g) / 2, which
needs no eigenvalue and squares its error in every step.
"""

import functools
from decimal import Context, Decimal, localcontext

import numpy as np

__all__ = ["DIGITS", "fidelity_and_map"]

DIGITS = 50
# The error before the last step is the root of what remains.
CLOSE = Decimal(10) ** (-DIGITS // 2)
STEPS = 100


def fidelity_and_map(cov_x, cov_y):
    """Fidelity, and the symmetric T_x with T_x S_x T_x = S_y and its inverse T_y: float64."""
    shape = cov_x.shape
    return _solved(*(np.ascontiguousarray((c + c.T) / 2).tobytes() for c in (cov_x, cov_y)), shape)


@functools.lru_cache(maxsize=64)
def _solved(x, y, shape):
    with localcontext(Context(prec=DIGITS)):
        left, right = (_cholesky(_decimals(np.frombuffer(c).reshape(shape))) for c in (x, y))
        m = left.T @ right
        q = _polar(m)
        there = right @ q.T @ _inverse(left)
        back = left @ q @ _inverse(right)
        maps = ((t + t.T) / 2 for t in (there, back))
        return float((q * m).sum()), *(np.array(t, dtype=float) for t in maps)


def _decimals(array):
    exact = [Decimal(float(number)) for number in array.ravel()]
    return np.array(exact, dtype=object).reshape(array.shape)


def _cholesky(a):
    """Lower L with A = L L^T."""
    lower = _decimals(np.zeros(a.shape))
    for k in range(len(a)):
        column = a[k:, k] - lower[k:, :k] @ lower[k, :k] if k else a[k:, k]
        lower[k:, k] = column / column[0].sqrt()
    return lower


def _inverse(a):
    """By elimination with pivots."""
    n = len(a)
    both = np.concatenate([a, _decimals(np.eye(n))], axis=1)
    for k in range(n):
        pivot = k + max(range(n - k), key=lambda i: abs(both[k + i, k]))
        both[[k, pivot]] = both[[pivot, k]]
        both[k] = both[k] / both[k, k]
        rest = np.arange(n) != k
        both[rest] = both[rest] - both[rest, k, None] * both[k]
    return both[:, n:]


def _polar(m):
    """The orthogonal Q of M = Q H, for regular M."""
    x = m
    for _ in range(STEPS):
        inverse = _inverse(x).T
        g = ((inverse * inverse).sum() / (x * x).sum()).sqrt().sqrt()
        following = (g * x + inverse / g) / 2
        change = abs(following - x).max()
        x = following
        if change < CLOSE:
            return x
    raise ArithmeticError(f"no polar factor to {DIGITS} digits in {STEPS} steps")
