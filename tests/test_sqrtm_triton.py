"""Roots of covariances and Lyapunov equations in Triton, interpreted where there is no GPU."""

import pytest
import torch
from support import assert_close64

from otkernels import _roots
from otkernels.kernels import factor as tiles
from otkernels.kernels import factor_large, products, sqrtm

SINGLE, DOUBLE = torch.float32, torch.float64
# Minimax steps at most, and roundings of an entry in one of them, for D = 7.
STEPS, ROUNDINGS = 7, 9 * 7


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(products, "config", lambda *_: (16, 16, 16, 4))
    monkeypatch.setattr(factor_large, "config", lambda d: (32, 4, 4))
    # Nothing here is so singular, and each launch takes the interpreter its time.
    for name in ("OCTAVES", "DEEP"):
        monkeypatch.setattr(sqrtm, name, 7)


@pytest.fixture(params=["one tile", "library"])
def form(request, monkeypatch):
    """Which form of the factor is taken: that of matrices which fit in a tile or the other."""
    monkeypatch.setattr(tiles, "LARGEST", {"one tile": 128, "library": 0}[request.param])


# The factor is float64 whatever the dtype, so each form needs only one.
FORMS = pytest.mark.parametrize(
    ("form", "dtype"), [("one tile", SINGLE), ("library", DOUBLE)], indirect=["form"], ids=str
)
CROSSED = pytest.mark.parametrize(
    ("form", "dtype"), [("one tile", DOUBLE), ("library", SINGLE)], indirect=["form"], ids=str
)


def spd(d, conditions, dtype=DOUBLE):
    """(len(conditions), D, D) with eigenvalues spaced from 1 down, as rounded to dtype."""
    u = torch.linalg.qr(torch.randn(len(conditions), d, d, dtype=DOUBLE)).Q
    values = torch.stack([torch.logspace(0, -c, d, dtype=DOUBLE) for c in conditions])
    s = ((u * values[:, None, :]) @ u.mT).to(dtype)
    return (s + s.mT) / 2


def eps(dtype):
    return torch.finfo(dtype).eps


def bounds(conditions):
    """Roundings that sum up in a result, each as often as the condition of the root says."""
    return [STEPS * ROUNDINGS * 10.0**c for c in conditions]


@pytest.mark.parametrize(
    ("form", "dtype", "conditions"),
    [
        ("one tile", SINGLE, [0, 4]),
        ("library", DOUBLE, [1, 6]),
        ("library", torch.float16, [1]),
    ],
    indirect=["form"],
    ids=str,
)
@pytest.mark.parametrize("inverse", [False, True])
def test_roots(inverse, dtype, conditions, form, device):
    s = spd(7, conditions, dtype)
    root = sqrtm.square_root(s.to(device), inverse, eps(dtype))
    definition = _roots.inverse_square_root if inverse else _roots.square_root
    assert root.dtype == (DOUBLE if dtype == DOUBLE else SINGLE)
    assert torch.equal(root, root.mT)
    expected = definition(s.double(), eps(dtype))
    # The inverse feels the condition of the matrix, the root that of the root.
    assert_each(root, expected, bounds([2 * c if inverse else c for c in conditions]))


def assert_each(out, expected, terms, dtype=None):
    for got, reference, n in zip(out, expected, terms, strict=True):
        assert_close64(got, reference, terms=n, dtype=dtype)


@CROSSED
def test_roots_of_singular_matrices(dtype, form, device):
    """Integers, so that what is left after the last pivot is nothing; rank 3, 1 and 0."""
    x = torch.randint(-4, 5, (3, 3, 6)).to(dtype)
    x[1, 1:] = 0
    x[2] = 0
    s = x.mT @ x
    root = sqrtm.square_root(s.to(device), False, eps(dtype))
    assert not root[2].any()
    for k in (0, 1):
        values = torch.linalg.svdvals(x[k].double())
        least = values[values > 1e-9 * values[0]][-1] / values[0]
        expected = _roots.square_root(s[k].double(), eps(dtype))
        terms = (2 * STEPS * ROUNDINGS / least**2).item()
        assert_close64(root[k], expected, terms=terms)
    inverse = sqrtm.square_root(s.to(device), True, eps(dtype))
    assert inverse.isnan().all()


@FORMS
def test_lyapunov(dtype, form, device):
    h = spd(7, [0, 2], dtype)
    g = torch.randn(2, 7, 7, dtype=dtype)
    x = sqrtm.lyapunov(h.to(device), g.to(device))
    assert x.dtype == dtype
    assert_each(x, _roots.sylvester(h.double(), h.double(), g.double()), bounds([0, 4]))


def test_several_tiles(device):
    h = spd(17, [1], SINGLE)
    g = torch.randn(1, 17, 17)
    x = sqrtm.lyapunov(h.to(device), g.to(device))
    assert_each(x, _roots.sylvester(h.double(), h.double(), g.double()), bounds([2]))


@CROSSED
def test_lyapunov_of_singular_matrices(dtype, form, device):
    """Null to null is 0; null to range and range to null are divided by one eigenvalue."""
    x = torch.randint(-4, 5, (2, 5)).to(dtype)
    h = torch.stack([x.mT @ x, x.mT @ x + torch.eye(5), torch.zeros(5, 5)]).to(dtype)
    g = torch.randn(3, 5, 5, dtype=dtype)
    out = sqrtm.lyapunov(h.to(device), g.to(device))
    values = torch.linalg.svdvals(x.double()) ** 2
    terms = 4 * STEPS * ROUNDINGS * (values[0] / values[-1]).item() ** 2
    expected = _roots.sylvester(h.double(), h.double(), g.double())
    assert_each(out, expected, [terms] * 3)
    assert not out[2].any()


def test_other_layouts_and_batches(device):
    s = spd(3, [1, 1], SINGLE).to(device)
    whole = s[:, None]
    root = sqrtm.square_root(whole, False, eps(SINGLE))
    alone = sqrtm.square_root(s[1], False, eps(SINGLE))
    assert root.shape == whole.shape
    assert torch.equal(root[1, 0], alone)
    g = torch.randn(3, 3, 2, device=device)[..., 0].mT
    x = sqrtm.lyapunov(whole, g.expand(2, 1, 3, 3))
    assert torch.equal(x[1, 0], sqrtm.lyapunov(s[1], g.contiguous()))
    none = sqrtm.square_root(s[:0], False, eps(SINGLE))
    assert none.shape == (0, 3, 3)


# NumPy, of which the interpreter is made, warns of NaN; a GPU does not.
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_what_is_not_finite_stays_in_its_problem(form, device):
    s = spd(3, [1, 1, 1, 1], SINGLE).to(device)
    s[1, 1, 2] = s[1, 2, 1] = torch.nan
    s[2, 0, 1] = s[2, 1, 0] = torch.inf
    root = sqrtm.square_root(s, False, eps(SINGLE))
    assert root[1:3].isnan().all()
    assert root[::3].isfinite().all()
    g = torch.randn(4, 3, 3, device=device)
    g[0, 0, 1] = torch.inf
    x = sqrtm.lyapunov(s, g)
    assert x[:3].isnan().all()
    assert x[3].isfinite().all()


def test_every_unit_of_a_batch(device):
    scale = torch.tensor([1e-12, 1.0, 1e12])[:, None, None]
    s = spd(3, [2, 2, 2], SINGLE) * scale
    root = sqrtm.square_root(s.to(device), False, eps(SINGLE))
    expected = _roots.square_root(s.double(), eps(SINGLE))
    assert_each(root, expected, bounds([2, 2, 2]))
    g = scale * torch.randn(3, 3, 3)
    x = sqrtm.lyapunov(root, g.to(device))
    h = root.double().cpu()
    assert_each(x, _roots.sylvester(h, h, g.double()), bounds([2, 2, 2]))


def test_the_deepest_steps(monkeypatch, device):
    """As many steps as are launched where nothing is known of the condition."""
    monkeypatch.undo()
    s = spd(2, [6], SINGLE)
    root = sqrtm.square_root(s.to(device), False, eps(SINGLE))
    assert_each(root, _roots.square_root(s.double(), eps(SINGLE)), bounds([6]))
