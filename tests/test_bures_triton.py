"""Fidelities in Triton, interpreted where there is no GPU: value and gradients against float64."""

import pytest
import torch
from gaussian_oracle import covariance

from otkernels._fidelity import _OPS, _definition
from otkernels.kernels import bures, covariance_gradient, factor, polar, polar_double

EPS = {t: torch.finfo(t).eps for t in (torch.float32, torch.float64)}
SINGLE, DOUBLE = torch.float32, torch.float64
# Products, and so sums of D rounded numbers, that stand between a factor and a gradient.
PRODUCTS = 3 * 8 + 4


@pytest.fixture(autouse=True)
def shallow(monkeypatch, device):
    """Interpreted, the float64 form begins at 1e-3: a third of the steps, and seconds less."""
    if device.type == "cpu":
        monkeypatch.setattr(polar_double, "LEAST", {SINGLE: 1e-3, DOUBLE: 1e-3})


def run(x, y=None, x_rows=False, y_rows=False, needs=(True, True)):
    """Value, residual, redone and the gradients to x and y."""
    double = x.dtype == DOUBLE
    needs = [needs[0], needs[1] and y is not None]
    return _OPS["triton"](x, y, x_rows, y_rows, EPS[DOUBLE if double else SINGLE], double, needs)


def expected(x, y=None, x_rows=False, y_rows=False):
    """Value and gradients from the definition, float64."""
    cutoff = EPS[DOUBLE if x.dtype == DOUBLE else SINGLE]
    leaves = [None if t is None else t.double().requires_grad_() for t in (x, y)]
    value, _ = _definition(*leaves, x_rows, y_rows, cutoff)
    grads = torch.autograd.grad(value.sum(), [t for t in leaves if t is not None])
    return value.detach(), *grads


def size(t):
    return torch.linalg.matrix_norm(t.double())


def assert_matches(x, y=None, x_rows=False, y_rows=False, condition=10.0, redone=None):
    """Errors: roundings of each sum, how far steps leave Q from its end, times the condition."""
    value, residual, again, *grads = run(x, y, x_rows, y_rows)
    # The slow form would hide what is wrong with the fast one.
    expected_again = [x_rows or y_rows] * again.numel() if redone is None else redone
    assert again.flatten().tolist() == expected_again
    exact, *exact_grads = expected(x, y, x_rows, y_rows)
    dtype = DOUBLE if x.dtype == DOUBLE else SINGLE
    bound = (PRODUCTS * x.shape[-1]) ** 0.5 * EPS[dtype] + polar.TOLERANCE[dtype]
    assert ((value - exact).abs() <= bound * exact).all()
    assert ((residual >= 0) & (residual <= bound * condition)).all()
    for got, true in zip(grads, exact_grads, strict=False):
        assert (size(got - true) <= bound * condition * size(true)).all()
    return value, grads


@pytest.mark.parametrize(
    ("batch", "d", "dtype"),
    [
        ((5,), 1, SINGLE),  # five of sixteen in a tile
        ((5,), 3, SINGLE),  # four in one and one in the next
        ((2, 1), 8, SINGLE),
        ((), 16, SINGLE),
        ((2,), 17, SINGLE),
        ((1,), 32, SINGLE),
        ((2,), 3, DOUBLE),
        ((1,), 17, DOUBLE),
    ],
    ids=str,
)
def test_regular(batch, d, dtype, device):
    x, y = (covariance(*batch, d, dtype=dtype, device=device) for _ in range(2))
    assert_matches(x, y)


@pytest.mark.parametrize("d", [2, 65, 130])
def test_more_rows_than_a_tile(d, monkeypatch, device):
    """The forms for many rows; interpreted, few rows are called many."""
    if device.type == "cpu":
        for module in (factor, polar):
            monkeypatch.setattr(module, "SHORT" if module is factor else "LARGEST", 1)
        if d == 130:
            monkeypatch.setattr(bures, "LARGEST", 1)
        d = {2: 2, 65: 5, 130: 3}[d]
    assert_matches(*(covariance(2, d, dtype=SINGLE, device=device) for _ in range(2)))


def test_several_blocks(monkeypatch, device):
    """Where a program goes through a matrix block by block, of 16 rows here."""
    monkeypatch.setattr(polar, "block_config", lambda d: (16, 1))
    for module in (polar_double, covariance_gradient):
        monkeypatch.setattr(module, "config", lambda d: (16, 2))
    assert_matches(*(covariance(1, 17, dtype=SINGLE, device=device) for _ in range(2)))


def test_halves(monkeypatch, device):
    """Two halves hold 22 bits, and the product of the low ones is left out."""
    monkeypatch.setattr(polar, "HALVED", 16)
    assert_matches(*(covariance(2, 7, dtype=SINGLE, device=device) for _ in range(2)), condition=40)


def test_identity(device):
    x = covariance(2, 3, dtype=SINGLE, device=device)
    (value, (grad, none)), eye = assert_matches(x), torch.eye(3, device=device).expand(2, 3, 3)
    assert none.shape == (2, 0)
    other, _, _, again, _ = run(x, eye)
    assert torch.equal(value, other)
    assert torch.equal(grad, again)


def test_value_alone_and_each_gradient_alone(device):
    x, y = (covariance(2, 3, dtype=SINGLE, device=device) for _ in range(2))
    whole = run(x, y)
    for needs in ((False, False), (True, False), (False, True)):
        value, residual, redone, *grads = run(x, y, needs=needs)
        assert torch.equal(value, whole[0])
        assert (residual < 1e-6).all()
        assert not redone.any()
        for need, grad, reference in zip(needs, grads, whole[3:], strict=True):
            if need:
                assert torch.equal(grad, reference)
            else:
                assert grad.shape == (2, 3, 0)


def test_equal_covariances(device):
    """The fidelity of S with itself is tr S, and the gradient I / 2."""
    x = covariance(2, 5, condition=100.0, dtype=SINGLE, device=device)
    value, _, _, *grads = run(x, x)
    torch.testing.assert_close(value, x.double().diagonal(0, -2, -1).sum(-1), rtol=1e-6, atol=0)
    for grad in grads:
        half = torch.eye(5, device=device).expand(2, 5, 5) / 2
        torch.testing.assert_close(grad, half, rtol=0, atol=100 * EPS[SINGLE])


def test_scales_in_one_batch(device):
    x, y = (covariance(4, 3, dtype=SINGLE, device=device) for _ in range(2))
    scales = torch.tensor([1, 1e-12, 1e12, 1], device=device)[:, None, None]
    assert_matches(x * scales, y * scales.flip(0).roll(1, 0))


def of_ranks(*ranks, device):
    x = [covariance(3, rank=rank) for rank in ranks]
    return torch.stack(x).to(device, SINGLE)


@pytest.mark.parametrize(
    ("of_x", "of_y", "limit"),
    [
        ((3, 2, 0), (3, 3, 3), 128),
        ((3, 3), (1, 0), 128),
        ((2,), (2,), 128),
        ((3, 2, 0), (3, 3, 3), 2),
    ],
    ids=str,
)
def test_singular(of_x, of_y, limit, monkeypatch, device):
    monkeypatch.setattr(bures, "LARGEST", limit)
    x, y = of_ranks(*of_x, device=device), of_ranks(*of_y, device=device)
    # Of two ranges that only touch the gradient would be one of many.
    y = x if of_x == of_y else y
    assert_matches(x, y, redone=[min(pair) < 3 for pair in zip(of_x, of_y, strict=True)])


@pytest.mark.parametrize("limit", [128, 2])
def test_rows(limit, monkeypatch, device):
    """Of fewer points than dimensions, of more, against rows, a covariance and the identity."""
    monkeypatch.setattr(bures, "LARGEST", limit)
    few, many = torch.randn(1, 3, 5, device=device), torch.randn(1, 5, 3, device=device)
    small, large = (covariance(1, d, dtype=SINGLE, device=device) for d in (3, 5))
    assert_matches(few, large, True, False)
    assert_matches(small, many, False, True)
    assert_matches(few, torch.randn(1, 4, 5, device=device), True, True)
    assert_matches(few, None, True, False)


def test_rows_that_are_centred_against_a_singular_covariance(device):
    x = torch.randn(2, 3, 4, device=device)
    x = x - x.mean(-2, keepdim=True)
    y = covariance(2, 4, rank=1, dtype=SINGLE, device=device)
    value, _, _, gx, _ = run(x, y, True)
    exact, true, _ = expected(x, y, True)
    assert ((value - exact).abs() <= 1e-6 * exact).all()
    # The direction of a common shift has no part in M but for rounding.
    gx = gx - gx.mean(-2, keepdim=True)
    assert (size(gx - true) <= 1e-5 * size(true)).all()


@pytest.mark.parametrize("side", [0, 1])
def test_a_nan_stays_in_its_problem(side, device):
    given = [covariance(5, 3, dtype=SINGLE, device=device) for _ in range(2)]
    whole = run(*given)
    given[side] = given[side].clone()
    given[side][1, 2, 0] = torch.nan
    for got, reference in zip(run(*given), whole, strict=True):
        if got.dtype == torch.bool:
            continue
        assert got[1].isnan().all()
        others = torch.tensor([0, 2, 3, 4], device=device)
        assert torch.equal(got[others], reference[others])


def test_a_nan_in_rows(device):
    x, y = torch.randn(2, 2, 3, device=device), torch.randn(2, 3, 3, device=device)
    x[1, 0, 0] = torch.nan
    value, _, _, gx, gy = run(x, y, True, True)
    for t in (value, gx, gy):
        assert t[1].isnan().all()
        assert t[0].isfinite().all()


def test_expanded(device):
    """Pairs of three and two: the same bits as for copies of them, and each factored once."""
    x = covariance(3, 1, 3, dtype=SINGLE, device=device).expand(3, 2, 3, 3)
    y = covariance(2, 3, dtype=SINGLE, device=device).expand(3, 2, 3, 3)
    for got, reference in zip(run(x, y), run(x.clone(), y.clone()), strict=True):
        assert torch.equal(got, reference)
    assert bures._side(x, False, 0.0, False).f.shape == (6, 3, 3)


def test_strides_and_types(device):
    """Of a covariance that is not symmetric the symmetric part counts; halves give float32."""
    x, y = (covariance(2, 3, dtype=SINGLE, device=device) for _ in range(2))
    skew = torch.randn(2, 3, 3, device=device)
    wide = torch.zeros(2, 3, 6, device=device)
    wide[..., ::2] = x + skew - skew.mT
    value, _, _, grad, _ = run(wide[..., ::2].transpose(0, 0), y)
    exact, _, _, reference, _ = run(x, y)
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, reference, rtol=1e-5, atol=1e-6)
    value, _, _, grad, _ = run(x.bfloat16(), y.bfloat16())
    assert grad.dtype == SINGLE
    exact, true, _ = expected(x.bfloat16(), y.bfloat16())
    assert (size(grad - true) <= 1e-5 * size(true)).all()


def test_a_large_residual_is_redone(monkeypatch, device):
    """One program for two problems, in float64 then."""
    monkeypatch.setattr(bures, "TOLERANCE", {SINGLE: 0.0})
    for module in (polar_double, covariance_gradient):
        monkeypatch.setattr(module, "PROGRAMS", 1)
    x, y = (covariance(2, 3, dtype=SINGLE, device=device) for _ in range(2))
    value, residual, redone, *grads = run(x, y)
    exact, *true = expected(x, y)
    assert redone.all()
    assert (residual <= 1e-13).all()
    assert ((value - exact).abs() <= 1e-14 * exact).all()
    for got, reference in zip(grads, true, strict=True):
        assert (size(got - reference) <= 3 * EPS[SINGLE] * size(reference)).all()


def test_the_same_bits_twice(device):
    x, y = (covariance(3, 5, dtype=SINGLE, device=device) for _ in range(2))
    for one, other in zip(run(x, y), run(x, y), strict=True):
        assert torch.equal(one, other)


def test_empty_batch(device):
    x = torch.empty(0, 3, 3, device=device)
    for y in (None, x):
        value, residual, redone, gx, gy = run(x, y)
        assert value.shape == residual.shape == redone.shape == (0,)
        assert gx.shape == (0, 3, 3)
        assert gy.shape == ((0, 0) if y is None else (0, 3, 3))


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_every_row_of_steps_converges(dtype):
    """From the least singular value of a row on all come to 1, and later steps do no harm."""
    table = polar.steps(torch.device("cpu"), dtype)
    for octave, row in enumerate(table):
        count = int(row[0, 0])
        x = torch.logspace(-octave, 0, 200, base=2, dtype=DOUBLE)
        for a, b, c in row[1:]:
            x = a * x + b * x**3 + c * x**5
        assert (x - 1).abs().max() <= 2 * polar.TOLERANCE[dtype]
        assert count <= len(row) - 1
