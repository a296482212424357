"""Bandwidths of kernels: numbers, tensors, the median heuristic, the ladder of the WAE."""

import itertools
import math

import numpy as np
import pytest
import torch
from support import value_and_grads

from otkernels import median_bandwidth, mmd, wae_bandwidths
from otkernels.bandwidth import MAX_POINTS

INTERPRETED = not torch.cuda.is_available()
FAST = ["cpu", "triton"] if INTERPRETED else ["triton"]
QUICK = ["torch", FAST[0]]  # not the interpreter
KERNELS = ["gaussian", "laplacian", "imq", "rational_quadratic"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
close = torch.testing.assert_close


def clouds(n, m, d=2, batch=(), dtype=torch.float32, device="cpu"):
    shapes = (*batch, n, d), (*batch, m, d)
    return [torch.randn(shape).to(device, dtype) + k for k, shape in enumerate(shapes)]


# --- the median ---------------------------------------------------------------------------------


def lower_median(points):
    """Of the positive distances between points, as a plain list."""
    pairs = itertools.combinations(points.double().tolist(), 2)
    distances = sorted(math.dist(u, v) for u, v in pairs)
    positive = [r for r in distances if r > 0]
    return positive[(len(positive) - 1) // 2] if positive else 1.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (2, 1, 3), (5, 4, 2), (7, 9, 5), (64, 64, 3)])
def test_median_of_the_pooled_distances(n, m, d, dtype, device):
    x, y = clouds(n, m, d, dtype=dtype, device=device)
    median = median_bandwidth(x, y)
    assert median.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = lower_median(torch.cat([x, y]))
    assert median.item() == pytest.approx(expected, rel=rounding(d, median.dtype))


def rounding(d, dtype=torch.float32):
    """Relative, of a distance: d differences, squares and additions, and a root."""
    return 2 * d * torch.finfo(dtype).eps


def test_median_of_one_cloud():
    x, _ = clouds(6, 1)
    expected = pytest.approx(lower_median(x), rel=rounding(x.shape[-1]))
    assert median_bandwidth(x).item() == expected
    halves = median_bandwidth(x[:2], x[2:])
    close(median_bandwidth(x), halves, rtol=0, atol=0)
    close(median_bandwidth(x, x_lengths=torch.tensor(3)), median_bandwidth(x[:3]))


def test_only_positive_distances_count():
    """Three of four points coincide: three distances are 0, three are 5."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    assert median_bandwidth(x, x[:1]) == 5
    assert median_bandwidth(torch.tensor([[0.0], [1.0], [3.0], [7.0]])) == 3  # 1 2 3 4 6 7


def test_coincident_points_have_bandwidth_one(device):
    x = torch.full((2, 4, 3), 0.3, device=device)
    assert median_bandwidth(x, x).tolist() == [1, 1]
    assert median_bandwidth(x[:, :1]).tolist() == [1, 1]
    x[1, 0] += 4.0
    assert median_bandwidth(x).tolist() == [1, pytest.approx(4 * 3**0.5)]


def evenly(total, count):
    return [k * total // count for k in range(count)]


@pytest.mark.parametrize(
    ("n", "m", "count"), [(7, 4, 5), (50, 3, 2), (3, 90, 10), (100, 100, None)]
)
def test_points_looked_at_are_evenly_spaced(n, m, count):
    x, y = clouds(n, m)
    options = {} if count is None else {"max_points": count}
    expected = lower_median(torch.cat([x, y])[evenly(n + m, count or MAX_POINTS)])
    for _ in range(2):  # the same input, the same number
        median = median_bandwidth(x, y, **options).item()
        assert median == pytest.approx(expected, rel=rounding(x.shape[-1]))


def test_few_points_are_looked_at_all():
    x, y = clouds(9, 8)
    whole = median_bandwidth(x, y, max_points=17)
    for count in (18, 1000):
        close(median_bandwidth(x, y, max_points=count), whole, rtol=0, atol=0)


def test_median_of_many_points_is_near_that_of_all():
    x, y = clouds(400, 300, 8)
    all_of_them = median_bandwidth(x, y, max_points=700)
    assert abs(median_bandwidth(x, y) / all_of_them - 1) < 0.1


@pytest.mark.parametrize("count", [3, 6, MAX_POINTS])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e30])
def test_padded_equals_cut(poison, count, device):
    x, y = clouds(6, 5, batch=(3,), device=device)
    x_lengths, y_lengths = (torch.tensor(t, device=device) for t in ([6, 1, 3], [1, 2, 5]))
    for points, lengths in ((x, x_lengths), (y, y_lengths)):
        for k, length in enumerate(lengths):
            points[k, length:] = poison
    both = {"x_lengths": x_lengths, "y_lengths": y_lengths, "max_points": count}
    median = median_bandwidth(x, y, **both)
    alone = median_bandwidth(x, x_lengths=x_lengths, max_points=count)
    for k, (n, m) in enumerate(zip(x_lengths, y_lengths, strict=True)):
        close(median[k], median_bandwidth(x[k, :n], y[k, :m], max_points=count))
        close(alone[k], median_bandwidth(x[k, :n], max_points=count))


@pytest.mark.parametrize("max_points", [3, MAX_POINTS])
def test_batch_equals_loop_and_broadcasts(max_points, device):
    (x, _), (_, y) = clouds(4, 1, batch=(2, 1), device=device), clouds(1, 3, batch=(3,))
    y = y.to(device)
    whole = median_bandwidth(x, y, max_points=max_points)
    assert whole.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        close(whole[i, j], median_bandwidth(x[i, 0], y[j], max_points=max_points))
    lengths = torch.tensor([2, 4], device=device)
    cut = median_bandwidth(x[0, 0], y[0], x_lengths=lengths, max_points=max_points)
    close(cut[0], median_bandwidth(x[0, 0, :2], y[0], max_points=max_points))
    assert median_bandwidth(x[:0], y).shape == (0, 3)


def test_offset_does_not_change_the_median(device):
    """Distances of coordinates that are exact at both places."""
    x, y = (torch.randint(-64, 65, (n, 3), device=device) / 64 for n in (6, 5))
    close(median_bandwidth(x + 1000, y + 1000), median_bandwidth(x, y), rtol=0, atol=0)


def test_nan_stays_in_its_problem(device):
    x, y = clouds(4, 3, batch=(3,), device=device)
    expected = median_bandwidth(x, y)
    x[0, 1, 1], y[2, 0, 0] = torch.nan, -torch.nan
    median = median_bandwidth(x, y)
    assert median.isnan().tolist() == [True, False, True]
    close(median[1], expected[1], rtol=0, atol=0)


def test_median_has_no_gradient_and_no_autocast(device):
    x, y = clouds(4, 3, device=device)
    expected = median_bandwidth(x, y)
    with torch.autocast(device.type, torch.bfloat16):
        median = median_bandwidth(x.requires_grad_(), y)
    assert not median.requires_grad
    close(median, expected, rtol=0, atol=0)


def test_median_under_vmap_and_compile(device):
    x, y = clouds(4, 3, batch=(2,), device=device)
    lengths = torch.tensor([2, 4], device=device)

    def median(x, y, lengths):
        return median_bandwidth(x, y, x_lengths=lengths)

    expected = median(x, y, lengths)
    close(torch.func.vmap(median)(x, y, lengths), expected)
    torch._dynamo.reset()
    compiled = torch.compile(median, fullgraph=True, backend="aot_eager")
    close(compiled(x, y, lengths), expected)
    # A graph cannot stop at a value.
    assert compiled(x, y, torch.tensor([5, 4], device=device)).isnan().tolist() == [True, False]


# --- in mmd -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("impl", QUICK)
def test_median_is_that_of_each_problem_and_a_constant(impl, kernel, device):
    x, y = clouds(5, 4, batch=(2,), device=device)
    y[1] *= 7
    bandwidth = median_bandwidth(x, y)
    assert bandwidth[1] > 2 * bandwidth[0]

    def cost(bandwidth):
        return lambda x, y: mmd(x, y, kernel=kernel, bandwidth=bandwidth, impl=impl)

    expected = value_and_grads(cost(bandwidth[:, None]), x, y)
    for actual, reference in zip(value_and_grads(cost("median"), x, y), expected, strict=True):
        close(actual, reference)
    for k in range(2):
        close(expected[0][k], cost(bandwidth[k].item())(x[k], y[k]))
        close(expected[0][k], cost("median")(x[k], y[k]))


def test_median_is_the_default_and_takes_every_dtype():
    for dtype in DTYPES:
        x, y = clouds(5, 4, dtype=dtype)
        close(mmd(x, y), mmd(x, y, bandwidth=median_bandwidth(x, y)))


def test_median_ignores_weights():
    x, y = clouds(5, 4)
    a = torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0])
    close(mmd(x, y, a=a), mmd(x, y, a=a, bandwidth=median_bandwidth(x, y)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("impl", QUICK)
def test_several_bandwidths_sum_their_kernels(impl, kernel, device):
    x, y = clouds(5, 4, batch=(2,), dtype=torch.float64, device=device)
    given = (0.5, 1.0, 3.0)

    def run(bandwidth):
        return value_and_grads(
            lambda x, y: mmd(x, y, kernel=kernel, bandwidth=bandwidth, impl=impl), x, y
        )

    each = [run(s) for s in given]
    expected = [sum(parts) for parts in zip(*each, strict=True)]
    tensor = torch.tensor(given, device=device)
    for several in (given, list(given), np.array(given), tensor, tensor.half().expand(2, 3)):
        for actual, reference in zip(run(several), expected, strict=True):
            close(actual, reference)
    for one in (torch.tensor(1.0, device=device), [1], np.float32(1)):
        for actual, reference in zip(run(one), each[1], strict=True):
            close(actual, reference)


@pytest.mark.parametrize("impl", QUICK)
def test_ladder_of_many_and_equal_bandwidths(impl, device):
    """More than a kernel would unroll; a bandwidth given twice counts twice."""
    x, y = clouds(4, 3, dtype=torch.float64, device=device)
    ladder = [2.0**k for k in range(-5, 6)]
    single = [mmd(x, y, bandwidth=s, impl=impl) for s in ladder]
    close(mmd(x, y, bandwidth=ladder, impl=impl), sum(single))
    close(mmd(x, y, bandwidth=(2.0, 2.0), impl=impl), 2 * single[6])


@pytest.mark.parametrize("impl", QUICK)
def test_bandwidths_of_each_problem(impl, device):
    x, y = clouds(4, 3, batch=(2, 1), device=device)
    bandwidth = torch.tensor([[0.3, 2.0], [1.0, 1.0], [5.0, 0.8]], device=device)
    value, grad_x, _ = value_and_grads(
        lambda x, y: mmd(x, y, bandwidth=bandwidth, kernel="laplacian", impl=impl), x, y
    )
    assert value.shape == (2, 3)
    loop = [
        value_and_grads(
            lambda x, y, s=s: mmd(x, y, bandwidth=s, kernel="laplacian", impl=impl),
            x[:, 0],
            y[:, 0],
        )
        for s in bandwidth
    ]
    close(value, torch.stack([single for single, *_ in loop], dim=1))
    close(grad_x[:, 0], sum(grad for _, grad, _ in loop))
    alone = mmd(x[0, 0], y[0, 0], bandwidth=bandwidth, kernel="laplacian", impl=impl)
    close(alone, value[0])


FORMS = [(impl, form) for impl in FAST for form in ("one", "of each problem")]


@pytest.mark.parametrize(("impl", "kind"), [*FORMS, (FAST[0], "several"), (FAST[0], "median")])
def test_every_form_of_a_bandwidth_matches_the_definition(impl, kind, device):
    x, y = clouds(4, 3, 9, batch=(2,), dtype=torch.float64, device=device)
    bandwidth = {
        "one": 2.0,
        "several": (0.5, 2.0, 4.0),
        "of each problem": torch.tensor([[1.0, 3.0], [2.0, 0.7]], device=device),
        "median": "median",
    }[kind]
    results = [
        value_and_grads(lambda x, y, i=i: mmd(x, y, bandwidth=bandwidth, impl=i), x, y)
        for i in (impl, "torch")
    ]
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("s", [1e-200, 1e-25, 1e25, 1e200])
def test_extreme_numbers_are_taken_as_tensors_are(impl, s):
    """All kernels but that of a point with itself are 0 or 1."""
    x, y = clouds(4, 5)
    expected = 1 / 4 + 1 / 5 if s < 1 else 0.0
    for bandwidth in (s, [s], torch.tensor(s, dtype=torch.float64)):
        assert mmd(x, y, bandwidth=bandwidth, impl=impl).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("impl", QUICK)
def test_overflow_is_no_number(impl):
    x, y = 1e20 * torch.rand(2, 10, 3)
    assert mmd(x, y, impl=impl).isnan()  # the median overflows
    assert mmd(x, y, bandwidth=1e20, impl=impl).isnan()  # squared distances do
    far = torch.full((10, 3), 1.5e19)  # the median overflows, but no square of a coordinate
    assert mmd(far, -far, impl=impl).isnan()


@pytest.mark.parametrize("impl", FAST[:1])
def test_wrong_bandwidth_of_one_problem_makes_it_nan(impl, device):
    """Where it cannot be read, as under torch.compile; NaN and infinity without ``validate``."""
    x, y = clouds(4, 3, batch=(3,), device=device)
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def cost(x, y, bandwidth):
        return mmd(x, y, bandwidth=bandwidth, impl=impl)

    bandwidth = torch.tensor([[1.0], [0.0], [-1.0]], device=device)
    assert cost(x, y, bandwidth).isnan().tolist() == [False, True, True]
    for wrong in (torch.nan, torch.inf):
        bandwidth = torch.tensor([[1.0], [wrong], [2.0]], device=device)
        value, *grads = value_and_grads(
            lambda x, y, s=bandwidth: mmd(x, y, bandwidth=s, impl=impl), x, y
        )
        assert value.isnan().tolist() == [False, True, False]
        for grad in grads:
            assert grad.isnan().flatten(1).all(1).tolist() == [False, True, False]
            assert grad.isfinite().flatten(1).all(1).tolist() == [True, False, True]


def test_tensor_that_requires_a_gradient_is_fine_where_none_is_taken():
    x, y = clouds(4, 3)
    bandwidth = torch.tensor([1.0], requires_grad=True)
    with torch.no_grad():
        value = mmd(x, y, bandwidth=bandwidth)
    close(value, mmd(x, y, bandwidth=1.0))


# --- the ladder of the WAE ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "base"), [("normal", 2 * 6 * 9.0), ("sphere", 2 * 9.0), ("uniform", 6 * 9.0)]
)
def test_wae_bandwidths(prior, base):
    bandwidths = wae_bandwidths(6, prior=prior, scale=3)
    squares = [c * base for c in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]
    assert [s**2 for s in bandwidths] == pytest.approx(squares, rel=1e-14)
    assert wae_bandwidths(np.int64(6), prior=prior, scale=np.float64(3)) == bandwidths


def test_wae_scale_of_the_normal_and_the_sphere_is_the_expected_squared_distance():
    """Of two draws; the published code has ``dim`` for the cube, whose own is 2 dim / 3."""
    d, draws = 5, 20000
    points = torch.randn(2, draws, d, dtype=torch.float64)
    laws = {"normal": points, "sphere": points / points.norm(dim=-1, keepdim=True)}
    for prior, (u, v) in laws.items():
        squares = (2 * (u - v)).square().sum(-1)
        middle = wae_bandwidths(d, prior=prior, scale=2.0)[3] ** 2
        assert abs(squares.mean() - middle) < 5 * squares.std() / draws**0.5


# --- errors -------------------------------------------------------------------------------------

X, Y = torch.rand(2, 4, 3), torch.rand(5, 3)
IN_FLOATS = "float16, bfloat16, float32 or float64"


def says(message, error, function, *arguments, **options):
    with pytest.raises(error) as raised:
        function(*arguments, **options)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("bandwidth", "error", "message"),
    [
        (0, ValueError, "be a positive number; got 0"),
        (-1.5, ValueError, "be a positive number; got -1.5"),
        (math.nan, ValueError, "be a positive number; got nan"),
        (math.inf, ValueError, "be a positive number; got inf"),
        (True, ValueError, "be a positive number; got True"),
        (None, ValueError, "be a positive number; got None"),
        ((1.0, -2), ValueError, "be a positive number; got -2"),
        ([1.0, "2"], ValueError, "be a positive number; got '2'"),
        ((), ValueError, "not be empty; got ()"),
        ("mean", ValueError,
         "be 'median', a positive number, a sequence of them or a tensor; got 'mean'"),
        (torch.tensor([1.0, 0.0]), ValueError, "be positive everywhere; got 0.0"),
        (torch.tensor(-1.0), ValueError, "be positive everywhere; got -1.0"),
        (torch.tensor([1]), TypeError, f"be {IN_FLOATS}; got torch.int64"),
        (torch.ones(0), ValueError, "have shape (K,) or (..., K); got (0,)"),
        (torch.ones(3, 1), ValueError,
         "have leading axes that broadcast with x's and y's (2,); got (3,)"),
        (torch.ones(1, device="meta"), ValueError, "be on x's device cpu; got meta"),
        (torch.ones(1, requires_grad=True), NotImplementedError,
         "not require a gradient; got one that does. Use bandwidth.detach()."),
    ],
)  # fmt: skip
def test_messages_about_a_bandwidth(bandwidth, error, message):
    says(f"mmd: bandwidth must {message}", error, mmd, X, Y, bandwidth=bandwidth)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_validate_reads_bandwidths(wrong):
    with pytest.raises(ValueError, match=rf"^mmd: bandwidth must .*; got {wrong}$"):
        mmd(X, Y, bandwidth=torch.tensor([1.0, wrong]), validate=True)


@pytest.mark.parametrize("kernel", ["energy", "polynomial"])
@pytest.mark.parametrize("bandwidth", [1.0, (1.0, 2.0), None])
def test_kernels_without_a_bandwidth_refuse_one(kernel, bandwidth):
    message = f"mmd: bandwidth must be left out for kernel '{kernel}', which has none"
    says(f"{message}; got {bandwidth!r}", ValueError, mmd, X, Y, kernel=kernel, bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x must be a torch.Tensor; got list"),
        ({"x": X.int()}, TypeError, f"x must be {IN_FLOATS}; got torch.int32"),
        ({"x": X[0, 0]}, ValueError, "x must have shape (..., N, D); got (3,)"),
        ({"x": X[:, :0]}, ValueError,
         "x must have at least one point and feature; got (2, 0, 3)"),
        ({"y": Y[:, :2]}, ValueError, "y must have x's 3 features; got (5, 2)"),
        ({"y": Y.double()}, ValueError, "y must have x's dtype torch.float32; got torch.float64"),
        ({"y": Y.expand(3, 5, 3)}, ValueError,
         "y must have leading axes that broadcast with x's (2,); got (3,)"),
        ({"y": None, "y_lengths": torch.tensor(1)}, ValueError,
         "y_lengths must be None without y; got lengths"),
        ({"x_lengths": torch.tensor([0, 4])}, ValueError,
         "x_lengths must be from 1 to 4, the number of points; got 0"),
        ({"y_lengths": torch.tensor(6)}, ValueError,
         "y_lengths must be from 1 to 5, the number of points; got 6"),
        ({"x_lengths": torch.rand(2)}, TypeError,
         "x_lengths must be an integer tensor; got torch.float32"),
        ({"max_points": 1}, ValueError, "max_points must be an integer >= 2; got 1"),
        ({"max_points": 2.5}, ValueError, "max_points must be an integer >= 1; got 2.5"),
    ],
)  # fmt: skip
def test_messages_about_a_median(given, error, message):
    says(f"median_bandwidth: {message}", error, median_bandwidth, **({"x": X, "y": Y} | given))


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [
        (0, {}, "dim must be an integer >= 1; got 0"),
        (2.0, {}, "dim must be an integer >= 1; got 2.0"),
        (3, {"prior": "cube"}, "prior must be one of 'normal', 'sphere', 'uniform'; got 'cube'"),
        (3, {"scale": 0}, "scale must be a positive number; got 0"),
        (3, {"scale": math.inf}, "scale must be a positive number; got inf"),
    ],
)
def test_messages_about_the_ladder(dim, options, message):
    says(f"wae_bandwidths: {message}", ValueError, wae_bandwidths, dim, **options)
