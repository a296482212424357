import itertools

import numpy as np
import pytest

from otkernels.verify import reference

EXACT = reference.Rounding(reference.EPS64, reference.EPS64, 0.0)
EXPONENTS = [1, 1.5, 2, 3]


def clouds(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), 0.5 + rng.standard_normal((m, d))


def weights(n, seed=0):
    return np.random.default_rng(seed).integers(1, 5, n).astype(float)


@pytest.mark.parametrize("p", EXPONENTS)
def test_a_translation_costs_its_projected_length(p):
    x, _ = clouds(20, 20, 3)
    shift = np.array([0.3, -1.0, 2.0])
    theta = np.random.default_rng(1).standard_normal((3, 5))
    solved = reference.sliced_wasserstein(x, x + shift, EXACT, p=p, projections=theta)
    assert solved.result.value == pytest.approx(np.mean(np.abs(shift @ theta) ** p), rel=1e-13)


@pytest.mark.parametrize("p", EXPONENTS)
def test_in_one_dimension_it_is_a_sort(p):
    x, y = clouds(17, 17, 1)
    expected = np.mean(np.abs(np.sort(x[:, 0]) - np.sort(y[:, 0])) ** p)
    one = np.ones((1, 1))
    sliced = reference.sliced_wasserstein(x, y, EXACT, p=p, projections=one).result
    line = reference.wasserstein_1d(x[:, 0], y[:, 0], EXACT, p=p).result
    assert sliced.value == pytest.approx(expected, rel=1e-14)
    assert line.value == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_no_permutation_costs_less(n, p):
    u, v = (z[:, 0] for z in clouds(n, n, 1, seed=n))
    best = min(np.mean(np.abs(u - v[list(s)]) ** p) for s in itertools.permutations(range(n)))
    value = reference.wasserstein_1d(u, v, EXACT, p=p).result.value
    # At p = 1 many permutations are optimal and their sums differ in the last bits.
    assert value == pytest.approx(best, rel=1e-14)


@pytest.mark.parametrize("p", EXPONENTS)
def test_a_weight_of_k_is_k_points(p):
    u, v = (z[:, 0] for z in clouds(6, 4, 1))
    a, b = weights(6), weights(4, seed=1)
    # Repeat each side to the same number of points: then sort and subtract is the truth.
    long_u = np.repeat(u, (a * b.sum()).astype(int))
    long_v = np.repeat(v, (b * a.sum()).astype(int))
    expected = np.mean(np.abs(np.sort(long_u) - np.sort(long_v)) ** p)
    value = reference.wasserstein_1d(u, v, EXACT, p=p, a=a, b=b).result.value
    assert value == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize(("n", "m", "weighted"), [(9, 9, False), (9, 6, False), (9, 6, True)])
def test_its_gradient_is_the_difference_quotient(n, m, weighted, p):
    x, y = clouds(n, m, 3)
    keywords = {"p": p, "projections": np.random.default_rng(2).standard_normal((3, 4))}
    if weighted:
        keywords |= {"a": weights(n), "b": weights(m, seed=1)}
    solved = reference.sliced_wasserstein(x, y, EXACT, **keywords)
    step = 1e-6

    def value(dx, dy):
        return reference.sliced_wasserstein(x + dx, y + dy, EXACT, **keywords).result.value

    for cloud, grad in ((0, solved.result.grad_x), (1, solved.result.grad_y)):
        for index in np.ndindex(grad.shape):
            delta = [np.zeros_like(x), np.zeros_like(y)]
            delta[cloud][index] = step
            quotient = (value(*delta) - value(*(-d for d in delta))) / (2 * step)
            assert grad[index] == pytest.approx(quotient, abs=1e-7)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize(("n", "m", "weighted"), [(30, 30, False), (30, 21, False), (30, 21, True)])
def test_no_rounding_within_reach_moves_it_further_than_said(n, m, weighted, p):
    u, v = (z[:, 0] for z in clouds(n, m, 1))
    a, b = (weights(n), weights(m, seed=1)) if weighted else (None, None)
    eta = 0.1  # wide enough for many exchanges
    cost, moved, sides = reference.line(u, v, p, a, b, eta)
    assert 0.2 < np.mean(np.concatenate([s.close for s in sides])) < 1
    rng = np.random.default_rng(3)
    for _ in range(200):
        # Corners of the box are the worst roundings.
        du, dv = (eta / 2 * rng.choice([-1.0, 1.0], k) for k in (n, m))
        other, _, other_sides = reference.line(u + du, v + dv, p, a, b)
        assert abs(other - cost) <= moved * (1 + 1e-12)
        for side, changed in zip(sides, other_sides, strict=True):
            assert np.all(np.abs(changed.slope - side.slope) <= side.moved + 1e-12)
