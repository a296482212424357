"""Sums of kernels of several bandwidths, against one bandwidth and against peers."""

import torch

import otkernels

from ..case import Goal, Provider, Shape
from . import mmd
from .kernel_reference import gaussian, imq

SHAPES = {
    "cpu": (mmd.one(4096, 64, "goal: one batch"), mmd.WAE_BATCHES[1], mmd.MANY),
    "cuda": (
        mmd.one(4096, 64, "goal: one batch"),
        mmd.one(16384, 64, "one large batch"),
        mmd.MANY,
    ),
    "smoke": mmd.SMOKE,
}
WAE_SHAPES = {
    "cpu": (*mmd.WAE_BATCHES, Shape(1, 4096, 64, None, "a large batch")),
    "cuda": (*mmd.WAE_BATCHES, Shape(1, 4096, 64, None, "a large batch")),
    "smoke": mmd.SMOKE,
}


def five(x):
    """Bandwidths in ratio 2 around the one of the family mmd."""
    return tuple(mmd.scale(x) * 2.0**k for k in range(-2, 3))


def ladder(x):
    """The bandwidths of the Wasserstein auto-encoder."""
    return otkernels.wae_bandwidths(x.shape[-1])


# --- Gaussian kernels ---------------------------------------------------------------------------


def _gaussians(x, y, impl=None):
    return otkernels.mmd(x, y, bandwidth=five(x), impl=impl)


def _loop(x, y):
    return sum(otkernels.mmd(x, y, bandwidth=s) for s in five(x))


def _torch_gaussians(x, y):
    def mean(p, q):
        r2 = torch.cdist(p, q).square()
        return sum(torch.exp(r2 / (-2 * s**2)).mean((-2, -1)) for s in five(x))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


# --- inverse multiquadrics ----------------------------------------------------------------------


def _imq(x, y, bandwidth, impl=None):
    return otkernels.mmd(x, y, kernel="imq", bandwidth=bandwidth, unbiased=True, impl=impl)


def _ladder(x, y, impl=None):
    return _imq(x, y, ladder(x), impl)


def _single(x, y):
    return _imq(x, y, mmd.scale(x))


def _torch_ladder(x, y):
    """The penalty as published: one matrix of distances, a loop over scales, no diagonals."""

    def total(p, q, own=0):
        r2 = torch.cdist(p, q).square()
        return sum((s**2 / (s**2 + r2)).sum((-2, -1)) - own for s in ladder(x))

    n, m = x.shape[-2], y.shape[-2]
    within = total(x, x, n) / (n * (n - 1)) + total(y, y, m) / (m * (m - 1))
    return within - 2 * total(x, y) / (n * m)


# --- families -----------------------------------------------------------------------------------


def _single_provider(function, expect):
    what = "otkernels with one bandwidth only"
    return Provider("one", what, lambda: function, True, expect=expect, yardstick=True)


def _cost(shape, device, clock, target, why=""):
    return Goal(device, shape.name, clock, "cost", target, "one", why)


EXPONENTIALS = "five exponentials a pair; only the products are shared"

BANDWIDTHS = mmd.family(
    op="mmd-bandwidths",
    shapes=SHAPES,
    providers=(
        Provider("otkernels", "mmd with five bandwidths", lambda: _gaussians, ours=True),
        mmd.definition(_gaussians),
        _single_provider(mmd.ours, mmd.FAMILY.expect),
        Provider("loop", "five calls of otkernels", lambda: _loop, ours=True),
        mmd.dense("torch", "torch.cdist, five times exp", lambda: _torch_gaussians),
    ),
    expect=mmd.reference(gaussian, five),
    goals=(
        _cost(SHAPES["cpu"][0], "cpu", "wall", 2.3, EXPONENTIALS),
        _cost(SHAPES["cuda"][0], "cuda", "graph", 1.3),
    ),
    exponentials=mmd.exponentials,
    note="Gaussian kernels of five bandwidths, summed. `one` has one bandwidth: a yardstick.",
)
WAE = mmd.family(
    op="mmd-wae",
    shapes=WAE_SHAPES,
    providers=(
        Provider("otkernels", "mmd with wae_bandwidths, unbiased", lambda: _ladder, ours=True),
        mmd.definition(_ladder),
        _single_provider(_single, mmd.reference(imq, mmd.scales, unbiased=True)),
        mmd.dense("torch", "torch.cdist, a loop over scales", lambda: _torch_ladder),
    ),
    expect=mmd.reference(imq, ladder, unbiased=True),
    note="The penalty of the Wasserstein auto-encoder: imq kernels of seven bandwidths, summed, "
    "U-statistic. `one` has one bandwidth: a yardstick.",
)
