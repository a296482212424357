"""Products with a polynomial's end, polar factors of large matrices, and their factors."""

import pytest
import torch
from support import assert_close64

from otkernels._roots import polar_factor
from otkernels.kernels import factor_large, polar_large, products

# A problem of one tile and of several, a full last tile, a row and a column.
SHAPES = [(20, 17, 18), (16, 16, 16), (1, 20, 3), (33, 1, 5)]


CONFIG = products.config


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(products, "config", lambda *_: (16, 16, 16, 4))


def layouts(m, k):
    """The same kinds of operand (2, m, k) in other places of memory."""
    yield "rows", torch.randn(2, m, k)
    yield "columns", torch.randn(2, k, m).mT
    yield "expanded", torch.randn(m, k).expand(2, m, k)
    yield "apart", torch.randn(2, m, k, 3)[..., 1]


def coefficients(batch):
    return torch.randn(batch, 3, dtype=torch.float64)


def polynomial(a, b, e, c):
    """alpha A B + beta E + delta I in float64."""
    alpha, beta, delta = c[:, :, None, None].unbind(1)
    eye = torch.eye(a.shape[-2], b.shape[-1], dtype=torch.float64)
    return alpha * (a.double() @ b.double()) + beta * e.double() + delta * eye


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_any_layout(shape, device):
    m, n, k = shape
    for (_, a), (_, b) in zip(layouts(m, k), reversed([*layouts(k, n)]), strict=True):
        a, b = a.to(device), b.to(device)
        out = products.product(a, b, torch.empty(2, m, n, device=device))
        assert_close64(out, a.double().cpu() @ b.double().cpu(), terms=k)


@pytest.mark.parametrize("name", ["rows", "columns", "expanded", "apart"])
@pytest.mark.parametrize("beta", [1, -1])
def test_something_added(beta, name, device):
    e = dict(layouts(20, 18))[name].to(device)
    a, b = torch.randn(2, 20, 17, device=device), torch.randn(2, 17, 18, device=device)
    out = products.product(a, b, torch.empty(2, 20, 18, device=device), e=e, beta=beta)
    assert_close64(out, (a.double() @ b.double() + beta * e.double()).cpu(), terms=18)


GIVEN = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coefficients_of_each_problem(given, dtype, device):
    a, b, e = (torch.randn(2, *size).to(given) for size in ((20, 17), (17, 35), (20, 35)))
    a, b = (t.to(dtype).to(given) for t in (a, b))
    c = coefficients(2)
    out = torch.empty(2, 20, 35, dtype=dtype, device=device)
    given_too = [t.to(device) for t in (a, b)]
    products.product(*given_too, out, e=e.to(device), coefficients=c.to(device))
    if given == torch.float64 and dtype == torch.float32:
        a, b, e = a.float(), b.float(), e.float()  # as the kernel reads them
    assert_close64(out, polynomial(a, b, e, c), terms=17 + 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 16, 20, 40])
def test_symmetric_results(d, dtype, device):
    x = torch.randn(2, d, d, dtype=dtype, device=device)
    x = x + x.mT
    c = coefficients(2).to(device)
    out = torch.empty_like(x)
    products.product(x, x, out, e=x, coefficients=c, symmetric=True)
    assert_close64(out, polynomial(x.cpu(), x.cpu(), x.cpu(), c.cpu()), terms=d + 3)
    assert torch.equal(out, out.mT)


def test_the_upper_half_is_the_lower_one(device):
    """Nothing above the diagonal is computed, as a product that is not symmetric shows."""
    a, b = torch.randn(2, 40, 20, device=device), torch.randn(2, 20, 40, device=device)
    out = products.product(a, b, torch.empty(2, 40, 40, device=device), symmetric=True)
    lower = (a.double() @ b.double()).tril().cpu()
    assert_close64(out, lower + lower.tril(-1).mT, terms=20)


def test_results_in_a_transposed_place(device):
    a, b = torch.randn(2, 20, 17, device=device), torch.randn(2, 17, 35, device=device)
    out = products.product(a, b, torch.empty(2, 35, 20, device=device).mT)
    assert_close64(out, a.double().cpu() @ b.double().cpu(), terms=17)


def test_problems_that_are_not_active_keep_what_they_hold(device):
    a = torch.randn(3, 20, 20, device=device)
    out = torch.zeros_like(a)
    active = torch.tensor([1, 0, 1], dtype=torch.int32, device=device)
    products.product(a, a, out, active=active)
    assert not out[1].any()
    assert_close64(out[::2], (a.double() @ a.double()).cpu()[::2], terms=20)


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
def test_a_nan_stays_in_its_problem_and_bits_depend_on_no_batch(device):
    a = torch.randn(3, 20, 20, device=device)
    a[1, 3, 4] = torch.nan
    out = products.product(a, a.mT, torch.empty_like(a), symmetric=True)
    assert out[1].isnan().any()
    for k in (0, 2):
        alone = products.product(
            a[k : k + 1], a[k : k + 1].mT, a.new_empty(1, 20, 20), symmetric=True
        )
        assert torch.equal(out[k], alone[0])


def test_no_problem_at_all(device):
    a = torch.randn(0, 4, 4, device=device)
    assert products.product(a, a, torch.empty_like(a)).shape == (0, 4, 4)


def with_values(values, p, q, dtype=torch.float64):
    """(len(values), P, Q) matrices with singular values spaced from 1 down to each of these."""
    k = min(p, q)
    left = torch.linalg.qr(torch.randn(len(values), p, k, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(len(values), q, k, dtype=torch.float64)).Q
    spaced = torch.stack([torch.logspace(0, v, k, dtype=torch.float64) for v in values])
    return ((left * spaced[:, None, :]) @ right.mT).to(dtype)


@pytest.mark.parametrize(
    ("shape", "double"), [((18, 18), False), ((20, 7), True), ((7, 20), False)], ids=str
)
def test_polar_factors(shape, double, device):
    """Problems of one batch need steps of other numbers."""
    least = torch.tensor([0.9, 0.04, 0.2], dtype=torch.float64)
    dtype = torch.float64 if double else torch.float32
    x = with_values(least.log10().tolist(), *shape, dtype) * (1 - 1e-6)
    _, active = polar_large.steps(least, double, 8)
    assert (active.sum(0)[1] > active.sum(0)[2]) & (active.sum(0)[2] > active.sum(0)[0])
    q = polar_large.polar(x.to(device), 0.99 * least.to(device), double, 8)
    assert q.dtype == dtype
    # Roundings of each step, each of them over a singular value.
    terms = len(active) * (2 * min(shape) + max(shape) + 3) / least**2
    for out, ref, n in zip(q, polar_factor(x.double()), terms, strict=True):
        assert_close64(out, ref, terms=n.item())


def test_singular_values_of_0_stay_0(device):
    x = with_values([-1.0], 20, 20)
    x[..., 3:] = 0
    x = x / torch.linalg.matrix_norm(x, 2) * (1 - 1e-6)
    least = torch.linalg.svdvals(x[..., :3])[:, -1] * 0.99
    q = polar_large.polar(x.to(device), least.to(device), False, 8)
    assert_close64(q, polar_factor(x), terms=(8 * 63 / least**2).item())


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
def test_a_nan_makes_its_polar_factor_nan(device):
    x = with_values([-0.5, -0.5], 8, 8).to(device)
    x[1, 2, 3] = torch.nan
    x0, unit = polar_large.scaled(x)
    q = polar_large.polar(x0, 0.3 * unit, False, 8)
    assert q[1].isnan().all()
    assert q[0].isfinite().all()


def test_scaled_bounds_the_singular_values(device):
    x = 1e6 * with_values([-0.5, -3], 20, 20)
    x0, unit = polar_large.scaled(x.to(device))
    assert_close64(x0, x * unit.cpu()[:, None, None], terms=4, dtype=torch.float64)
    largest = torch.linalg.svdvals(x0.cpu())[:, 0]
    assert ((largest <= 1) & (largest > 20**-0.5)).all()
    x0, unit = polar_large.scaled(torch.zeros(1, 3, 3, dtype=torch.float64, device=device))
    assert not x0.any()
    assert unit.item() > 0


def test_tables_end_alike():
    """The steps of a problem are the last ones, and its polynomial ends near 1."""
    least = torch.tensor([1.0, 0.5, 1e-3, 2.0**-17, 0.0], dtype=torch.float64)
    coefficients, active = polar_large.steps(least, False)
    assert active[:, 0].sum() == 0
    assert torch.equal(active[:, 3], active[:, 4])
    assert (active.diff(dim=0) >= 0).all()
    x = least.clamp(2.0**-17)
    for step, on in zip(coefficients, active, strict=True):
        c, b, a = step.unbind(1)
        x = torch.where(on != 0, a * x + b * x**3 + c * x**5, x)
    assert ((x - 1).abs() <= 1e-7).all()


def covariance(d, rank, scale=1.0):
    """Integers over 8, so that products and the pivots left at the end are exact."""
    x = torch.randint(-4, 5, (d, rank)).double() / 8
    return scale * (x @ x.mT + (torch.eye(d, dtype=torch.float64) if rank >= d else 0))


def test_factors_of_large_covariances(device, monkeypatch):
    s = torch.stack([covariance(20, 20), covariance(20, 6), covariance(20, 20), covariance(20, 1)])
    s[2, 4, 5] = s[2, 5, 4] = torch.nan
    monkeypatch.setattr(factor_large, "config", lambda d: (32, 4, 4))
    f, g, regular = factor_large.factor(s.to(device), 1e-10)
    assert regular.tolist() == [1, 0, 0, 0]
    assert f[2].isnan().all()
    assert g[2].isnan().all()
    for k, rank in ((0, 20), (1, 6), (3, 1)):
        kept = f[k].abs().amax(0) > 0
        assert kept.sum() == rank
        assert_close64(f[k] @ f[k].mT, s[k], terms=20)
        # Rounding counts as often as the condition of the range says.
        condition = torch.linalg.matrix_norm(f[k]) * torch.linalg.matrix_norm(g[k])
        assert_close64(g[k] @ f[k], kept.double().diag(), terms=(20 * condition**2).item())
    zero = factor_large.factor(torch.zeros(1, 3, 3, dtype=torch.float64, device=device), 1e-10)
    assert not zero.f.any()
    assert zero.regular.item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_configurations(dtype):
    for m in (1, 16, 100, 129, 511, 512, 4096):
        for n in (1, 40, 129, 512, 4096):
            block_m, block_n, block_k, warps = CONFIG(m, n, dtype, False)
            assert {block_m, block_n, block_k} <= {16, 32, 64, 128}
            assert warps in (4, 8)
            assert CONFIG(m, n, dtype, True)[0] == CONFIG(m, n, dtype, True)[1] <= 64
