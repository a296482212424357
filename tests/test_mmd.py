"""MMD and energy distance: closed forms, statistics, values and gradients against formulas."""

import math
from itertools import cycle, product

import numpy as np
import pytest
import torch
from impls import FAST, IMPLS, QUICK, every, slow
from kernel_oracle import (
    BANDWIDTHS,
    KERNELS,
    RADIAL,
    check,
    clouds,
    masses,
    options,
    pairs,
    truth,
    within,
)
from sklearn.gaussian_process.kernels import Matern, RationalQuadratic
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel, rbf_kernel
from support import value_and_grads

from otkernels import energy_distance, mmd, wae_bandwidths
from otkernels._kernel_sums import _OPS

# Each kernel in a half type, the other of the two for the next, and in float64.
DTYPES = [
    *zip(KERNELS, cycle([torch.float16, torch.bfloat16])),
    *zip(KERNELS, cycle([torch.float64])),
]
close = torch.testing.assert_close


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# --- truth: the definition against closed forms, float64 ----------------------------------------


def plain_kernel(kernel, u, v, s):
    square = sum((p - q) ** 2 for p, q in zip(u, v, strict=True))
    inner = sum(p * q for p, q in zip(u, v, strict=True))
    return {
        "gaussian": lambda: math.exp(-square / (2 * s * s)),
        "laplacian": lambda: math.exp(-math.sqrt(square) / s),
        "imq": lambda: s * s / (s * s + square),
        "rational_quadratic": lambda: 1 / (1 + square / (2 * s * s)),
        "polynomial": lambda: (inner / len(u) + 1) ** 3,
        "energy": lambda: -math.sqrt(square),
    }[kernel]()


@pytest.mark.parametrize(("impl", "kernel", "unbiased"), every(product(KERNELS, [False, True])))
def test_double_loop(impl, kernel, unbiased):
    x, y, s = normal(4, 3), normal(5, 3), 0.7

    def mean(left, right, distinct):
        chosen = [
            plain_kernel(kernel, u, v, s)
            for i, u in enumerate(left.tolist())
            for j, v in enumerate(right.tolist())
            if i != j or not distinct
        ]
        return math.fsum(chosen) / len(chosen)

    expected = mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)
    actual = mmd(x, y, unbiased=unbiased, impl=impl, **options(kernel, s))
    assert actual.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    (oracle, *_), _ = truth(kernel, x, y, bandwidths=(s,), unbiased=unbiased)
    assert oracle.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_of_scikit_learn(kernel):
    x, y, s = normal(7, 3).numpy(), normal(5, 3).numpy(), 1.3
    matrix = {
        "gaussian": lambda u, v: rbf_kernel(u, v, gamma=1 / (2 * s**2)),
        "laplacian": Matern(length_scale=s, nu=0.5),
        "imq": RationalQuadratic(length_scale=s / math.sqrt(2), alpha=1),
        "rational_quadratic": RationalQuadratic(length_scale=s, alpha=1),
        "polynomial": lambda u, v: polynomial_kernel(u, v, degree=3, gamma=1 / 3, coef0=1),
        "energy": lambda u, v: -euclidean_distances(u, v),
    }[kernel]
    expected = matrix(x, x).mean() + matrix(y, y).mean() - 2 * matrix(x, y).mean()
    actual = mmd(torch.from_numpy(x), torch.from_numpy(y), **options(kernel, s))
    assert actual.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("impl", "kernel"), every(zip(KERNELS), interpreted=[("imq",)]))
def test_two_diracs(impl, kernel, device):
    """k(x, x) + k(y, y) - 2 k(x, y), at a distance of 5 and with bandwidth 2."""
    x, y = (torch.tensor([p], device=device).double() for p in ([1.0, 2.0], [4.0, 6.0]))
    between, slope = {  # k(r) and k'(r)
        "gaussian": (math.exp(-25 / 8), -5 / 4 * math.exp(-25 / 8)),
        "laplacian": (math.exp(-2.5), -math.exp(-2.5) / 2),
        "imq": (4 / 29, -40 / 29**2),
        "rational_quadratic": (8 / 33, -5 / 4 * (8 / 33) ** 2),
        "energy": (-5, -1),
        "polynomial": (9.0**3, None),  # <x, y> = 16
    }[kernel]
    own = {"energy": 0, "polynomial": 3.5**3 + 27.0**3}.get(kernel, 2)
    value, grad_x, grad_y = value_and_grads(
        lambda x, y: mmd(x, y, impl=impl, **options(kernel, 2.0)), x, y
    )
    close(value, torch.full_like(value, own - 2 * between))
    if kernel == "polynomial":  # 2 d1 k(x, x) - 2 d1 k(x, y), where d1 k = 3 (. / 2 + 1)^2 y / 2
        close(grad_x, 3 * (3.5**2 * x - 81 * y))
        close(grad_y, 3 * (27.0**2 * y - 81 * x))
    else:
        close(grad_x, -2 * slope * (x - y) / 5)
        close(grad_y, -grad_x)


def covariance(*rows):
    factor = torch.tensor(rows).double()
    return factor, factor @ factor.mT


def gaussian_mean(shift, covariance, s):
    """E exp(-|z|^2 / 2 s^2) for z ~ N(shift, covariance)."""
    unit = torch.eye(len(shift), dtype=torch.float64)
    quadratic = shift @ torch.linalg.solve(covariance + s**2 * unit, shift)
    return torch.exp(-quadratic / 2) / torch.linalg.det(unit + covariance / s**2).sqrt()


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("impl", QUICK)
def test_gaussians_in_closed_form(impl, same):
    """The mean of U-statistics over draws is the truth; that of V-statistics is off by 1/N parts.

    Five standard errors of the mean over the draws.
    """
    s, draws, n, m = 1.5, 2000, 12, 9
    factor_x, cov_x = covariance([1.0, 0.0], [0.5, 0.7])
    factor_y, cov_y = (factor_x, cov_x) if same else covariance([0.6, 0.3], [0.0, 1.4])
    shift = torch.zeros(2).double() if same else torch.tensor([0.4, -0.3]).double()
    zero = torch.zeros_like(shift)
    laws = (zero, 2 * cov_x), (zero, 2 * cov_y), (shift, cov_x + cov_y)
    xx, yy, xy = (gaussian_mean(*law, s) for law in laws)
    expected = 0 if same else xx + yy - 2 * xy
    x, y = normal(draws, n, 2) @ factor_x.mT, normal(draws, m, 2) @ factor_y.mT + shift
    for unbiased in (True, False):
        values = mmd(x, y, bandwidth=s, unbiased=unbiased, impl=impl)
        bias = 0 if unbiased else (1 - xx) / n + (1 - yy) / m
        assert abs(values.mean() - expected - bias) < 5 * values.std() / draws**0.5
        assert (values < 0).any() == unbiased


@pytest.mark.parametrize("impl", QUICK)
def test_energy_distance_on_a_line_is_twice_the_squared_cramer_distance(impl):
    u, v = normal(7), normal(11)
    knots = np.sort(np.concatenate([u, v]))
    gap = [np.mean(u.numpy() <= t) - np.mean(v.numpy() <= t) for t in knots[:-1]]
    expected = 2 * np.sum(np.square(gap) * np.diff(knots))
    actual = energy_distance(u[:, None], v[:, None], impl=impl)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def wasserstein_auto_encoder(z, prior, scale):
    """The penalty as the published code computes it, from one batch of each, n = m."""
    n, d = z.shape
    dots = [p @ q.T for p, q in ((z, z), (prior, prior), (z, prior))]
    squares = [(p**2).sum(1) for p in (z, prior)]
    distances = [
        squares[i][:, None] + squares[j][None, :] - 2 * dot
        for (i, j), dot in zip(((0, 0), (1, 1), (0, 1)), dots, strict=True)
    ]
    total = 0.0
    for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
        c = 2 * d * scale**2 * factor
        own = c / (c + distances[1]) + c / (c + distances[0])
        own = own * (1 - np.eye(n))
        cross = c / (c + distances[2])
        total += own.sum() / (n * (n - 1)) - 2 * cross.sum() / n**2
    return total


@pytest.mark.parametrize("impl", QUICK)
def test_wasserstein_auto_encoder(impl):
    z, prior = normal(9, 4) + 0.3, 2 * normal(9, 4)
    bandwidth = wae_bandwidths(4, scale=2.0)
    actual = mmd(z, prior, kernel="imq", bandwidth=bandwidth, unbiased=True, impl=impl)
    expected = wasserstein_auto_encoder(z.numpy(), prior.numpy(), 2.0)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


# --- match: every implementation against the formulas on the same rounded inputs ----------------


# (n, m, d, batch): one point; one feature; primes; powers of two and their neighbours; batch axes
# 0, 1 and 2; more points than features and fewer; several tiles of either cloud.
SHAPES = [
    (1, 1, 1, ()),
    (1, 4, 3, (2,)),
    (5, 1, 2, ()),
    (17, 5, 1, ()),
    (31, 33, 2, (2,)),
    (64, 65, 7, ()),
    (6, 4, 20, (2, 2)),
    (300, 131, 5, ()),
    (530, 40, 6, ()),
    (40, 530, 3, ()),
]


# Distances of differences, and of products where there are more features than 8.
TINY = [(1, 4, 3, (2,)), (6, 4, 20, ())]


@pytest.mark.parametrize(("impl", "shape"), every(zip(SHAPES), interpreted=zip(TINY)), ids=str)
def test_shapes(impl, shape, device):
    x, y = clouds(*shape, device=device)
    check(impl, "gaussian", x, y)
    (value, *_), (size, *_) = truth("gaussian", x, y)
    without_gradient = mmd(x, y, impl=impl, **options("gaussian"))
    within(without_gradient, value, size, sum(shape[:3]))


@pytest.mark.parametrize(
    ("impl", "kernel", "weighted", "unbiased"),
    every(
        product(KERNELS, [False, True], [False, True]),
        interpreted=zip(KERNELS, cycle([True, False]), cycle([True, True, False])),
    ),
)
def test_kernels(impl, kernel, weighted, unbiased, device):
    """Small problems and larger ones, distances of differences and of products."""
    n, m, batch = (200, 170, ()) if weighted else (23, 18, (2,))
    if slow(impl):
        n, m, batch = 5, 4, ()
    x, y = clouds(n, m, 9 if unbiased else 3, batch, device=device)
    weights = masses(n, m, batch, device) if weighted else ()
    check(impl, kernel, x, y, weights, unbiased=unbiased)


@pytest.mark.parametrize(("impl", "kernel"), every(zip(KERNELS)))
def test_clouds_of_one_size(impl, kernel, device):
    """The only ones where an operand that is transposed by mistake still fits."""
    for d in (3, 9):
        x, y = clouds(13, 13, d, dtype=torch.float64, device=device)
        check(impl, kernel, x, y, masses(13, 13, device=device))


HALF_AND_DOUBLE = [("laplacian", torch.float16), ("gaussian", torch.float64)]


@pytest.mark.parametrize(
    ("impl", "kernel", "dtype"), every(DTYPES, interpreted=HALF_AND_DOUBLE), ids=str
)
def test_dtypes(impl, kernel, dtype, device):
    n, m, batch = (5, 4, ()) if slow(impl) else (33, 39, (2,))
    x, y = clouds(n, m, 9, batch, dtype=dtype, device=device)
    check(impl, kernel, x, y, [w.to(dtype) for w in masses(n, m, batch, device)])


@pytest.mark.parametrize("impl", QUICK)
def test_batches_broadcast_and_sum_their_gradients(impl, device):
    (x, _), (_, y) = clouds(4, 1, 2, (2, 1), device=device), clouds(1, 5, 2, (3,), device=device)
    check(impl, "imq", x, y)
    value = mmd(x, y, impl=impl, bandwidth=1.0)
    assert value.shape == (2, 3)
    weights = torch.rand(3, 4, device=device) + 0.1, torch.rand(2, 1, 5, device=device) + 0.1
    check(impl, "gaussian", x[0, 0], y[0], weights)


@pytest.mark.parametrize("impl", IMPLS)
def test_fast_precision_costs_no_more_than_half_precision_products(impl, device):
    x, y = clouds(5, 4, 3, device=device)
    (value, *_), (size, *_) = truth("gaussian", x, y)
    fast = mmd(x, y, precision="fast", impl=impl, **options("gaussian"))
    assert abs(fast - value) <= torch.finfo(torch.float16).eps * size


@pytest.mark.parametrize("impl", QUICK)
def test_energy_distance_is_the_mmd_of_its_kernel(impl, device):
    x, y = clouds(6, 5, 3, (2,), device=device)
    a, b = masses(6, 5, (2,), device)
    lengths = torch.tensor([3, 6], device=device)
    for more in (
        {"a": a, "b": b, "unbiased": True},
        {"x_lengths": lengths, "squared": False, "reduction": "mean"},
        {"y_lengths": lengths.clamp(max=5), "precision": "fast", "reduction": "sum"},
    ):
        expected = mmd(x, y, kernel="energy", impl=impl, **more)
        close(energy_distance(x, y, impl=impl, **more), expected, rtol=0, atol=0)


@pytest.mark.parametrize("term", range(3))
@pytest.mark.parametrize("impl", FAST[:1])
def test_raw_operator_adds_up_only_the_terms_asked_for(impl, term, device):
    """A loss with a fixed reference leaves out the pairs within it."""
    x, y = (t.double() for t in clouds(5, 4, 9, device=device))
    a, b = (w.double() / w.double().sum() for w in masses(5, 4, device=device))
    coefficients = torch.tensor([1.5, -0.5, 3.0], device=device).double()
    rates = torch.tensor([0.5], device=device).double()
    wanted = [k == term for k in range(3)]
    value, grad_x, grad_y, *_, sums = _OPS[impl](
        x, y, a, b, coefficients, rates, None, None, "gaussian", wanted, False, [True] * 5
    )  # fmt: skip
    (p, u), (q, v) = [((x, a), (x, a)), ((y, b), (y, b)), ((x, a), (y, b))][term]
    matrix, slopes = pairs("gaussian", p, q, (1.0,))
    if term < 2:
        matrix.fill_diagonal_(0)
    close(sums[term], u @ matrix @ v)
    close(value, coefficients[term] * sums[term])
    # A pair within a cloud moves by both of its points.
    moves = coefficients[term] * (2 if term < 2 else 1) * u[:, None] * (slopes * v[:, None]).sum(1)
    close(grad_y if term == 1 else grad_x, moves)
    if term < 2:
        assert not (grad_x if term == 1 else grad_y).any()


# --- accuracy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("impl", "kernel", "where"),
    every(
        product(RADIAL, ["far out", "apart", "two clusters"]),
        interpreted=[("energy", "far out"), ("imq", "apart")],
    ),
)
def test_large_offsets_cost_no_accuracy(impl, kernel, where, device):
    """Of both clouds, of one from the other, within each; float32, and the bound as near 0."""
    n, m = (4, 5) if slow(impl) else (200, 190)
    x, y = clouds(n, m, 9, device=device)
    x += {"far out": 1000, "apart": -500, "two clusters": 0}[where]
    y += {"far out": 1000, "apart": 500, "two clusters": 0}[where]
    if where == "two clusters":
        x[::2] += 1000
        y[::2] += 1000
    check(impl, kernel, x, y, bandwidths=(0.8, 900.0) if where == "apart" else BANDWIDTHS)


# What is promised of the MMD^2 of identical clouds, as a part of k(0).
NOTHING = 1e-7


@pytest.mark.parametrize(("impl", "kernel"), every(zip(RADIAL)))
def test_identical_clouds(impl, kernel, device):
    """Within 1e-7 of the largest kernel value; of a distance of 1 for the energy distance."""
    sizes, batch = (1, 2, 3, 5, 17, 64, 129, 200), (3,)
    largest = 1 if kernel == "energy" else len(BANDWIDTHS)
    for n in sizes:
        x = clouds(n, 1, 9, batch, device=device)[0] + 100
        order = torch.randperm(n, device=device)
        a, _ = masses(n, n, batch, device=device)
        for y, b in ((x.clone(), a), (x[..., order, :], a[..., order])):
            for weights in ({}, {"a": a, "b": b}):
                value = mmd(x, y, impl=impl, **options(kernel), **weights)
                assert value.abs().max() <= NOTHING * largest


@pytest.mark.parametrize(("impl", "kernel"), every(zip(RADIAL), interpreted=[("laplacian",)]))
def test_coincident_and_near_points(impl, kernel, device):
    """Within a cloud and between two: the gradient is that of all the other pairs."""
    n, m = (5, 4) if slow(impl) else (200, 170)
    x, y = clouds(n, m, 9, device=device)
    x[1] = x[0]
    y[2], y[3] = x[0], x[4]
    x[2], y[0] = x[3] + 1e-4, x[4] - 1e-4  # near, as seen from the middle
    for weights in [(), masses(n, m, device=device)][slow(impl) :]:
        check(impl, kernel, x, y, weights)
    for squared in () if slow(impl) else (True, False):
        value, *grads = value_and_grads(
            lambda x, y, squared=squared: mmd(x, y, squared=squared, impl=impl, **options(kernel)),
            x[:1].expand(3, 9),
            x[:1].expand(2, 9),
        )
        assert abs(value) <= (len(BANDWIDTHS) * NOTHING) ** (1 if squared else 0.5)
        assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_scaled_loss_saves_small_half_gradients(impl, device):
    """As torch.amp.GradScaler does: the gradient itself, 2^-25, rounds to 0 in float16."""
    x = torch.zeros(1, 1, dtype=torch.float16, device=device)
    y = x + 2.0**-4
    _, grad, _ = value_and_grads(
        lambda x, y: 2.0**16 * mmd(x, y, kernel="imq", bandwidth=2.0**11, impl=impl), x, y
    )
    close(grad, torch.full_like(x, -(2.0**-8)), rtol=0, atol=0)


# --- roots and reductions -----------------------------------------------------------------------


@pytest.mark.parametrize("impl", QUICK)
def test_root_and_reductions(impl, device):
    x, y = clouds(4, 5, 2, (2, 1), device=device)

    def run(**more):
        return mmd(x, y, bandwidth=1.0, impl=impl, **more)

    square = run()
    close(run(squared=False), square.sqrt())
    close(run(reduction="mean"), square.mean())
    close(run(squared=False, reduction="sum"), square.sqrt().sum())


@pytest.mark.parametrize("impl", QUICK)
def test_gradient_of_the_root(impl, device):
    x, y = clouds(4, 5, 2, device=device)

    def cost(x, y, **more):
        return mmd(x, y, bandwidth=1.0, impl=impl, **more)

    root, *grads = value_and_grads(lambda x, y: cost(x, y, squared=False), x, y)
    _, *expected = value_and_grads(cost, x, y)
    for grad, of_square in zip(grads, expected, strict=True):
        close(grad, of_square / (2 * root))
