"""Mean and covariance of points: value and gradient of each implementation, and its contract."""

import pytest
import torch
from impls import FAST, IMPLS, INTERPRETED, QUICK, every
from support import assert_close64, value_and_grads

from otkernels._ops import accumulation_dtype
from otkernels.cpu import moments as on_cpu
from otkernels.moments import mean_cov, moments

close = torch.testing.assert_close
EPS = torch.finfo(torch.float32).eps


def truth(x, weights=None, correction=0):
    """Mean and covariance in float64, point by point."""
    x = x.double()
    weights = x.new_ones(x.shape[:-1]) if weights is None else weights.double()
    a = (weights / weights.sum(-1, keepdim=True))[..., None]
    mean = (a * x).sum(-2)
    z = x - mean[..., None, :]
    n = (a != 0).sum((-2, -1))[..., None, None]
    return mean, torch.einsum("...ni,...nj->...ij", a * z, z) * n / (n - correction)


def points(*shape, dtype=torch.float32, device="cpu"):
    """Points whose features differ in place and width."""
    place, width = torch.randn(shape[-1]), 0.5 + torch.rand(shape[-1])
    return (place + width * torch.randn(shape)).to(device, dtype)


def weights_of(x):
    """Weights of any total, of which some are 0."""
    weights = torch.rand(x.shape[:-1], device=x.device) + 0.1
    weights[..., 1:-1:3] = 0
    return weights


def check(x, weights=None, impl="torch", correction=0):
    """Both results, and gradients of a random functional of them, against the truth."""
    given = (x,) if weights is None else (x, weights)
    d = x.shape[-1]
    to_mean, to_cov = (
        torch.randn(*x.shape[:-2], *s, device=x.device).double() for s in ((d,), (d, d))
    )

    def functional(function):
        def total(x, weights=None):
            mean, cov = function(x, weights)
            return (mean * to_mean).sum() + (cov * to_cov).sum()

        return total

    def ours(x, weights):
        return mean_cov(x, weights=weights, correction=correction, impl=impl)

    terms, dtype = x.shape[-2] + d, accumulation_dtype(x.dtype)
    mean, cov = ours(x, weights)
    true_mean, true_cov = truth(x, weights, correction)
    assert mean.dtype == cov.dtype == dtype
    size = x.double().abs().max()  # what is summed, as means may be small
    assert_close64(torch.cat([mean.flatten(), size.to(dtype)[None]]),
                   torch.cat([true_mean.flatten(), size[None]]), terms=terms)  # fmt: skip
    assert_close64(cov, true_cov, terms=terms)
    assert torch.equal(cov, cov.mT)
    _, *grads = value_and_grads(functional(ours), *given)
    wide = [t.double() for t in given]
    reference = functional(lambda x, weights: truth(x, weights, correction))
    for grad, tensor, expected in zip(
        grads, given, value_and_grads(reference, *wide)[1:], strict=True
    ):
        assert grad.dtype == tensor.dtype
        assert_close64(grad, expected, terms=terms, dtype=dtype)


# --- truth --------------------------------------------------------------------------------------

SHAPES = [(1, 1), (1, 4), (5, 1), (7, 3), (3, 9, 5), (2, 3, 6, 33), (40, 17)]


@pytest.mark.parametrize(
    ("impl", "shape"), every([(s,) for s in SHAPES], interpreted=[((2, 7, 3),)]), ids=str
)
def test_shapes(impl, shape, device):
    x = points(*shape, device=device)
    check(x, None, impl)
    check(x, weights_of(x), impl)


@pytest.mark.parametrize("correction", [1, 3])
@pytest.mark.parametrize("impl", QUICK)
def test_corrections(impl, correction, device):
    x = points(2, 11, 4, device=device)
    check(x, None, impl, correction)
    check(x, weights_of(x), impl, correction)
    for cloud, cov in zip(x, mean_cov(x, correction=correction, impl=impl)[1], strict=True):
        close(cov, torch.cov(cloud.mT, correction=correction))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("impl", QUICK)
def test_dtypes(impl, dtype, device):
    x = points(2, 9, 5, dtype=dtype, device=device)
    check(x, None, impl)
    check(x, weights_of(x).to(dtype), impl)


@pytest.fixture
def in_pieces(monkeypatch):
    """Rows, blocks and groups of the CPU's form so small that a test meets several of each."""
    for name, value in {"ROWS": 4, "SIDE": 3, "GROUP": 40, "FEW": 12, "STRIDE": 3}.items():
        monkeypatch.setattr(on_cpu, name, value)


@pytest.mark.parametrize("shape", [(1, 1), (17, 2), (11, 7), (2, 9, 8), (9, 4, 3), (0, 4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_in_pieces(shape, dtype, in_pieces):
    if shape[0]:
        x = points(*shape, dtype=dtype)
        check(x, None, "cpu", int(shape[-2] > 2))
        check(x, weights_of(x).to(dtype), "cpu", int(shape[-2] > 2))
    assert mean_cov(torch.zeros(shape), impl="cpu")[1].shape == (*shape[:-2], *2 * shape[-1:])


@pytest.mark.parametrize("shape", [(3000, 3), (40, 150), (20, 2050, 16)])
def test_true_size_of_pieces(shape):
    check(points(*shape), None, "cpu")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("impl", FAST)
def test_sums_in_float64(impl, weighted, device):
    """Of points in float32: nothing is rounded to that on the way, nor in the gradient."""
    x = points(2, 8, 3, device=device)
    a = None
    if weighted:
        a = weights_of(x).double()
        a = a / a.sum(-1, keepdim=True)
    results = [
        value_and_grads(
            lambda x, i=i: torch.cat(
                [t.flatten() for t in moments(x, a, correction=1, double=True, impl=i)]
            ),
            t,
        )
        for i, t in ((impl, x), ("torch", x.double()))
    ]
    for actual, expected in zip(*results, strict=True):
        assert_close64(actual, expected, terms=8)
    assert results[0][0].dtype == torch.float64


# --- numerics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1e4, 1e6])
@pytest.mark.parametrize("impl", IMPLS)
def test_far_from_the_origin(impl, offset, device):
    """On points as rounded, nothing more is lost; those without mass may be anywhere."""
    n = 60 if INTERPRETED and impl == "triton" else 300
    x = (torch.randn(n, 4) + offset).to(device)
    assert_close64(mean_cov(x, impl=impl)[1], truth(x)[1], terms=n)
    x[: n // 2] = 0
    weights = torch.rand(n, device=device) + 0.1
    weights[: n // 2] = 0
    for got, expected in zip(
        mean_cov(x, weights=weights, impl=impl), truth(x, weights), strict=True
    ):
        assert_close64(got, expected, terms=n if got.dim() == 2 else 1)


@pytest.mark.parametrize("impl", QUICK)
def test_points_in_order(impl, device):
    """A mean over the first of them would be far from the mean over all."""
    x = torch.linspace(-1, 1, 4000, device=device)[:, None] ** 3 * torch.ones(3, device=device)
    check(x, None, impl)


@pytest.mark.parametrize("impl", QUICK)
def test_equal_points_have_no_covariance(impl, device):
    x = torch.full((50, 3), 1 / 3, device=device).requires_grad_()
    mean, cov = mean_cov(x, impl=impl)
    close(mean, x[0].detach(), rtol=EPS, atol=0)
    assert (cov.abs() <= EPS**2).all()
    assert (torch.autograd.grad(cov.sum(), x)[0].abs() <= EPS).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_nan_stays_in_its_problem(impl, device):
    x = points(3, 6, 2, device=device)
    whole = value_and_grads(lambda x: mean_cov(x, impl=impl)[1].sum((-2, -1)), x)
    x[1, 4, 0] = torch.nan
    value, grad = value_and_grads(lambda x: mean_cov(x, impl=impl)[1].sum((-2, -1)), x)
    assert value[1].isnan()
    assert grad[1].isnan().all()
    for got, before in zip((value, grad), whole, strict=True):
        assert torch.equal(got[::2], before[::2])
    weights = torch.ones(3, 6, device=device)
    weights[2, 0] = -1
    for t in mean_cov(x, weights=weights, impl=impl):
        assert t[2].isnan().all()
        assert t[0].isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_too_few_points_of_mass_are_nan(impl, device):
    x = points(2, 4, 2, device=device)
    weights = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0]], device=device)
    mean, cov = mean_cov(x, weights=weights, correction=2, impl=impl)
    assert cov[0].isnan().all()
    assert_close64(cov[1:], truth(x, weights, 2)[1][1:], terms=4)
    assert mean.isfinite().all()
    assert moments(x, None, correction=4, double=False, impl=impl)[1].isnan().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_lengths(impl, device):
    """Padding may hold anything; each cloud is as if it were cut to its length."""
    x = points(2, 6, 3, device=device)
    weights = torch.rand(6, device=device) + 0.1
    lengths = torch.tensor([4, 6], device=device)
    x[0, 4:] = torch.nan

    def total(x, weights=None, lengths=lengths):
        given = {"weights": weights, "lengths": lengths, "correction": 1, "impl": impl}
        mean, cov = mean_cov(x, **given)
        return mean.sum(-1) + cov.square().sum((-2, -1))

    for given in ((x,), (x, weights)):
        value, grad, *_ = value_and_grads(total, *given)
        for k, n in enumerate((4, 6)):
            cut = [t[k, :n] if t is x else t[:n] for t in given]
            expected, cut_grad, *_ = value_and_grads(lambda *t: total(*t, lengths=None), *cut)
            close(value[k], expected)
            close(grad[k, :n], cut_grad)
            assert (grad[k, n:] == 0).all()


# --- derivatives --------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("impl", QUICK)
def test_first_and_second_derivatives(impl, correction, device):
    x = points(2, 3, 2, dtype=torch.float64, device=device).requires_grad_()
    weights = (torch.rand(3, device=device) + 0.5).double().requires_grad_()

    def both(x, weights):
        return mean_cov(x, weights=weights, correction=correction, impl=impl)

    assert torch.autograd.gradcheck(both, (x, weights))
    assert torch.autograd.gradgradcheck(both, (x, weights))
    assert torch.autograd.gradgradcheck(lambda x: both(x, None)[1], x)
    assert torch.autograd.gradgradcheck(lambda *t: both(*t)[0], (x, weights))


@pytest.mark.parametrize("impl", FAST)
def test_each_gradient_alone(impl, device):
    x = points(5, 2, device=device)
    weights = torch.rand(5, device=device) + 0.1

    def total(x, weights):
        return mean_cov(x, weights=weights, impl=impl)[1].square().sum()

    _, *both = value_and_grads(total, x, weights)
    alone = value_and_grads(lambda x: total(x, weights), x)[1:]
    alone += value_and_grads(lambda w: total(x, w), weights)[1:]
    for got, expected in zip(alone, both, strict=True):
        close(got, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, in jvp
@pytest.mark.parametrize("impl", FAST)
def test_forward_mode_is_refused(impl, device):
    x = points(4, 2, device=device)
    with pytest.raises(NotImplementedError, match="forward-mode derivatives. Use impl='torch'"):
        torch.func.jvp(lambda x: mean_cov(x, impl=impl)[1], (x,), (x,))
    _, tangent = torch.func.jvp(lambda x: mean_cov(x, impl="torch")[0], (x,), (x,))
    close(tangent, x.mean(0))


# --- transforms and layouts ---------------------------------------------------------------------


def test_compile_full_graph(device):
    """Sizes and lengths that are not known; a graph cannot stop at one."""
    x, weights = points(2, 5, 3, device=device), torch.rand(5, device=device) + 0.1
    lengths = torch.tensor([2, 4], device=device)

    def total(x, weights):
        mean, cov = mean_cov(x, weights=weights, lengths=lengths, correction=1, impl=FAST[0])
        return mean.sum() + cov.square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager", dynamic=True)
    for actual, expected in zip(
        *(value_and_grads(f, x, weights) for f in (compiled, total)), strict=True
    ):
        close(actual, expected)


@pytest.mark.parametrize("impl", QUICK)
def test_vmap(impl, device):
    x, weights = points(5, 3, 2, device=device), torch.rand(5, device=device) + 0.1

    def total(x, weights=weights):
        mean, cov = mean_cov(x, weights=weights, impl=impl)
        return mean.sum() + cov.square().sum()

    mapped = torch.func.vmap(torch.func.grad(total), in_dims=1)(x)
    close(mapped, torch.stack([torch.func.grad(total)(t) for t in x.unbind(1)]))
    mapped = torch.func.vmap(lambda w: mean_cov(x[:, 0], weights=w, impl=impl)[1])(
        weights.expand(2, 5)
    )
    close(mapped[0], mean_cov(x[:, 0], weights=weights, impl=impl)[1])


@pytest.mark.parametrize("impl", QUICK)
def test_autocast_changes_nothing(impl, device):
    x = points(6, 3, device=device).requires_grad_()
    found = []
    for enabled in (False, True):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            cov = mean_cov(x, impl=impl)[1]
            found.append(cov)
            if impl != "torch":  # its backward is torch's own, and follows the context
                found.append(torch.autograd.grad(cov.sum(), x, retain_graph=True)[0])
        found.append(torch.autograd.grad(cov.sum(), x)[0])
    half = len(found) // 2
    for plain, cast in zip(found[:half], found[half:], strict=True):
        close(plain, cast, rtol=0, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_and_expanded_points(impl, device):
    x = points(2, 6, 3, device=device)
    wide = x.new_full((8, 5, 4), torch.nan)
    wide[1:7, 1:4, :2] = x.permute(1, 2, 0)
    strided = wide[1:7, 1:4, :2].permute(2, 0, 1)
    weights = (torch.rand(12, device=device) + 0.1)[::2]
    for given in ({}, {"weights": weights}):
        expected = mean_cov(x, **{k: v.clone() for k, v in given.items()}, impl=impl)
        for got, reference in zip(mean_cov(strided, **given, impl=impl), expected, strict=True):
            close(got, reference)
        expanded = mean_cov(x[:1].expand(2, 3, 6, 3)[:, 1:], **given, impl=impl)
        for got, reference in zip(expanded, expected, strict=True):
            assert got.shape == (2, 2, *reference.shape[1:])
            close(got[1, 0], reference[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl, device):
    x, weights = torch.rand(0, 5, 2, device=device), torch.rand(5, device=device)
    for given in ((x,), (x, weights)):
        value, *grads = value_and_grads(
            lambda x, w=None: mean_cov(x, weights=w, impl=impl)[1].sum((-2, -1)), *given
        )
        assert value.shape == (0,)
        assert not any(g.any() for g in grads)


@pytest.mark.parametrize("impl", QUICK)
def test_same_bits_on_two_runs(impl, device):
    x = points(3, 40, 5, device=device)
    for first, second in zip(*(mean_cov(x, impl=impl) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


def test_default_impl_and_meta_tensors(device):
    x = points(4, 3, device=device)
    best = "cpu" if device.type == "cpu" else "triton"
    for got, expected in zip(mean_cov(x), mean_cov(x, impl=best), strict=True):
        assert torch.equal(got, expected)
    assert [t.shape for t in mean_cov(x.to("meta"))] == [(3,), (3, 3)]


# --- errors -------------------------------------------------------------------------------------

X = torch.rand(2, 4, 3)
IN_FLOATS = "float16, bfloat16, float32 or float64"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x must be a torch.Tensor; got list"),
        ({"x": X.int()}, TypeError, f"x must be {IN_FLOATS}; got torch.int32"),
        ({"x": X[0, 0]}, ValueError, "x must have shape (..., N, D); got (3,)"),
        ({"x": X[:, :0]}, ValueError,
         "x must have at least one point and feature; got (2, 0, 3)"),
        ({"correction": 4}, ValueError, "x must have more points than correction=4; got 4"),
        ({"correction": -1}, ValueError, "correction must be an integer >= 0; got -1"),
        ({"correction": 0.5}, ValueError, "correction must be an integer >= 0; got 0.5"),
        ({"impl": "gpu"}, ValueError, "impl must be one of 'torch', 'cpu', 'triton'; got 'gpu'"),
        ({"weights": torch.ones(4).int()}, TypeError,
         f"weights must be {IN_FLOATS}; got torch.int32"),
        ({"weights": torch.ones(5)}, ValueError,
         "weights must have shape (..., 4), one weight a point of x; got (5,)"),
        ({"weights": torch.ones(4, device="meta")}, ValueError,
         "weights must be on x's device cpu; got meta"),
        ({"weights": torch.ones(3, 4)}, ValueError,
         "weights must have leading axes that broadcast with x's (2,); got (3,)"),
        ({"lengths": torch.rand(2)}, TypeError,
         "lengths must be an integer tensor; got torch.float32"),
        ({"lengths": torch.tensor([2, 5])}, ValueError,
         "lengths must be from 1 to 4, the number of points; got 5"),
        ({"lengths": torch.tensor([1, 2, 3])}, ValueError,
         "lengths must have leading axes that broadcast with x's (2,); got (3,)"),
        ({"validate": True, "x": X / 0}, ValueError, "x must be finite everywhere; got inf"),
        ({"validate": True, "x": X / 0, "weights": torch.ones(4)}, ValueError,
         "x must be finite everywhere; got inf"),
        ({"validate": True, "correction": 1, "lengths": torch.tensor([1, 4])}, ValueError,
         "x must have more points than correction=1; got 1"),
        ({"validate": True, "weights": -torch.ones(4)}, ValueError,
         "weights must not be negative; got -1.0"),
    ],
)  # fmt: skip
def test_messages(given, error, message):
    with pytest.raises(error) as raised:
        mean_cov(**({"x": X} | given))
    assert str(raised.value) == f"mean_cov: {message}"
