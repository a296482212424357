"""torch.func over every public call: vmap, grad, their nestings, forward mode, Hessians."""

import pytest
import torch
from impls import INTERPRETED
from meta_device import META, MetaDevice, Watch
from public_call import assert_alike
from public_calls import CALLS, case_id, cases, tensors

import otkernels as ot
from otkernels import _transforms

close = torch.testing.assert_close
func = torch.func
QUICK = "cpu" if INTERPRETED else "triton"
# torch's own, in jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

CALLS = [call for call in CALLS if call.wrt and not call.draws]
QUICK_CASES = [(c, QUICK if QUICK in c.impls else c.impls[0]) for c in CALLS]
BATCH = 3


def results(call, impl):
    """The call as a function of tensors with a tuple of tensors as its result."""
    function = call.build(impl)
    return lambda *given: tensors(function(*given))


def scalar(call, impl):
    """The sum of all results: that of one problem whatever the others are."""
    run = results(call, impl)
    return lambda *given: sum(t.sum() for t in run(*given))


@pytest.mark.parametrize(("call", "impl"), QUICK_CASES, ids=case_id)
def test_vmap_is_a_loop_over_problems(call, impl):
    run, given = results(call, impl), call.inputs(6, BATCH)
    with Watch() as mapped:
        found = func.vmap(run)(*given)
    with Watch() as single:
        loop = [run(*problem) for problem in zip(*given, strict=True)]
    assert sorted(mapped.raw_ops * BATCH) == sorted(single.raw_ops)  # one launch for all
    assert mapped.raw_ops or impl != QUICK or call.name == "wae_bandwidths"
    for out, *each in zip(found, *loop, strict=True):
        assert_alike(out, torch.stack(each))


@pytest.mark.parametrize(("call", "impl"), QUICK_CASES, ids=case_id)
def test_grad_and_vmap_nest(call, impl):
    """vmap(grad), grad(vmap) and jacrev, whose off-diagonal blocks are 0, agree with autograd."""
    value, given, k = scalar(call, impl), call.inputs(6, 2), call.wrt[0]
    leaf = given[k].clone().requires_grad_()
    loop = [value(*(leaf[b] if j == k else t[b] for j, t in enumerate(given))) for b in range(2)]
    (expected,) = torch.autograd.grad(sum(loop), leaf)
    options = {"rtol": 1e-3, "atol": 1e-5}
    close(func.vmap(func.grad(value, argnums=k))(*given), expected, **options)
    mapped = func.vmap(value)
    close(func.grad(lambda *g: mapped(*g).sum(), argnums=k)(*given), expected, **options)
    jacobian = func.jacrev(mapped, argnums=k)(*given)
    close(jacobian[[0, 1], [0, 1]], expected, **options)
    assert not jacobian[[0, 1], [1, 0]].any()


# Transforms over another variable than the points, which belong to an outer level or to autograd.
TWO = torch.tensor(2.0)
FACTORS = torch.tensor([0.5, -2.0])
CAPTURED = {
    "grad": lambda f: lambda z: func.grad(lambda q: q * f(z * 1))(TWO),
    "vmap": lambda f: lambda z: func.vmap(lambda b: b * f(z * 1))(FACTORS).sum() / FACTORS.sum(),
    "jvp": lambda f: lambda z: func.jvp(lambda q: q * f(z * 1), (TWO,), (TWO,))[1] / TWO,
}


def in_points(call, impl, dtype=torch.float32):
    """(value, points): a call as a function of its first points, the others fixed."""
    value, given, k = scalar(call, impl), call.inputs(6, dtype=dtype), call.wrt[0]
    return lambda z: value(*given[:k], z, *given[k + 1 :]), given[k]


@pytest.mark.parametrize(("call", "impl"), QUICK_CASES, ids=case_id)
def test_gradient_to_captured_points(call, impl):
    """The gradient of an outer grad, and that of autograd, come through every inner transform."""
    value, x = in_points(call, impl)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(leaf), leaf)
    assert expected.any()
    for nested in CAPTURED.values():
        outer = func.grad(nested(value))(x)
        (autograd,) = torch.autograd.grad(nested(value)(leaf), leaf)
        for found in (outer, autograd):
            assert_alike(found, expected)


def test_gradient_to_a_captured_bandwidth_is_refused():
    def cost(z, s):
        return ot.mmd(z, z + 1, bandwidth=s * 1)

    with pytest.raises(NotImplementedError, match="bandwidth"):
        func.grad(lambda s: func.grad(cost)(torch.ones(4, 2), s).sum())(torch.ones(1))


@pytest.mark.parametrize("name", ["mmd", "mean_cov", "sqrtm"])
def test_compiled_transforms_are_refused(name):
    """The compiler would drop the gradient."""
    value, x = in_points(next(c for c in CALLS if c.name == name), "cpu")
    gradient = torch.compile(lambda z: func.grad(value)(z), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"torch\.compile loses gradients"):
        gradient(x)


def test_vmap_alone_computes_no_gradient():
    seen = []

    def note(x):
        seen.append(_transforms.needs_grad(x * 1))
        return x.sum()

    x = torch.randn(2, 3)
    func.vmap(func.vmap(note))(x)
    func.grad(lambda q: q * func.vmap(note)(x).sum())(TWO)
    assert seen == [False, False]
    func.vmap(func.vmap(note))(x.clone().requires_grad_())
    func.grad(lambda x: func.vmap(note)(x).sum())(x)
    assert seen[2:] == [True, True]


SHARED = {
    "sliced": lambda x, y: ot.sliced_wasserstein(x, y, projections=torch.eye(3)),
    "mmd": lambda x, y: ot.mmd(x, y, bandwidth=1.0),
    "gaussian": ot.gaussian_wasserstein,
}


@pytest.mark.parametrize("loss", SHARED)
def test_axes_of_vmap(loss):
    """A cloud for all problems, an axis anywhere, vmap within vmap: one launch each."""
    cost, x, y = SHARED[loss], torch.randn(2, BATCH, 6, 3), torch.randn(2, 5, 3)
    expected = torch.stack([cost(x[k], y[k].expand(BATCH, -1, -1)) for k in range(2)])
    with Watch() as watch:
        close(func.vmap(cost, in_dims=(-1, None))(x[0].movedim(0, -1), y[0]), expected[0])
        close(func.vmap(func.vmap(cost, in_dims=(0, None)))(x, y), expected)
        inner = func.vmap(cost, in_dims=(1, None), out_dims=0)
        close(func.vmap(inner, in_dims=(2, 0), out_dims=1)(x.permute(2, 1, 0, 3), y), expected.T)
    assert watch.raw_ops.count(watch.raw_ops[-1]) == 3


def test_vmap_leaves_nothing_behind_in_a_module():
    """The direction kept for the next call must not be one that the transform has wrapped."""
    loss = ot.MaxSlicedWassersteinLoss(4, n_steps=1)
    x, y = torch.randn(2, BATCH, 6, 3)
    func.vmap(loss, randomness="same")(x, y)
    func.grad(loss)(x[0], y[0])
    assert loss(x[0], y[0]).isfinite()
    assert loss.direction.shape == (3,)


# --- forward mode ---------------------------------------------------------------------------------

GAUSSIAN = ("gaussian", "Gaussian", "bures", "sqrtm")


def has_tangents(call, impl):
    family = any(part in call.name for part in GAUSSIAN)
    plain = impl in (None, "torch") or "triton" not in call.impls
    return plain and not (family and call.name != "mean_cov")


# Their bandwidth, or standard error, moves with the points but has no gradient.
DETACHED = ("mmd", "mmd_blocks", "MMDLoss", "MMDLoss: reference")
FORWARD = cases(("torch", "cpu", "triton"), [c for c in CALLS if c.name != "wae_bandwidths"])


@pytest.mark.parametrize(("call", "impl"), [c for c in FORWARD if has_tangents(*c)], ids=case_id)
def test_forward_mode(call, impl):
    """Against reverse mode and central differences in float64; Hessians against reverse twice."""
    value, k = scalar(call, impl), call.wrt[0]
    exact = call.variant != "reference"  # which is float32
    given = list(call.inputs(6, dtype=torch.float64 if exact else torch.float32))

    def moved(t):
        return value(*(t if j == k else other for j, other in enumerate(given)))

    x, direction, h = given[k], torch.randn_like(given[k]), 1e-6
    found, tangent = func.jvp(moved, (x,), (direction,))
    close(found, moved(x))
    close(tangent, (func.grad(moved)(x) * direction).sum().to(tangent))
    if str(call) not in DETACHED:
        difference = (moved(x + h * direction) - moved(x - h * direction)) / (2 * h)
        close(tangent.double(), difference.double(), rtol=1e-5, atol=1e-7)
    options = {"rtol": 1e-6, "atol": 1e-8} if exact else {"rtol": 1e-3, "atol": 1e-5}
    close(func.hessian(moved)(x), func.jacrev(func.jacrev(moved))(x), **options)


@pytest.mark.parametrize(
    ("call", "impl"), [c for c in FORWARD if not has_tangents(*c)], ids=case_id
)
def test_forward_mode_is_refused_by_name(call, impl):
    """Never 0 in its place; over reverse mode as well, where it would be a Hessian."""
    if impl == "triton" and INTERPRETED:
        given = [t.to(META) for t in call.inputs(6)]
        device = MetaDevice(warm_up=True)
    else:
        given, device = call.inputs(6), Watch()
    function = call.build(impl)
    if isinstance(function, torch.nn.Module):
        function.to(given[0].device)

    def value(*given):
        return sum(t.sum() for t in tensors(function(*given)))

    def captured(*given):
        one = torch.ones((), device=given[0].device)
        return func.grad(lambda q: q * value(*(t * 1 for t in given)))(one)

    def mapped(*given):
        return func.vmap(value)(*(t.expand(2, *t.shape) for t in given)).sum()

    directions = tuple(torch.ones_like(t) for t in given)
    for nested in (value, captured, mapped):
        with device, pytest.raises(NotImplementedError, match=r"forward-mode.*reverse mode"):
            func.jvp(nested, tuple(given), directions)


@pytest.mark.parametrize("nested", CAPTURED)
@pytest.mark.parametrize("name", ["sliced_wasserstein", "mmd", "mean_cov"])
def test_tangents_of_captured_points(name, nested):
    value, x = in_points(next(c for c in CALLS if c.name == name), "torch")
    expected = (func.grad(value)(x) * x).sum()
    assert_alike(func.jvp(CAPTURED[nested](value), (x,), (x,))[1], expected)


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@pytest.mark.parametrize("loss", SHARED)
def test_forward_over_reverse(loss, impl):
    x, y = torch.randn(2, 5, 3, dtype=torch.float64)
    options = {"projections": torch.eye(3)} if loss == "sliced" else {}
    function = {"sliced": ot.sliced_wasserstein, "mmd": ot.mmd}.get(loss, ot.gaussian_wasserstein)

    def cost(x):
        return function(x, y, impl=impl, **options)

    if impl == "torch" and loss != "gaussian":
        close(func.hessian(cost)(x), func.jacrev(func.grad(cost))(x))
    else:
        with pytest.raises(NotImplementedError, match=r"forward-mode.*reverse mode"):
            func.hessian(cost)(x)
