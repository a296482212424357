"""Square roots of matrices and their inverses."""

import pytest
import torch
from gaussian_oracle import covariance, root
from impls import FAST, QUICK, every
from support import value_and_grads

from otkernels import inv_sqrtm, sqrtm

pytestmark = pytest.mark.usefixtures("few_steps")
close = torch.testing.assert_close


BOTH = [(sqrtm, 0.5), (inv_sqrtm, -0.5)]


def near(actual, expected, bound):
    error = torch.linalg.matrix_norm(actual.double().cpu() - expected)
    size = torch.linalg.matrix_norm(expected)
    assert (error <= bound * size).all(), (error / size).max().item()


def lyapunov(h, g):
    """X with h X + X h = g, by eigenvalues."""
    values, vectors = torch.linalg.eigh(h)
    inner = vectors.mT @ g @ vectors / (values[..., :, None] + values[..., None, :])
    return vectors @ inner @ vectors.mT


def gradient(a, g, power):
    """Of sum(g * a^power), symmetric g."""
    if power == 0.5:
        return lyapunov(root(a), g)
    inverse = root(a, -0.5)
    return -inverse @ inverse @ lyapunov(inverse, g) @ inverse @ inverse


@pytest.mark.parametrize(
    ("impl", "shape"),
    every(
        zip([(1,), (2, 1), (3,), (2, 3, 5), (3, 16), (33,), (2, 70), (130,)]),
        interpreted=[((2, 2),), ((1,),)],
    ),
    ids=str,
)
@pytest.mark.parametrize(("function", "power"), BOTH, ids=["root", "inverse"])
def test_shapes(impl, shape, function, power, device):
    a = covariance(*shape, dtype=torch.float32, device=device)
    weight = torch.randn(*shape, shape[-1], device=device)
    weight = weight + weight.mT
    value, grad = value_and_grads(lambda a: function(a, impl=impl), a, weight=weight)
    wide = a.double().cpu()
    near(value, root(wide, power), 1e-6)
    assert torch.equal(value, value.mT)
    near(grad, gradient(wide, weight.double().cpu(), power), 1e-5)
    assert torch.equal(grad, grad.mT)


@pytest.mark.parametrize(("impl", "condition"), every([(1e2,), (1e4,), (1e6,)]))
def test_condition(impl, condition, device):
    """The root is known to eps, the inverse to eps times what it magnifies."""
    a = covariance(3, 12, condition=condition, dtype=torch.float32, device=device)
    wide = a.double().cpu()
    near(sqrtm(a, impl=impl), root(wide), 1e-6)
    near(inv_sqrtm(a, impl=impl), root(wide, -0.5), 1e-6 + 1e-10 * condition)
    weight = torch.eye(12, device=device).expand(3, 12, 12)
    _, grad = value_and_grads(lambda a: sqrtm(a, impl=impl), a)
    ones = torch.ones(3, 12, 12, dtype=torch.float64)
    near(grad, gradient(wide, ones, 0.5), 1e-4)
    _, grad = value_and_grads(lambda a: sqrtm(a, impl=impl), a, weight=weight)
    near(grad, root(wide, -0.5) / 2, 1e-4)  # d tr A^1/2 = A^-1/2 / 2


@pytest.mark.parametrize("impl", QUICK)
def test_float64_and_half_types(impl, device):
    for function, power in BOTH:
        a = covariance(2, 5, condition=100.0, device=device)
        value, grad = value_and_grads(lambda a, f=function: f(a, impl=impl), a)
        near(value, root(a.cpu(), power), 1e-13)
        near(grad, gradient(a.cpu(), torch.ones(5, 5).double(), power), 1e-12)
        for dtype in (torch.float16, torch.bfloat16):
            half = a.to(dtype)
            value, grad = value_and_grads(lambda a, f=function: f(a, impl=impl), half)
            assert (value.dtype, grad.dtype) == (torch.float32, dtype)
            wide = (half.double() + half.double().mT).cpu() / 2
            near(value, root(wide, power), 1e-6)


@pytest.mark.parametrize("impl", QUICK)
def test_scale_of_every_matrix_is_its_own(impl, device):
    a = covariance(3, 4, device=device).float()
    factors = torch.tensor([1.0, 1e-12, 1e12], device=device)[:, None, None]
    for function, power in BOTH:
        close(function(a * factors, impl=impl) / factors**power, function(a, impl=impl))


@pytest.mark.parametrize("impl", QUICK)
def test_singular_matrices(impl, device):
    factor = torch.randint(-4, 5, (3, 5, 2), device=device).float()
    a = factor @ factor.mT
    a[2] = 0
    value, grad = value_and_grads(lambda a: sqrtm(a, impl=impl), a)
    expected = root(a.double().cpu(), cutoff=1e-9)
    near(value[:2], expected[:2], 1e-6)
    assert not value[2].any()
    # Between the range and the rest 1 / h_i, and nothing within the rest.
    part = torch.linalg.eigh(expected[0])
    sums = part.eigenvalues[:, None] + part.eigenvalues[None, :]
    ones = part.eigenvectors.mT @ torch.ones(5, 5).double() @ part.eigenvectors
    inner = torch.where(sums > 1e-6, ones / sums, 0)
    near(grad[0], part.eigenvectors @ inner @ part.eigenvectors.mT, 1e-4)
    assert not grad[2].any()
    value, grad = value_and_grads(lambda a: inv_sqrtm(a, impl=impl), a)
    assert value.isnan().all()
    assert grad.isnan().all()


@pytest.mark.parametrize("impl", QUICK)
def test_equal_eigenvalues(impl, device):
    one = torch.eye(3, device=device)
    value, grad = value_and_grads(lambda a: sqrtm(a, impl=impl), 4 * one)
    close(value, 2 * one)
    close(grad, torch.full_like(one, 0.25))


@pytest.mark.parametrize("function", [sqrtm, inv_sqrtm])
@pytest.mark.parametrize("impl", QUICK)
def test_gradcheck(impl, function, device):
    a = covariance(2, 3, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: function(a, impl=impl), (a,))
    if impl == "torch":
        assert torch.autograd.gradgradcheck(lambda a: function(a, impl=impl), (a,))


@pytest.mark.parametrize("impl", FAST[:1])
def test_second_derivatives_are_refused(impl, device):
    a = covariance(3, device=device).requires_grad_()
    for function, _ in BOTH:
        (grad,) = torch.autograd.grad(function(a, impl=impl).sum(), a, create_graph=True)
        with pytest.raises(NotImplementedError, match="first derivatives only. Use impl='torch'"):
            grad.sum().backward()


@pytest.mark.parametrize("impl", QUICK)
def test_nan_stays_in_its_problem(impl, device):
    a = covariance(3, 4, device=device).float()
    touched = a.clone()
    touched[1, 0, 2] = torch.nan
    touched[2, 1, 1] = torch.inf
    for function, _ in BOTH:
        results = [value_and_grads(lambda a, f=function: f(a, impl=impl), t) for t in (touched, a)]
        for actual, expected in zip(*results, strict=True):
            assert not actual[1:].isfinite().any()
            close(actual[0], expected[0], rtol=0, atol=0)


@pytest.mark.parametrize("impl", QUICK)
def test_strides_views_and_empty_batches(impl, device):
    a = covariance(2, 4, device=device).float()
    for function, _ in BOTH:
        expected = function(a, impl=impl)
        wide = torch.full((2, 6, 6), torch.nan, device=device)
        wide[:, 1:-1, 1:-1] = a
        close(function(wide[:, 1:-1, 1:-1], impl=impl), expected, rtol=0, atol=0)
        close(function(a.movedim(0, -1).contiguous().movedim(-1, 0), impl=impl), expected)
        close(function(a[:1].expand(3, 4, 4), impl=impl)[2], expected[0])
        assert function(a[:0], impl=impl).shape == (0, 4, 4)


@pytest.mark.parametrize("impl", QUICK)
def test_transforms(impl, device):
    a = covariance(3, 3, device=device).float()

    def run(a):
        return sqrtm(a, impl=impl) + inv_sqrtm(a, impl=impl)

    expected = value_and_grads(run, a)
    close(torch.func.vmap(run)(a), expected[0])
    close(torch.func.vmap(torch.func.grad(lambda a: run(a).sum()))(a), expected[1])
    with torch.autocast(device.type, torch.bfloat16):
        close(run(a), expected[0], rtol=0, atol=0)


@pytest.mark.parametrize("impl", FAST)
def test_what_the_square_leaves(impl, device):
    a = covariance(4, condition=1e4, device=device).float()
    root_, inverse = (f(a, impl=impl).double() for f, _ in BOTH)
    wide, one = a.double(), torch.eye(4, dtype=torch.float64, device=device)
    eps = torch.finfo(torch.float32).eps
    assert (torch.linalg.matrix_norm(root_ @ root_ - wide) <= 16 * eps).all()
    # Rounding of the inverse's largest entries is magnified by a's condition.
    assert (torch.linalg.matrix_norm(inverse @ wide @ inverse - one) <= 16 * eps * 1e4).all()


A = torch.eye(3)


@pytest.mark.parametrize(
    ("a", "options", "error", "message"),
    [
        ([1.0], {}, TypeError, "a must be a torch.Tensor; got list"),
        (A.int(), {}, TypeError,
         "a must be float16, bfloat16, float32 or float64; got torch.int32"),
        (A[:2], {}, ValueError, "a must have shape (..., D, D), D >= 1; got (2, 3)"),
        (A[0], {}, ValueError, "a must have shape (..., D, D), D >= 1; got (3,)"),
        (A[:0, :0], {}, ValueError, "a must have shape (..., D, D), D >= 1; got (0, 0)"),
        (A, {"impl": "gpu"}, ValueError, "impl must be one of 'torch', 'cpu', 'triton'; got 'gpu'"),
        (A * torch.nan, {"validate": True}, ValueError, "a must be finite everywhere; got nan"),
        (A + A[0], {"validate": True}, ValueError,
         "a must be symmetric up to rounding; got a difference of 1.0"),
        (-2 * A, {"validate": True}, ValueError,
         "a must have no negative eigenvalue beyond rounding; got -2.0"),
    ],
)  # fmt: skip
def test_messages(a, options, error, message):
    for function, _ in BOTH:
        with pytest.raises(error) as raised:
            function(a, **options)
        assert str(raised.value) == f"{function.__name__}: {message}"
