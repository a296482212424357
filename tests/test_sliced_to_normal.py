import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from support import assert_close64, problem, value_and_grads

from otkernels import sliced_wasserstein, sliced_wasserstein_to_normal
from otkernels._ops import accumulation_dtype
from otkernels.cpu import match as cpu_match
from otkernels.cpu import sliced as cpu

FAST = ["cpu", "triton"] if not torch.cuda.is_available() else ["triton"]
IMPLS = ["torch", *FAST]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTERPRETED = not torch.cuda.is_available()
# What is the same in every implementation need not be interpreted.
QUICK = [impl for impl in IMPLS if impl != "triton" or not INTERPRETED]


def few(impl, n):
    """So many directions, or one where the interpreter runs them."""
    return 1 if impl == "triton" and INTERPRETED else n


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# --- truth: the definition against closed forms, float64 ----------------------------------------


@pytest.mark.parametrize("impl", IMPLS)
def test_one_point_and_two_points(impl, device):
    theta = torch.tensor([[0.6, 1.0], [0.8, 0.0]], dtype=torch.float64, device=device)
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64, device=device)
    value = sliced_wasserstein_to_normal(x, projections=theta, impl=impl)
    assert value.item() == pytest.approx((0.4**2 + 2**2) / 2 + 1)
    pair = torch.tensor([[2.0], [-1.0]], dtype=torch.float64, device=device)
    half = math.sqrt(2 / math.pi)  # the mean of |z|
    expected = ((2 - half) ** 2 + (-1 + half) ** 2) / 2 + 1 - half**2
    one = torch.ones(1, 1, dtype=torch.float64, device=device)
    value, grad = value_and_grads(
        lambda x: sliced_wasserstein_to_normal(x, projections=one, impl=impl), pair
    )
    assert value.item() == pytest.approx(expected)
    assert grad[:, 0].tolist() == pytest.approx([2 - half, -1 + half])


def quadrature(u):
    """The integral over cells of (u_i - z)^2 under the normal density, by Gauss and Legendre."""
    n = len(u)
    quantile = statistics.NormalDist().inv_cdf
    edges = [-12.0, *(quantile(i / n) for i in range(1, n)), 12.0]
    nodes, weights = np.polynomial.legendre.leggauss(80)
    total = 0.0
    for value, low, high in zip(sorted(u), edges[:-1], edges[1:], strict=True):
        z = (low + high) / 2 + (high - low) / 2 * nodes
        density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        total += (high - low) / 2 * weights @ ((value - z) ** 2 * density)
    return total


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_quadrature(n):
    x, theta = 2 * normal(n, 3) + 0.5, normal(3, 4)
    theta /= theta.norm(dim=0)
    expected = np.mean([quadrature(u) for u in (x @ theta).T.tolist()])
    actual = sliced_wasserstein_to_normal(x, projections=theta, impl="torch")
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_a_million_points_of_the_normal():
    """Ten samples of 10^5 estimate what the closed form knows; their spread is the tolerance."""
    x = (1.5 * torch.randn(30, 2) + 0.3).double()
    theta = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    samples = torch.randn(10, 10**5, 2, dtype=torch.float64)
    estimates = sliced_wasserstein(x, samples, projections=theta)
    exact = sliced_wasserstein_to_normal(x, projections=theta)
    error = estimates.std() / math.sqrt(10)
    assert error < 0.005 * exact
    assert abs(estimates.mean() - exact) < 3 * error


def test_a_normal_sample_is_as_near_as_promised():
    """About log(log n) / n, as the docstring says (del Barrio, Gine, Utzet 2005)."""
    for n in (1000, 100000):
        values = sliced_wasserstein_to_normal(torch.randn(20, n, 1), n_projections=1)
        assert 0.5 < values.double().mean() / (math.log(math.log(n)) / n) < 4


def test_second_derivative_of_the_definition():
    x, theta = normal(4, 2).requires_grad_(), normal(2, 3).requires_grad_()

    def cost(x, theta):
        return sliced_wasserstein_to_normal(x, projections=theta, impl="torch")

    assert torch.autograd.gradgradcheck(cost, (x, theta))


def test_descent_makes_a_cloud_normal():
    x = (torch.rand(200, 2) * 5).requires_grad_()
    optimizer = torch.optim.SGD([x], lr=50.0)
    for _ in range(100):
        optimizer.zero_grad()
        sliced_wasserstein_to_normal(x, n_projections=16).backward()
        optimizer.step()
    assert x.mean(0).abs().max() < 0.05
    assert (x.T.cov() - torch.eye(2)).abs().max() < 0.1
    kurtosis = (x**4).mean(0)
    assert (kurtosis - 3).abs().max() < 0.4


# --- match: every implementation against float64 on the same rounded inputs ---------------------

# (n, d, directions, batch): one point; one feature; powers of two and their neighbours; batch axes
# 0, 1 and 2; more directions than one tile of a product.
SHAPES = [
    (1, 1, 1, ()),
    (1, 3, 2, (2,)),
    (17, 1, 2, ()),
    (32, 3, 1, (2,)),
    (33, 4, 1, (2, 2)),
    (5, 18, 17, ()),
]


def check(impl, n, d, n_directions, batch, dtype, device, lengths=None, root=False):
    x, _, theta = problem(n, d, n_directions, batch=batch, dtype=dtype, device=device)
    theta = theta / 2  # of length 1 or so
    weight = torch.rand(batch, device=device) + 0.5

    def cost(impl):
        return lambda x, theta: sliced_wasserstein_to_normal(
            x, projections=theta, x_lengths=lengths, root=root, impl=impl
        )

    value, *grads = value_and_grads(cost(impl), x, theta, weight=weight)
    expected, *references = value_and_grads(
        cost("torch"), x.double(), theta.double(), weight=weight
    )
    assert value.dtype == accumulation_dtype(dtype)
    assert grads[0].dtype == dtype
    assert_close64(value, expected, terms=n * n_directions)
    for grad, reference, terms in zip(grads, references, (n_directions + 3, n + 3), strict=True):
        assert_close64(grad, reference, terms=terms, dtype=value.dtype)
    with torch.no_grad():
        assert torch.equal(cost(impl)(x, theta), value)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_shapes(impl, shape, device):
    n, d, n_directions, batch = shape
    check(impl, n, d, few(impl, n_directions), batch, torch.float32, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_dtypes(impl, dtype, device):
    check(impl, 13, 3, few(impl, 3), (2,), dtype, device, root=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_lengths(impl, dtype, device):
    lengths = torch.tensor([1, 7, 9], device=device)
    check(impl, 9, 3, few(impl, 3), (3,), dtype, device, lengths=lengths)


@pytest.mark.parametrize("poison", [torch.nan, -1e30])
@pytest.mark.parametrize("impl", IMPLS)
def test_padding_is_never_read(impl, poison, device):
    x, _, theta = problem(7, 2, few(impl, 2), batch=(3,), device=device)
    lengths = torch.tensor([7, 2, 5], device=device)
    for k, length in enumerate(lengths):
        x[k, length:] = poison

    def cost(x, theta, lengths=None):
        return sliced_wasserstein_to_normal(x, projections=theta, x_lengths=lengths, impl=impl)

    value, grad, grad_theta = value_and_grads(lambda x, t: cost(x, t, lengths), x, theta)
    alone = [value_and_grads(cost, x[k, :n], theta) for k, n in enumerate(lengths)]
    for k, n in enumerate(lengths):
        torch.testing.assert_close(value[k], alone[k][0])
        torch.testing.assert_close(grad[k, :n], alone[k][1])
        assert not grad[k, n:].any()
    torch.testing.assert_close(grad_theta, sum(each[2] for each in alone))


@pytest.mark.parametrize("impl", QUICK)
def test_lengths_give_a_batch_to_one_cloud(impl, device):
    x, _, theta = problem(5, 2, few(impl, 2), device=device)
    lengths = torch.tensor([[5], [2]], device=device)
    value, grad = value_and_grads(
        lambda x: sliced_wasserstein_to_normal(x, projections=theta, x_lengths=lengths, impl=impl),
        x,
    )
    each = [
        value_and_grads(
            lambda x: sliced_wasserstein_to_normal(x, projections=theta, impl=impl), x[:n]
        )
        for n in (5, 2)
    ]
    torch.testing.assert_close(value, torch.stack([v for v, _ in each])[:, None])
    each[0][1][:2] += each[1][1]
    torch.testing.assert_close(grad, each[0][1])


@pytest.mark.parametrize("impl", IMPLS)
def test_directions_of_each_problem(impl, device):
    x, _, _ = problem(5, 3, 1, batch=(2, 1), device=device)
    theta = torch.stack([problem(5, 3, 1, device=device)[2] for _ in range(4)]).view(2, 2, 3, 1)

    def cost(x, theta):
        return sliced_wasserstein_to_normal(x, projections=theta, impl=impl)

    value, grad, grad_theta = value_and_grads(cost, x, theta)
    assert value.shape == (2, 2)
    total = torch.zeros_like(x)
    for i, j in itertools.product(range(2), range(2)):
        alone = value_and_grads(cost, x[i, 0], theta[i, j])
        torch.testing.assert_close(value[i, j], alone[0])
        total[i, 0] += alone[1]
        torch.testing.assert_close(grad_theta[i, j], alone[2])
    torch.testing.assert_close(grad, total)


@pytest.mark.parametrize("impl", IMPLS)
def test_expanded_and_strided_inputs_and_nothing_around_them(impl, device):
    x, _, theta = problem(6, 3, few(impl, 2), batch=(2,), device=device)
    wide = x.new_full((8, 5, 4), torch.nan)
    strided = wide.permute(2, 0, 1)[::2, 1:-1, 1:-1]
    strided.copy_(x)
    around = theta.new_full((5, 2 * theta.shape[1]), torch.nan)[1:-1, ::2]
    around.copy_(theta)

    def cost(x, theta):
        return sliced_wasserstein_to_normal(x, projections=theta, impl=impl)

    expected = cost(x, theta)
    torch.testing.assert_close(cost(strided, around), expected, rtol=0, atol=0)
    value, grad = value_and_grads(lambda x: cost(x.expand(3, -1, -1), theta), x[0].mT.clone().mT)
    torch.testing.assert_close(value, expected[:1].expand(3))
    torch.testing.assert_close(grad, 3 * value_and_grads(lambda x: cost(x, theta), x[0])[1])


@pytest.mark.parametrize("with_lengths", [False, True])
def test_cpu_result_does_not_depend_on_blocks_chunks_or_threads(monkeypatch, with_lengths):
    threads = torch.get_num_threads()
    lengths = torch.tensor([19, 12]) if with_lengths else None
    try:
        for block, chunk, count in ((19, 40, 2), (80, 400, 3), (1, 1, 1)):
            monkeypatch.setattr(cpu_match, "BLOCK", block)
            monkeypatch.setattr(cpu, "CHUNK", chunk)
            monkeypatch.setattr(cpu_match, "PARALLEL", 0)
            torch.set_num_threads(count)
            check("cpu", 19, 3, 9, (2,), torch.float32, torch.device("cpu"), lengths)
    finally:
        torch.set_num_threads(threads)


# Rows sorted as two runs and merged; the library's sort; small chunks. Which kernel comes last, and
# numbers of points and directions.
PATHS = {
    "merged": ({"LONGEST_RUN": 32}, "_merge_kernel", 35, 1),
    "library": ({"LONGEST_RUN": 8}, None, 19, 1),
    "chunks": ({"CHUNK_BYTES": 1, "DIRECTIONS": 1}, "_sort_run_kernel", 5, 2),
}


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_triton_result_does_not_depend_on_the_path(monkeypatch, path, with_lengths, device):
    from otkernels.kernels import cells, rows
    from otkernels.kernels import sliced as chunks

    launched = []
    for name in ("_merge_kernel", "_sort_run_kernel"):
        monkeypatch.setattr(rows, name, Recorder(name, getattr(rows, name), launched))
    limits, kernel, n, n_directions = PATHS[path]
    for module in (rows, cells):
        monkeypatch.setattr(module, "RANKS", 16)
    for name, value in limits.items():
        monkeypatch.setattr(rows if hasattr(rows, name) else chunks, name, value)
    lengths = torch.tensor(n - 2, device=device) if with_lengths else None
    check("triton", n, 3, n_directions, (), torch.float32, device, lengths)
    assert launched[-1:] == ([] if kernel is None else [kernel])
    if path == "chunks":
        assert len(launched) == 2 * 2  # directions, with gradient and without


class Recorder:
    """A Triton kernel that notes its name at each launch."""

    def __init__(self, name, kernel, launched):
        self.name, self.kernel, self.launched = name, kernel, launched

    def __getitem__(self, grid):
        self.launched.append(self.name)
        return self.kernel[grid]


# --- gradient -----------------------------------------------------------------------------------


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_gradcheck(impl, with_lengths, device):
    x, _, theta = problem(4, 2, few(impl, 2), batch=(2,), dtype=torch.float64, device=device)
    lengths = torch.tensor([2, 4], device=device) if with_lengths else None
    assert torch.autograd.gradcheck(
        lambda x, theta: sliced_wasserstein_to_normal(
            x, projections=theta, x_lengths=lengths, impl=impl
        ),
        (x.requires_grad_(), theta.requires_grad_()),
        fast_mode=impl == "triton",
    )


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("wanted", [0, 1], ids=["x", "projections"])
def test_second_derivative_is_refused(impl, wanted, device):
    x, _, theta = problem(4, 2, 1, device=device)
    leaf = (x, theta)[wanted].requires_grad_()
    value = sliced_wasserstein_to_normal(x, projections=theta, impl=impl)
    (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="impl='torch'"):
        grad.square().sum().backward()


@pytest.mark.parametrize("impl", IMPLS)
def test_only_what_is_asked_for_gets_a_gradient(impl, device):
    x, _, theta = problem(6, 2, few(impl, 2), batch=(2,), device=device)

    def cost(x, theta):
        return sliced_wasserstein_to_normal(x, projections=theta, impl=impl).sum()

    _, *both = value_and_grads(cost, x, theta)
    torch.testing.assert_close(value_and_grads(lambda x: cost(x, theta), x)[1], both[0])
    torch.testing.assert_close(value_and_grads(lambda t: cost(x, t), theta)[1], both[1])


@pytest.mark.parametrize("impl", IMPLS)
def test_points_that_coincide_share_the_slopes_of_their_ranks(impl, device):
    x = torch.tensor([[1.0], [1.0], [-3.0]], dtype=torch.float64, device=device)
    one = torch.ones(1, 1, dtype=torch.float64, device=device)
    _, grad = value_and_grads(
        lambda x: sliced_wasserstein_to_normal(x, projections=one, impl=impl), x
    )
    third = statistics.NormalDist().pdf(statistics.NormalDist().inv_cdf(1 / 3)) * 3
    expected = [2 / 3 * (-3 + third), 2 / 3 * (1 - third), 2 / 3]
    assert sorted(grad[:2, 0].tolist()) == pytest.approx(expected[1:])
    assert grad[2].item() == pytest.approx(expected[0])


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", QUICK)
def test_root_and_reductions(impl, device):
    x, _, theta = problem(5, 2, few(impl, 2), batch=(2, 1), device=device)

    def run(**options):
        return sliced_wasserstein_to_normal(x, projections=theta, impl=impl, **options)

    square = run()
    torch.testing.assert_close(run(root=True), square.sqrt())
    torch.testing.assert_close(run(reduction="mean"), square.mean())
    torch.testing.assert_close(run(root=True, reduction="sum"), square.sqrt().sum())


@pytest.mark.parametrize("method", ["gaussian", "orthogonal", "sobol"])
def test_directions_come_from_the_generator(method, device):
    from otkernels import sample_projections

    x = torch.randn(6, 3, device=device)

    def stream():
        return torch.Generator(device).manual_seed(5)

    theta = sample_projections(3, 7, method=method, generator=stream(), device=device)
    expected = sliced_wasserstein_to_normal(x, projections=theta)
    drawn = {"n_projections": 7, "method": method}
    actual = sliced_wasserstein_to_normal(x, generator=stream(), **drawn)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert sliced_wasserstein_to_normal(x, **drawn) != expected


@pytest.mark.parametrize("impl", FAST[:1])
def test_lengths_out_of_range_are_nan_where_they_cannot_be_read(impl, device):
    torch._dynamo.reset()
    x = torch.rand(4, 5, 2, device=device)
    lengths = torch.tensor([0, 6, -1, 5], device=device)
    theta = torch.rand(2, 1, device=device)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def cost(x, lengths):
        return sliced_wasserstein_to_normal(x, projections=theta, x_lengths=lengths, impl=impl)

    value, grad = value_and_grads(lambda x: cost(x, lengths), x)
    assert value.isnan().tolist() == [True, True, True, False]
    alone = sliced_wasserstein_to_normal(x[3], projections=theta, impl=impl)
    torch.testing.assert_close(value[3], alone)
    assert grad[3].isfinite().all()


@pytest.mark.parametrize("impl", QUICK)
def test_vmap_and_functional_grad(impl, device):
    x, _, theta = problem(5, 2, few(impl, 2), batch=(2,), device=device)
    lengths = torch.tensor([2, 5], device=device)

    def cost(x, lengths=None):
        return sliced_wasserstein_to_normal(x, projections=theta, x_lengths=lengths, impl=impl)

    torch.testing.assert_close(torch.func.vmap(cost)(x), cost(x))
    torch.testing.assert_close(torch.func.vmap(cost)(x, lengths), cost(x, lengths))
    _, expected = value_and_grads(lambda x: cost(x, lengths), x)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(cost))(x, lengths), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl, device):
    x = torch.rand(0, 5, 2, device=device)
    theta = torch.rand(2, 3, device=device)
    for lengths in (None, torch.ones(0, dtype=torch.int64, device=device)):
        value, grad, grad_theta = value_and_grads(
            lambda x, theta, lengths=lengths: sliced_wasserstein_to_normal(
                x, projections=theta, x_lengths=lengths, impl=impl
            ),
            x,
            theta,
        )
        assert value.shape == (0,)
        assert grad.shape == x.shape
        assert not grad_theta.any()


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_nan_stays_in_its_problem(impl, with_lengths, device):
    x, theta = torch.randn(3, 6, 2, device=device), torch.randn(2, 1, device=device)
    lengths = torch.tensor([3, 4, 4], device=device) if with_lengths else None

    def cost(x):
        return sliced_wasserstein_to_normal(x, projections=theta, x_lengths=lengths, impl=impl)

    bad = x.clone()
    bad[1:, 2, 0] = torch.tensor([torch.nan, -torch.nan], device=device)
    (value, grad), untouched = value_and_grads(cost, bad), value_and_grads(cost, x)
    assert value[1:].isnan().all()
    assert grad[1:, :4].isnan().all()
    for actual, expected in zip((value, grad), untouched, strict=True):
        torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("impl", IMPLS)
def test_infinity_gives_a_non_finite_value(impl, sign, device):
    x = torch.randn(2, 5, 1, device=device)
    x[0, 3] = sign * torch.inf
    one = torch.ones(1, 1, device=device)
    with np.errstate(invalid="ignore"):  # of the interpreter
        value, grad = value_and_grads(
            lambda x: sliced_wasserstein_to_normal(x, projections=one, impl=impl), x
        )
    assert not value[0].isfinite()
    assert value[1].isfinite()
    assert grad[1].isfinite().all()


@pytest.mark.parametrize("impl", QUICK)  # the interpreter has but one order
def test_same_bits_on_two_runs(impl, device):
    x, _, theta = problem(9, 3, few(impl, 3), batch=(2,), device=device)
    runs = [
        value_and_grads(lambda x: sliced_wasserstein_to_normal(x, projections=theta, impl=impl), x)
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("impl", QUICK)
def test_autocast_does_not_lower_the_arithmetic(impl, device):
    x, _, theta = problem(9, 3, few(impl, 3), device=device)
    expected = sliced_wasserstein_to_normal(x, projections=theta, impl=impl)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        actual = sliced_wasserstein_to_normal(x, projections=theta, impl=impl)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_works_on_meta_tensors():
    assert sliced_wasserstein_to_normal(torch.rand(2, 5, 3, device="meta")).shape == (2,)


# --- errors -------------------------------------------------------------------------------------

X = torch.rand(2, 4, 3)
NAN = torch.full((4, 3), torch.nan)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (X.int(), {}, TypeError, r"sliced_wasserstein_to_normal: x must be float16, .*; got torch"),
        ([1.0], {}, TypeError, r"x must be a torch.Tensor; got list"),
        (X[0, 0], {}, ValueError, r"x must have shape \(\.\.\., N, D\); got \(3,\)"),
        (X[:, :0], {}, ValueError, r"x must have at least one point and feature; got \(2, 0, 3\)"),
        (X, {"n_projections": 0}, ValueError, r"n_projections must be an integer >= 1; got 0"),
        (X, {"projections": torch.rand(2, 5)}, ValueError,
         r"projections must have shape \(3, L\) or \(\.\.\., 3, L\); got \(2, 5\)"),
        (X, {"projections": torch.rand(5, 3, 2)}, ValueError,
         r"projections must have leading axes that broadcast with x's \(2,\); got \(5,\)"),
        (X, {"projections": torch.square}, ValueError,
         r"projections must be a tensor: other slices are not normal; got builtin_function"),
        (X, {"projections": torch.rand(3, 2, device="meta")}, ValueError,
         r"projections must be on x's device cpu; got meta"),
        (X, {"method": "halton"}, ValueError, r"method must be one of 'gauss.*; got 'halton'"),
        (X, {"reduction": "avg"}, ValueError, r"reduction must be one of .*; got 'avg'"),
        (X, {"impl": "gpu"}, ValueError, r"impl must be one of .*; got 'gpu'"),
        (X, {"x_lengths": torch.tensor([2, 5])}, ValueError,
         r"x_lengths must be from 1 to 4, the number of points; got 5"),
        (X, {"x_lengths": torch.ones(2)}, TypeError, r"x_lengths must be an integer tensor; got"),
        (X, {"x_lengths": torch.tensor([1, 2, 3])}, ValueError,
         r"x_lengths must have leading axes that broadcast with x's \(2,\); got \(3,\)"),
        (NAN, {"validate": True}, ValueError, r"x must be finite everywhere; got nan"),
        (X, {"projections": NAN.T, "validate": True}, ValueError,
         r"projections must be finite everywhere; got nan"),
    ],
)  # fmt: skip
def test_error_messages(x, options, error, message):
    with pytest.raises(error, match=message):
        sliced_wasserstein_to_normal(x, **options)


def test_validate_does_not_read_padding():
    x = X.clone()
    x[1, 3] = torch.nan
    lengths = torch.tensor([4, 3])
    assert sliced_wasserstein_to_normal(x, x_lengths=lengths, validate=True).isfinite().all()
