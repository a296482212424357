"""Raw op ``fidelity`` on the CPU against the definition in float64 on the same inputs."""

import math

import mpmath
import pytest
import torch

from otkernels._fidelity import fidelity
from otkernels.cpu import bures, factors

EPS32, EPS64 = (torch.finfo(t).eps for t in (torch.float32, torch.float64))


def covariance(d, condition, batch=(), rank=None):
    """Random covariances with logarithmically spaced eigenvalues; float32 in exact arithmetic."""
    basis = torch.linalg.qr(torch.randn(*batch, d, d, dtype=torch.float64)).Q
    values = torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)
    values[d if rank is None else rank :] = 0
    s = ((basis * values) @ basis.mT).float()
    return torch.tril(s) + torch.tril(s, -1).mT


def solve(x, y=None, impl="cpu", cutoff=EPS32, double=False, **rows):
    """Value, residual, redone and the gradients; the definition gets the inputs in float64."""
    if impl == "torch":
        x, y = (None if t is None else t.double() for t in (x, y))
    leaves = [t.detach().clone().requires_grad_() for t in (x, y) if t is not None]
    value, residual, redone = fidelity(*leaves, cutoff=cutoff, double=double, impl=impl, **rows)
    return value.detach(), residual, redone, torch.autograd.grad(value.sum(), leaves)


def trace(s, rows):
    return s.double().square().sum((-2, -1)) if rows else s.double().diagonal(0, -2, -1).sum(-1)


def errors(x, y=None, x_rows=False, y_rows=False, **options):
    """Error of the value relative to the traces and the largest of the gradients relative to them.

    Also whether problems were redone, and the largest residual.
    """
    rows = {"x_rows": x_rows, "y_rows": y_rows}
    value, residual, redone, grads = solve(x, y, **rows, **options)
    expected, _, _, expected_grads = solve(x, y, "torch", **rows, **options)
    scale = trace(x, x_rows) + (x.shape[-1] if y is None else trace(y, y_rows))
    in_grads = [
        torch.linalg.matrix_norm(g - e) / torch.linalg.matrix_norm(e)
        for g, e in zip(grads, expected_grads, strict=True)
    ]
    worst = torch.stack(torch.broadcast_tensors(*in_grads)).max().item()
    return ((value - expected).abs() / scale).max().item(), worst, redone, residual.max().item()


def gradient_bound(condition):
    """How far a gradient L1 Q L2^-1 / 2 in float32 may be from the definition, relative to itself.

    A few units for the steps to Q and the products, and half a unit times the condition of a factor
    for that of its inverse. Above 1e6 the safe way, in float64, sets in.
    """
    return EPS32 * (8 + math.sqrt(min(condition, 1e6)) / 2)


@pytest.mark.parametrize("d", [1, 2, 7, 16, 33, 100])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6, 1e8])
def test_float32_on_a_ladder_of_conditions(d, condition):
    x, y = (covariance(d, condition, (3,)) for _ in range(2))
    value, grads, _, _ = errors(x, y)
    assert value <= EPS32
    assert grads <= gradient_bound(condition)


def test_float32_in_512_dimensions():
    value, grads, redone, _ = errors(covariance(512, 1e4), covariance(512, 1e4))
    assert value <= EPS32
    assert grads <= gradient_bound(1e4)
    assert not redone


@pytest.mark.parametrize("d", [1, 3, 16, 50])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_float64(d, condition):
    x, y = (covariance(d, condition, (2,)).double() for _ in range(2))
    value, grads, _, _ = errors(x, y, cutoff=EPS64, double=True)
    assert value <= d * EPS64
    assert grads <= 100 * d * condition * EPS64  # both forms lose the condition's digits


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e8])
def test_against_fifty_digits(condition):
    x, y = covariance(4, condition), covariance(4, condition)
    value, grad_y = exact(x, y)
    found, _, _, grads = solve(x, y, cutoff=EPS64)
    assert abs(found - value) <= EPS32 * (x.trace() + y.trace())
    size = torch.linalg.matrix_norm(grad_y)
    bound = {1e2: 1e-6, 1e6: 1e-4, 1e8: 1e-3}[condition]
    assert torch.linalg.matrix_norm(grads[1] - grad_y) <= bound * size


def exact(x, y):
    """Fidelity, and half the map from y to x, in fifty digits."""
    with mpmath.workdps(50):
        x, y = (mpmath.matrix(t.double().tolist()) for t in (x, y))
        root, inverse = power(y, 0.5), power(y, -0.5)
        middle = power(root * x * root, 0.5)
        found = inverse * middle * inverse / 2
        value = float(sum(middle[i, i] for i in range(middle.rows)))
        return value, torch.tensor(found.tolist(), dtype=torch.float64)


def power(a, exponent):
    values, vectors = mpmath.eigsy((a + a.T) / 2)
    return vectors * mpmath.diag([v ** mpmath.mpf(exponent) for v in values]) * vectors.T


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves(dtype):
    x, y = (covariance(8, 10, (4,)).to(dtype) for _ in range(2))
    value, _, _, grads = solve(x, y)
    expected, _, _, expected_grads = solve(x, y, "torch")
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    eps = torch.finfo(dtype).eps
    for grad, want in zip(grads, expected_grads, strict=True):
        assert grad.dtype == dtype
        assert (grad.double() - want).abs().max() <= eps * want.abs().max()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scales_may_differ_within_a_batch(scale):
    factor = torch.tensor([scale, 1e-6, 1e6])[:, None, None]
    value, grads, redone, _ = errors(covariance(6, 1e3, (3,)) * factor, covariance(6, 1e3, (3,)))
    assert value <= EPS32
    assert grads <= gradient_bound(1e3)
    assert not redone.any()


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(torch.float32, -110), (torch.float32, 110), (torch.float64, -600), (torch.float64, 600)],
)
def test_scales_beyond_the_range_of_squares(dtype, exponent):
    x, y = (covariance(6, 1e2, (2,)).to(dtype) for _ in range(2))
    double, eps = dtype == torch.float64, torch.finfo(dtype).eps
    value, _, _, grads = solve(x, y, cutoff=eps, double=double)
    scale = 2.0**exponent
    found, _, redone, of_scaled = solve(x * scale, y * scale, cutoff=eps, double=double)
    assert redone.all() == double  # float64 has nothing wider to go to but eigenvalues
    torch.testing.assert_close(found / scale, value, rtol=8 * eps, atol=0)
    for grad, want in zip(of_scaled, grads, strict=True):
        assert (grad - want).abs().max() <= 100 * 6 * eps * want.abs().max()


def test_groups_do_not_matter(monkeypatch):
    x, y = covariance(4, 1e2, (2, 4)), covariance(4, 1e2, (2, 4))
    x[0, 3], y[1, 1] = covariance(4, 10, rank=2), math.nan
    whole = solve(x, y)
    monkeypatch.setattr(bures, "GROUP", 48)  # three problems
    value, _, redone, grads = solve(x, y)
    assert redone.nonzero().tolist() == [[0, 3]]
    bad = torch.zeros(2, 4, dtype=torch.bool)
    bad[1, 1] = True
    assert torch.equal(value.isnan(), bad)
    assert ((value - whole[0]).abs() <= 2 * EPS32 * (trace(x, False) + trace(y, False)))[~bad].all()
    for grad, want in zip(grads, whole[3], strict=True):
        atol = gradient_bound(1e2) * want.nan_to_num().abs().max().item()
        torch.testing.assert_close(grad, want, rtol=0, atol=atol, equal_nan=True)


def test_equal_pairs_have_the_identity_as_map():
    x = covariance(20, 1e6, (5,))
    value, _, _, grads = solve(x, x.clone())
    assert ((value - trace(x, False)).abs() <= EPS32 * trace(x, False)).all()
    half = torch.eye(20) / 2
    size = torch.linalg.matrix_norm(half)
    assert all(
        (torch.linalg.matrix_norm(g - half) <= gradient_bound(1e6) * size).all() for g in grads
    )


def test_commuting_pairs():
    values = torch.rand(2, 4, 9) + 0.1
    x, y = torch.diag_embed(values)
    value, _, _, grads = solve(x, y)
    a, b = values.double()
    torch.testing.assert_close(value, (a * b).sqrt().sum(-1), rtol=4 * EPS32, atol=0)
    expected = torch.diag_embed((b / a).sqrt() / 2)
    torch.testing.assert_close(grads[0].double(), expected, rtol=16 * EPS32, atol=1e-7)


@pytest.mark.parametrize(("rank_x", "rank_y"), [(5, 10), (1, 10), (5, 5), (1, 1), (10, 1), (0, 10)])
def test_singular_covariances_go_the_safe_way(rank_x, rank_y):
    x, y = (covariance(10, 30, (3,), rank=r) for r in (rank_x, rank_y))
    value, _, redone, grads = solve(x, y)
    expected, _, _, expected_grads = solve(x, y, "torch")
    assert redone.all()
    traces = trace(x, False) + trace(y, False)
    assert ((value - expected).abs() <= 100 * EPS64 * traces).all()
    for grad, want in zip(grads, expected_grads, strict=True):
        assert (grad - want).abs().max() <= 4 * EPS32 * max(want.abs().max(), 1)


def test_negative_eigenvalues_count_as_zero():
    x = torch.diag(torch.tensor([1.0, -1.0, 4.0]))
    value, _, redone, grads = solve(x, torch.eye(3))
    assert redone
    torch.testing.assert_close(value.item(), 3.0)
    torch.testing.assert_close(grads[1], torch.diag(torch.tensor([0.5, 0.0, 1.0])))


def test_only_problems_that_need_it_are_redone():
    x, y = covariance(8, 10, (6,)), covariance(8, 10, (6,))
    x[1], y[4] = covariance(8, 10, rank=4), 0
    value, grads, redone, residual = errors(x, y[:4].repeat(2, 1, 1)[:6])
    assert redone.tolist() == [False, True, False, False, False, False]
    assert value <= EPS32
    assert grads <= gradient_bound(10)
    assert residual <= gradient_bound(10)
    assert solve(x, y)[2].tolist() == [False, True, False, False, True, False]


def test_a_result_in_error_is_redone(monkeypatch):
    x, y = covariance(8, 1e2, (3,)), covariance(8, 1e2, (3,))
    assert not solve(x, y)[2].any()
    right = bures.polar_factor

    def wrong(x, least):
        q = right(x, least)
        q[1] *= 1 + 1e-3 * torch.randn(8, 8)
        return q

    monkeypatch.setattr(bures, "polar_factor", wrong)
    value, grads, redone, _ = errors(x, y)
    assert redone.tolist() == [False, True, False]
    assert value <= EPS32
    assert grads <= gradient_bound(1e2)


def test_residual_tells_the_error():
    for condition in (1e3, 1e4, 1e5):
        _, grads, redone, residual = errors(covariance(30, condition), covariance(30, condition))
        assert not redone
        assert residual / 10 <= grads <= 10 * residual


ROWS = [(3, 7), (7, 3), (3, 3), (1, 1), (12, 4), (1, 5)]


@pytest.mark.parametrize(("n", "m"), ROWS)
@pytest.mark.parametrize("double", [False, True])
def test_rows_with_rows(n, m, double):
    dtype = torch.float64 if double else torch.float32
    x, y = torch.randn(2, n, 6, dtype=dtype), torch.randn(2, m, 6, dtype=dtype)
    eps = torch.finfo(dtype).eps
    cutoff = EPS64 if double else EPS32**2
    value, grads, redone, _ = errors(x, y, True, True, cutoff=cutoff, double=double)
    assert value <= eps
    assert grads <= (1000 if double else 4) * eps
    assert not redone.any()


@pytest.mark.parametrize("n", [1, 3, 6, 9])
def test_rows_with_a_covariance(n):
    x, y = torch.randn(2, n, 6), covariance(6, 100, (2,)).double()
    for given, rows in (((x, y), "x_rows"), ((y, x), "y_rows")):
        value, grads, redone, _ = errors(*given, **{rows: True})
        assert value <= EPS32
        assert grads <= gradient_bound(100)
        assert not redone.any()


@pytest.mark.parametrize("n", [1, 4, 9])
def test_rows_with_the_identity(n):
    value, grads, redone, _ = errors(torch.randn(3, n, 5), x_rows=True)
    assert value <= EPS32
    assert grads <= gradient_bound(1)
    assert not redone.any()


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e6])
def test_a_covariance_with_the_identity(condition):
    value, grads, redone, _ = errors(covariance(9, condition, (2,)))
    assert value <= EPS32
    assert grads <= 1e-5


def test_centred_rows_and_constant_features():
    x, y = torch.randn(2, 5, 8), torch.randn(2, 6, 8)
    x[..., 3] = 0
    y[1] = 0
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    value, _, _, grads = solve(x, y, x_rows=True, y_rows=True)
    expected, _, _, expected_grads = solve(x, y, "torch", x_rows=True, y_rows=True)
    torch.testing.assert_close(value, expected, rtol=EPS32, atol=1e-12)
    for grad, want in zip(grads, expected_grads, strict=True):
        # A rounded mean leaves a singular value of rounding size, whose vector is the constant one:
        # centring's own backward pass takes out what either form makes of it.
        miss = grad.double() - want
        assert (miss - miss.mean(1, keepdim=True)).abs().max() <= 1e-5


@pytest.mark.parametrize("x_rows", [False, True])
def test_matrices_that_recur_are_factored_once(x_rows, monkeypatch):
    monkeypatch.setattr(bures, "GROUP", 80)  # several groups
    x = torch.randn(3, 1, 2, 4) if x_rows else covariance(4, 10, (3, 1))
    y = covariance(4, 10, (1, 5))
    counts = []
    cholesky = factors.cholesky
    monkeypatch.setattr(
        factors, "cholesky", lambda s, *rest: counts.append(len(s)) or cholesky(s, *rest)
    )
    x, y = x.expand(3, 5, *x.shape[-2:]), y.expand(3, 5, 4, 4)
    found = bures.fidelity(x, y, x_rows, False, EPS32, False, [True, True])
    assert sum(counts) == (5 if x_rows else 8)
    expected, _, _, grads = solve(x.contiguous(), y.contiguous(), "torch", x_rows=x_rows)
    torch.testing.assert_close(found[0], expected, rtol=4 * EPS32, atol=0)
    for grad, want in zip(found[3:], grads, strict=True):
        torch.testing.assert_close(grad.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("place", [(0, 0), (2, 1)])
def test_a_nan_stays_in_its_problem(bad, rows, place):
    x = torch.randn(4, 3, 5) if rows else covariance(5, 10, (4,))
    y = covariance(5, 10, (4,))
    expected = solve(x, y, x_rows=rows)
    x[(2, *place)] = bad
    value, residual, redone, grads = solve(x, y, x_rows=rows)
    others = [0, 1, 3]
    assert value[2].isnan()
    assert residual[2].isnan()
    assert not redone.any()
    assert torch.equal(value[others], expected[0][others])
    for grad, want in zip(grads, expected[3], strict=True):
        assert grad[2].isnan().all()
        assert torch.equal(grad[others], want[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_symmetric_part_counts(dtype):
    x, y = covariance(6, 10, (2,)), covariance(6, 10, (2,))
    skew = torch.randn(2, 6, 6).round() / 1024
    skew = skew - skew.mT
    found, expected = solve((x + skew).to(dtype), y), solve(x.to(dtype), y)
    torch.testing.assert_close(found[0], expected[0], rtol=8 * EPS32, atol=0)


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_only_wanted_gradients(needs):
    x, y = covariance(6, 10, (2,)), covariance(6, 10, (2,))
    both = bures.fidelity(x, y, False, False, EPS32, False, [True, True])
    found = bures.fidelity(x, y, False, False, EPS32, False, list(needs))
    assert torch.equal(found[0], both[0])
    assert found[1].max() <= gradient_bound(10)
    for grad, want, need in zip(found[3:], both[3:], needs, strict=True):
        assert torch.equal(grad, want) if need else grad.shape == (2, 6, 0)


def test_an_empty_batch():
    x = torch.zeros(0, 4, 4)
    value, _, _, grads = solve(x, x)
    assert value.shape == (0,)
    assert grads[0].shape == (0, 4, 4)


def test_same_bits_on_two_runs():
    x, y = covariance(17, 1e3, (40,)), covariance(17, 1e3, (40,))
    first, second = solve(x, y), solve(x, y)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[3][1], second[3][1])
