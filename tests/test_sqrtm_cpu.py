"""Raw ops ``square_root`` and ``lyapunov`` on the CPU against the definition in float64."""

import math

import pytest
import torch
from support import assert_close64
from test_bures_cpu import EPS32, EPS64, covariance

from otkernels import _roots
from otkernels.cpu import sqrtm
from otkernels.cpu.sqrtm import lyapunov, square_root

DEFINITIONS = {False: _roots.square_root, True: _roots.inverse_square_root}


def residual(a, root, inverse):
    """How far a root's square is from a, or what z a z leaves of the identity: (P,)."""
    a, root = a.double(), root.double()
    miss = root @ a @ root - torch.eye(a.shape[-1]) if inverse else root @ root - a
    size = torch.full((), a.shape[-1] ** 0.5) if inverse else torch.linalg.matrix_norm(a)
    return torch.linalg.matrix_norm(miss) / torch.where(size == 0, 1, size)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("d", [1, 2, 9, 40, 100])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_roots(d, condition, inverse):
    a = covariance(d, condition, (3,))
    root = square_root(a, inverse, EPS32)
    assert_close64(root, DEFINITIONS[inverse](a.double(), EPS32), terms=1)
    assert torch.equal(root, root.mT)
    assert (residual(a, root, inverse) <= 4 * EPS32 * (condition if inverse else 1)).all()


@pytest.mark.parametrize("inverse", [False, True])
def test_roots_of_float64(inverse):
    a = covariance(12, 1e3, (3,)).double()
    root = square_root(a, inverse, EPS64)
    expected = DEFINITIONS[inverse](a, EPS64)
    assert (root - expected).abs().max() <= 1e3 * 12 * EPS64 * expected.abs().max()
    assert (residual(a, root, inverse) <= 1e3 * 12 * EPS64).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_give_float32(dtype):
    a = covariance(5, 10, (2,)).to(dtype)
    root = square_root(a, False, torch.finfo(dtype).eps)
    assert_close64(root, _roots.square_root(_roots.symmetric(a.double()), 0.0), terms=1)


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_singular_matrices(rank):
    a = covariance(8, 10, (3,))
    a[1] = covariance(8, 10, rank=rank)
    root = square_root(a, False, EPS32)
    assert_close64(root, _roots.square_root(a.double(), EPS32), terms=1)
    assert (residual(a, root, False) <= 4 * EPS32).all()
    inverse = square_root(a, True, EPS32)
    assert inverse[1].isnan().all()
    assert inverse[[0, 2]].isfinite().all()


def test_zero_has_no_inverse():
    inverse = square_root(torch.zeros(1, 1, 1), True, EPS32)
    assert inverse.isnan()


def test_matrices_near_the_cutoff_have_inverses():
    values = torch.tensor([1.0, 1.0, 4 * EPS32])
    inverse = square_root(torch.diag(values)[None], True, EPS32)
    assert_close64(inverse[0], torch.diag(values.double().rsqrt()), terms=1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_nan_stays_in_its_problem(bad, inverse):
    a = covariance(5, 10, (3,))
    expected = square_root(a, inverse, EPS32)
    a[1, 2, 2] = bad
    root = square_root(a, inverse, EPS32)
    assert root[1].isnan().all()
    assert torch.equal(root[[0, 2]], expected[[0, 2]])


def test_scales_of_their_own():
    a = covariance(5, 1e3, (3,)) * torch.tensor([1e-6, 1.0, 1e6])[:, None, None]
    root = square_root(a, False, EPS32)
    for found, want in zip(root, _roots.square_root(a.double(), EPS32), strict=True):
        assert_close64(found, want, terms=1)


def test_groups_do_not_matter(monkeypatch):
    a = covariance(4, 10, (2, 7))
    whole = square_root(a, False, EPS32)
    monkeypatch.setattr(sqrtm, "GROUP", 48)
    parts = square_root(a, False, EPS32)
    assert whole.shape == a.shape
    torch.testing.assert_close(parts, whole, rtol=EPS32, atol=EPS32)


@pytest.mark.parametrize("d", [1, 2, 9, 40])
def test_lyapunov(d):
    h, g = covariance(d, 100, (2,)), torch.randn(2, d, d)
    x = lyapunov(h, g)
    assert_close64(x, _roots.sylvester(h.double(), h.double(), g.double()), terms=1)


def test_lyapunov_of_singular_matrices():
    h, g = covariance(6, 10, (2,), rank=3).double(), torch.randn(2, 6, 6, dtype=torch.float64)
    h[1] = 0
    values, vectors = torch.linalg.eigh(h[0])
    null = vectors[:, :3]
    x = lyapunov(h, g)
    assert torch.equal(x[1], torch.zeros_like(x[1]))
    miss = h[0] @ x[0] + x[0] @ h[0] - g[0]
    # What both sides of the equation have outside the null block.
    inside = null @ null.mT @ miss @ null @ null.mT
    assert (miss - inside).abs().max() <= 1e-5  # eigenvalues of float32 rounding count as they are


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_lyapunov_keeps_a_nan_in_its_problem(bad, where):
    given = [covariance(4, 10, (3,)), torch.randn(3, 4, 4)]
    expected = lyapunov(*given)
    given[where][1, 0, 2] = bad
    x = lyapunov(*given)
    assert x[1].isnan().all()
    assert torch.equal(x[[0, 2]], expected[[0, 2]])
