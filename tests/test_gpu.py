"""What only a GPU shows: sizes out of the interpreter's reach, capture, a second device."""

import pytest
import torch
from support import assert_close64, value_and_grads

from otkernels import sliced_wasserstein, wasserstein_1d

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


def test_many_problems():
    x, y = torch.randn(2, 70_000, 4, 2, device="cuda")
    theta = torch.randn(2, 3, device="cuda")
    actual = sliced_wasserstein(x, y, projections=theta)
    expected = sliced_wasserstein(x.double(), y.double(), projections=theta, impl="torch")
    assert_close64(actual, expected, terms=100)


@pytest.mark.parametrize("n", [300, 10_000, 40_000])
def test_cuda_graph(n):
    x, y = torch.randn(2, n, 8, device="cuda")
    theta = torch.randn(8, 32, device="cuda")
    x.requires_grad_()

    def step():
        (grad,) = torch.autograd.grad(sliced_wasserstein(x, y, projections=theta), x)
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
