"""Contract of MMD and energy distance: derivatives, transforms, layouts and error messages."""

from itertools import cycle

import pytest
import torch
from impls import FAST, IMPLS, QUICK, every
from kernel_oracle import KERNELS, clouds, options
from support import value_and_grads

from otkernels import energy_distance, mmd

close = torch.testing.assert_close


# --- derivatives --------------------------------------------------------------------------------


def problem_in_float64(kernel, unbiased, impl, device):
    """A function of x, y, a and b, and such tensors."""
    x, y = clouds(3, 2, 2, dtype=torch.float64, device=device)
    a, b = ((torch.rand(n, device=device) + 0.1).double() for n in (3, 2))

    def cost(x, y, a, b):
        return mmd(x, y, a=a, b=b, unbiased=unbiased, impl=impl, **options(kernel))

    return cost, [t.requires_grad_() for t in (x, y, a, b)]


@pytest.mark.parametrize(
    ("impl", "kernel", "unbiased"), every(zip(KERNELS, cycle([False, True, True])))
)
def test_gradcheck(impl, kernel, unbiased, device):
    assert torch.autograd.gradcheck(*problem_in_float64(kernel, unbiased, impl, device))


@pytest.mark.parametrize(("kernel", "unbiased"), list(zip(KERNELS, cycle([True, False]))))
def test_second_derivative_of_the_definition(kernel, unbiased, device):
    assert torch.autograd.gradgradcheck(*problem_in_float64(kernel, unbiased, "torch", device))


@pytest.mark.parametrize("impl", FAST)
def test_second_derivatives_are_refused(impl, device):
    x, y = clouds(4, 3, 2, device=device)
    tensors = {"x": x, "y": y, "a": torch.rand(4, device=device) + 0.1}
    scale = torch.ones((), device=device, requires_grad=True)
    for name, tensor in tensors.items():
        leaf = tensor.clone().requires_grad_()
        value = scale * mmd(**(tensors | {name: leaf}), unbiased=True, bandwidth=1.0, impl=impl)
        (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
        for variable in (leaf, scale):
            with pytest.raises(NotImplementedError, match="derivatives only. Use impl='torch'"):
                torch.autograd.grad(grad.sum(), variable, retain_graph=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, in jvp
@pytest.mark.parametrize("impl", FAST)
def test_forward_mode_is_refused(impl, device):
    """A raw operator has no tangent to give, and none would read as a derivative of 0."""
    x, y = clouds(4, 3, 2, device=device)

    def cost(x, impl=impl):
        return mmd(x, y, bandwidth=1.0, impl=impl)

    with pytest.raises(NotImplementedError, match="forward-mode derivatives. Use impl='torch'"):
        torch.func.jvp(cost, (x,), (torch.ones_like(x),))
    _, tangent = torch.func.jvp(lambda x: cost(x, "torch"), (x,), (torch.ones_like(x),))
    _, grad = value_and_grads(cost, x)
    close(tangent, grad.sum())


@pytest.mark.parametrize("needs", [(True, False), (False, True)], ids=["x", "y"])
@pytest.mark.parametrize("impl", FAST[:1])
def test_one_sided_gradient(impl, needs, device):
    x, y = clouds(5, 4, 3, (2,), device=device)

    def cost(x, y):
        return mmd(x, y, impl=impl, bandwidth=1.0)

    both = value_and_grads(cost, x, y)
    leaves = [t.clone().requires_grad_(need) for t, need in zip((x, y), needs, strict=True)]
    value = cost(*leaves)
    value.sum().backward()
    with torch.no_grad():
        alone = cost(*leaves)
    assert not alone.requires_grad
    for result in (value.detach(), alone):
        close(result, both[0], rtol=0, atol=0)
    for leaf, need, expected in zip(leaves, needs, both[1:], strict=True):
        assert (leaf.grad is not None) == need
        if need:
            close(leaf.grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize("impl", QUICK)
def test_value_may_be_changed_in_place(impl, device):
    x, y = clouds(4, 3, 2, (2,), device=device)
    _, expected, _ = value_and_grads(lambda x, y: mmd(x, y, impl=impl, bandwidth=1.0) / 2, x, y)
    x.requires_grad_()
    total = mmd(x, y, impl=impl, bandwidth=1.0)
    total /= 2
    total.sum().backward(retain_graph=True)
    total.sum().backward()
    close(x.grad, 2 * expected)


# --- transforms ---------------------------------------------------------------------------------


def test_compile_full_graph(device):
    """Value and gradients of sizes and lengths that are not known; a graph cannot stop at one."""
    x, y = clouds(5, 4, 2, (2,), device=device)
    a, lengths = (torch.rand(5, device=device) + 0.1), torch.tensor([2, 4], device=device)

    def cost(x, y, a, lengths=lengths):
        options = {"bandwidth": (0.5, 2.0), "unbiased": True, "impl": FAST[0]}
        return mmd(x, y, a=a, y_lengths=lengths, **options)

    torch._dynamo.reset()
    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager", dynamic=True)
    results = [value_and_grads(function, x, y, a) for function in (compiled, cost)]
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)
    with torch.no_grad():
        outside = compiled(x, y, a, torch.tensor([5, 4], device=device))
    assert outside.isnan().tolist() == [True, False]


@pytest.mark.parametrize("impl", QUICK)
def test_vmap_and_functional_grad(impl, device):
    x, y = clouds(5, 4, 2, (3,), device=device)
    a, lengths = torch.rand(3, 5, device=device) + 0.1, torch.tensor([2, 4, 3], device=device)

    def cost(x, y, *weights):
        return mmd(
            x, y, impl=impl, unbiased=True, **dict(zip(("a", "y_lengths"), weights, strict=False))
        )

    for given in ((x, y), (x, y, a), (x, y, a, lengths)):
        close(torch.func.vmap(cost)(*given), cost(*given))
        for k in range(min(len(given), 3)):
            grads = torch.func.vmap(torch.func.grad(cost, argnums=k))(*given)
            _, *expected = value_and_grads(lambda *t, given=given: cost(*t, *given[3:]), *given[:3])
            close(grads, expected[k])
    shared = torch.func.vmap(cost, in_dims=(1, None))(x.movedim(0, 1), y[0])
    close(shared, cost(x, y[:1]))


@pytest.mark.parametrize(("impl", "kernel"), every(zip(["gaussian", "polynomial"])))
def test_autocast_does_not_lower_the_arithmetic(impl, kernel, device):
    x, y = clouds(5, 4, 9, device=device)

    def cost(x, y):
        return mmd(x, y, kernel=kernel, impl=impl)

    def under_autocast(x, y):
        with torch.autocast(device.type, torch.bfloat16):
            return cost(x, y)

    results = [value_and_grads(function, x, y) for function in (under_autocast, cost)]
    for first, second in zip(*results, strict=True):
        close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("impl", QUICK)
def test_same_bits_on_two_runs(impl, device):
    x, y = clouds(6, 5, 3, (2,), device=device)
    runs = [value_and_grads(lambda x, y: mmd(x, y, impl=impl), x, y) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


# --- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", QUICK)
def test_expanded_and_strided_inputs(impl, device):
    x, y = clouds(6, 5, 4, (2,), device=device)
    strided = torch.empty(4, 6, 2, device=device).permute(2, 1, 0)
    strided.copy_(x)
    assert not strided.is_contiguous()
    expanded = y[0].mT.contiguous().mT.expand(2, -1, -1)
    weights = torch.rand(12, device=device)[::2] + 0.1
    given = {"bandwidth": torch.tensor([0.5, 9.0, 2.0], device=device)[::2], "impl": impl}
    expected = value_and_grads(lambda x, y: mmd(x, y[:1], a=weights.clone(), **given), x, y)
    value, grad, _ = value_and_grads(lambda x, a: mmd(x, expanded, a=a, **given), strided, weights)
    close(value, expected[0])
    close(grad, expected[1])
    leaf = y[0].clone().requires_grad_()
    mmd(x, leaf.expand(2, -1, -1), a=weights, **given).sum().backward()
    close(leaf.grad, expected[2][0])


@pytest.mark.parametrize("kernel", ["gaussian", "polynomial"])
@pytest.mark.parametrize("impl", QUICK)
def test_reads_nothing_around_its_inputs(impl, kernel, device):
    given = clouds(7, 5, 3, device=device)
    inside = []
    for tensor in given:
        wide = tensor.new_full([s + 2 for s in tensor.shape], torch.nan)
        wide[1:-1, 1:-1] = tensor
        inside.append(wide[1:-1, 1:-1])
    results = [mmd(*t, impl=impl, **options(kernel)) for t in (inside, given)]
    close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl, device):
    x, y = torch.rand(0, 5, 2, device=device), torch.rand(4, 2, device=device)
    a = torch.rand(5, device=device)
    lengths = torch.ones(0, device=device).int()
    for given in ({}, {"unbiased": True, "bandwidth": (1.0, 2.0)}, {"x_lengths": lengths}):
        value, *grads = value_and_grads(
            lambda x, y, a, g=given: mmd(x, y, a=a, impl=impl, **g), x, y, a
        )
        assert value.shape == (0,)
        for grad, tensor in zip(grads, (x, y, a), strict=True):
            assert grad.shape == tensor.shape
            assert not grad.any()


def test_default_impl_and_meta_tensors(device):
    x, y = clouds(4, 3, 2, (2,), device=device)
    best = "cpu" if device.type == "cpu" else "triton"
    close(mmd(x, y), mmd(x, y, impl=best), rtol=0, atol=0)
    assert mmd(x.to("meta"), y.to("meta"), unbiased=True).shape == (2,)


# --- errors -------------------------------------------------------------------------------------


X, Y = torch.rand(2, 4, 3), torch.rand(5, 3)


NAN = torch.tensor([1.0, torch.nan, 1.0, 1.0])


IN_FLOATS = "float16, bfloat16, float32 or float64"


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([1.0], TypeError, "be a torch.Tensor; got list"),
        (X.int(), TypeError, f"be {IN_FLOATS}; got torch.int32"),
        (X[0, 0], ValueError, "have shape (..., N, D); got (3,)"),
        (X[:, :0], ValueError, "have at least one point and feature; got (2, 0, 3)"),
        (X[..., :0], ValueError, "have at least one point and feature; got (2, 4, 0)"),
    ],
)
def test_messages_about_each_cloud(name, wrong, error, message):
    for function in (mmd, energy_distance):
        with pytest.raises(error) as raised:
            function(**({"x": X, "y": Y} | {name: wrong}))
        assert str(raised.value) == f"{function.__name__}: {name} must {message}"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"y": Y.double()}, ValueError, "y must have x's dtype torch.float32; got torch.float64"),
        ({"y": Y.to("meta")}, ValueError, "y must be on x's device cpu; got meta"),
        ({"y": Y[:, :2]}, ValueError, "y must have x's 3 features; got (5, 2)"),
        ({"y": Y.expand(3, 5, 3)}, ValueError,
         "y must have leading axes that broadcast with x's (2,); got (3,)"),
        ({"unbiased": True, "x": X[:, :1]}, ValueError,
         "x must have at least two points with unbiased=True; got (2, 1, 3)"),
        ({"unbiased": True, "y": Y[:1]}, ValueError,
         "y must have at least two points with unbiased=True; got (1, 3)"),
        ({"unbiased": True, "squared": False}, ValueError,
         "squared must be True with unbiased=True, whose estimates may be negative; got False"),
        ({"reduction": "avg"}, ValueError,
         "reduction must be one of 'none', 'mean', 'sum'; got 'avg'"),
        ({"precision": "tf32"}, ValueError, "precision must be one of 'full', 'fast'; got 'tf32'"),
        ({"impl": "gpu"}, ValueError, "impl must be one of 'torch', 'cpu', 'triton'; got 'gpu'"),
        ({"a": [1.0] * 4}, TypeError, "a must be a torch.Tensor; got list"),
        ({"a": torch.rand(5)}, ValueError,
         "a must have shape (..., 4), one weight a point of x; got (5,)"),
        ({"b": torch.tensor(1.0)}, ValueError,
         "b must have shape (..., 5), one weight a point of y; got ()"),
        ({"b": torch.ones(5).int()}, TypeError, f"b must be {IN_FLOATS}; got torch.int32"),
        ({"a": torch.rand(4, device="meta")}, ValueError,
         "a must be on x's device cpu; got meta"),
        ({"a": torch.rand(3, 4)}, ValueError,
         "a must have leading axes that broadcast with x's and y's (2,); got (3,)"),
        ({"x_lengths": [2, 3]}, TypeError, "x_lengths must be an integer tensor; got list"),
        ({"x_lengths": torch.rand(2)}, TypeError,
         "x_lengths must be an integer tensor; got torch.float32"),
        ({"x_lengths": torch.tensor([2, 5])}, ValueError,
         "x_lengths must be from 1 to 4, the number of points; got 5"),
        ({"y_lengths": torch.tensor([0, 5])}, ValueError,
         "y_lengths must be from 1 to 5, the number of points; got 0"),
        ({"x_lengths": torch.ones(2, device="meta").int()}, ValueError,
         "x_lengths must be on the points' device cpu; got meta"),
        ({"y_lengths": torch.tensor([1, 2, 3])}, ValueError,
         "y_lengths must have leading axes that broadcast with x's and y's (2,); got (3,)"),
        ({"validate": True, "x": X / 0}, ValueError, "x must be finite everywhere; got inf"),
        ({"validate": True, "y": Y * torch.nan}, ValueError,
         "y must be finite everywhere; got nan"),
        ({"validate": True, "a": -torch.ones(4)}, ValueError,
         "a must not be negative; got -1.0"),
        ({"validate": True, "a": NAN}, ValueError, "a must be finite everywhere; got nan"),
        ({"validate": True, "b": torch.zeros(5)}, ValueError,
         "b must have a positive total in every problem; got 0.0"),
    ],
)  # fmt: skip
def test_messages(given, error, message):
    for function in (mmd, energy_distance):
        with pytest.raises(error) as raised:
            function(**({"x": X, "y": Y} | given))
        assert str(raised.value) == f"{function.__name__}: {message}"


@pytest.mark.parametrize("wrong", ["rbf", None, "Gaussian"])
def test_unknown_kernel_is_named_with_the_list(wrong):
    with pytest.raises(ValueError, match="^mmd: kernel must be") as raised:
        mmd(X, Y, kernel=wrong)
    names = ", ".join(repr(k) for k in KERNELS)
    assert str(raised.value) == f"mmd: kernel must be one of {names}; got {wrong!r}"


def test_triton_on_the_cpu_is_refused_outside_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"impl must be 'torch' or 'cpu' on cpu .*; got 'triton'"):
        mmd(X, Y, impl="triton")
