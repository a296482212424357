"""Closed forms and laws of Gaussian distances, roots and maps, by every implementation."""

import math

import pytest
import torch
from impls import INTERPRETED, QUICK

import otkernels
from otkernels import (
    bures_wasserstein,
    gaussian_map,
    gaussian_wasserstein,
    gaussian_wasserstein_to_normal,
    inv_sqrtm,
    mean_cov,
    sqrtm,
)
from otkernels.verify.digits import fidelity_and_map

EPS32, EPS64 = (torch.finfo(t).eps for t in (torch.float32, torch.float64))
# Promised in float32: of the distance as a part of both traces, of a gradient as a part of the map.
VALUE, GRADIENT = 1e-6, {1e4: 1e-5, 1e6: 1e-4}
D = 6


@pytest.fixture(params=QUICK)
def impl(request):
    return request.param


@pytest.fixture(autouse=True)
def there(device):
    """All tensors of this file are made on the device."""
    with device:
        yield


def covariance(*shape, condition=10.0):
    basis = torch.linalg.qr(torch.randn(*shape, shape[-1], dtype=torch.float64)).Q
    values = torch.logspace(0, -math.log10(condition), shape[-1], dtype=torch.float64)
    cov = (basis * values) @ basis.mT
    return (cov + cov.mT) / 2


def trace(cov):
    return cov.diagonal(dim1=-2, dim2=-1).sum(-1)


def distance(x, y, impl, **options):
    """Of centred Gaussians."""
    zero = x.new_zeros(*x.shape[:-1])
    return bures_wasserstein(zero, x, y.new_zeros(*y.shape[:-1]), y, impl=impl, **options)


def assert_close(actual, expected, size, eps, factor=1.0):
    """Within the rounding of ``factor`` sums of D terms, one after the other, of this size."""
    bound = factor * D**0.5 * eps * size + EPS32 * expected.abs().max() * (eps == EPS32)
    error = (actual.double() - expected).abs().max().item()
    assert error <= bound, f"error {error:.3g} above the bound {float(bound):.3g}"


# --- closed forms -------------------------------------------------------------------------------


def test_of_one_feature(impl):
    """(m - n)^2 + (s - t)^2, derivative 1 - t / s to the variance s^2."""
    x = torch.tensor([[4.0]], requires_grad=True)
    value = bures_wasserstein(
        torch.tensor([1.0]), x, torch.tensor([3.0]), torch.tensor([[9.0]]), impl=impl
    )
    assert value.item() == pytest.approx(4 + 1, rel=4 * EPS32)
    value.backward()
    assert x.grad.item() == pytest.approx(1 - 3 / 2, rel=8 * EPS32)


def test_of_diagonals(impl):
    r, s = torch.linspace(0.5, 3, D).double(), torch.linspace(2, 0.25, D).double()
    x = torch.diag(r**2).requires_grad_()
    value = distance(x, torch.diag(s**2), impl)
    assert_close(value, (r - s).square().sum(), (r**2 + s**2).sum(), EPS64)
    value.backward()
    assert_close(x.grad, torch.eye(D) - torch.diag(s / r), (s / r).max() * 10, EPS64)


def test_of_commuting_covariances(impl):
    basis = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    r, s = (
        torch.linspace(0.5, 3, D).double(),
        torch.linspace(2, 0.25, D).double()[torch.randperm(D)],
    )
    x, y = (((basis * t**2) @ basis.mT).requires_grad_() for t in (r, s))
    value = distance(x, y, impl)
    assert_close(value, (r - s).square().sum(), (r**2 + s**2).sum(), EPS64)
    value.backward()
    condition = (3 / 0.25) ** 2
    for cov, own, other in ((x, r, s), (y, s, r)):
        expected = torch.eye(D) - (basis * (other / own)) @ basis.mT
        assert_close(cov.grad, expected, (other / own).max() * condition, EPS64)


@pytest.mark.parametrize("factor", [1e-3, 0.5, 1.0, 2.0, 1e3])
def test_of_multiples(impl, factor):
    """(1 - f)^2 tr S, gradient (1 - f) I, whatever S is."""
    x = covariance(D).requires_grad_()
    value = distance(x, factor**2 * x.detach(), impl)
    traces = (1 + factor**2) * trace(x.detach())
    assert_close(value, (1 - factor) ** 2 * trace(x.detach()), traces, EPS64, factor=4)
    value.backward()
    assert_close(x.grad, (1 - factor) * torch.eye(D).double(), 10 * (1 + factor), EPS64, factor=4)


def test_of_a_translation(impl):
    cov = covariance(D)
    shift = torch.arange(1.0, D + 1).double()
    value = bures_wasserstein(shift, cov, -shift, cov, impl=impl)
    assert_close(value, 4 * shift.square().sum(), 2 * trace(cov), EPS64, factor=4)


def test_to_the_normal(impl):
    """|m|^2 + sum (s - 1)^2 over the deviations; for the normal itself 0."""
    signs = torch.cartesian_prod(*([torch.tensor([-1.0, 1.0])] * D)).double().reshape(-1, D)
    deviations = torch.linspace(0.5, 3, D).double()
    mean = torch.arange(1.0, D + 1).double()
    value = gaussian_wasserstein_to_normal(signs, impl=impl)
    assert_close(value, torch.zeros(()).double(), 2 * D, EPS64, factor=4)
    value = gaussian_wasserstein_to_normal(signs * deviations + mean, impl=impl)
    expected = mean.square().sum() + (deviations - 1).square().sum()
    size = D + deviations.square().sum() + mean.square().sum()
    assert_close(value, expected, size, EPS64, factor=4)


def test_moments_of_a_cube(impl):
    signs = torch.cartesian_prod(*([torch.tensor([-1.0, 1.0])] * 3)) * torch.tensor([1.0, 2.0, 4.0])
    mean, cov = mean_cov(signs + 5, impl=impl)
    assert mean.tolist() == [5.0, 5.0, 5.0]
    assert cov.tolist() == torch.diag(torch.tensor([1.0, 4.0, 16.0])).tolist()
    cov = mean_cov(signs, correction=1, impl=impl)[1]
    assert cov[2, 2].item() == pytest.approx(16 * 8 / 7, rel=4 * EPS32)


@pytest.mark.skipif(not INTERPRETED, reason="with a GPU triton runs in every test of this file")
def test_interpreted_closed_forms():
    test_of_one_feature("triton")
    r, s = (torch.tensor(t).double() for t in ([1.0, 2.0], [3.0, 0.5]))
    x = torch.diag(r**2).requires_grad_()
    value = distance(x, torch.diag(s**2), "triton")
    assert_close(value, (r - s).square().sum(), (r**2 + s**2).sum(), EPS64)
    value.backward()
    assert_close(x.grad, torch.eye(2) - torch.diag(s / r), 30.0, EPS64)
    moments = r, x.detach(), s, torch.diag(s**2)
    a, b = gaussian_map(*moments, impl="triton")
    assert_close(a, torch.diag(s / r), 30.0, EPS64)
    assert_close(b, s - s, 30.0, EPS64)


# --- laws ---------------------------------------------------------------------------------------


def test_symmetry(impl):
    x, y = covariance(3, D), covariance(3, D)
    there, back = distance(x, y, impl), distance(y, x, impl)
    assert_close(there, back, (trace(x) + trace(y)).max(), EPS64, factor=10)


def test_triangle_inequality_of_the_root(impl):
    n = 40
    x, y, z = (covariance(n, D, condition=c) for c in (10, 100, 3))
    roots = [distance(*pair, impl, squared=False) for pair in ((x, y), (y, z), (x, z))]
    assert (roots[2] <= (roots[0] + roots[1]) * (1 + 1e-7)).all()
    # With equality for multiples, which lie on one geodesic.
    roots = [distance(a * x, b * x, impl, squared=False) for a, b in ((1, 4), (4, 9), (1, 9))]
    torch.testing.assert_close(roots[2], roots[0] + roots[1], rtol=1e-12, atol=0)


def test_rotations_change_nothing(impl):
    x, y = covariance(D).requires_grad_(), covariance(D)
    q = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    turned = (q @ x.detach() @ q.mT).requires_grad_()
    values = distance(x, y, impl), distance(turned, q @ y @ q.mT, impl)
    assert_close(*values, trace(x.detach()) + trace(y), EPS64, factor=10)
    for value in values:
        value.backward()
    assert_close(turned.grad, q @ x.grad @ q.mT, 10 * (1 + x.grad.abs().max()), EPS64, factor=10)


def test_units(impl):
    """Distances are in the squared unit; the gradient to a covariance has none."""
    x, y = covariance(D).requires_grad_(), covariance(D)
    large = (2.0**40 * x.detach()).requires_grad_()
    values = distance(x, y, impl), distance(large, 2.0**40 * y, impl)
    for value in values:
        value.backward()
    assert_close(values[1] / 2.0**40, values[0], trace(x.detach()) + trace(y), EPS64)
    assert_close(large.grad, x.grad, 10 * (1 + x.grad.abs().max()), EPS64)


def test_block_diagonals_add_up(impl):
    blocks = [(covariance(3), covariance(3)) for _ in range(2)]
    x, y = (torch.block_diag(*side) for side in zip(*blocks, strict=True))
    apart = sum(distance(*pair, impl) for pair in blocks)
    assert_close(distance(x, y, impl), apart, trace(x) + trace(y), EPS64, factor=10)


# --- roots and maps -----------------------------------------------------------------------------


def test_root_and_inverse(impl):
    a = covariance(2, D)
    root, inverse = sqrtm(a, impl=impl), inv_sqrtm(a, impl=impl)
    one = torch.eye(a.shape[-1], dtype=torch.float64)
    assert_close(root @ root, a, 1.0, EPS64, factor=10)
    assert_close(root @ inverse, one.expand_as(a), 10.0, EPS64, factor=10)
    assert_close(inverse @ a @ inverse, one.expand_as(a), 10.0, EPS64, factor=10)


@pytest.mark.parametrize("condition", [1e1, 1e4])
def test_the_map_takes_one_covariance_to_the_other(impl, condition):
    x, y = covariance(D, condition=condition), covariance(D, condition=condition)
    mean_x, mean_y = torch.randn(2, D, dtype=torch.float64)
    a, b = gaussian_map(mean_x, x, mean_y, y, impl=impl)
    assert torch.equal(a, a.mT)
    assert torch.linalg.eigvalsh(a)[0] > 0
    assert_close(a @ x @ a, y, 1.0, EPS64, factor=10 * condition)
    assert_close(a @ mean_x + b, mean_y, a.abs().sum(-1).max() * 4, EPS64)


def test_mapped_points_have_the_moments_of_the_others(impl):
    n, d = 40, D
    x = torch.randn(n, d, dtype=torch.float64)
    y = 3 + torch.randn(2 * n, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64)
    moments = *mean_cov(x, impl=impl), *mean_cov(y, impl=impl)
    a, b = gaussian_map(*moments, impl=impl)
    mean, cov = mean_cov(x @ a + b, impl=impl)
    condition = torch.linalg.cond(moments[1]) * torch.linalg.cond(moments[3]).sqrt()
    assert_close(mean, moments[2], 10 * a.abs().sum(), EPS64)
    assert_close(cov, moments[3], trace(moments[3]) * condition, EPS64, factor=10)
    # No other coupling of that form is cheaper: the cost of the map is the distance.
    cost = (x @ a + b - x).square().sum(-1).mean()
    value = bures_wasserstein(*moments, impl=impl)
    size = (trace(moments[1]) + trace(moments[3])) * condition
    assert_close(value, cost, size, EPS64, factor=10)


def test_the_gradient_is_one_minus_the_map(impl):
    x, y = covariance(D, condition=100), covariance(D, condition=100)
    zero = torch.zeros(D, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    distance(leaf, y, impl).backward()
    a, _ = gaussian_map(zero, x, zero, y, impl=impl)
    assert_close(leaf.grad, torch.eye(D) - a, 100 * a.abs().max(), EPS64, factor=10)


# --- samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize(("n", "m"), [(20, 15), (4, 15), (4, 3)])
def test_samples_are_their_moments(impl, n, m, correction):
    x, y = torch.randn(n, D).double(), 1 + torch.randn(m, D).double()
    own = gaussian_wasserstein(x, y, correction=correction, impl=impl)
    moments = [t for z in (x, y) for t in mean_cov(z, correction=correction, impl=impl)]
    # A covariance knows a deviation of 0 to the root of eps only.
    eps = EPS64 if min(n, m) > D else EPS64**0.5
    size = sum(trace(cov) for cov in moments[1::2])
    assert_close(own, bures_wasserstein(*moments, impl=impl), size, eps, factor=10)


@pytest.mark.parametrize(("n", "m"), [(4, 3), (4, 15), (6, 6)])
def test_few_points_are_the_limit_of_a_ridge(impl, n, m):
    """Sum of roots of (s + eps): the distance differs by no more than D (eps + 2 sqrt(eps S))."""
    x, y = torch.randn(n, D).double(), 1 + torch.randn(m, D).double()
    own = gaussian_wasserstein(x, y, impl=impl)
    size = max(torch.linalg.norm(z - z.mean(0)).item() for z in (x, y))
    last = math.inf
    for eps in (1e-4, 1e-8, 1e-12):
        gap = (gaussian_wasserstein(x, y, eps=eps, impl=impl) - own).abs().item()
        assert gap <= 2 * D * (eps + 2 * size * eps**0.5)
        assert gap < last or gap < 1e-9
        last = gap


def test_few_points_have_the_gradient_of_the_definition_by_the_plan(impl):
    """Clouds of two points each, opposite about a common mean: |u|^2 + |v|^2 - 2 |<u, v>|."""
    u, v = torch.randn(2, D, dtype=torch.float64)
    x, y = (torch.stack([t, -t]).requires_grad_() for t in (u, v))
    value = gaussian_wasserstein(x, y, impl=impl)
    inner = u @ v
    size = u.square().sum() + v.square().sum()
    assert_close(value, size - 2 * inner.abs(), size, EPS64)
    value.backward()
    assert_close(x.grad, torch.stack([u, -u]) - inner.sign() * torch.stack([v, -v]), size, EPS64)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (40, 64), (5, 12), (12, 12), (400, 128)])
def test_a_cloud_is_at_no_distance_from_itself(n, d):
    for impl in QUICK:
        x = torch.randn(n, d) * torch.logspace(0, -2, d) + 3
        total = x.var(0, correction=0).sum()
        leaf = x.clone().requires_grad_()
        value = gaussian_wasserstein(leaf, x, impl=impl)
        assert abs(value.item()) <= VALUE * total
        value.backward()
        # 2 / N (x - m), and as much by the map, cancel.
        part = 2 / n * (x - x.mean(0)).norm()
        assert leaf.grad.norm() <= 1e-4 * part


# --- what is promised in float32 ----------------------------------------------------------------


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("kind", ["apart", "equal", "commuting"])
def test_promises(condition, kind):
    d = 12
    x = covariance(d, condition=condition)
    values, vectors = torch.linalg.eigh(x)
    y = {
        "apart": lambda: covariance(d, condition=condition),
        "equal": lambda: x,
        "commuting": lambda: (vectors * values[torch.randperm(d)]) @ vectors.mT,
    }[kind]()
    x, y = ((t + t.mT).div(2).float() for t in (x, y))
    fidelity, *maps = fidelity_and_map(*(t.double().cpu().numpy() for t in (x, y)))
    traces = (trace(x.double()) + trace(y.double())).item()
    for impl in QUICK:
        leaves = [t.clone().requires_grad_() for t in (x, y)]
        value = distance(*leaves, impl)
        assert abs(value.item() - (traces - 2 * fidelity)) <= VALUE * traces
        value.backward()
        for leaf, t in zip(leaves, maps, strict=True):
            t = torch.tensor(t)
            error = torch.linalg.matrix_norm(leaf.grad.double() - (torch.eye(d) - t))
            assert error <= GRADIENT.get(condition, 1e-5) * torch.linalg.matrix_norm(t)


@pytest.mark.parametrize("d", [64, 256])
def test_promised_distance_of_a_covariance_to_itself(d):
    for condition in (1e1, 1e4, 1e6):
        cov = covariance(d, condition=condition).float()
        for impl in QUICK:
            value = distance(cov, cov, impl).item()
            assert abs(value) <= VALUE * trace(cov), (impl, condition, value)


def test_public_names():
    for name in ("gaussian_wasserstein", "gaussian_wasserstein_to_normal", "mean_cov"):
        assert name in otkernels.__all__
