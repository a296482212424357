"""Contract of Gaussian distances: derivatives, transforms, layouts and error messages."""

import pytest
import torch
from gaussian_oracle import cloud
from impls import FAST, QUICK
from support import value_and_grads

from otkernels import (
    bures_wasserstein,
    gaussian_map,
    gaussian_wasserstein,
    gaussian_wasserstein_to_normal,
    gaussian_wasserstein_with_info,
    inv_sqrtm,
    mean_cov,
    mmd,
    sliced_wasserstein,
    sqrtm,
)

close = torch.testing.assert_close


@pytest.mark.parametrize("impl", QUICK)
def test_gradcheck(impl, device):
    for n, m, d in ((6, 5, 3), (3, 3, 5), (3, 9, 4)):
        x, y = (cloud(k, d, dtype=torch.float64, device=device) for k in (n, m))
        given = [t.requires_grad_() for t in (x, y)]

        def cost(x, y):
            return gaussian_wasserstein(x, y, impl=impl)

        assert torch.autograd.gradcheck(cost, given)
        if impl == "torch":
            assert torch.autograd.gradgradcheck(cost, given)


@pytest.mark.parametrize("impl", FAST[:1])
@pytest.mark.parametrize(("n", "d"), [(6, 3), (3, 6)])
def test_second_derivatives_are_refused(impl, n, d, device):
    x, y = cloud(n, d, device=device).requires_grad_(), cloud(n, d, device=device)
    for cost in (
        lambda x: gaussian_wasserstein(x, y, impl=impl),
        lambda x: gaussian_wasserstein_to_normal(x, impl=impl),
        lambda x: bures_wasserstein(x[0], x.mT @ x, y[0], y.mT @ y, impl=impl),
    ):
        (grad,) = torch.autograd.grad(cost(x), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="derivatives only. Use impl='torch'"):
            grad.square().sum().backward()


@pytest.mark.parametrize("impl", FAST[:1])
@pytest.mark.parametrize("needs", [(True, False), (False, True)], ids=["x", "y"])
@pytest.mark.parametrize("d", [3, 9])
def test_one_sided_gradient(impl, needs, d, device):
    x, y = cloud(2, 6, d, device=device), cloud(2, 5, d, device=device)

    def cost(x, y):
        return gaussian_wasserstein(x, y, impl=impl)

    both = value_and_grads(cost, x, y)
    leaves = [t.clone().requires_grad_(need) for t, need in zip((x, y), needs, strict=True)]
    value = cost(*leaves)
    value.sum().backward()
    close(value.detach(), both[0], rtol=1e-6, atol=1e-6)
    for leaf, need, expected in zip(leaves, needs, both[1:], strict=True):
        assert (leaf.grad is not None) == need
        if need:
            close(leaf.grad, expected, rtol=1e-5, atol=1e-5)


def test_compile_full_graph(device):
    x, y = cloud(2, 6, 3, device=device), cloud(2, 5, 3, device=device)
    a, lengths = torch.rand(6, device=device) + 0.1, torch.tensor([2, 4], device=device)

    def cost(x, y, a):
        options = {"correction": 1, "eps": 1e-3, "impl": FAST[0]}
        return gaussian_wasserstein(x, y, a=a, y_lengths=lengths, **options)

    torch._dynamo.reset()
    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager", dynamic=True)
    results = [value_and_grads(function, x, y, a) for function in (compiled, cost)]
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("d", [2, 9])
def test_vmap_and_functional_grad(impl, d, device):
    x, y = cloud(3, 5, d, device=device), cloud(3, 6, d, device=device)
    a = torch.rand(3, 5, device=device) + 0.1

    def cost(x, y, *weights):
        more = {"a": weights[0]} if weights else {}
        return gaussian_wasserstein(x, y, impl=impl, **more)

    for given in ((x, y), (x, y, a)):
        close(torch.func.vmap(cost)(*given), cost(*given), rtol=1e-5, atol=1e-5)
        grads = torch.func.vmap(torch.func.grad(cost))(*given)
        _, expected, *_ = value_and_grads(cost, *given)
        close(grads, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("d", [2, 9])
def test_gradient_of_a_mapped_function(impl, d, device):
    """A slice that vmap takes does not show that its whole needs a gradient; every family."""
    x, y = cloud(3, 5, d, device=device), cloud(3, 6, d, device=device)
    theta = torch.randn(d, 8, device=device)
    for function in (
        lambda x, y: gaussian_wasserstein(x, y, impl=impl),
        lambda x, y: mmd(x, y, bandwidth=2.0, impl=impl),
        lambda x, y: sliced_wasserstein(x, y, projections=theta, impl=impl),
        lambda x, y: mean_cov(x, impl=impl)[1].square().sum((-2, -1)),
    ):
        leaf = x.clone().requires_grad_()
        function(leaf, y).sum().backward()
        expected = leaf.grad
        mapped = torch.func.vmap(function)
        grad = torch.func.grad(lambda x, f=mapped: f(x, y).sum())(x)
        close(grad, expected, rtol=1e-4, atol=1e-4)
        leaf = x.clone().requires_grad_()
        mapped(leaf, y).sum().backward()
        close(leaf.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("impl", QUICK)
def test_matrices_may_be_changed_in_place(impl, device):
    x = cloud(2, 6, 3, device=device)
    for function in (lambda x: mean_cov(x, impl=impl)[1], lambda x: sqrtm(x.mT @ x, impl=impl)):
        _, expected = value_and_grads(lambda x, f=function: 2 * f(x), x)
        leaf = x.clone().requires_grad_()
        matrix = function(leaf)
        matrix.diagonal(dim1=-2, dim2=-1).add_(1e-3)
        matrix *= 2
        matrix.sum().backward()
        close(leaf.grad, expected)


@pytest.mark.parametrize("function", [sqrtm, inv_sqrtm])
@pytest.mark.parametrize("impl", QUICK)
def test_backward_under_autocast(impl, function, device):
    x = cloud(2, 20, 9, device=device)
    a = x.mT @ x
    weight = torch.randn(9, 9, device=device)
    _, expected = value_and_grads(lambda a: function(a, impl=impl), a, weight=weight)
    leaf = a.clone().requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        (function(leaf, impl=impl) * weight).sum().backward()
    close(leaf.grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize("impl", QUICK)
def test_autocast_and_same_bits_on_two_runs(impl, device):
    x, y = cloud(2, 20, 9, device=device), cloud(15, 9, device=device)

    def cost(x, y):
        return gaussian_wasserstein(x, y, impl=impl)

    def under_autocast(x, y):
        with torch.autocast(device.type, torch.bfloat16):
            return cost(x, y)

    results = [value_and_grads(function, x, y) for function in (under_autocast, cost)]
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("d", [4, 9])
def test_strides_views_and_empty_batches(impl, d, device):
    x, y = cloud(2, 6, d, device=device), cloud(5, d, device=device)
    expected = gaussian_wasserstein(x, y, impl=impl)
    wide = torch.full((2, 8, d + 2), torch.nan, device=device)
    wide[:, 1:-1, 1:-1] = x
    close(gaussian_wasserstein(wide[:, 1:-1, 1:-1], y, impl=impl), expected, rtol=1e-6, atol=1e-6)
    turned = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    close(gaussian_wasserstein(turned, y.expand(2, 5, d), impl=impl), expected)
    empty = torch.zeros(0, 6, d, device=device, requires_grad=True)
    value = gaussian_wasserstein(empty, y, impl=impl)
    assert value.shape == (0,)
    value.sum().backward()
    assert empty.grad.shape == empty.shape


def test_info(device):
    x, y = cloud(3, 6, 4, device=device), cloud(7, 4, device=device)
    x[1] = x[1, :1]
    info = gaussian_wasserstein_with_info(x, y, reduction="sum")
    assert info.value.shape == ()
    assert info.residual.shape == info.redone.shape == (3,)
    assert info.redone.tolist() == [False, True, False]
    assert not info.residual.requires_grad


# --- errors -------------------------------------------------------------------------------------


X, Y = torch.rand(2, 4, 3), torch.rand(5, 3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x must be a torch.Tensor; got list"),
        ({"x": X[0, 0]}, ValueError, "x must have shape (..., N, D); got (3,)"),
        ({"x": X[..., :0]}, ValueError,
         "x must have at least one point and feature; got (2, 4, 0)"),
        ({"correction": -1}, ValueError, "correction must be an integer >= 0; got -1"),
        ({"correction": 0.5}, ValueError, "correction must be an integer >= 0; got 0.5"),
        ({"correction": 4}, ValueError, "x must have more points than correction=4; got 4"),
        ({"eps": -1e-6}, ValueError, "eps must be a number >= 0; got -1e-06"),
        ({"eps": torch.nan}, ValueError, "eps must be a number >= 0; got nan"),
        ({"eps": None}, ValueError, "eps must be a number >= 0; got None"),
        ({"reduction": "avg"}, ValueError,
         "reduction must be one of 'none', 'mean', 'sum'; got 'avg'"),
        ({"impl": "gpu"}, ValueError, "impl must be one of 'torch', 'cpu', 'triton'; got 'gpu'"),
        ({"a": torch.rand(5)}, ValueError,
         "a must have shape (..., 4), one weight a point of x; got (5,)"),
        ({"x_lengths": torch.tensor([2, 5])}, ValueError,
         "x_lengths must be from 1 to 4, the number of points; got 5"),
        ({"validate": True, "x": X * torch.nan}, ValueError,
         "x must be finite everywhere; got nan"),
        ({"validate": True, "a": -torch.ones(4)}, ValueError, "a must not be negative; got -1.0"),
        ({"validate": True, "correction": 1, "x_lengths": torch.tensor([3, 1])}, ValueError,
         "x must have more points than correction=1; got 1"),
    ],
)  # fmt: skip
def test_messages(given, error, message):
    for function, shared in (
        (gaussian_wasserstein, {"x": X, "y": Y}),
        (gaussian_wasserstein_to_normal, {"x": X}),
    ):
        with pytest.raises(error) as raised:
            function(**(shared | given))
        assert str(raised.value) == f"{function.__name__}: {message}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": Y[:, :2]}, "y must have x's 3 features; got (5, 2)"),
        ({"y": Y.double()}, "y must have x's dtype torch.float32; got torch.float64"),
        (
            {"y": Y.expand(3, 5, 3)},
            "y must have leading axes that broadcast with x's (2,); got (3,)",
        ),
        ({"y": Y[:1], "correction": 1}, "y must have more points than correction=1; got 1"),
    ],
)
def test_messages_about_both(given, message):
    with pytest.raises(ValueError, match=r"must") as raised:
        gaussian_wasserstein(**({"x": X, "y": Y} | given))
    assert str(raised.value) == f"gaussian_wasserstein: {message}"


MEAN, COV = torch.zeros(2, 3), torch.eye(3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"mean_x": 1.0}, TypeError, "mean_x must be a torch.Tensor; got float"),
        ({"mean_x": torch.tensor(1.0)}, ValueError,
         "mean_x must have shape (..., D), D >= 1; got ()"),
        ({"cov_x": COV[:2]}, ValueError, "cov_x must have shape (..., D, D), D >= 1; got (2, 3)"),
        ({"cov_y": COV[:2, :2]}, ValueError, "cov_y must have mean_x's 3 features; got (2, 2)"),
        ({"mean_y": MEAN[:, :1]}, ValueError, "mean_y must have mean_x's 3 features; got (2, 1)"),
        ({"cov_y": COV.double()}, ValueError,
         "cov_y must have mean_x's dtype torch.float32; got torch.float64"),
        ({"cov_y": COV.to("meta")}, ValueError, "cov_y must be on mean_x's device cpu; got meta"),
        ({"cov_y": COV.expand(4, 3, 3)}, ValueError,
         "cov_y must have leading axes that broadcast with the others' (2,); got (4,)"),
        ({"validate": True, "cov_x": COV - 2 * COV}, ValueError,
         "cov_x must have no negative eigenvalue beyond rounding; got -1.0"),
        ({"validate": True, "cov_x": COV + COV[0]}, ValueError,
         "cov_x must be symmetric up to rounding; got a difference of 1.0"),
        ({"validate": True, "mean_y": MEAN / 0}, ValueError,
         "mean_y must be finite everywhere; got nan"),
    ],
)  # fmt: skip
def test_messages_about_moments(given, error, message):
    shared = {"mean_x": MEAN, "cov_x": COV, "mean_y": MEAN, "cov_y": COV}
    for function in (bures_wasserstein, gaussian_map):
        with pytest.raises(error) as raised:
            function(**(shared | given))
        assert str(raised.value) == f"{function.__name__}: {message}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairwise": True, "mean_x": MEAN[0]},
         "mean_x must have an axis of Gaussians with pairwise=True; got (3,)"),
        ({"pairwise": True, "cov_y": COV},
         "cov_y must have an axis of Gaussians with pairwise=True; got (3, 3)"),
        ({"diagonal": True, "cov_x": COV[:, :2]},
         "cov_x must have mean_x's 3 features; got (3, 2)"),
        ({"reduction": 1}, "reduction must be one of 'none', 'mean', 'sum'; got 1"),
        ({"diagonal": True, "validate": True, "cov_x": -COV},
         "cov_x must not be negative; got -1.0"),
    ],
)  # fmt: skip
def test_messages_about_pairs_and_diagonals(options, message):
    shared = {"mean_x": MEAN, "cov_x": COV[None], "mean_y": MEAN, "cov_y": COV[None]}
    with pytest.raises(ValueError, match=r"must") as raised:
        bures_wasserstein(**(shared | options))
    assert str(raised.value) == f"bures_wasserstein: {message}"
