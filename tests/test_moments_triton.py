"""Moments in Triton, interpreted where there is no GPU: tiles, shares and layouts."""

import pytest
import torch
from support import assert_close64

from otkernels._ops import accumulation_dtype
from otkernels.kernels import moments as kernels
from otkernels.moments import _OPS, _definition


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of 16 x 16 features and 16 points, added up two blocks at a time."""
    monkeypatch.setattr(kernels, "config", lambda *_: (16, 16, 4))
    monkeypatch.setattr(kernels, "GROUP", 32)


@pytest.fixture(params=[1, 8], ids="programs={}".format)
def programs(request, monkeypatch):
    """One share of the points, several, as many as there are blocks."""
    monkeypatch.setattr(kernels, "PROGRAMS", request.param)
    monkeypatch.setattr(kernels, "BLOCKS", 1)


def masses(*shape, empty=()):
    a = torch.rand(shape, dtype=torch.float64) + 0.1
    a[..., empty] = 0
    return a / a.sum(-1, keepdim=True)


def check(x, a, correction=0, double=False):
    """Against the definition in float64."""
    mean, cov = _OPS["triton"](x, None if a is None else a.to(x.device), correction, double)
    assert mean.dtype == cov.dtype == (torch.float64 if double else accumulation_dtype(x.dtype))
    for out, reference in zip(
        (mean, cov), _definition(x.cpu().double(), a, correction, True), strict=True
    ):
        assert_close64(out, reference, terms=x.shape[-2])
    assert torch.equal(cov, cov.mT)


@pytest.mark.parametrize("shape", [(1, 1), (50, 3), (2, 20, 17)], ids=str)
def test_tiles_and_shares(shape, programs, device):
    x = 3 + torch.randn(shape, device=device)
    check(x, None, correction=int(shape[-2] > 1))
    check(x, masses(*shape[:-1], empty=slice(2, -1, 5)), correction=int(shape[-2] > 2))


@pytest.mark.parametrize("empty", [slice(0, 40), slice(40, None), slice(8, 60)], ids=str)
def test_blocks_and_shares_without_mass(empty, programs, device):
    """Their points may lie anywhere: what is centred on is the mean of points of mass."""
    x = 1e4 + torch.randn(70, 2)
    x[empty] = 0
    check(x.to(device), masses(70, empty=empty), correction=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtypes(dtype, programs, device):
    check((1 + torch.randn(40, 5)).to(device, dtype), masses(40))
    check((1 + torch.randn(40, 5)).to(device, dtype), None)


def test_sums_in_float64(programs, device):
    x = 100 + torch.randn(40, 5, device=device)
    check(x, None, double=True)
    check(x, masses(40), double=True)


def test_any_layout(device):
    x = torch.randn(2, 20, 3, device=device)
    whole = _OPS["triton"](x, None, 0, False)
    wide = x.new_full((3, 22, 4), torch.nan)
    wide[:, 1:21, 1:3] = x.permute(2, 1, 0)
    for given in (x.mT.contiguous().mT, wide[:, 1:21, 1:3].permute(2, 1, 0)):
        for out, expected in zip(_OPS["triton"](given, None, 0, False), whole, strict=True):
            assert torch.equal(out, expected)
    for out, expected in zip(
        _OPS["triton"](x[:1].expand(2, 20, 3), None, 0, False), whole, strict=True
    ):
        assert torch.equal(out[1], expected[0])


def test_a_nan_and_too_few_points_stay_in_their_problem(programs, device):
    x = torch.randn(3, 40, 2, device=device)
    a = masses(3, 40).to(device)
    whole = _OPS["triton"](x, a, 1, False)
    x[0, 39, 0] = torch.nan
    a[1] = torch.nn.functional.one_hot(torch.tensor(21), 40)
    mean, cov = _OPS["triton"](x, a, 1, False)
    assert cov[0, 0].isnan().all()
    assert mean[0, 0].isnan()
    assert cov[1].isnan().all()
    torch.testing.assert_close(mean[1], x[1, 21])
    assert torch.equal(mean[2], whole[0][2])
    assert torch.equal(cov[2], whole[1][2])


def test_the_same_bits_twice(programs, device):
    x = torch.randn(40, 17, device=device)
    for one, other in zip(*(_OPS["triton"](x, None, 0, False) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_true_tiles(monkeypatch, device):
    monkeypatch.undo()
    check(5 + torch.randn(70, 70, device=device), masses(70))
    check(5 + torch.randn(100, 2, device=device), None)


def test_configurations():
    """Tiles that products of tensor cores take, and shares of no fewer than all the points."""
    for d in (1, 16, 17, 64, 4096):
        for dtype in (torch.float32, torch.float64):
            side, block, warps = kernels.config(d, dtype)
            assert min(side, block) >= 16
            assert kernels.GROUP % block == 0
            assert warps in (1, 2, 4, 8)
    assert kernels.shares_of(10**6, 10**6) == 1
    assert 1 < kernels.shares_of(1, 10**5) <= kernels.PROGRAMS
    assert kernels.shares_of(0, 0) == 1
