"""Kernel sums on a GPU, against float64, at sizes out of the interpreter's reach."""

import functools

import gpu_kernel_oracle as oracle
import kernel_oracle
import pytest
import torch
from gpu_support import DEVICE, MARKS, both, same_bits, shrink, sizes, takes
from kernel_oracle import KERNELS, options, within
from support import value_and_grads

from otkernels import energy_distance, median_bandwidth, mmd, mmd_blocks, wae_bandwidths

pytestmark = MARKS


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    shrink(monkeypatch)


def some_of(n):
    """A few points, the last among them."""
    return torch.cat([torch.randperm(n)[: min(n, 7)], torch.tensor([n - 1])]).to(DEVICE)


def assert_right(kernel, x, y, **more):
    """The value, and the gradients to some points of either cloud."""
    bandwidths = oracle.BANDWIDTHS
    actual = value_and_grads(
        functools.partial(mmd, impl="triton", **options(kernel, bandwidths), **more), x, y
    )
    # Squares summed into a distance, kernels into a row; the rows are summed in float64.
    terms = x.shape[1] + len(x) + len(y)
    within(actual[0], *oracle.value(kernel, x, y), terms)
    for grad, own, other in ((actual[1], x, y), (actual[2], y, x)):
        at = some_of(len(own))
        within(grad[at], *oracle.gradient(kernel, own, other, at), terms)


@pytest.mark.parametrize("d", sizes([1, 8, 9, 64, 65, 200, 2000], [2, 9, 20]))
@pytest.mark.parametrize("kernel", KERNELS)
def test_dimensions(kernel, d):
    """Differences and products; rows alone fill no device, so columns are shared out."""
    assert_right(kernel, *oracle.clouds(*sizes((1000, 777), (17, 5)), d))


@pytest.mark.parametrize("d", sizes([8, 64, 200], [3]))
@pytest.mark.parametrize("kernel", ["gaussian", "energy", "polynomial"])
def test_enough_rows_to_fill_a_device(kernel, d):
    assert_right(kernel, *oracle.clouds(*sizes((20_000, 17_001), (20, 21)), d))


@pytest.mark.parametrize("d", sizes([8, 64], [3, 9]))
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "imq", "energy"])
def test_a_common_offset_costs_nothing(kernel, d):
    """Points of few bits far from the origin: they are what they were, and no square cancels."""
    x, y = oracle.clouds(*sizes((1000, 777), (17, 5)), d)
    assert_right(kernel, *((t * 2**8).round() / 2**8 + 2**14 for t in (x, y)))


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "energy", "imq"])
def test_coincident_points(kernel):
    """Tiles with points close together are done again by differences."""
    x, y = oracle.clouds(*sizes((1000, 900), (17, 16)), sizes(64, 9))
    x[1::3] = x[0::3][: len(x[1::3])]
    y[: len(y) // 2] = x[: len(y) // 2]
    assert_right(kernel, x, y)


SMALL = sizes((300, 200), (5, 4))


@pytest.mark.parametrize("d", sizes([3, 40], [3, 10]))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("kernel", sizes(KERNELS, ["gaussian", "energy"]))
def test_types(kernel, dtype, d):
    x, y = kernel_oracle.clouds(*SMALL, d, dtype=dtype, device=DEVICE)
    kernel_oracle.check("triton", kernel, x, y)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("d", sizes([3, 40], [3]))
def test_weights(unbiased, d):
    x, y = kernel_oracle.clouds(*SMALL, d, batch=(3,), device=DEVICE)
    weights = kernel_oracle.masses(*SMALL, device=DEVICE)
    kernel_oracle.check("triton", "gaussian", x, y, weights, unbiased=unbiased)


@pytest.mark.parametrize("unbiased", [False, True])
def test_lengths_are_weights(unbiased):
    """Beyond the lengths lies anything."""
    n, m = SMALL
    x, y = kernel_oracle.clouds(n, m, 5, batch=(3,), device=DEVICE)
    lengths = torch.tensor([2, n // 2, n], device=DEVICE)
    padding = torch.arange(n, device=DEVICE) >= lengths[:, None]
    distance = functools.partial(mmd, bandwidth=1.0, unbiased=unbiased, impl="triton")
    expected = value_and_grads(functools.partial(distance, a=(~padding).float()), x, y)
    x[padding] = torch.nan
    actual = value_and_grads(functools.partial(distance, x_lengths=lengths), x, y)
    same_bits(actual[:1] + actual[2:], expected[:1] + expected[2:])
    same_bits([actual[1][~padding]], [expected[1][~padding]])


@pytest.mark.parametrize("d", [2, 40])
def test_many_problems(d):
    """More than a grid's second axis would number."""
    problems = sizes(70_000, 3)
    x, y = kernel_oracle.clouds(4, 5, d, batch=(problems,), device=DEVICE)
    kernel_oracle.check("triton", "gaussian", x, y)


def assert_masses(kernel, d, copies_x, copies_y):
    """Points repeated k times are k-fold masses: value and gradients are those of the points."""
    few = sizes(1000, 4)
    x, y = oracle.clouds(few, few, d)
    many = [t.repeat(k, 1) for t, k in ((x, copies_x), (y, copies_y))]
    distance = functools.partial(mmd, impl="triton", **options(kernel, oracle.BANDWIDTHS))
    actual = value_and_grads(distance, *many)
    terms = d + sum(map(len, many))
    within(actual[0], *oracle.value(kernel, x, y), terms)
    everywhere = torch.arange(few, device=DEVICE)
    for grad, copies, own, other in (
        (actual[1], copies_x, x, y),
        (actual[2], copies_y, y, x),
    ):
        expected = oracle.gradient(kernel, own, other, everywhere)
        within(grad, *(t.repeat(copies, 1) / copies for t in expected), terms)


@pytest.mark.parametrize(
    ("kernel", "d"), [("gaussian", 2), ("gaussian", 16), ("energy", 16)], ids=str
)
def test_more_than_2_31_pairs(kernel, d):
    assert_masses(kernel, d, *sizes((60, 60), (3, 3)))


@takes(6)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_million_points_against_a_thousand(swapped):
    copies = sizes((1000, 1), (5, 1))
    assert_masses("gaussian", 2, *(copies[::-1] if swapped else copies))


@pytest.mark.parametrize("d", sizes([16, 64, 200], [9]))
def test_fast(d):
    """As the docstring says, of a kernel of at most 1."""
    n = sizes(1500, 17)
    x, y = torch.randn(n, d, device=DEVICE), torch.randn(n, d, device=DEVICE) + 0.1
    distance = functools.partial(mmd, bandwidth=d**0.5)
    fast = value_and_grads(functools.partial(distance, precision="fast", impl="triton"), x, y)
    exact = value_and_grads(functools.partial(distance, impl="torch"), x.double(), y.double())
    assert (fast[0] - exact[0]).abs() <= 1e-5
    for out, reference in zip(fast[1:], exact[1:], strict=True):
        assert (out - reference).abs().max() <= 1e-3 * reference.abs().max()


@pytest.mark.parametrize("kernel", sizes(KERNELS, ["laplacian"]))
def test_the_same_bits_twice(kernel):
    x, y = oracle.clouds(*sizes((3000, 3000), (17, 18)), sizes(40, 9))
    function = functools.partial(mmd, impl="triton", **options(kernel))
    same_bits(*(value_and_grads(function, x, y) for _ in range(2)))


def test_scales_of_autoencoders():
    x, y = oracle.clouds(*SMALL, 8)
    kernel_oracle.check("triton", "imq", x, y, bandwidths=wae_bandwidths(8))


def test_energy_distance():
    x, y = oracle.clouds(*sizes((3000, 2000), (17, 9)), 5)
    actual = value_and_grads(functools.partial(energy_distance, impl="triton"), x, y)
    within(actual[0], *oracle.value("energy", x, y), 5 + len(x) + len(y))


def test_blocks():
    n, block_size = sizes((5000, 100), (12, 3))
    x, y = oracle.clouds(n, n, 8)

    def blocks(x, y, impl):
        return mmd_blocks(x, y, block_size=block_size, bandwidth=1.0, impl=impl)

    found, expected = (
        blocks(x.to(dtype), y.to(dtype), impl)
        for dtype, impl in ((torch.float32, "triton"), (torch.float64, "torch"))
    )
    # Each block sums kernels of at most 1, four in all.
    bound = 4 * (8 + 2 * block_size) ** 0.5 * torch.finfo(torch.float32).eps
    assert (found.value - expected.value).abs() <= bound
    assert (found.standard_error - expected.standard_error).abs() <= bound


@pytest.mark.parametrize("n", sizes([100, 5000], [9]))
def test_median_bandwidth(n):
    """A distance is a root of a sum of d squares."""
    x, y = oracle.clouds(n, n + 3, 16)
    found, expected = median_bandwidth(x, y), median_bandwidth(x.double(), y.double())
    assert (found - expected).abs() <= 16**0.5 * torch.finfo(torch.float32).eps * expected


def test_float64_of_many_features():
    x, y = (t.double() for t in oracle.clouds(*SMALL, sizes(130, 17)))
    for out, reference in zip(*both(functools.partial(mmd, bandwidth=1.0), x, y), strict=True):
        within(out, reference, reference.abs().max() + 4 / len(x) ** (out.dim() > 0), sum(SMALL))
