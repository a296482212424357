"""GeomLoss's SamplesLoss, value for value: its float64 numbers, less its floors, are the truth."""

import inspect
import math

import geomloss
import pytest
import torch

from otkernels import energy_distance, mmd
from otkernels._ops import accumulation_dtype
from otkernels.compat.geomloss import SamplesLoss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOSSES = ["gaussian", "laplacian", "energy"]
DTYPES = [torch.float32, torch.float64]
QUICK = ["torch", "triton" if torch.cuda.is_available() else "cpu"]
EPS = torch.finfo(torch.float64).eps
FLOOR = 1e-4  # what GeomLoss takes r / blur for at least, and r for "energy"
# What its kernel of a point with itself lacks.
LACK = {"gaussian": 0.0, "laplacian": 1 - math.exp(-FLOOR), "energy": FLOOR}
SHAPES = {
    "single": ((), 1, 1, 3),
    "one feature": ((), 6, 9, 1),
    "wide": ((), 5, 4, 33),
    "batch": ((3,), 7, 5, 2),
    "batch of one": ((1,), 17, 33, 4),
    "batch of single": ((2,), 1, 6, 3),
}
WEIGHTS = ["none", "signed"]


def points(batch, n, m, d):
    """Clouds of multiples of 1/8 without a shared point: exact squared distances in float32."""
    for _ in range(100):
        pooled = torch.randint(-40, 41, (*batch, n + m, d), device=DEVICE).double() / 8
        gaps = torch.cdist(pooled, pooled) + torch.eye(n + m, device=DEVICE)
        if (gaps > 0).all():
            return pooled[..., :n, :].clone(), pooled[..., n:, :].clone()
    raise ValueError("too many points to keep apart")


def weights(kind, batch, *sizes):
    if kind == "none":
        return [None for _ in sizes]
    draw = torch.rand if kind == "positive" else torch.randn
    return [draw(*batch, n, device=DEVICE).double() for n in sizes]  # float32 holds them exactly


def theirs(loss, **options):
    return geomloss.SamplesLoss(loss, backend="tensorized", **options)


def call(loss, x, y, a=None, b=None):
    return loss(x, y) if a is None else loss(a, x, b, y)


def masses(x, a):
    return x.new_full(x.shape[:-1], 1 / x.shape[-2]) if a is None else a


def without_floor(loss, x, y, a, b):
    """What the floor takes from GeomLoss's value, and from its gradients to the weights."""
    a, b = masses(x, a), masses(y, b)
    value = 0.5 * LACK[loss] * (a.square().sum(-1) + b.square().sum(-1))
    return value, LACK[loss] * a, LACK[loss] * b


def scales(loss, x, y, a, b, blur):
    """Sizes of the sums in the value, in gradients to points and in gradients to weights."""
    a, b = masses(x, a).abs(), masses(y, b).abs()
    total = (a.sum(-1) + b.sum(-1)).max()
    pooled = torch.cat([x, y], -2)
    far = torch.cdist(pooled, pooled).max()
    kernel = far if loss == "energy" else 1.0
    slope = {"gaussian": math.exp(-0.5) / blur, "laplacian": 1 / blur, "energy": 1.0}[loss]
    return total**2 * kernel, torch.maximum(a.max(), b.max()) * total * slope, total * kernel


def assert_within(actual, expected, scale, terms, dtype):
    """Within the rounding of ``terms`` numbers of size ``scale``, and of the result."""
    eps_out, eps = (torch.finfo(t).eps for t in (dtype, accumulation_dtype(dtype)))
    bound = ((eps_out + terms**0.5 * eps) * scale).item()
    assert actual.dtype == dtype
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    error = (actual.double() - expected).abs().max().item()
    assert error <= bound, f"error {error:.3g} above the bound {bound:.3g}"


def value_and_grads(loss, x, y, a, b):
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in (x, y, a, b)]
    value = call(loss, *leaves)
    leaves = [t for t in leaves if t is not None]
    return value.detach(), *torch.autograd.grad(value.sum(), leaves)


def assert_like_geomloss(loss, dtype, x, y, a, b, blur, impl):
    """Value and gradients in one precision, against GeomLoss's of the same points in float64."""
    value, *grads = value_and_grads(theirs(loss, blur=blur), x, y, a, b)
    lack, *lacks = without_floor(loss, x, y, a, b)
    given = [None if t is None else t.to(dtype) for t in (x, y, a, b)]
    actual, *actual_grads = value_and_grads(SamplesLoss(loss, blur=blur, impl=impl), *given)
    value_scale, point_scale, weight_scale = scales(loss, x, y, a, b, blur)
    terms = x.shape[-2] + y.shape[-2]
    assert_within(actual, value + lack, value_scale, terms, dtype)
    rest = [(0, point_scale)] * 2 + [(t, weight_scale) for t in lacks]
    for ours, other, (floor, size) in zip(actual_grads, grads, rest[: len(grads)], strict=True):
        assert_within(ours, other + floor, size, terms, dtype)
    in_kind = call(theirs(loss, blur=blur), *given)
    assert (actual.shape, actual.dtype) == (in_kind.shape, in_kind.dtype)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("impl", QUICK)
def test_value_and_gradients(loss, dtype, shape, kind, impl):
    batch, n, m, d = shape
    measures = *points(*shape), *weights(kind, batch, n, m)
    assert_like_geomloss(loss, dtype, *measures, blur=2.0 * d**0.5, impl=impl)


@pytest.mark.parametrize("loss", LOSSES)
def test_interpreted(loss):
    measures = *points((), 3, 4, 2), *weights("signed", (), 3, 4)
    assert_like_geomloss(loss, torch.float64, *measures, blur=2.0, impl="triton")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types(loss, dtype):
    x, y = points((), 6, 5, 3)
    expected = theirs(loss, blur=2.0)(x, y) + without_floor(loss, x, y, None, None)[0]
    actual = SamplesLoss(loss, blur=2.0)(x.to(dtype), y.to(dtype))
    assert_within(actual, expected, expected, 1, dtype)


def test_defaults():
    x, y = points((), 6, 5, 3)
    for loss in LOSSES:
        expected = theirs(loss)(x, y) + without_floor(loss, x, y, None, None)[0]
        actual = SamplesLoss(loss)(x, y)
        assert_within(actual, expected, scales(loss, x, y, None, None, 0.05)[0], 11, torch.float64)


def test_half_of_our_own():
    x, y = points((2,), 6, 5, 3)
    half = 0.5 * mmd(x, y, kernel="laplacian", bandwidth=0.7)
    torch.testing.assert_close(SamplesLoss("laplacian", blur=0.7)(x, y), half)
    torch.testing.assert_close(SamplesLoss("energy")(x, y), 0.5 * energy_distance(x, y))


# --- calls --------------------------------------------------------------------------------------


def test_signature():
    ours, other = (
        [(p.name, p.default) for p in inspect.signature(c).parameters.values()]
        for c in (SamplesLoss, geomloss.SamplesLoss)
    )
    assert ours == [*other, ("impl", None)]
    with pytest.raises(NotImplementedError, match="'sinkhorn'"):
        SamplesLoss()  # GeomLoss's default loss
    last = inspect.signature(SamplesLoss).parameters["impl"]
    assert last.kind is inspect.Parameter.KEYWORD_ONLY
    loss = SamplesLoss("energy")
    for name, default in other[1:]:
        assert getattr(loss, name) == default


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_ways_to_call(batch):
    x, y = points(batch, 6, 5, 3)
    a, b = weights("positive", batch, 6, 5)
    loss = SamplesLoss("gaussian", blur=3.0)
    expected = loss(a, x, b, y)
    assert torch.equal(loss(a[..., None], x, b[..., None], y), expected)
    assert torch.equal(loss(None, a, x, None, b, y), expected)
    uniform = [t.new_full(t.shape[:-1], 1 / t.shape[-2]) for t in (x, y)]
    torch.testing.assert_close(loss(uniform[0], x, uniform[1], y), loss(x, y))
    if not batch:
        labels = torch.arange(6) // 2, torch.arange(5)[:, None]
        assert torch.equal(loss(labels[0], a, x, labels[1], b, y), expected)


def test_arguments_without_effect():
    x, y = points((), 6, 5, 3)
    expected = SamplesLoss("laplacian", blur=2.0)(x, y)
    options = {"p": 1, "reach": 1.0, "scaling": 0.9, "cost": lambda x, y: 0, "debias": False}
    assert torch.equal(
        theirs("laplacian", blur=2.0, **options)(x, y), theirs("laplacian", blur=2.0)(x, y)
    )
    options |= {"diameter": 3.0, "truncate": None, "cluster_scale": 0.1, "verbose": True}
    for backend in ("auto", "tensorized", "online", "multiscale"):
        loss = SamplesLoss("laplacian", blur=2.0, backend=backend, **options)
        assert torch.equal(loss(x, y), expected)


def test_options_may_be_set_later():
    x, y = points((), 6, 5, 3)
    loss = SamplesLoss("gaussian", blur=1.0)
    loss.blur = 4.0
    assert torch.equal(loss(x, y), SamplesLoss("gaussian", blur=4.0)(x, y))
    loss.blur = 0.0
    with pytest.raises(ValueError, match="blur must be a positive number; got 0.0"):
        loss(x, y)


# --- potentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("impl", QUICK)
def test_potentials(loss, dtype, batch, kind, impl):
    x, y = points(batch, 6, 5, 3)
    a, b = weights(kind, batch, 6, 5)
    expected = call(theirs(loss, blur=2.0, potentials=True), x, y, a, b)
    _, *lacks = without_floor(loss, x, y, a, b)
    given = [None if t is None else t.to(dtype) for t in (x, y, a, b)]
    given[0].requires_grad_()
    ours = SamplesLoss(loss, blur=2.0, potentials=True, impl=impl)
    scale = scales(loss, x, y, a, b, 2.0)[2]
    for actual, other, lack in zip(call(ours, *given), expected, lacks, strict=True):
        assert not actual.requires_grad
        assert_within(actual, other + lack, scale, 11, dtype)
    with torch.no_grad():
        for actual, again in zip(call(ours, *given), call(ours, *given), strict=True):
            assert torch.equal(actual, again)
    if kind != "none":
        given = [t if t.shape[-1] == 3 else t[..., None] for t in given]
        assert [t.shape for t in call(ours, *given)] == [t.shape for t in expected]


def test_potentials_are_the_gradient_to_the_weights():
    x, y = points((2,), 6, 5, 3)
    a, b = weights("positive", (2,), 6, 5)
    _, _, _, *grads = value_and_grads(SamplesLoss("energy"), x, y, a, b)
    for potential, grad in zip(
        SamplesLoss("energy", potentials=True)(a, x, b, y), grads, strict=True
    ):
        torch.testing.assert_close(potential, grad)


# --- what differs -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["laplacian", "energy"])
def test_no_floor_of_distances(loss):
    x = torch.zeros(1, 2, dtype=torch.float64)
    y = torch.tensor([[0.3, 0.4]], dtype=torch.float64) * FLOOR  # half of the floor
    r = 0.5 * FLOOR
    truth = {"laplacian": 1 - math.exp(-r), "energy": r}[loss]
    value, grad = value_and_grads(SamplesLoss(loss, blur=1.0), x, y, None, None)[:2]
    torch.testing.assert_close(value.item(), truth, rtol=1e-12, atol=0)
    slope = {"laplacian": math.exp(-r), "energy": 1.0}[loss]
    torch.testing.assert_close(grad, -slope * y / r)
    value, grad = value_and_grads(theirs(loss, blur=1.0), x, y, None, None)[:2]
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_far_from_the_origin(loss):
    x, y = torch.randn(64, 32) + 1000, torch.randn(64, 32) + 1000.2
    given = x.double(), y.double()
    assert_like_geomloss(loss, torch.float32, *given, None, None, blur=8.0, impl=None)
    truth = theirs(loss, blur=8.0)(*given)
    off = theirs(loss, blur=8.0)(x, y) / truth - 1
    assert off.abs() > 1e-3  # GeomLoss: 3 to 10 % in the median of many draws


def hessian(loss, x, y):
    return torch.autograd.functional.hessian(lambda x: loss(x, y), x)


@pytest.mark.parametrize("loss", ["gaussian", "laplacian"])
def test_second_derivatives(loss):
    """Within x alone the norm does not change where all of x moves as one: GeomLoss's does."""
    x, y = points((), 4, 3, 2)
    far = y + 1e3  # the kernel between x and y is 0
    moved = hessian(SamplesLoss(loss, blur=2.0, impl="torch"), x, far).sum((0, 2))
    torch.testing.assert_close(moved, torch.zeros_like(moved), rtol=0, atol=4 * EPS)
    assert hessian(theirs(loss, blur=2.0), x, far).sum((0, 2)).abs().max() > 0.01
    with pytest.raises(NotImplementedError, match="impl='torch'"):
        hessian(SamplesLoss(loss, blur=2.0), x, y)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck_of_both_orders(loss):
    x, y = points((), 4, 3, 2)
    a, b = weights("positive", (), 4, 3)
    given = [t.requires_grad_() for t in (a, x, b, y)]
    function = SamplesLoss(loss, blur=2.0, impl="torch")
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


def test_weights_of_another_precision():
    x, y = (t.float() for t in points((), 6, 5, 3))
    a, b = weights("positive", (), 6, 5)
    value = SamplesLoss("gaussian", blur=2.0)(a, x, b, y)
    assert value.dtype == torch.float32
    with pytest.raises(RuntimeError):
        theirs("gaussian", blur=2.0)(a, x, b, y)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"loss": "sinkhorn"},
            NotImplementedError,
            "loss must be one of .*; got 'sinkhorn'. Use GeomLoss itself",
        ),
        ({"loss": "hausdorff"}, NotImplementedError, "got 'hausdorff'. Use GeomLoss itself"),
        ({"loss": "imq"}, ValueError, "SamplesLoss: loss must be one of 'gaussian', 'laplacian'"),
        ({"kernel": min}, NotImplementedError, "kernel must be None; .* Use GeomLoss itself"),
        ({"blur": 0.0}, ValueError, "blur must be a positive number; got 0.0"),
        ({"blur": True}, ValueError, "blur must be a positive number; got True"),
        ({"blur": torch.ones(3)}, NotImplementedError, "got a tensor. Use points divided by it"),
        ({"backend": "keops"}, ValueError, "backend must be one of 'auto', .*; got 'keops'"),
        ({"impl": "numpy"}, ValueError, "impl must be one of 'torch', 'cpu', 'triton'"),
    ],
)
def test_refused_options(options, error, message):
    with pytest.raises(error, match=message):
        SamplesLoss(**{"loss": "gaussian"} | options)


X, Y, A, B = torch.rand(4, 2), torch.rand(3, 2), torch.rand(4), torch.rand(3)
LABELS = torch.arange(4), torch.arange(3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X,), "arguments must be .*; got 1 of them"),
        ((A, X, B), "got 3 of them"),
        ((X, Y[None]), "y must have x's batch"),
        ((X[None], Y.expand(2, 3, 2)), "y must have x's batch"),
        ((X[None, None], Y[None, None]), r"x must have shape \(N, D\) or \(B, N, D\)"),
        ((X, Y[:, :1]), "y must have x's 2 features"),
        ((B, X, B, Y), r"a must have shape \(4,\) or \(4, 1\), one weight a point of x"),
        ((A, X, A, Y), r"b must have shape \(3,\)"),
        ((A[:, None].expand(4, 2), X, B[:, None].expand(3, 2), Y), r"got \(4, 2\)"),
        ((A, X[None], B, Y[None]), r"a must have shape \(1, 4\) or \(1, 4, 1\)"),
        ((LABELS[1], A, X, LABELS[0], B, Y), r"l_x must have shape \(4,\); got \(3,\)"),
    ],
)
def test_refused_calls(args, message):
    with pytest.raises(ValueError, match=message):
        SamplesLoss("energy")(*args)
    with pytest.raises(ValueError, match="(?i)samples|weights|labels"):
        geomloss.SamplesLoss("energy")(*args)


def test_refused_calls_for_other_reasons():
    loss = SamplesLoss("energy")
    with pytest.raises(TypeError, match="x must be float16"):
        loss(X.long(), Y.long())
    with pytest.raises(TypeError, match="a must be a torch.Tensor; got NoneType"):
        loss(None, X, None, Y)
    with pytest.raises(ValueError, match="y must have x's dtype"):
        loss(X, Y.double())
    labelled = LABELS[0], A, X, LABELS[1], B, Y
    for module in (SamplesLoss, geomloss.SamplesLoss):
        with pytest.raises(ValueError, match="(?i)labels"):
            module("energy", backend="tensorized")(*labelled)
        with pytest.raises(NotImplementedError, match="batch"):
            module("energy")(LABELS[0], A[None], X[None], LABELS[1], B[None], Y[None])
    with pytest.raises(ValueError, match="at least one point"):
        loss(X[:0], Y)
