"""What only a GPU shows: sizes out of the interpreter's reach, capture, a second device."""

import functools

import pytest
import torch
from support import assert_close64, value_and_grads

from otkernels import (
    max_sliced_wasserstein,
    mmd,
    sliced_wasserstein,
    sliced_wasserstein_to_normal,
    wasserstein_1d,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize("n", [1000, 1024, 4096, 4097, 8192, 10007, 16384, 16385, 100_003, 2**20])
@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_long_rows(n, p):
    """Distinct integers in random order: exact sort, exact gaps."""
    u, v = (torch.randperm(n, device="cuda").float() for _ in range(2))
    v *= 2
    value, grad_u, grad_v = value_and_grads(
        lambda u, v: wasserstein_1d(u, v, p=p, impl="triton"), u, v
    )
    gap = -torch.arange(n, device="cuda").double()
    slope = p * gap.abs() ** (p - 1) * gap.sign() / n
    assert_close64(value, (gap.abs() ** p).mean(), terms=n)
    assert_close64(grad_u, slope[u.long()], terms=100)
    assert_close64(grad_v, -slope[(v / 2).long()], terms=100)


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_each_choice_of_gradients(needs):
    x, y = torch.randn(2, 3, 500, 16, device="cuda", dtype=torch.float64)
    theta = torch.randn(16, 70, device="cuda", dtype=torch.float64)

    def run(dtype, impl):
        leaves = [t.to(dtype).requires_grad_(need) for t, need in zip((x, y), needs, strict=True)]
        value = sliced_wasserstein(*leaves, projections=theta, impl=impl)
        if any(needs):
            value.sum().backward()
        return value.detach(), *(leaf.grad for leaf in leaves)

    for out, reference in zip(
        run(torch.float64, "triton"), run(torch.float64, "torch"), strict=True
    ):
        if reference is not None:
            assert_close64(out, reference, terms=500 * 70)


KINDS = ["sizes", "weights", "lengths"]
# A run, several; two runs merged; the library's sort. The larger side has twice the points.
SIZES = [(300, 600), (5000, 10_000), (20_000, 40_000)]


def measures(kind, n, m, batch=()):
    """Weights, some of them 0, or lengths, by keyword."""
    if kind == "weights":
        a, b = torch.rand(*batch, n, device="cuda"), torch.rand(m, device="cuda")
        return {"a": a * (a > 0.1), "b": b}
    if kind == "lengths":
        return {"x_lengths": torch.randint(1, n + 1, batch, device="cuda")}
    return {}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_measures(kind, swapped, sizes):
    """Integers and powers of two: projections are exact, so all sort alike."""
    n, m = sizes[::-1] if swapped else sizes
    x, y = ((torch.randperm(2 * k, device="cuda")[: 2 * k].float()).view(2, k, 1) for k in (n, m))
    theta = torch.tensor([[1.0, 0.5, -2.0]], device="cuda")
    given = measures(kind, n, m, (2,))
    weights = {k: t for k, t in given.items() if t.is_floating_point()}
    lengths = {k: t for k, t in given.items() if not t.is_floating_point()}

    def run(dtype, impl):
        wide = [t.to(dtype) for t in (x, y, theta, *weights.values())]
        return value_and_grads(
            lambda x, y, theta, *w: sliced_wasserstein(
                x, y, projections=theta, impl=impl, **dict(zip(weights, w, strict=True)), **lengths
            ),
            *wide,
        )

    actual, expected = run(torch.float32, "triton"), run(torch.float64, "torch")
    for out, reference in zip(actual, expected, strict=True):
        assert_close64(out, reference, terms=3 * (n + m), dtype=torch.float32)


@pytest.mark.parametrize("n", [300, 10_000, 40_000])
def test_to_normal(n):
    x = torch.randn(2, n, 8, device="cuda")
    theta = torch.randn(8, 5, device="cuda")
    theta /= theta.norm(dim=0)
    lengths = torch.tensor([n // 3, n], device="cuda")
    for given in ({}, {"x_lengths": lengths}):
        value = sliced_wasserstein_to_normal(x, projections=theta, **given)
        wide = x.double(), theta.double()
        expected = sliced_wasserstein_to_normal(wide[0], projections=wide[1], impl="torch", **given)
        # The value is small beside the squares it is the difference of: about 1 a point.
        assert_close64(value + 1, expected + 1, terms=n)


def test_max_sliced_is_not_below_its_candidates():
    x, y = torch.randn(3, 500, 16, device="cuda"), torch.randn(400, 16, device="cuda") + 0.2
    theta = torch.randn(16, 50, device="cuda")
    theta /= theta.norm(dim=0)
    best = torch.stack(
        [sliced_wasserstein(x, y, projections=t[:, None]) for t in theta.unbind(1)]
    ).amax(0)
    assert (max_sliced_wasserstein(x, y, projections=theta) >= best * (1 - 1e-5)).all()


def test_many_problems():
    x, y = torch.randn(2, 70_000, 4, 2, device="cuda")
    theta = torch.randn(2, 3, device="cuda")
    actual = sliced_wasserstein(x, y, projections=theta)
    expected = sliced_wasserstein(x.double(), y.double(), projections=theta, impl="torch")
    assert_close64(actual, expected, terms=100)


@pytest.mark.parametrize("kind", ["equal", *KINDS])
@pytest.mark.parametrize("n", [300, 10_000, 40_000])
def test_cuda_graph(n, kind):
    x, y = torch.randn(2, n, 8, device="cuda")
    y = y if kind == "equal" else y[: n // 2]
    theta = torch.randn(8, 32, device="cuda")
    x.requires_grad_()
    given = measures(kind, n, len(y))

    def step():
        (grad,) = torch.autograd.grad(sliced_wasserstein(x, y, projections=theta, **given), x)
        return grad

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(captured, step(), rtol=0, atol=0)


def test_tensors_of_another_device_than_the_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, y = torch.randn(2, 300, 8, device="cuda:1")
    theta = torch.randn(8, 32, device="cuda:1")
    expected = sliced_wasserstein(x.double(), y.double(), projections=theta, impl="torch")
    assert_close64(sliced_wasserstein(x, y, projections=theta), expected, terms=300 * 32)


KERNELS = ["gaussian", "laplacian", "imq", "rational_quadratic", "polynomial", "energy"]


@pytest.mark.parametrize("d", [1, 8, 9, 64, 200])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sizes", [(1000, 777), (5000, 4096)], ids=str)
def test_mmd(kernel, d, sizes):
    """Rows alone fill no device at these sizes, so columns are shared out."""
    x, y = torch.randn(sizes[0], d, device="cuda"), torch.randn(sizes[1], d, device="cuda") + 0.5
    scale = d**0.5
    options = {} if kernel in ("polynomial", "energy") else {"bandwidth": (scale, 3 * scale)}
    size = {"polynomial": 30.0, "energy": 2 * scale}.get(kernel, 2.0)

    def run(dtype, impl):
        return value_and_grads(
            lambda x, y: mmd(x, y, kernel=kernel, impl=impl, **options), x.to(dtype), y.to(dtype)
        )

    actual, expected = run(torch.float32, "triton"), run(torch.float64, "torch")
    eps = torch.finfo(torch.float32).eps
    assert (actual[0] - expected[0]).abs() <= d**0.5 * eps * size
    for out, reference in zip(actual[1:], expected[1:], strict=True):
        # Each is the difference of two sums, of pairs within a cloud and between the clouds.
        bound = (sum(sizes) * d) ** 0.5 * eps * max(reference.abs().max(), size / scale / len(out))
        assert (out - reference).abs().max() <= bound


def test_mmd_gives_the_same_bits_twice():
    x, y = torch.randn(2, 3000, 40, device="cuda")
    for kernel in KERNELS:
        function = functools.partial(mmd, kernel=kernel)
        one, other = (value_and_grads(function, x, y) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("d", [2, 16])
def test_mmd_of_more_than_2_31_pairs(d):
    """Points repeated k times are k-fold masses: the value is that of the points once."""
    x, y = torch.randn(2, 1000, d, device="cuda")
    repeated = [t.repeat(60, 1) for t in (x, y)]
    actual = mmd(*repeated, bandwidth=2.0, impl="triton")
    expected = mmd(x.double(), y.double(), bandwidth=2.0, impl="torch")
    assert (actual - expected).abs() <= d**0.5 * torch.finfo(torch.float32).eps


def test_fast_mmd():
    x, y = torch.randn(1500, 64, device="cuda"), torch.randn(1500, 64, device="cuda") + 0.1

    def run(dtype, **options):
        return value_and_grads(
            lambda x, y: mmd(x, y, bandwidth=8.0, **options), x.to(dtype), y.to(dtype)
        )

    fast, exact = run(torch.float32, precision="fast"), run(torch.float64, impl="torch")
    assert (fast[0] - exact[0]).abs() <= 1e-5  # as the docstring says, of a kernel of at most 1
    for out, reference in zip(fast[1:], exact[1:], strict=True):
        assert (out - reference).abs().max() <= 1e-3 * reference.abs().max()


def test_mmd_in_a_cuda_graph():
    x, y = torch.randn(2, 1000, 20, device="cuda")
    x.requires_grad_()

    def step():
        return torch.autograd.grad(mmd(x, y, kernel="energy"), x)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(captured, step(), rtol=0, atol=0)
