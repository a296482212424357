r"""Coefficients of the polar iteration X <- a X + b X X^T X + c X X^T X X^T X.

A step changes every singular value x into p(x) = a x + b x^3 + c x^5. Of all steps, the one that
brings an interval [l, u] nearest to 1 is the best uniform approximation there, whose error meets
its largest size at four points with alternating sign. Doing this for the image of each step in
turn is the best composition there is (Amsel, Persson, Musco, Gower 2025, "The Polar Express",
arXiv 2505.16932, theorem 3.1). Close to 1 the steps tend to the quintic of Newton and Schulz.
"""

import functools
import math

import numpy as np

NEWTON_SCHULZ = 15 / 8, -10 / 8, 3 / 8
# Where 1 - l is below this the equations of the best step lose their digits, and the quintic of
# Newton and Schulz comes to the same.
NARROW = 1e-3
# Below this the best step hardly depends on l.
WIDE = 2.0**-20
# Past the upper end a wide step is steep: it multiplies an excess by 13. So each allows for some,
# as rounding would otherwise grow from step to step.
MARGIN = 0.01
# Lower ends are rounded down to the next of so many an octave, so that there are few to compute.
GRID = 4


def schedule(l0, tolerance):
    """Steps that bring singular values in [l0, 1] to within ``tolerance`` of 1.

    Args:
        l0: in (0, 1].
        tolerance: positive, no less than a few units of rounding.

    Returns:
        A tuple of (a, b, c), Python numbers; the first is to be applied first. Empty for l0 = 1.
    """
    return _composed(math.ceil(-GRID * math.log2(l0)), tolerance)


@functools.cache
def _composed(index, tolerance):
    """The steps for l0 = 2^(-index / GRID)."""
    l, u = 2.0 ** (-index / GRID), 1.0
    steps = []
    while max(1 - l, u - 1) > tolerance:
        x = l / u
        (a, b, c), error = _best(max(x, WIDE))
        steps.append((a / u, b / u**3, c / u**5))
        l = min(1 - error, x * (a + x * x * (b + x * x * c)))
        u = 1 + (1 + MARGIN) * error
    return tuple(steps)


def _best(l):
    """The step that brings [l, 1] nearest to 1, and how far from 1 it leaves its ends."""
    if 1 - l < NARROW:
        a, b, c = NEWTON_SCHULZ
        middle = (1 + l) / 2
        x = l / middle
        # 1 - p(x), of which the subtraction would leave nothing.
        error = (1 - x) ** 3 * (8 + 9 * x + 3 * x * x) / 8
        return (a / middle, b / middle**3, c / middle**5), error
    # Remez: the error has one size and alternating sign at the ends and at p's two extrema. Its
    # size grows from guess to guess.
    inner, before = ((3 * l + 1) / 4, (l + 3) / 4), 0.0
    while True:
        x = np.array([l, *inner, 1])
        equations = np.stack([x, x**3, x**5, [1, -1, 1, -1]], axis=1)
        a, b, c, error = np.linalg.solve(equations, np.ones(4)).tolist()
        if error <= before:
            return (a, b, c), before
        spread = math.sqrt(9 * b * b - 20 * a * c)
        inner = [math.sqrt((-3 * b + sign * spread) / (10 * c)) for sign in (-1, 1)]
        before = error
