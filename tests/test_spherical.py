import itertools
import math

import numpy as np
import ot
import pytest
import torch
from support import assert_close64, value_and_grads
from torch.nn.functional import normalize

from otkernels.cpu import spherical as cpu
from otkernels.spherical import (
    _PLAN_OP,
    sample_great_circles,
    sliced_wasserstein_sphere,
    wasserstein_circle,
)

IMPLS = ["torch", "cpu"] if not torch.cuda.is_available() else ["torch"]
ORDERS = [1, 2, 3, 1.5]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [(1, 1), (5, 5), (4, 6), (7, 3), (1, 5), (5, 1)]


def uniform(*shape):
    return torch.rand(*shape, dtype=torch.float64)


def masses(*shape):
    m = uniform(*shape) + 0.1
    return m / m.sum(-1, keepdim=True)


def on_sphere(*shape):
    return normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def arcs(u, v):
    """Lengths of the shorter arcs between all points of u (N,) and v (M,)."""
    apart = (u[:, None] - v).remainder(1)
    return torch.minimum(apart, 1 - apart)


# --- truth: closed forms and solvers that know nothing of cuts, float64 -------------------------


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("impl", IMPLS)
def test_two_points_are_the_shorter_arc_apart(p, impl):
    u, v = torch.tensor([[0.9], [0.0], [-2.3]]).double(), torch.tensor([[0.1], [0.5], [0.7]])
    expected = torch.tensor([0.2, 0.5, 0.0]).double() ** p
    actual = wasserstein_circle(u, v.double(), p=p, impl=impl)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)  # 0.1 was a float32


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("turn", [0.03, 0.08, 0.49, 3.17, -0.02])
def test_a_grid_turned(p, turn):
    grid = torch.arange(7).double() / 7
    rest = turn % (1 / 7)
    expected = torch.tensor(min(rest, 1 / 7 - rest)).double() ** p
    torch.testing.assert_close(wasserstein_circle(grid, grid + turn, p=p), expected)


@pytest.mark.parametrize("p", ORDERS)
def test_a_short_arc_is_a_line(p):
    u, v = 0.9 + 0.2 * uniform(6), 0.9 + 0.2 * uniform(6)  # across the coordinate 1
    expected = (u.sort().values - v.sort().values).abs().pow(p).mean()
    torch.testing.assert_close(wasserstein_circle(u % 1, v % 1, p=p), expected)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("impl", IMPLS)
def test_the_cheapest_permutation(p, impl):
    u, v = uniform(8, 5), uniform(8, 5) ** 3
    for k in range(8):
        cost = arcs(u[k], v[k]) ** p
        plans = [cost[range(5), s].mean() for s in itertools.permutations(range(5))]
        torch.testing.assert_close(wasserstein_circle(u[k], v[k], p=p, impl=impl), min(plans))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_the_linear_programme(p, n, m, weighted, impl):
    u, v = uniform(n) ** 2, uniform(m)
    a, b = (masses(n), masses(m)) if weighted else (None, None)
    plain = [np.full(k, 1 / k) if w is None else w.numpy() for k, w in ((n, a), (m, b))]
    expected = ot.emd2(*plain, (arcs(u, v) ** p).numpy())
    actual = wasserstein_circle(u, v, p=p, a=a, b=b, impl=impl)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("p", ORDERS)
def test_no_cut_of_a_dense_grid_is_cheaper(p):
    u, v, a, b = uniform(6), uniform(4), masses(6), masses(4)
    cost = wasserstein_circle(u, v, p=p, a=a, b=b)
    (u, i), (v, j) = u.sort(), v.sort()
    levels_u, levels_v = a[i].cumsum(0), b[j].cumsum(0)
    shifts = torch.linspace(-1, 1, 1001).double()
    middles = (torch.arange(1000).double() + 0.5) / 1000
    f = u[torch.searchsorted(levels_u, middles).clamp(max=5)]
    at = middles + shifts[:, None]
    g = v[torch.searchsorted(levels_v, at % 1).clamp(max=3)] + at.floor()
    cuts = (f - g).abs().pow(p).mean(-1)
    # Midpoints integrate each jump to half a cell: ten jumps of at most 2^p.
    assert cuts.min() >= cost - 20 * 2**p / 1000
    assert cuts.min() <= cost + 20 * 2**p / 1000


def test_level_median_for_order_one():
    """W_1 is the integral of |F_u - F_v - c| for the level median c (Cabrelli, Molter 1995)."""
    for _ in range(10):
        u, v, a, b = uniform(9), uniform(8), masses(9), masses(8)
        at, order = torch.cat([u, v, torch.zeros(1)]).sort()
        difference = torch.cat([a, -b, torch.zeros(1)])[order].cumsum(0)
        width = torch.diff(at, append=torch.ones(1))
        level, order = difference.sort()
        median = level[torch.searchsorted(width[order].cumsum(0), 0.5)]
        expected = (width * (difference - median).abs()).sum()
        torch.testing.assert_close(wasserstein_circle(u, v, p=1, a=a, b=b), expected)


def test_weights_are_multiplicities():
    u, v = uniform(3), uniform(4)
    a, b = torch.tensor([2.0, 0.0, 3.0]), torch.tensor([1.0, 2.0, 1.0, 1.0])
    repeated = wasserstein_circle(u.repeat_interleave(a.int()), v.repeat_interleave(b.int()))
    torch.testing.assert_close(wasserstein_circle(u, v, a=10 * a, b=b), repeated)
    ones = torch.ones(4)
    torch.testing.assert_close(wasserstein_circle(u, v, b=ones), wasserstein_circle(u, v))


@pytest.mark.parametrize("p", ORDERS)
def test_invariances_of_the_circle(p):
    u, v, a = uniform(5, 6), uniform(5, 4), masses(6)

    def cost(u, v, a=a, b=None):
        return wasserstein_circle(u, v, p=p, a=a, b=b)

    expected = cost(u, v)
    torch.testing.assert_close(cost(u + 0.377, v + 0.377), expected)
    torch.testing.assert_close(cost(u - 3, v + 2), expected)
    torch.testing.assert_close(cost(-u, -v), expected)
    torch.testing.assert_close(cost(v, u, a=None, b=a), expected)
    shuffle = torch.randperm(6)
    torch.testing.assert_close(cost(u[:, shuffle], v, a[shuffle]), expected)
    assert (expected <= 0.5**p).all()


# --- the sphere ---------------------------------------------------------------------------------


def test_two_dimensions_are_the_circle():
    u, v = uniform(5), uniform(7)
    x, y = (torch.stack([torch.cos(t), torch.sin(t)], -1) for t in (u * math.tau, v * math.tau))
    actual = sliced_wasserstein_sphere(x, y, n_projections=3)
    torch.testing.assert_close(actual, wasserstein_circle(u, v))


@pytest.mark.parametrize("p", ORDERS)
def test_invariances_of_the_sphere(p):
    x, y, circles = on_sphere(6, 4), on_sphere(5, 4), sample_great_circles(4, 7).double()
    expected = sliced_wasserstein_sphere(x, y, p=p, projections=circles)
    turn = torch.linalg.qr(torch.randn(4, 4).double()).Q
    basis = torch.linalg.qr(torch.randn(7, 2, 2).double()).Q
    for args in (
        (x @ turn.T, y @ turn.T, turn @ circles),  # all turned alike
        (x, y, circles @ basis),  # another basis of each plane
        (3 * x, y * uniform(5, 1), circles),  # lengths do not count
        (y, x, circles),
    ):
        actual = sliced_wasserstein_sphere(*args[:2], p=p, projections=args[2])
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)  # circles: float32


def test_gradient_is_tangent():
    x = on_sphere(6, 3).requires_grad_()
    sliced_wasserstein_sphere(x, on_sphere(6, 3)).backward()
    torch.testing.assert_close((x * x.grad).sum(-1), torch.zeros(6).double())
    assert x.grad.norm() > 0.01


def test_batches_broadcast():
    x, y = on_sphere(2, 1, 5, 3), on_sphere(3, 4, 3)
    a, circles = masses(2, 1, 5), sample_great_circles(3, 4).double().expand(3, 4, 3, 2)
    circles = circles + torch.arange(3)[:, None, None, None] / 10
    whole = sliced_wasserstein_sphere(x, y, a=a, projections=circles)
    assert whole.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        one = sliced_wasserstein_sphere(x[i, 0], y[j], a=a[i, 0], projections=circles[j])
        torch.testing.assert_close(whole[i, j], one)
    total = sliced_wasserstein_sphere(x, y, a=a, projections=circles, reduction="sum", root=True)
    torch.testing.assert_close(total, whole.sqrt().sum())


def test_great_circles():
    generator = torch.Generator().manual_seed(3)
    circles = sample_great_circles(4, 5000, generator=generator, dtype=torch.float64)
    eye = torch.eye(2).double().expand(5000, 2, 2)
    torch.testing.assert_close(circles.mT @ circles, eye)
    # The mean projector is d/2 times less than the identity, up to sampling.
    projector = (circles @ circles.mT).mean(0)
    assert (projector - 0.5 * torch.eye(4).double()).abs().max() < 5 / 5000**0.5
    again = sample_great_circles(4, 5000, generator=generator.manual_seed(3), dtype=torch.float64)
    assert torch.equal(circles, again)
    torch.manual_seed(5)
    first = sliced_wasserstein_sphere(on_sphere(4, 3), on_sphere(4, 3))
    torch.manual_seed(5)
    assert torch.equal(first, sliced_wasserstein_sphere(on_sphere(4, 3), on_sphere(4, 3)))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 9)])
@pytest.mark.parametrize("weighted", [False, True])
def test_pot(p, n, m, weighted):
    x, y, circles = on_sphere(n, 3), on_sphere(m, 3), sample_great_circles(3, 8).double()
    a, b = (masses(n), masses(m)) if weighted else (None, None)

    def ours(x, y):
        return sliced_wasserstein_sphere(x, y, p=p, projections=circles, a=a, b=b, root=True)

    def theirs(x, y):
        return ot.sliced_wasserstein_sphere(x, y, a, b, 8, p, circles)

    for actual, expected in zip(
        value_and_grads(ours, x, y), value_and_grads(theirs, x, y), strict=True
    ):
        # POT stops its search for the cut within 1e-7 of a turn.
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "impl"), [(1, None), (2, "torch"), (3, None), (1.5, "torch")])
def test_gradients_of_points_and_weights(p, impl):
    tensors = [t.requires_grad_() for t in (uniform(2, 4), uniform(2, 3), masses(2, 4), masses(3))]
    assert torch.autograd.gradcheck(
        lambda u, v, a, b: wasserstein_circle(u, v, p=p, a=a, b=b, impl=impl), tensors
    )
    for m in (3, 4):
        pair = [t.requires_grad_() for t in (uniform(2, 4), uniform(2, m))]
        assert torch.autograd.gradcheck(lambda u, v: wasserstein_circle(u, v, p=p), pair)


@pytest.mark.parametrize(("p", "impl"), [(2, None), (3, "torch")])
def test_second_derivatives(p, impl):
    x, y, circles = on_sphere(3, 3), on_sphere(2, 3), sample_great_circles(3, 1).double()
    tensors = [t.requires_grad_() for t in (x, y, circles, masses(3), masses(2))]

    def cost(x, y, circles, a, b):
        return sliced_wasserstein_sphere(x, y, p=p, projections=circles, a=a, b=b, impl=impl)

    assert torch.autograd.gradcheck(cost, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(cost, tensors, fast_mode=True)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("m", [6, 4, 3])
def test_weights_get_a_sub_gradient_where_levels_coincide(p, m):
    u, v = uniform(6), uniform(m)
    a, b = (torch.full((k,), 1 / k, dtype=torch.float64, requires_grad=True) for k in (6, m))
    cost = wasserstein_circle(u, v, p=p, a=a, b=b)
    grad_a, grad_b = torch.autograd.grad(cost, (a, b))
    assert grad_a.abs().max() > 1e-3
    for scale in (1e-3, 0.1, 1.0):  # the cost is convex in the masses
        other_a, other_b = (torch.lerp(w.detach(), masses(50, len(w)), scale) for w in (a, b))
        elsewhere = wasserstein_circle(u, v, p=p, a=other_a, b=other_b)
        plane = cost + (other_a - a) @ grad_a + (other_b - b) @ grad_b
        assert (elsewhere >= plane - 1e-12).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("root", [False, True])
def test_coincident_clouds(p, weighted, root, impl):
    x = on_sphere(7, 3).float()
    a = masses(7).float() if weighted else None
    y, b = (None if t is None else t.flip(0) for t in (x, a))
    value, *grads = value_and_grads(
        lambda x, y: sliced_wasserstein_sphere(x, y, p=p, a=a, b=b, root=root, impl=impl), x, y
    )
    assert value == 0
    assert all(torch.equal(g, torch.zeros(7, 3)) for g in grads)


def test_points_that_are_all_one_and_points_on_the_axis():
    x = torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 0, 0]], requires_grad=True)
    plane = torch.eye(3)[None, :, :2]  # its axis holds two points
    cost = sliced_wasserstein_sphere(x, torch.tensor([[0.0, 1, 0]]), projections=plane)
    cost.backward()
    assert cost == 0.25**2
    assert torch.equal(x.grad[:2], torch.zeros(2, 3))
    assert x.grad[2].norm() > 0.01


# --- match, contract ----------------------------------------------------------------------------


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "weighted"), [(33, 33, 0), (33, 21, 0), (20, 33, 1)])
def test_every_dtype_against_float64(impl, dtype, n, m, weighted, device):
    # Distinct multiples of 1/256 are exact in every dtype, and so are their sums and differences.
    u, v = (torch.stack([torch.randperm(256)[:k] for _ in range(3)]).double() / 256 for k in (n, m))
    a, b = (masses(n).to(dtype), masses(m).to(dtype)) if weighted else (None, None)

    def cost(u, v, impl=impl):
        given = [None if t is None else t.to(u.device) for t in (a, b)]
        return wasserstein_circle(u, v, p=3, a=given[0], b=given[1], impl=impl)

    expected = value_and_grads(lambda u, v: cost(u, v, "torch"), u, v)
    actual = value_and_grads(cost, u.to(device, dtype), v.to(device, dtype))
    assert actual[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert actual[1].dtype == actual[2].dtype == dtype
    for out, reference in zip(actual, expected, strict=True):
        assert_close64(out, reference, terms=n + m)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("weighted", [False, True])
def test_bad_numbers_stay_in_their_own_problem(impl, bad, weighted):
    x, y, circles = on_sphere(3, 5, 3), on_sphere(3, 5, 3), sample_great_circles(3, 4)
    a = masses(3, 5) if weighted else None
    clean = value_and_grads(
        lambda x, y: sliced_wasserstein_sphere(x, y, projections=circles, a=a, impl=impl), x, y
    )
    x[1, 2, 0] = bad
    dirty = value_and_grads(
        lambda x, y: sliced_wasserstein_sphere(x, y, projections=circles, a=a, impl=impl), x, y
    )
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(after[::2], before[::2])
        assert not after[1].isfinite().any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
def test_wrong_weights_stay_in_their_own_problem(impl, wrong):
    u, v, a = uniform(3, 5), uniform(3, 5), masses(3, 5)
    a[1, 2] = wrong
    for t in value_and_grads(lambda u, v: wasserstein_circle(u, v, a=a, impl=impl), u, v):
        assert t[1].isnan().all()
        assert t[::2].isfinite().all()


def test_vmap():
    u, v = uniform(3, 5) - 0.5, uniform(3, 4) - 0.5
    expected = torch.stack([wasserstein_circle(*t) for t in zip(u, v, strict=True)])
    torch.testing.assert_close(torch.func.vmap(wasserstein_circle)(u, v), expected)


def test_no_points_in_no_problems():
    assert wasserstein_circle(torch.rand(0, 3), torch.rand(0, 4)).shape == (0,)
    assert sliced_wasserstein_sphere(torch.rand(0, 3, 2), torch.rand(5, 2)).shape == (0,)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"impl": "triton"}, NotImplementedError, "impl must be 'torch' or 'cpu'; got 'triton'"),
        ({"impl": "fast"}, ValueError, "impl must be one of"),
        ({"p": 0.5}, ValueError, "p must be a finite number >= 1; got 0.5"),
        ({"x": torch.rand(4, 1), "y": torch.rand(4, 1)}, ValueError, "x must have at least 2"),
        ({"x": torch.ones(4, 3, dtype=torch.int64)}, TypeError, "x must be float16"),
        ({"y": torch.rand(4, 2)}, ValueError, "y must have x's 3 features"),
        ({"a": torch.rand(3)}, ValueError, r"a must have shape \(..., 4\)"),
        ({"projections": torch.rand(3, 5)}, ValueError, r"projections must have shape \(L, 3, 2\)"),
        ({"n_projections": 0}, ValueError, "n_projections must be an integer >= 1"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
        ({"x": torch.ones(4, 3), "validate": True}, ValueError, "squared norm 1"),
        ({"b": -torch.ones(4), "validate": True}, ValueError, "b must not be negative"),
    ],
)
def test_errors(changes, error, words):
    arguments = {"x": on_sphere(4, 3).float(), "y": on_sphere(4, 3).float()} | changes
    with pytest.raises(error, match=f"sliced_wasserstein_sphere: .*{words}"):
        sliced_wasserstein_sphere(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_devices():
    u = torch.empty(3, 4, device="meta")
    assert wasserstein_circle(u, u).device == u.device
    with pytest.raises(ValueError, match="impl must be 'torch' on meta; got 'cpu'"):
        wasserstein_circle(u, u, impl="cpu")


def test_validate_lets_points_of_the_sphere_pass():
    for dtype in DTYPES:
        x = on_sphere(9, 3).to(dtype)
        assert sliced_wasserstein_sphere(x, x, validate=True) == 0


def test_block_by_block(monkeypatch):
    u, v, a, b = uniform(3, 5, 6), uniform(3, 5, 4), masses(5, 6), masses(3, 5, 4)
    for weights in ((None, None), (a, b)):
        whole = _PLAN_OP(u, v, *weights, 2.0)
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "BLOCK", 13)  # two rows
            assert all(map(torch.equal, _PLAN_OP(u, v, *weights, 2.0), whole))


def test_compile():
    x, y, circles, a = on_sphere(6, 3), on_sphere(5, 3), sample_great_circles(3, 4), masses(6)
    compiled = torch.compile(sliced_wasserstein_sphere, fullgraph=True, backend="aot_eager")
    results = [
        value_and_grads(lambda x, y, f=f: f(x, y, projections=circles, a=a), x, y)
        for f in (sliced_wasserstein_sphere, compiled)
    ]
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
