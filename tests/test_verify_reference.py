import itertools
from statistics import NormalDist

import numpy as np
import pytest

from otkernels.verify import circle, monte_carlo, normal, reference
from otkernels.verify.line import EPS64, line

EXACT = reference.Rounding(EPS64, EPS64, 0.0)
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
    solved = reference.sliced_wasserstein(x, x + shift, theta, EXACT, p=p)
    assert solved.result["value"] == pytest.approx(np.mean(np.abs(shift @ theta) ** p), rel=1e-13)


@pytest.mark.parametrize("p", EXPONENTS)
def test_in_one_dimension_it_is_a_sort(p):
    x, y = clouds(17, 17, 1)
    expected = np.mean(np.abs(np.sort(x[:, 0]) - np.sort(y[:, 0])) ** p)
    one = np.ones((1, 1))
    sliced = reference.sliced_wasserstein(x, y, one, EXACT, p=p).result
    on_line = reference.wasserstein_1d(x[:, 0], y[:, 0], EXACT, p=p).result
    assert sliced["value"] == pytest.approx(expected, rel=1e-14)
    assert on_line["value"] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_no_permutation_costs_less(n, p):
    u, v = (z[:, 0] for z in clouds(n, n, 1, seed=n))
    best = min(np.mean(np.abs(u - v[list(s)]) ** p) for s in itertools.permutations(range(n)))
    value = reference.wasserstein_1d(u, v, EXACT, p=p).result["value"]
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
    value = reference.wasserstein_1d(u, v, EXACT, p=p, a=a, b=b).result["value"]
    assert value == pytest.approx(expected, rel=1e-13)


def assert_gradients_are_quotients(formula, arrays, result, step=1e-6):
    """Every gradient that the result names, against central differences of the formula's value."""
    for name in (name for name in result if name.startswith("grad ")):
        to, grad = name.removeprefix("grad "), result[name]
        for index in np.ndindex(grad.shape):
            delta = np.zeros_like(grad)
            delta[index] = step
            up, down = (formula(**arrays | {to: arrays[to] + s * delta}) for s in (1, -1))
            quotient = (up.result["value"] - down.result["value"]) / (2 * step)
            assert grad[index] == pytest.approx(quotient, abs=1e-7), name


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize(
    ("n", "m", "weighted", "slices"),
    [
        (6, 6, False, "linear"),
        (6, 4, False, "linear"),
        (6, 4, True, "linear"),
        (6, 4, True, "tanh"),
    ],
)
def test_its_gradients_are_difference_quotients(n, m, weighted, slices, p):
    x, y = clouds(n, m, 3)
    arrays = {"x": x, "y": y, "projections": np.random.default_rng(2).standard_normal((3, 2))}
    if weighted:
        rng = np.random.default_rng(4)
        arrays |= {"a": rng.uniform(0.1, 1, n), "b": rng.uniform(0.1, 1, m)}

    def formula(**arrays):
        return reference.sliced_wasserstein(**arrays, rounding=EXACT, p=p, slices=slices)

    assert_gradients_are_quotients(formula, arrays, formula(**arrays).result)


@pytest.mark.parametrize("p", EXPONENTS)
def test_where_levels_coincide_it_takes_the_middle(p):
    u, v = (z[:, 0] for z in clouds(8, 4, 1))
    a, b = np.ones(8), np.ones(4)
    order = np.argsort(u)
    grad = reference.wasserstein_1d(u, v, EXACT, p=p, a=a, b=b).result["grad a"]
    for k in range(7):
        # Mass handed from a point to the next moves the one level between them.
        step = np.zeros(8)
        step[order[k]], step[order[k + 1]] = 1e-6, -1e-6
        values = [
            reference.wasserstein_1d(u, v, EXACT, p=p, a=a + s * step, b=b).result["value"]
            for s in (1, -1)
        ]
        quotient = (values[0] - values[1]) / 2e-6
        assert grad[order[k]] - grad[order[k + 1]] == pytest.approx(quotient, abs=1e-7)


def test_pot_has_no_sub_gradient_to_weights_where_levels_coincide_or_one_is_zero():
    """The reason for ``differs`` in peers.py; fails when POT mends it."""
    ot, torch = pytest.importorskip("ot"), pytest.importorskip("torch")

    def gradient(u, v, a, b):
        u, v, a, b = (torch.tensor(t, dtype=torch.float64) for t in (u, v, a, b))
        a.requires_grad_()
        value = ot.wasserstein_1d(u[:, None], v[:, None], a / a.sum(), b / b.sum(), p=2)
        return torch.autograd.grad(value[0], a)[0].numpy()

    # The cost is convex in the weights, with one-sided derivatives -0.4 and -0.3 along (1, -1).
    arguments = [0.0, 1.0], [0.1, 0.2], [1.0, 1.0], [1.0, 1.0]
    ours = reference.wasserstein_1d(
        *map(np.array, arguments[:2]), EXACT, p=2, a=np.ones(2), b=np.ones(2)
    ).result["grad a"]
    assert ours[0] - ours[1] == pytest.approx(-0.35)
    wrong = gradient(*arguments)
    assert wrong[0] - wrong[1] == 0.0
    # The second point has no mass; the cost grows by 1.5 less to the first than to the second.
    wrong = gradient([0.0, 1.0, 3.0], [0.25, 2.0], [1.0, 0.0, 1.0], [1.0, 2.0])
    assert wrong[0] - wrong[1] == 0.0
    a = np.array([1.0, 0.0, 1.0])
    ours = reference.wasserstein_1d(
        np.array([0.0, 1.0, 3.0]), np.array([0.25, 2.0]), EXACT, p=2, a=a, b=np.array([1.0, 2.0])
    ).result["grad a"]
    assert ours[0] - ours[1] == pytest.approx(1.5)


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_normal_cells_by_their_closed_form(n):
    means, within = normal.normal_cells(n)
    quantile = NormalDist().inv_cdf
    edges = [quantile(k / n) for k in range(1, n)]
    density = np.array([0.0, *map(NormalDist().pdf, edges), 0.0])
    np.testing.assert_allclose(means, -n * np.diff(density), atol=1e-13)
    assert within == pytest.approx(1 - np.mean(means**2), rel=1e-12)


@pytest.mark.parametrize("p", EXPONENTS)
def test_the_circle_by_the_linear_programme(p):
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(5)
    arrays = {"u": rng.random(5), "v": rng.random(4), "a": rng.random(5), "b": rng.random(4)}

    def formula(**arrays):
        return circle.wasserstein_circle(**arrays, rounding=EXACT, p=p)

    apart = np.abs(arrays["u"][:, None] - arrays["v"])
    cost = np.minimum(apart, 1 - apart) ** p
    masses = (arrays[name] / arrays[name].sum() for name in "ab")
    result = formula(**arrays).result
    assert result["value"] == pytest.approx(ot.emd2(*masses, cost), rel=1e-12)
    assert_gradients_are_quotients(formula, arrays, result)


@pytest.mark.parametrize("p", [1.5, 2])
def test_the_sphere_by_difference_quotients(p):
    rng = np.random.default_rng(6)
    frames = np.linalg.qr(rng.standard_normal((1, 3, 2))).Q
    x, y = clouds(4, 5, 3)
    arrays = {"x": x, "y": y, "projections": frames, "a": rng.random(4), "b": rng.random(5)}

    def formula(**arrays):
        return circle.sliced_wasserstein_sphere(**arrays, rounding=EXACT, p=p)

    assert_gradients_are_quotients(formula, arrays, formula(**arrays).result)


def test_the_fit_by_difference_quotients_with_its_coefficients_held(monkeypatch):
    rng = np.random.default_rng(7)
    x, y = clouds(9, 7, 3)
    arrays = {"x": x, "y": y, "projections": rng.standard_normal((3, 12))}
    arrays |= {"a": rng.random(9), "b": rng.random(7)}
    arrays["projections"] /= np.linalg.norm(arrays["projections"], axis=0)

    def formula(**arrays):
        return monte_carlo.with_control_variate(**arrays, rounding=EXACT, p=2)

    result = formula(**arrays).result
    fit = np.linalg.lstsq
    held = []

    def hold(*args, **keywords):
        held.append(held[0] if held else fit(*args, **keywords))
        return held[-1]

    monkeypatch.setattr(np.linalg, "lstsq", hold)
    formula(**arrays)

    def with_fixed_coefficients(**arrays):
        solved = monte_carlo.with_info(**arrays, rounding=EXACT, p=2)
        forms = monte_carlo._Forms(*(arrays[name] for name in "xyab"))
        control = np.mean(forms.values(arrays["projections"]), axis=0) @ [1.0, *held[0][0][1:]]
        solved.result["value"] = solved.result["value"] - control
        return solved

    value = with_fixed_coefficients(**arrays).result["value"]
    assert value == pytest.approx(result["value"], rel=1e-12)
    assert_gradients_are_quotients(with_fixed_coefficients, arrays, result)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize(("n", "m", "weighted"), [(30, 30, False), (30, 21, False), (30, 21, True)])
def test_no_rounding_within_reach_moves_it_further_than_said(n, m, weighted, p):
    u, v = (z[:, 0] for z in clouds(n, m, 1))
    a, b = (weights(n), weights(m, seed=1)) if weighted else (None, None)
    eta = 0.1  # wide enough for many exchanges
    cost, moved, sides = line(u, v, p, a, b, eta)
    assert not weighted or sides[0].potential_moved < 100 * np.ptp(sides[0].potential)
    assert 0.2 < np.mean(np.concatenate([s.close for s in sides])) < 1
    rng = np.random.default_rng(3)
    for _ in range(200):
        # Corners of the box are the worst roundings.
        du, dv = (eta / 2 * rng.choice([-1.0, 1.0], k) for k in (n, m))
        other, _, other_sides = line(u + du, v + dv, p, a, b)
        assert abs(other - cost) <= moved * (1 + 1e-12)
        for side, changed in zip(sides, other_sides, strict=True):
            assert np.all(np.abs(changed.slope - side.slope) <= side.moved + 1e-12)
            assert np.ptp(changed.potential - side.potential) <= side.potential_moved + 1e-12
