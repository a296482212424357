"""Gaussian distances, roots and moments on a GPU, against float64, in each form of each size."""

import pytest
import torch
from gaussian_oracle import GRADIENT, VALUE, covariance, root
from gpu_support import DEVICE, MARKS, both, shrink, sizes
from support import assert_close64, value_and_grads

import otkernels as ot
from otkernels.kernels import polar
from otkernels.moments import moments

pytestmark = MARKS

EPS = torch.finfo(torch.float32).eps
CONDITION = 10.0
# Products, and so sums of D rounded numbers, that stand between a covariance and a gradient.
PRODUCTS = 3 * 8 + 4


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    shrink(monkeypatch)


def covariances(*shape, **options):
    """Two of them; bases are drawn on the device, where many and large ones take no time."""
    with torch.device(DEVICE):
        return tuple(
            covariance(*shape, dtype=torch.float32, device=DEVICE, **options) for _ in range(2)
        )


def norm(t):
    return torch.linalg.matrix_norm(t.double())


def trace(t):
    return t.double().diagonal(dim1=-2, dim2=-1).sum(-1)


def of_spreads(function, x, y, **options):
    """Value and gradients to both covariances, of equal means, and of the same in float64."""
    zero = torch.zeros(x.shape[-1], device=DEVICE)

    def distance(x, y, impl):
        return function(zero.to(x.dtype), x, zero.to(x.dtype), y, impl=impl, **options)

    return both(distance, x, y)


def assert_spreads(x, y, value, gradient):
    """The bounds are parts of the traces, and of the norms of gradients and the unit."""
    assert_near(x, y, *of_spreads(ot.bures_wasserstein, x, y), value, gradient)


def assert_near(x, y, actual, expected, value, gradient):
    assert ((actual[0] - expected[0]).abs() <= value * (trace(x) + trace(y))).all()
    for out, reference in zip(actual[1:], expected[1:], strict=True):
        size = norm(reference) + x.shape[-1] ** 0.5
        assert (norm(out - reference) <= gradient * size).all()


def rounding(d):
    """As of float64 products, and of steps in float32."""
    return (PRODUCTS * d) ** 0.5 * EPS + polar.TOLERANCE[torch.float32]


@pytest.mark.parametrize("d", sizes([1, 2, 16, 17, 32, 33, 64, 65, 128, 129, 256, 512], [1, 3]))
def test_bures(d):
    assert_spreads(*covariances(3, d), rounding(d), rounding(d) * CONDITION)


def test_bures_of_2048_features():
    """Against eigenvalues, for the definition's singular values of so large a matrix take long."""
    d = sizes(2048, 5)
    x, y = covariances(1, d)
    zero = torch.zeros(d, device=DEVICE)
    actual = value_and_grads(
        lambda x, y: ot.bures_wasserstein(zero, x, zero, y, impl="triton"), x, y
    )
    half = root(x.double())
    middle = root(half @ y.double() @ half)
    inverse, one = torch.linalg.inv(half), torch.eye(d, dtype=torch.float64, device=DEVICE)
    expected = (
        trace(x) + trace(y) - 2 * trace(middle),
        one - inverse @ middle @ inverse,
        one - half @ torch.linalg.inv(middle) @ half,
    )
    assert_near(x, y, actual, expected, rounding(d), rounding(d) * CONDITION)


@pytest.mark.parametrize(("batch", "d"), sizes([(8192, 32), (70_000, 4)], [(5, 2)]))
def test_many_problems(batch, d):
    assert_spreads(*covariances(batch, d), rounding(d), rounding(d) * CONDITION)


@pytest.mark.parametrize("condition", [1e4, 1e6])
@pytest.mark.parametrize("d", sizes([8, 64, 100, 200], [3]))
def test_ill_conditioned(d, condition):
    """What is promised at these conditions."""
    assert_spreads(*covariances(2, d, condition=condition), VALUE, GRADIENT[condition])


@pytest.mark.parametrize("d", sizes([8, 64, 100, 200], [3]))
def test_singular(d):
    """The value alone: a gradient out of the range of a covariance is a convention.

    Of small integers and a power of two, so that x is singular in float32 too: one rounded to it
    has eigenvalues of 1e-8, which count in float64 and not in float32.
    """
    factor = torch.randint(-4, 5, (2, d, d // 2), device=DEVICE).float()
    x, y = factor @ factor.mT / 2 ** (2 + d.bit_length()), covariances(2, d)[1]
    actual, expected = of_spreads(ot.bures_wasserstein, x, y)
    assert ((actual[0] - expected[0]).abs() <= VALUE * (trace(x) + trace(y))).all()
    assert all(t.isfinite().all() for t in actual)


@pytest.mark.parametrize("d", sizes([17, 100, 200], [3]))
def test_bures_of_float64(d):
    x, y = (t.double() for t in covariances(2, d))
    actual, expected = of_spreads(ot.bures_wasserstein, x, y)
    bound = (PRODUCTS * d) ** 0.5 * torch.finfo(torch.float64).eps + polar.TOLERANCE[x.dtype]
    assert ((actual[0] - expected[0]).abs() <= bound * (trace(x) + trace(y))).all()
    for out, reference in zip(actual[1:], expected[1:], strict=True):
        assert (norm(out - reference) <= bound * CONDITION * (norm(reference) + d**0.5)).all()


@pytest.mark.parametrize("d", sizes([8, 100, 200], [3]))
def test_all_pairs(d):
    x, y = (torch.cat(covariances(2, d)) for _ in range(2))
    zero = torch.zeros(4, d, device=DEVICE)
    found, expected = (
        ot.bures_wasserstein(
            zero.to(dtype), x.to(dtype), zero.to(dtype), y.to(dtype), pairwise=True, impl=impl
        )
        for dtype, impl in ((torch.float32, "triton"), (torch.float64, "torch"))
    )
    assert found.shape == (4, 4)
    assert ((found - expected).abs() <= rounding(d) * (trace(x)[:, None] + trace(y))).all()


@pytest.mark.parametrize("d", sizes([1, 16, 33, 64, 65, 128, 129, 512], [1, 3]))
@pytest.mark.parametrize("name", ["sqrtm", "inv_sqrtm"])
def test_roots(name, d):
    actual, expected = both(getattr(ot, name), covariances(2, d)[0])
    for out, reference in zip(actual, expected, strict=True):
        assert (norm(out - reference) <= rounding(d) * CONDITION * norm(reference)).all()


@pytest.mark.parametrize("d", sizes([8, 100, 200], [3]))
def test_maps(d):
    """Gradients go through the roots once more, so conditions count twice."""
    zero = torch.zeros(2, d, device=DEVICE)

    def matrix(x, y, impl):
        return ot.gaussian_map(zero.to(x.dtype), x, zero.to(x.dtype), y, impl=impl)[0]

    actual, expected = both(matrix, *covariances(2, d))
    powers = 1, 2, 2
    for out, reference, power in zip(actual, expected, powers, strict=True):
        bound = rounding(d) * CONDITION**power * norm(reference)
        assert (norm(out - reference) <= bound).all()


# --- points -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "d"),
    sizes(
        [
            (10**6, 10**5, 16),
            (5000, 4000, 64),
            (5000, 4000, 300),
            (100, 100, 100),
            (50, 60, 100),
            (100, 500, 300),
            (500, 400, 2048),
        ],
        [(20, 15, 3), (3, 4, 5), (3, 9, 5)],
    ),
    ids=str,
)
def test_points(n, m, d):
    """Many points and few ones, which are the rows of a factor: what is promised."""
    x, y = (torch.randn(k, d, device=DEVICE) * torch.linspace(1, 3, d).to(DEVICE) for k in (n, m))
    actual, expected = both(ot.gaussian_wasserstein, x, y + 0.5)
    size = sum(t.double().square().sum() / len(t) for t in (x, y + 0.5))
    assert (actual[0] - expected[0]).abs() <= VALUE * size
    for out, reference in zip(actual[1:], expected[1:], strict=True):
        of_unit = size.sqrt() / len(out)
        bound = GRADIENT[1e4] * (reference.norm() + of_unit * len(out) ** 0.5)
        assert (out - reference).norm() <= bound


@pytest.mark.parametrize("d", sizes([2, 40, 200], [3]))
@pytest.mark.parametrize("weighted", [False, True])
def test_to_normal(weighted, d):
    x = torch.randn(sizes(600, 9), d, device=DEVICE) + 0.5
    options = {"a": torch.rand(len(x), device=DEVICE) + 0.1} if weighted else {}
    actual, expected = both(ot.gaussian_wasserstein_to_normal, x, **options)
    size = x.double().square().sum() / len(x) + d
    assert (actual[0] - expected[0]).abs() <= VALUE * size
    bound = GRADIENT[1e4] * (expected[1].norm() + (size / len(x)).sqrt())
    assert (actual[1] - expected[1]).norm() <= bound


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("batch", "n", "d"),
    sizes(
        [
            ((), 10**6, 16),
            ((), 100_003, 65),
            ((3,), 5000, 300),
            ((2,), 100, 2048),
            ((70_000,), 20, 4),
            ((), 1, 1),
        ],
        [((), 40, 3), ((2,), 9, 17), ((), 1, 1)],
    ),
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_moments(dtype, batch, n, d, weighted):
    """One share of the points and several, far from the origin."""
    x = (torch.randn(*batch, n, d, device=DEVICE) + 8).to(dtype)
    masses = torch.rand(*batch, n, dtype=torch.float64, device=DEVICE) if weighted else None
    masses = None if masses is None else masses / masses.sum(-1, keepdim=True)
    mean, cov = moments(x, masses, correction=0, double=False, impl="triton")
    expected = moments(x.double(), masses, correction=0, double=True, impl="torch")
    assert_close64(mean, expected[0], terms=n)
    assert_close64(cov, expected[1], terms=n)


def test_gradient_of_moments():
    x = torch.randn(sizes(5000, 9), sizes(70, 3), device=DEVICE)

    def total(x, impl):
        mean, cov = ot.mean_cov(x, impl=impl)
        return mean.sum() + cov.sum()

    actual, expected = both(total, x)
    assert_close64(actual[1], expected[1], terms=x.shape[1] + len(x))


def test_gaussians_leave_a_bad_neighbour_alone():
    x, y = (torch.randn(3, sizes(200, 9), sizes(40, 3), device=DEVICE) for _ in range(2))

    def distance(x):
        return ot.gaussian_wasserstein(x, y, impl="triton")

    clean = value_and_grads(distance, x)
    x[1, 2, 1] = torch.nan
    for out, expected in zip(value_and_grads(distance, x), clean, strict=True):
        assert out[1].isnan().all()
        assert torch.equal(out[::2], expected[::2])
