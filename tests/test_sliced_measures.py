"""Sliced Wasserstein between measures of any kind: unequal sizes, weights, padding, slices."""

import itertools

import pytest
import torch
from impls import FAST, IMPLS, INTERPRETED, QUICK, every
from support import assert_close64, problem, value_and_grads

from otkernels import sliced_wasserstein, wasserstein_1d
from otkernels.cpu import match as cpu_match
from otkernels.cpu import sliced as cpu

ORDERS = [1, 2, 3, 1.5]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def few(impl, n):
    """So many directions, or one where the interpreter runs them."""
    return 1 if impl == "triton" and INTERPRETED else n


# --- truth: gradients to weights ----------------------------------------------------------------


def derivative(function, weights, k, step=1e-6):
    """Central difference: at a kink the middle of the sub-gradients."""
    moved = [weights.clone() for _ in range(2)]
    moved[0][k] += step
    moved[1][k] -= step
    return (function(moved[0]) - function(moved[1])) / (2 * step)


@pytest.mark.parametrize(("n", "m", "p"), [*((5, 5, p) for p in ORDERS), (3, 6, 2), (10, 15, 1)])
@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_to_equal_weights_is_the_middle_of_the_sub_gradients(impl, n, m, p, device):
    """Levels coincide, of some sizes but for the rounding of their sums: a kink in each."""
    u, v = normal(n).to(device), normal(m).to(device) + 1
    a, b = (torch.ones(k, dtype=torch.float64, device=device) for k in (n, m))

    def cost(a, b, impl="torch"):
        return wasserstein_1d(u, v, p=p, a=a, b=b, impl=impl)

    _, grad_a, grad_b = value_and_grads(lambda a, b: cost(a, b, impl), a, b)
    for k in range(n):
        assert grad_a[k].item() == pytest.approx(derivative(lambda t: cost(t, b), a, k), abs=1e-6)
    for k in range(m):
        assert grad_b[k].item() == pytest.approx(derivative(lambda t: cost(a, t), b, k), abs=1e-6)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_to_weights_is_a_sub_gradient(impl, p, device):
    """The cost is convex in both masses together, so it lies above every tangent."""
    u, v = normal(4).to(device), normal(6).to(device)
    equal = torch.full((4,), 1 / 4).double(), torch.full((6,), 1 / 6, dtype=torch.float64)
    some = torch.tensor([0.5, 0.0, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.0, 0.0, 0.5, 0.0])
    for a, b in (equal, some):
        a, b = a.double().to(device), b.double().to(device)
        value, *grads = value_and_grads(
            lambda a, b: wasserstein_1d(u, v, p=p, a=a, b=b, impl=impl), a, b
        )
        for _ in range(50):
            other = [torch.rand(t.shape, device=device).double() for t in (a, b)]
            other = [t / t.sum() for t in other]
            tangent = value + sum(
                (g * (o - t)).sum() for g, o, t in zip(grads, other, (a, b), strict=True)
            )
            assert wasserstein_1d(u, v, p=p, a=other[0], b=other[1], impl="torch") > tangent - 1e-12


def test_second_derivative_with_weights():
    u, v, a, b = normal(4), normal(3), torch.rand(4).double() + 0.1, torch.rand(3).double() + 0.1
    inputs = [t.requires_grad_() for t in (u, v, a, b)]

    def cost(u, v, a, b):
        return wasserstein_1d(u, v, a=a, b=b, impl="torch")

    assert torch.autograd.gradgradcheck(cost, inputs)


# --- match: every implementation against float64 on the same rounded inputs ---------------------

# (n, m, directions, batch): multiples, coprime, one point, one more than a power of two, a batch.
SIZES = [(4, 12, 2, ()), (7, 5, 2, (2,)), (1, 6, 1, (2, 1)), (9, 1, 1, ()), (33, 31, 1, ())]


def masses(kind, n, m, batch, device):
    """Weights or lengths of the given kind, by keyword; some are zero, some are shared."""
    generator = torch.Generator().manual_seed(n)
    a = torch.rand(*batch, n, generator=generator) * (torch.arange(n) != 1)
    b = torch.rand(m, generator=generator) + 0.1
    counts = [torch.randint(1, k + 1, batch, generator=generator) for k in (n, m)]
    given = {
        "sizes": {},
        "a": {"a": a},
        "b": {"b": b},
        "both": {"a": a, "b": b},
        "x_lengths": {"x_lengths": counts[0]},
        "lengths": {"x_lengths": counts[0], "y_lengths": counts[1]},
        "a and lengths": {"a": a + 0.1, "y_lengths": counts[1]},
    }[kind]
    return {name: t.to(device) for name, t in given.items()}


KINDS = ["sizes", "a", "b", "both", "x_lengths", "lengths", "a and lengths"]


def check(impl, kind, n, m, n_directions, batch, dtype, p, device):
    x, y, theta = problem(n, 3, n_directions, m=m, batch=batch, dtype=dtype, device=device)
    given = masses(kind, n, m, batch, device)
    weights = {k: t for k, t in given.items() if t.is_floating_point()}
    lengths = {k: t for k, t in given.items() if not t.is_floating_point()}
    scale = torch.rand(batch, device=device) + 0.5

    def cost(impl):
        def function(x, y, theta, *weights_given):
            named = dict(zip(weights, weights_given, strict=True))
            return sliced_wasserstein(x, y, p=p, projections=theta, impl=impl, **named, **lengths)

        return function

    value, *grads = value_and_grads(cost(impl), x, y, theta, *weights.values(), weight=scale)
    wide = [t.double() for t in (x, y, theta, *weights.values())]
    expected, *expected_grads = value_and_grads(cost("torch"), *wide, weight=scale)
    # A mass is a difference of levels: where those are rounded as the rest is, it has their error.
    levels = n + m if given and dtype == torch.float64 else 1
    assert_close64(value, expected, terms=levels * (n + m) * n_directions)
    terms = [n_directions + n + m, n_directions + n + m, n + m + 3, *[n_directions * (n + m)] * 2]
    terms = [levels * t for t in terms]
    for grad, reference, count in zip(grads, expected_grads, terms, strict=False):
        assert_close64(grad, reference, terms=count, dtype=value.dtype)


@pytest.mark.parametrize(
    ("impl", "kind", "sizes"),
    every(
        itertools.product(KINDS, SIZES),
        interpreted=[
            *((kind, (7, 5, 1, (2,))) for kind in KINDS),
            *itertools.product(["sizes", "both", "lengths"], [(1, 6, 1, ()), (33, 31, 1, ())]),
            ("a and lengths", (9, 1, 1, ())),
        ],
    ),
    ids=str,
)
def test_sizes(impl, kind, sizes, device):
    n, m, n_directions, batch = sizes
    check(impl, kind, n, m, n_directions, batch, torch.float32, 2, device)


SOME_KINDS = ["sizes", "both", "lengths"]


@pytest.mark.parametrize(
    ("impl", "kind", "dtype", "p"),
    every(
        itertools.product(SOME_KINDS, DTYPES, ORDERS),
        # A kernel reads its dtype before it knows of an order.
        interpreted=[
            (kind, *each)
            for kind in SOME_KINDS
            for each in zip(DTYPES, (1, 1.5, 3, 2), strict=True)
        ],
    ),
    ids=str,
)
def test_dtypes_and_orders(impl, kind, dtype, p, device):
    check(impl, kind, 8, 6, few(impl, 3), (2,), dtype, p, device)


@pytest.mark.parametrize("kind", KINDS)
def test_cpu_result_does_not_depend_on_blocks_chunks_or_threads(monkeypatch, kind):
    threads = torch.get_num_threads()
    try:
        for block, chunk, count in ((37, 37, 2), (80, 400, 3), (1, 1, 1)):
            monkeypatch.setattr(cpu_match, "BLOCK", block)
            monkeypatch.setattr(cpu, "CHUNK", chunk)
            monkeypatch.setattr(cpu_match, "PARALLEL", 0)
            torch.set_num_threads(count)
            check("cpu", kind, 19, 13, 9, (2,), torch.float32, 2, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("threshold", [0, 10**9])
@pytest.mark.parametrize("kind", ["x_lengths", "lengths"])
def test_cpu_lengths_one_by_one_or_as_masses(monkeypatch, kind, threshold):
    monkeypatch.setattr(cpu, "ONE_BY_ONE", threshold)
    for dtype in (torch.float32, torch.float64):
        check("cpu", kind, 9, 7, 3, (2, 2), dtype, 2, torch.device("cpu"))


# Rows sorted as two runs and merged, several blocks of ranks; the library's sort; small chunks. And
# numbers of points and directions.
PATHS = {
    "merged": ({"LONGEST_RUN": 32}, (35, 33, 1)),
    "library": ({"LONGEST_RUN": 8}, (19, 17, 1)),
    "chunks": ({"CHUNK_BYTES": 1, "DIRECTIONS": 1}, (5, 4, 2)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", SOME_KINDS)
def test_triton_result_does_not_depend_on_the_path(monkeypatch, kind, path, device):
    from otkernels.kernels import cells, rows
    from otkernels.kernels import sliced as chunks

    for module, name in itertools.product((rows, cells), ("RANKS",)):
        monkeypatch.setattr(module, name, 16)
    limits, sizes = PATHS[path]
    for name, value in limits.items():
        monkeypatch.setattr(rows if hasattr(rows, name) else chunks, name, value)
    check("triton", kind, *sizes, (), torch.float32, 2, device)


@pytest.mark.parametrize("impl", IMPLS)
def test_one_heavy_point_meets_all_others(impl, device):
    u, v = torch.tensor([0.0, 9.0], device=device), torch.arange(8.0, device=device)
    a = torch.tensor([1.0, 0.0], device=device)
    value, grad_u, grad_v = value_and_grads(lambda u, v: wasserstein_1d(u, v, a=a, impl=impl), u, v)
    torch.testing.assert_close(value, v.square().mean())
    torch.testing.assert_close(grad_u, torch.stack([-2 * v.mean(), v.new_zeros(())]))
    torch.testing.assert_close(grad_v, v / 4)


@pytest.mark.parametrize("impl", IMPLS)
def test_only_what_is_asked_for_gets_a_gradient(impl, device):
    x, y, theta = problem(6, 2, few(impl, 2), m=4, device=device)
    a, b = torch.rand(6, device=device), torch.rand(4, device=device)
    tensors = {"x": x, "y": y, "projections": theta, "a": a, "b": b}
    names = list(tensors)
    _, *expected = value_and_grads(
        lambda *given: sliced_wasserstein(**dict(zip(names, given, strict=True)), impl=impl),
        *tensors.values(),
    )
    for name, reference in zip(names, expected, strict=True):
        leaf = tensors[name].clone().requires_grad_()
        sliced_wasserstein(**(tensors | {name: leaf}), impl=impl).backward()
        torch.testing.assert_close(leaf.grad, reference)


@pytest.mark.parametrize("impl", IMPLS)
def test_expanded_and_strided_weights_and_lengths(impl, device):
    x, y, theta = problem(6, 2, few(impl, 2), m=4, batch=(2, 2), device=device)
    a = torch.rand(12, device=device)[::2]
    lengths = torch.tensor([[2, 9, 4, 9]], device=device)[:, ::2]
    value, grad = value_and_grads(
        lambda a: sliced_wasserstein(
            x, y, projections=theta, a=a, y_lengths=lengths, impl=impl
        ).sum(),
        a,
    )
    whole, grad_whole = value_and_grads(
        lambda a: sliced_wasserstein(
            x, y, projections=theta, a=a, y_lengths=lengths.expand(2, 2).contiguous(), impl=impl
        ).sum(),
        a.expand(2, 2, 6).contiguous(),
    )
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(grad, grad_whole.sum((0, 1)))


# --- padding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("impl", "with_weights", "poison"),
    every(
        itertools.product([False, True], [torch.nan, torch.inf, -1e30]),
        interpreted=[(False, torch.nan), (True, torch.nan), (True, -1e30)],
    ),
)
def test_padding_is_never_read(impl, with_weights, poison, device):
    x, y, theta = problem(6, 2, few(impl, 2), m=5, batch=(3,), device=device)
    x_lengths, y_lengths = (torch.tensor(t, device=device) for t in ([6, 2, 5], [1, 5, 4]))
    a, b = torch.rand(3, 6, device=device), torch.rand(3, 5, device=device)
    for tensors, lengths in (((x, a), x_lengths), ((y, b), y_lengths)):
        for k, length in enumerate(lengths):
            for tensor in tensors:
                tensor[k, length:] = poison
    weights = {"a": a, "b": b} if with_weights else {}
    names = list(weights)

    def cost(x, y, theta, *given):
        named = dict(zip(names, given, strict=True))
        options = {"projections": theta, "impl": impl, **named}
        return sliced_wasserstein(x, y, x_lengths=x_lengths, y_lengths=y_lengths, **options)

    value, grad_x, grad_y, grad_theta, *_ = value_and_grads(cost, x, y, theta, *weights.values())
    total = 0
    for k, (n, m) in enumerate(zip(x_lengths, y_lengths, strict=True)):
        cut = {"a": a[k, :n], "b": b[k, :m]} if with_weights else {}
        alone = value_and_grads(
            lambda x, y, theta, cut=cut: sliced_wasserstein(
                x, y, projections=theta, impl=impl, **cut
            ),
            x[k, :n],
            y[k, :m],
            theta,
        )
        torch.testing.assert_close(value[k], alone[0])
        torch.testing.assert_close(grad_x[k, :n], alone[1])
        torch.testing.assert_close(grad_y[k, :m], alone[2])
        assert not grad_x[k, n:].any()
        assert not grad_y[k, m:].any()
        total = total + alone[3]
    torch.testing.assert_close(grad_theta, total)


@pytest.mark.parametrize("impl", IMPLS)
def test_padding_of_lines(impl, device):
    u, v = torch.rand(2, 5, device=device), torch.rand(3, device=device)
    lengths = torch.tensor([2, 5], device=device)
    value, grad, _ = value_and_grads(
        lambda u, v: wasserstein_1d(u, v, u_lengths=lengths, impl=impl), u, v
    )
    torch.testing.assert_close(value[0], wasserstein_1d(u[0, :2], v, impl=impl))
    torch.testing.assert_close(value[1], wasserstein_1d(u[1], v, impl=impl))
    assert not grad[0, 2:].any()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_nan_that_counts_is_not_taken_for_padding(impl, device):
    x = torch.rand(2, 6, 2, device=device)
    x[0, 1] = torch.nan
    lengths = torch.tensor([3, 3], device=device)
    for dtype in (torch.float32, torch.float64):
        value = sliced_wasserstein(
            x.to(dtype), torch.rand(4, 2).to(x.device, dtype), x_lengths=lengths, n_projections=1,
            impl=impl,
        )  # fmt: skip
        assert value.isnan().tolist() == [True, False]


@pytest.mark.parametrize("impl", QUICK)
def test_lengths_out_of_range_are_nan_where_they_cannot_be_read(impl, device):
    """As under torch.compile: a graph cannot stop at a value."""
    torch._dynamo.reset()
    x, y = torch.rand(4, 5, 2, device=device), torch.rand(3, 2, device=device)
    lengths = torch.tensor([0, 6, -1, 5], device=device)
    theta = torch.rand(2, 1, device=device)
    x.requires_grad_()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def cost(x, y, lengths):
        return sliced_wasserstein(x, y, projections=theta, x_lengths=lengths, impl=impl)

    value = cost(x, y, lengths)
    assert value.isnan().tolist() == [True, True, True, False]
    torch.testing.assert_close(value[3], sliced_wasserstein(x[3], y, projections=theta, impl=impl))


# --- weights that are none ----------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["negative", "nan", "inf", "zero"])
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("impl", IMPLS)
def test_wrong_weights_make_their_problem_nan(impl, side, wrong, device):
    x, y, theta = problem(5, 2, few(impl, 2), batch=(2,), device=device)
    weights = torch.rand(2, 5, device=device) + 0.1
    weights[1] = 0 if wrong == "zero" else weights[1]
    weights[1, 2] = {"negative": -0.01, "nan": torch.nan, "inf": torch.inf, "zero": 0}[wrong]
    value, *grads = value_and_grads(
        lambda x, y, w: sliced_wasserstein(x, y, projections=theta, impl=impl, **{side: w}),
        x,
        y,
        weights,
    )
    assert value.isnan().tolist() == [False, True]
    for grad in grads:
        assert grad[0].isfinite().all()
        assert grad[1].isnan().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("impl", IMPLS)
def test_a_point_without_mass_still_shows_that_it_is_not_finite(impl, side, bad, device):
    u, v = torch.rand(2, 4, device=device), torch.rand(2, 4, device=device)
    weights = torch.tensor([1.0, 1.0, 0.0, 2.0], device=device)
    (u if side == "a" else v)[1, 2] = bad
    value = wasserstein_1d(u, v, impl=impl, **{side: weights})
    assert value.isfinite().tolist() == [True, False]


# --- slices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("impl", "kind"), every(zip(KINDS), interpreted=zip(["both", "lengths"])))
def test_linear_slices_are_projections(impl, kind, device):
    x, y, theta = problem(7, 3, few(impl, 2), m=5, batch=(2,), device=device)
    given = masses(kind, 7, 5, (2,), device)
    results = [
        value_and_grads(
            lambda x, y, theta, slices=slices: sliced_wasserstein(
                x, y, projections=slices(theta), impl=impl, **given
            ),
            x,
            y,
            theta,
        )
        for slices in (lambda theta: theta, lambda theta: lambda z: z @ theta)
    ]
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("impl", QUICK)
def test_slices_of_a_network_learn(impl, device):
    torch.manual_seed(0)
    slices = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).to(device)
    x, y = torch.rand(8, 3, device=device), torch.rand(6, 3, device=device)
    value = sliced_wasserstein(x, y, projections=slices, impl=impl)
    rows = [slices(t).mT for t in (x, y)]
    torch.testing.assert_close(value, wasserstein_1d(*rows, impl=impl).mean())
    value.backward()
    assert all(weight.grad.abs().sum() > 0 for weight in slices.parameters())


def test_slices_keep_the_autocast_of_the_caller(device):
    encoder, slices = (torch.nn.Linear(3, 3).to(device) for _ in range(2))
    x, y = torch.rand(8, 3, device=device), torch.rand(6, 3, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        codes = encoder(x), encoder(y)
        value = sliced_wasserstein(*codes, projections=slices)
        rows = [slices(t).mT for t in codes]
    torch.testing.assert_close(value, wasserstein_1d(*rows).mean())


@pytest.mark.parametrize("impl", IMPLS)
def test_slices_may_be_nan_on_padding(impl, device):
    x = torch.rand(2, 5, 2, device=device)
    lengths = torch.tensor([3, 5], device=device)

    def log(points):
        return points.log()

    value, grad = value_and_grads(
        lambda x: sliced_wasserstein(x, x[:, :3], projections=log, x_lengths=lengths, impl=impl), x
    )
    assert value.isfinite().all()
    assert grad[1].isfinite().all()


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", QUICK)
def test_compile_full_graph_with_lengths(impl, device):
    x, y, theta = problem(5, 2, 1, m=4, batch=(2,), device=device)
    given = masses("lengths", 5, 4, (2,), device)

    def cost(x, y, theta):
        return sliced_wasserstein(x, y, projections=theta, impl=impl, **given)

    torch._dynamo.reset()
    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager")
    results = [value_and_grads(f, x, y, theta) for f in (compiled, cost)]
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("impl", QUICK)
def test_vmap_over_weights_and_lengths(impl, device):
    x, y, theta = problem(5, 2, 1, m=4, batch=(3,), device=device)
    a, lengths = torch.rand(3, 5, device=device), torch.tensor([2, 4, 3], device=device)

    def cost(x, y, a, lengths):
        return sliced_wasserstein(x, y, projections=theta, a=a, y_lengths=lengths, impl=impl)

    def cut(x, y, lengths):
        return sliced_wasserstein(x, y, projections=theta, y_lengths=lengths, impl=impl)

    expected = cost(x, y, a, lengths)
    torch.testing.assert_close(torch.func.vmap(cost)(x, y, a, lengths), expected)
    torch.testing.assert_close(torch.func.vmap(cut)(x, y, lengths), cut(x, y, lengths))
    _, expected = value_and_grads(lambda a: cost(x, y, a, lengths), a)
    per_problem = torch.func.vmap(torch.func.grad(cost, argnums=2))(x, y, a, lengths)
    torch.testing.assert_close(per_problem, expected)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("wanted", ["projections", "a"])
def test_second_derivative_is_refused(impl, wanted, device):
    x, y, theta = problem(4, 2, 1, m=3, device=device)
    given = {"projections": theta, "a": torch.rand(4, device=device)}
    given[wanted].requires_grad_()
    value = sliced_wasserstein(x, y, impl=impl, **given)
    (grad,) = torch.autograd.grad(value, given[wanted], create_graph=True)
    with pytest.raises(NotImplementedError, match="impl='torch'"):
        grad.square().sum().backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl, kind, device):
    x, y = torch.rand(0, 5, 2, device=device), torch.rand(0, 4, 2, device=device)
    given = masses(kind, 5, 4, (0,), device)
    for t in given.values():
        t.requires_grad_(t.is_floating_point())
    theta = torch.rand(2, 3, device=device)
    value, grad_x, _, grad_theta = value_and_grads(
        lambda x, y, theta: sliced_wasserstein(x, y, projections=theta, impl=impl, **given),
        x,
        y,
        theta,
    )
    assert value.shape == (0,)
    assert grad_x.shape == x.shape
    assert not grad_theta.any()
    x.requires_grad_()
    sliced_wasserstein(x, y, projections=theta, impl=impl, **given).sum().backward()
    assert not any(t.grad.any() for t in given.values() if t.requires_grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("impl", QUICK)  # the interpreter has but one order
def test_same_bits_on_two_runs(impl, kind, device):
    x, y, theta = problem(7, 3, 2, m=5, batch=(2,), device=device)
    given = masses(kind, 7, 5, (2,), device)

    def run():
        return value_and_grads(
            lambda x, y: sliced_wasserstein(x, y, projections=theta, impl=impl, **given), x, y
        )

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


# --- errors -------------------------------------------------------------------------------------

X, Y = torch.rand(2, 4, 3), torch.rand(5, 3)
NAN = torch.tensor([1.0, torch.nan, 1.0, 1.0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"a": torch.rand(5)}, ValueError,
         r"sliced_wasserstein: a must have shape \(\.\.\., 4\), one weight a point of x; got \(5"),
        ({"b": torch.tensor(1.0)}, ValueError, r"b must have shape \(\.\.\., 5\), .*; got \(\)"),
        ({"b": torch.ones(5).int()}, TypeError, r"b must be float16, .*; got torch.int32"),
        ({"a": torch.rand(4, device="meta")}, ValueError, r"a must be on x's device cpu; got meta"),
        ({"a": torch.rand(3, 4)}, ValueError,
         r"a must have leading axes that broadcast with x's and y's \(2,\); got \(3,\)"),
        ({"x_lengths": torch.tensor([2, 5])}, ValueError,
         r"x_lengths must be from 1 to 4, the number of points; got 5"),
        ({"y_lengths": torch.tensor([0, 5])}, ValueError,
         r"y_lengths must be from 1 to 5, .*got 0"),
        ({"x_lengths": torch.tensor([2.0, 3.0])}, TypeError,
         r"x_lengths must be an integer tensor; got torch.float32"),
        ({"x_lengths": [2, 3]}, TypeError, r"x_lengths must be an integer tensor; got list"),
        ({"x_lengths": torch.tensor([1, 2, 3])}, ValueError,
         r"x_lengths must have leading axes that broadcast with x's and y's \(2,\); got \(3,\)"),
        ({"x_lengths": torch.ones(2, device="meta").int()}, ValueError,
         r"x_lengths must be on the points' device cpu; got meta"),
        ({"projections": lambda z: z.sum(-1)}, ValueError,
         r"projections\(points\) must have shape \(\.\.\., N, L\) for points \(2, 4, 3\); got"),
        ({"projections": lambda z: [1.0]}, TypeError,
         r"projections\(points\) must be a torch.Tensor; got list"),
        ({"projections": lambda z: z[..., : z.shape[-2] - 3]}, ValueError,
         r"projections\(y\) must give as many slices as for x, 1; got 2"),
        ({"method": "halton"}, ValueError, r"method must be one of 'gaussian', .*; got 'halton'"),
        ({"generator": torch.Generator("cpu"), "impl": "gpu"}, ValueError, r"impl must be one of"),
        ({"a": -torch.ones(4), "validate": True}, ValueError, r"a must not be negative; got -1.0"),
        ({"a": NAN, "validate": True}, ValueError, r"a must be finite everywhere; got nan"),
        ({"a": torch.zeros(4), "validate": True}, ValueError,
         r"a must have a positive total in every problem; got 0.0"),
        ({"projections": torch.full((3, 1), torch.inf), "validate": True}, ValueError,
         r"projections must be finite everywhere; got inf"),
    ],
)  # fmt: skip
def test_error_messages(options, error, message):
    with pytest.raises(error, match=message):
        sliced_wasserstein(X, Y, **options)


def test_validate_reads_points_but_not_their_padding():
    x = X.clone()
    x[1, 3] = torch.nan
    with pytest.raises(ValueError, match=r"x must be finite everywhere; got nan"):
        sliced_wasserstein(x, Y, validate=True)
    lengths = torch.tensor([4, 3])
    assert sliced_wasserstein(x, Y, x_lengths=lengths, validate=True).isfinite().all()
    with pytest.raises(ValueError, match=r"wasserstein_1d: v must be finite everywhere; got nan"):
        wasserstein_1d(NAN.nan_to_num(), NAN, validate=True)
