import numpy as np
import pytest

from otkernels import _polar_schedule
from otkernels._polar_schedule import NEWTON_SCHULZ, schedule


def apply(steps, x, noise=0.0):
    """Singular values after the steps, each result off by relative ``noise``."""
    for a, b, c in steps:
        x = x * (a + x * x * (b + x * x * c)) * (1 + noise)
    return x


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-7, 1e-14])
@pytest.mark.parametrize("l0", [1.0, 0.99999, 0.9, 0.5, 0.2, 0.1, 1e-2, 1e-3, 1e-5, 1e-8, 1e-12])
def test_steps_bring_the_interval_to_one(l0, tolerance):
    x = apply(schedule(l0, tolerance), np.geomspace(l0, 1, 10001))
    assert abs(x - 1).max() <= tolerance + 8 * np.finfo(float).eps


@pytest.mark.parametrize("index", range(0, 160, 3))
def test_steps_bring_every_interval_of_the_grid_to_one(index):
    l0 = 2.0 ** (-index / _polar_schedule.GRID)
    x = apply(schedule(l0, 1e-7), np.geomspace(l0, 1, 10001))
    assert abs(x - 1).max() <= 1e-7


def test_number_of_steps_is_that_of_the_best_composition():
    # Amsel et al. 2025: l grows some 8.5-fold a step while it is small, then cubes its distance.
    counts = [len(schedule(l0, 1e-7)) for l0 in (1e-1, 1e-2, 1e-3, 1e-4)]
    assert counts == [4, 6, 7, 9]


@pytest.mark.parametrize("l", [1e-3, 0.1, 0.5, 0.9])
def test_a_step_is_the_best_approximation(l):
    """Chebyshev: the error takes its largest size at four points with alternating sign."""
    (a, b, c), error = _polar_schedule._best(l)
    x = np.linspace(l, 1, 200001)
    gap = x * (a + x * x * (b + x * x * c)) - 1
    turns = np.flatnonzero(np.diff(np.sign(np.diff(gap)))) + 1
    extrema = gap[[0, *turns, -1]]
    np.testing.assert_allclose(extrema, error * np.array([-1, 1, -1, 1]), rtol=1e-5)


def test_last_steps_tend_to_newton_schulz():
    np.testing.assert_allclose(schedule(1e-2, 1e-14)[-1], NEWTON_SCHULZ, rtol=1e-4)


@pytest.mark.parametrize("l0", [0.3, 1e-3, 1e-6, 1e-8])
@pytest.mark.parametrize("noise", [1e-6, -1e-6])
def test_rounding_of_a_step_does_not_grow(l0, noise):
    x = apply(schedule(l0, 1e-7), np.geomspace(l0, 1, 10001), noise)
    assert abs(x - 1).max() <= 2e-6


def test_steps_for_one_are_none():
    assert schedule(1.0, 1e-7) == ()
