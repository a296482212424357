"""Sliced distances on a GPU, against float64, at sizes out of the interpreter's reach."""

import pytest
import torch
from gpu_support import (
    DEVICE,
    LENGTHS,
    MARKS,
    both,
    ordered_cloud,
    same_bits,
    shrink,
    sizes,
    steep,
    takes,
)
from support import assert_close64, value_and_grads

from otkernels import (
    max_sliced_wasserstein,
    sliced_wasserstein,
    sliced_wasserstein_sphere,
    sliced_wasserstein_to_normal,
    wasserstein_1d,
)

pytestmark = MARKS


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    shrink(monkeypatch)


def given(function, theta, **options):
    """The function of clouds alone, along these directions."""

    def called(*clouds, impl):
        directions = theta.double() if impl == "torch" else theta
        return function(*clouds, projections=directions, impl=impl, **options)

    return called


def assert_all_close64(actual, expected, *, terms, dtype=None):
    """Sums over points and directions; ``dtype`` is that of the arithmetic."""
    for out, reference in zip(actual, expected, strict=True):
        assert_close64(out, reference, terms=terms, dtype=dtype)


# --- the line -----------------------------------------------------------------------------------

LONG = sizes(
    [1000, 1024, 4096, 4097, 8192, 10_007, 16_384, 16_385, 100_003, 10**6, 2**20],
    [5, 16, 33, 65],
)
OTHER_EXPONENTS = sizes([1000, 10_007, 100_003], [5])


@pytest.mark.parametrize(
    ("n", "p"), [*((n, 2) for n in LONG), *((n, p) for n in OTHER_EXPONENTS for p in (1, 2.5))]
)
def test_long_rows(n, p):
    """Distinct integers in random order: exact sort, exact gaps."""
    u, v = (torch.randperm(n, device=DEVICE).float() for _ in range(2))
    v *= 2
    value, grad_u, grad_v = value_and_grads(
        lambda u, v: wasserstein_1d(u, v, p=p, impl="triton"), u, v
    )
    gap = -torch.arange(n, device=DEVICE).double()
    slope = p * gap.abs() ** (p - 1) * gap.sign() / n
    assert_close64(value, (gap.abs() ** p).mean(), terms=n)
    # A slope is a product of at most p + 2 numbers.
    assert_close64(grad_u, slope[u.long()], terms=(p + 2) ** 2)
    assert_close64(grad_v, -slope[(v / 2).long()], terms=(p + 2) ** 2)


@pytest.mark.parametrize("n", LENGTHS)
def test_a_common_offset_costs_nothing(n):
    """Multiples of 1/8 below 1 stay what they are 2^20 further on."""
    u, v = (torch.randint(0, 8, (3, n), device=DEVICE) / 8 for _ in range(2))

    def line(u, v):
        return wasserstein_1d(u, v, impl="triton")

    same_bits(value_and_grads(line, u + 2**20, v + 2**20)[:1], value_and_grads(line, u, v)[:1])


@pytest.mark.parametrize("n", LENGTHS)
def test_equal_clouds_have_distance_and_gradient_zero(n):
    x = torch.randn(n, 8, device=DEVICE)
    x[n // 2 :] = x[: n - n // 2].clone()  # and points that coincide
    results = value_and_grads(
        lambda x, y: sliced_wasserstein(x, y, n_projections=20, impl="triton"), x, x.clone()
    )
    assert all((t == 0).all() for t in results)


# --- clouds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", sizes([1000, 100_003, 10**6, 2**20], [9]))
def test_long_clouds(n):
    """Several chunks of directions, whose gradients are added up."""
    n_directions = sizes(40, 3)
    x, y = ordered_cloud(n, 4), 2 * ordered_cloud(n, 4)
    results = both(given(sliced_wasserstein, steep(4, n_directions)), x, y)
    assert_all_close64(*results, terms=n)


@pytest.mark.parametrize("d", sizes([1, 3, 16, 33, 128, 512], [1, 3, 20]))
def test_dimensions(d):
    n = sizes(1000, 9)
    x, y = ordered_cloud(n, d, 2), 2 * ordered_cloud(n, d, 2)
    weight = torch.tensor([1.0, -3.0], device=DEVICE)

    def distance(x, y, theta, impl):
        return sliced_wasserstein(x, y, projections=theta, impl=impl)

    results = both(distance, x, y, steep(d, sizes(150, 3)), weight=weight)
    assert_all_close64(*results, terms=n * d)


@pytest.mark.parametrize("m", sizes([200, 170], [7, 6]))
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
def test_types(dtype, m):
    n, theta = sizes(200, 7), steep(16, sizes(70, 3))
    x, y = ordered_cloud(n, 16, dtype=dtype), 2 * ordered_cloud(m, 16, dtype=dtype)
    theta = theta.double() if dtype == torch.float64 else theta
    results = both(given(sliced_wasserstein, theta), x, y)
    assert_all_close64(*results, terms=16 * (n + m))


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_each_choice_of_gradients(needs):
    x, y = ordered_cloud(sizes(500, 5), 16, 3), 2 * ordered_cloud(sizes(500, 5), 16, 3)
    function = given(sliced_wasserstein, steep(16, sizes(70, 3)))

    def run(dtype, impl):
        leaves = [
            t.to(dtype, copy=True).requires_grad_(need)
            for t, need in zip((x, y), needs, strict=True)
        ]
        value = function(*leaves, impl=impl)
        if any(needs):
            value.sum().backward()
        return value.detach(), *(leaf.grad for leaf in leaves)

    for out, reference in zip(
        run(torch.float32, "triton"), run(torch.float64, "torch"), strict=True
    ):
        assert (out is None) == (reference is None)
        if out is not None:
            assert_close64(out, reference, terms=500 * 16)


@pytest.mark.parametrize("kind", ["equal", "sizes", "weights", "lengths"])
def test_many_problems(kind):
    """More than a grid's second axis would number."""
    batch = sizes(70_000, 3)
    x, y = ordered_cloud(4, 2, batch), 2 * ordered_cloud(5 if kind == "sizes" else 4, 2, batch)
    options = {}
    if kind == "lengths":
        options = {"x_lengths": torch.randint(1, 5, (batch,), device=DEVICE)}
    elif kind == "weights":
        options = {"a": torch.rand(batch, 4, device=DEVICE) + 0.1}
    weight = torch.rand(batch, device=DEVICE)
    results = both(given(sliced_wasserstein, steep(2, 3), **options), x, y, weight=weight)
    assert_all_close64(*results, terms=100)


@takes(28)
@pytest.mark.parametrize("problems", sizes([2**19 + 1], [3]))
def test_more_than_2_31_numbers_at_a_time(problems):
    """One problem again and again: one direction of all is the least that a chunk holds."""
    n = sizes(4096, 7)
    x, y = ordered_cloud(n, 1), 2 * ordered_cloud(n, 1)
    ends = torch.zeros(problems, device=DEVICE)
    ends[0], ends[-1] = 1, 2
    theta = torch.ones(1, 1, device=DEVICE)

    def repeated(x, y):
        return sliced_wasserstein(
            x.expand(problems, n, 1), y, projections=theta, impl="triton"
        )  # fmt: skip

    leaf = x.clone().requires_grad_()
    value = repeated(leaf, y)
    (grad,) = torch.autograd.grad(value, leaf, ends)
    expected = value_and_grads(
        lambda x: sliced_wasserstein(x, y.double(), projections=theta.double(), impl="torch"),
        x.double(),
    )
    assert (value == value[0]).all()
    assert_close64(value[-1].detach(), expected[0], terms=n)
    assert_close64(grad / 3, expected[1], terms=16)


# --- measures -----------------------------------------------------------------------------------

# The larger side has twice the points.
MEASURES = [(n, 2 * n) for n in sizes([300, 5000, 20_000], [4, 20])]


def measures(kind, n, m):
    """Weights, some of them 0, or lengths, by keyword; two problems."""
    if kind == "weights":
        a, b = torch.rand(2, n, device=DEVICE), torch.rand(m, device=DEVICE)
        return {"a": a * (a > 0.1) + 1e-3 * (a == a[0].max()), "b": b + 1e-3}
    if kind == "lengths":
        return {"x_lengths": torch.randint(1, n + 1, (2,), device=DEVICE)}
    return {}


@pytest.mark.parametrize("n_and_m", MEASURES, ids=str)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", ["sizes", "weights", "lengths"])
def test_measures(kind, swapped, n_and_m):
    """Integers and powers of two: projections are exact, so all sort alike."""
    n, m = n_and_m[::-1] if swapped else n_and_m
    x, y = ((torch.randperm(2 * k, device=DEVICE).float()).view(2, k, 1) for k in (n, m))
    theta = torch.tensor([[1.0, 0.5, -2.0]], device=DEVICE)
    options = measures(kind, n, m)
    weights = {k: t for k, t in options.items() if t.is_floating_point()}
    lengths = {k: t for k, t in options.items() if not t.is_floating_point()}

    def distance(x, y, theta, *w, impl):
        named = dict(zip(weights, w, strict=True)) | lengths
        return sliced_wasserstein(x, y, projections=theta, impl=impl, **named)

    results = both(distance, x, y, theta, *weights.values())
    assert_all_close64(*results, terms=3 * (n + m), dtype=torch.float32)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("kind", ["equal", "sizes", "weights"])
def test_nan_stays_in_its_problem(kind, n):
    x, y = (torch.randn(k, 2, device=DEVICE) for k in (3 * n, n + 2 * (kind == "sizes")))
    x = x.view(3, n, 2)
    options = {"a": torch.rand(n, device=DEVICE) + 0.1} if kind == "weights" else {}
    distance = given(sliced_wasserstein, steep(2, 3), **options)
    clean = value_and_grads(lambda x: distance(x, y, impl="triton"), x)
    x[1, n // 2, 1] = torch.nan
    for out, expected in zip(
        value_and_grads(lambda x: distance(x, y, impl="triton"), x), clean, strict=True
    ):
        assert out[1].isnan().all()
        same_bits([out[::2]], [expected[::2]])


# --- its relatives ------------------------------------------------------------------------------


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("n", LENGTHS)
def test_to_normal(n, with_lengths):
    x = 4 * ordered_cloud(n, 8, 2) / n - 2
    options = {"x_lengths": torch.tensor([n // 3, n], device=DEVICE)} if with_lengths else {}
    actual, expected = both(
        given(sliced_wasserstein_to_normal, steep(8, 5), **options), x
    )  # fmt: skip
    # The value is small beside the squares it is the difference of: about 1 a point.
    assert_close64(actual[0] + 1, expected[0] + 1, terms=n)
    assert_close64(actual[1], expected[1], terms=16)


def test_max_sliced():
    """Without steps it is the best of the candidates; steps lead upwards, to the same place."""
    n = sizes(500, 5)
    x, y = ordered_cloud(n, 16, 3), 1.1 * ordered_cloud(n, 16)
    theta = steep(16, sizes(50, 3))
    actual, expected = both(given(max_sliced_wasserstein, theta, n_steps=0), x, y)
    assert_all_close64(actual, expected, terms=16 * n)
    climbed = max_sliced_wasserstein(x, y, projections=theta, n_steps=5, impl="triton")
    rounding = 16 * n**0.5 * torch.finfo(torch.float32).eps
    assert (climbed >= expected[0] * (1 - rounding)).all()


def test_sphere():
    """Angles are rounded to parts of a turn, and squares of differences of them are summed."""
    n, n_circles = sizes(2000, 9), sizes(50, 3)
    x, y = torch.randn(2, n, 3, device=DEVICE) + torch.tensor([1.0, 0, 0], device=DEVICE)
    x, y = (torch.nn.functional.normalize(t, dim=-1) for t in (x, -y))
    circles = torch.linalg.qr(torch.randn(n_circles, 3, 2, device=DEVICE)).Q
    actual, expected = (
        sliced_wasserstein_sphere(
            x.to(dtype), y.to(dtype), projections=circles.to(dtype), impl="torch"
        )
        for dtype in (torch.float32, torch.float64)
    )
    # A turn's square is at most 1/4, and all it is made of is below 1.
    assert (actual - expected).abs() <= (n + 9) ** 0.5 * torch.finfo(torch.float32).eps
