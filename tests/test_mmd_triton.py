"""Kernel sums in Triton, interpreted where there is no GPU: value and gradients against float64."""

import pytest
import torch
import triton
from support import assert_close64, value_and_grads

from otkernels import mmd
from otkernels._kernel_sums import _OPS, _definition
from otkernels.kernels import mmd as kernels
from otkernels.kernels import split, walks

PROFILES = ["gaussian", "laplacian", "cauchy", "energy", "polynomial"]
ALL = [True, True, True]
# Roundings of one pair beside those of its d coordinates: two norms, scale, root, exponential,
# slope, factor, both masses.
PAIR = 9


def small_config(d, dtype, direct):
    return 16, 16, triton.next_power_of_2(d) if direct else 16, 4


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of 16 x 16 pairs and 16 coordinates, and bits of two tiles to a number."""
    for module, name, value in (
        (split, "ROWS", 16),
        (kernels, "ROWS", 16),
        (kernels, "GROUP", 2),
        (kernels, "config", small_config),
        (kernels, "PROGRAMS", 1),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def shares(monkeypatch):
    """Columns shared out to programs of two blocks."""
    monkeypatch.setattr(kernels, "PROGRAMS", 10**6)
    monkeypatch.setattr(kernels, "BLOCKS", 2)


def inputs(n, m, d, profile, *, batch=(), k=1, masses=False, dtype=torch.float32, device="cpu"):
    """Arguments x, y, a, b, coefficients, rates.

    Coefficients are positive, and so are products of points where a profile is one of products, so
    that value and gradient are no small differences.
    """
    x, y = torch.randn(*batch, n, d), 1.2 * torch.randn(*batch, m, d) + 0.3
    if profile == "polynomial":
        x, y = x.abs(), y.abs()
    a, b = (
        torch.rand(*batch, size, dtype=torch.float64).softmax(-1).to(device) if masses else None
        for size in (n, m)
    )
    coefficients = 0.5 + torch.rand(*batch, 3, dtype=torch.float64)
    rates = (0.2 + torch.rand(*batch, k, dtype=torch.float64)) / d
    rates = rates.to(torch.float64 if dtype == torch.float64 else torch.float32)
    rest = coefficients.to(device), rates.to(device)
    return x.to(device, dtype), y.to(device, dtype), a, b, *rest


def run(arguments, profile, terms=ALL, needs=None, fast=False):
    """Value and gradients to x, y, a, b and coefficients."""
    needs = [t is not None for t in arguments[:5]] if needs is None else needs
    return _OPS["triton"](*arguments, None, None, profile, terms, fast, needs)


def expected(arguments, profile, terms=ALL):
    """The same from the definition in float64; None for an argument that is None."""
    *given, rates = (None if t is None else t.double() for t in arguments)
    leaves = [None if t is None else t.clone().requires_grad_() for t in given]
    value = _definition(*leaves, rates, profile, terms)
    grads = torch.autograd.grad(
        value.sum(), [t for t in leaves if t is not None], allow_unused=True, materialize_grads=True
    )
    rest = iter(grads)
    return value.detach(), *(None if t is None else next(rest) for t in leaves)


def assert_matches(arguments, profile, terms=ALL):
    out = run(arguments, profile, terms)
    (n, d), m = arguments[0].shape[-2:], arguments[1].shape[-2]
    dtype = arguments[-1].dtype
    for got, reference in zip(out, expected(arguments, profile, terms), strict=True):
        if reference is None:
            assert got.numel() == 0
        else:
            assert got.is_contiguous()
            assert_close64(got, reference, terms=max(n, m) * (d + PAIR), dtype=dtype)


@pytest.mark.parametrize(
    ("profile", "shape"),
    [
        *((profile, shape) for profile in PROFILES for shape in ((5, 4, 3), (4, 5, 20))),
        # Tiles are walked alike whatever the profile.
        ("cauchy", (17, 5, 3)),
        ("gaussian", (5, 17, 20)),
        ("energy", (1, 5, 1)),
    ],
    ids=str,
)
def test_agrees_with_the_definition(profile, shape, device):
    """Differences and products; one block of coordinates and several."""
    assert_matches(inputs(*shape, profile, k=2, masses=True, device=device), profile)


OTHER = {
    "one mass for all, batch": {"batch": (2,)},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
}


@pytest.mark.parametrize("case", OTHER)
@pytest.mark.parametrize("d", [3, 10])
def test_other_inputs(d, case, device):
    assert_matches(inputs(5, 4, d, "laplacian", **OTHER[case], device=device), "laplacian")


@pytest.mark.parametrize("d", [2, 10])
def test_shared_columns(d, shares, device):
    """The shares of a walk are of one size, of several, or empty."""
    assert_matches(inputs(70, 17, d, "laplacian", masses=True, device=device), "laplacian")


@pytest.mark.parametrize("d", [2, 70])
def test_true_size_of_tiles(d, monkeypatch, device):
    monkeypatch.undo()
    assert_matches(inputs(66, 5, d, "laplacian", device=device), "laplacian")


@pytest.mark.parametrize(("d", "wanted"), [(3, 1), (10, 2), (3, 4), (10, 5), (3, 6), (10, 3)])
def test_terms(d, wanted, device):
    terms = [bool(wanted >> t & 1) for t in range(3)]
    assert_matches(inputs(5, 17, d, "cauchy", masses=True, device=device), "cauchy", terms)
    # What is not asked for has no part in the value, whatever its coefficient is.
    x, y, a, b, c, rates = inputs(5, 4, d, "gaussian", device=device)
    c = torch.where(torch.tensor(terms, device=device), c, torch.nan)
    for got in run((x, y, a, b, c, rates), "gaussian", terms):
        assert got.isfinite().all()


@pytest.mark.parametrize("d", [3, 10])
def test_each_gradient_alone(d, device):
    arguments = inputs(5, 4, d, "energy", masses=True, device=device)
    whole = run(arguments, "energy")
    for wanted in range(-1, 5):
        needs = [k == wanted for k in range(5)]
        value, *grads = run(arguments, "energy", needs=needs)
        torch.testing.assert_close(value, whole[0], rtol=1e-15, atol=0)
        for need, grad, reference in zip(needs, grads, whole[1:], strict=True):
            if need:
                torch.testing.assert_close(grad, reference, rtol=1e-15, atol=0)
            else:
                assert grad.numel() == 0


def test_masses_of_one_cloud_and_of_many_magnitudes(device):
    x, y, a, b, *rest = inputs(20, 9, 10, "gaussian", masses=True, device=device)
    assert_matches((x, y, a, None, *rest), "gaussian")
    assert_matches((x, y, None, b, *rest), "gaussian")
    a = torch.logspace(-12, 0, 20, dtype=torch.float64, device=device)
    assert_matches((x, y, a / a.sum(), b, *rest), "gaussian")


@pytest.mark.parametrize("profile", ["laplacian", "energy"])
def test_points_close_together_and_coincident(profile, device):
    """Products have no digits left of these distances; where they are 0 so is the gradient."""
    x, y, *rest = inputs(20, 16, 10, profile, masses=True, device=device)
    y[:4] = x[5:9]
    y[8:12] = x[8:12] + 1e-4 * torch.randn(4, 10, device=device)
    x[15:] = x[:5]
    assert_matches((x, y, *rest), profile)
    *_, c, rates = rest
    same = x[:1].expand(5, 10)
    value, gx, gy, *_ = run((same, same, None, None, c, rates), profile)
    assert value.isfinite()
    assert (gx == 0).all()
    assert (gy == 0).all()


@pytest.mark.parametrize("d", [3, 10])
@pytest.mark.parametrize("profile", ["gaussian", "energy"])
def test_far_from_the_origin_and_from_each_other(profile, d, device):
    """The reference has the same rounded points; products of those as given would be far off."""
    x, y, a, b, c, rates = inputs(9, 5, d, profile, masses=True, device=device)
    assert_matches((x + 1000, y + 1000, a, b, c, rates), profile)
    assert_matches((x - 500, y + 500, a, b, c, rates * 1e-6), profile)


@pytest.mark.parametrize("d", [3, 10])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_identical_clouds(kernel, d, device):
    x = torch.randn(17, d, device=device) + 30
    assert mmd(x, x, kernel=kernel, bandwidth=1.0, impl="triton").abs() <= 1e-7


def test_scales(device):
    """Points, weights and rates of any magnitude: halves neither over- nor underflow."""
    for profile in ("gaussian", "energy"):
        x, y, a, b, c, rates = inputs(9, 5, 10, profile, device=device)
        for scale in (1e-12, 1e12):
            assert_matches((x * scale, y * scale, a, b, c, rates / scale**2), profile)


@pytest.mark.parametrize(("profile", "d"), [("gaussian", 3), ("energy", 10), ("polynomial", 3)])
def test_a_nan_stays_in_its_problem(profile, d, device):
    arguments = inputs(5, 4, d, profile, batch=(3,), device=device)
    broken = [None if t is None else t.clone() for t in arguments]
    broken[0][1, 3, 0] = broken[1][2, 3, 0] = torch.nan
    value, *grads = run(broken, profile)
    whole, *expected_grads = run(arguments, profile)
    assert value.isnan().tolist() == [False, True, True]
    assert torch.equal(value[0], whole[0])
    for got, reference in zip(grads, expected_grads, strict=True):
        assert torch.equal(got[0], reference[0])


@pytest.mark.parametrize(("kernel", "unbiased"), [("gaussian", True), ("polynomial", False)])
def test_public_function(kernel, unbiased, device):
    """Weights, lengths and bandwidths a problem, to the gradients of points and weights."""
    x, y = torch.randn(2, 9, 10, device=device), torch.randn(17, 10, device=device) + 0.5
    weights = torch.rand(2, 9, device=device), torch.rand(17, device=device)
    options = {"kernel": kernel, "unbiased": unbiased}
    options["y_lengths"] = torch.tensor([17, 9], device=device)
    if kernel == "gaussian":
        options["bandwidth"] = 3 + torch.rand(2, 2, device=device)

    def call(impl, dtype):
        def function(x, y, a, b):
            return mmd(x, y, a=a, b=b, impl=impl, **options)

        return value_and_grads(function, *(t.to(dtype) for t in (x, y, *weights)))

    actual, reference = call("triton", torch.float32), call("torch", torch.float64)
    sums = {"gaussian": 2, "polynomial": 8}[kernel]  # about the greatest kernel value
    bound = (3 * 17 * (10 + PAIR)) ** 0.5 * torch.finfo(torch.float32).eps
    for got, true in zip(actual, reference, strict=True):
        assert (got - true).abs().max() <= bound * max(sums, true.abs().max())


def test_empty_batch(device):
    x = torch.randn(0, 5, 12, device=device, requires_grad=True)
    value = mmd(x, x.detach(), bandwidth=1.0, impl="triton")
    value.sum().backward()
    assert value.shape == (0,)
    assert x.grad.shape == x.shape


def test_fast(device):
    """One product of halves: eleven bits, in norms too, and points that coincide stay so."""
    arguments = inputs(17, 5, 10, "gaussian", device=device)
    reference = expected(arguments, "gaussian")
    eps = torch.finfo(torch.float16).eps
    differs = []
    for got, exact, full in zip(
        run(arguments, "gaussian", fast=True), reference, run(arguments, "gaussian"), strict=True
    ):
        if exact is not None:
            assert (got - exact).abs().max() <= 4 * eps * exact.abs().max()
            differs.append((got - full).abs().max() > 0)
    assert all(differs)
    x = arguments[0]
    assert mmd(x, x, precision="fast", impl="triton").abs() <= 1e-7


def test_any_tile_and_any_sharing_agree(monkeypatch, device):
    arguments = inputs(17, 5, 20, "energy", masses=True, device=device)
    first = run(arguments, "energy")
    monkeypatch.setattr(kernels, "config", lambda *_: (16, 8, 32, 4))
    monkeypatch.setattr(kernels, "PROGRAMS", 100)
    monkeypatch.setattr(kernels, "BLOCKS", 1)
    for got, other in zip(run(arguments, "energy"), first, strict=True):
        assert_close64(got, other.double(), terms=17 * (20 + PAIR), dtype=torch.float32)


def test_the_same_bits_twice(shares, device):
    arguments = inputs(33, 5, 10, "laplacian", device=device)
    for one, other in zip(run(arguments, "laplacian"), run(arguments, "laplacian"), strict=True):
        assert torch.equal(one, other)


def test_configurations_divide_the_padding():
    assert walks.GROUP < 32
    for direct in (False, True):
        for d in (1, 8, 9, 16, 17, 64, 65, 1000):
            for dtype in (torch.float32, torch.float64):
                block_m, block_n, _, _ = kernels.config(d, dtype, direct)
                assert split.ROWS % block_m == split.ROWS % block_n == 0
