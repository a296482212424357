"""Sliced Wasserstein between clouds of unequal sizes and between weighted ones, p = 2."""

import torch

import otkernels

from ..case import Family, Goal, Provider, Shape
from . import sliced
from .sliced_reference import expect

_N = (1024, 4096, 16384)

SIZES_SHAPES = {
    "cpu": (
        *(Shape(1, n, 64, 128, "goal: three quarters as many points y", 3 * n // 4) for n in _N),
        Shape(1, 500, 8, 50, "a small batch against few prior samples", 128),
        Shape(16, 512, 32, 64, "a batch of problems; POT loops over it", 384),
    ),
    "cuda": (
        Shape(1, 1024, 64, 128, "one batch of codes", 768),
        Shape(1, 16384, 64, 1024, "rows sorted in two runs", 12288),
    ),
    "smoke": (
        Shape(1, 64, 8, 16, "smoke", 48),
        Shape(3, 33, 5, 7, "smoke, a batch of odd sizes", 20),
    ),
}
WEIGHTS_SHAPES = {
    "cpu": (
        *(Shape(1, n, 64, 128, f"goal: weighted clouds of {n}") for n in _N),
        Shape(16, 512, 32, 64, "a batch of problems of unequal sizes; POT loops over it", 384),
    ),
    "cuda": (
        Shape(1, 1024, 64, 128, "one batch of codes"),
        Shape(1, 16384, 64, 1024, "rows sorted in two runs"),
    ),
    "smoke": SIZES_SHAPES["smoke"],
}


def weighted_inputs(shape):
    """Clouds and directions as without weights, and weights of total one.

    The heaviest point has about ten times the weight of the lightest.
    """
    x, y, projections = sliced.inputs(shape)
    generator = torch.Generator().manual_seed(shape.N + 1)
    a, b = (torch.rand(t.shape[:-1], generator=generator) + 0.1 for t in (x, y))
    return x, y, projections, a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)


def _expect_weighted(x, y, projections, a, b):
    return expect(x, y, projections, a=a, b=b)


# --- providers ----------------------------------------------------------------------------------


def _ours(x, y, projections, a=None, b=None):
    return otkernels.sliced_wasserstein(x, y, projections=projections, a=a, b=b)


def _definition(x, y, projections, a=None, b=None):
    return otkernels.sliced_wasserstein(x, y, projections=projections, a=a, b=b, impl="torch")


PROVIDERS = (
    Provider("otkernels", "sliced_wasserstein as users call it", lambda: _ours, ours=True),
    Provider(
        "definition",
        "the same with impl='torch': sort, merge levels by torch.searchsorted, gather, sum",
        lambda: _definition,
        ours=True,
    ),
    Provider(
        "pot",
        "ot.sliced_wasserstein_distance, squared; loops over a batch",
        lambda: sliced.each_problem(sliced.pot()),
        own_error=sliced.pot_error,
    ),
)

# --- goals and families -------------------------------------------------------------------------


def _speedups(shapes, targets, why=""):
    return tuple(
        Goal("cpu", shape.name, "wall", "speedup", target, "pot", why)
        for shape, target in zip(shapes, targets, strict=False)
    )


CELLS = "N + M cells a row in place of rank against rank; POT has fewer points to sort"


def _weighted_bytes(shape, n_grads, itemsize):
    weights = itemsize * shape.B * (shape.N + (shape.M or shape.N))
    return sliced.moved_bytes(shape, n_grads, itemsize) + weights


def _weighted_comparisons(shape, n_grads):
    """Both rows sorted and their levels merged: N! M! orders, each with (N+M)!/(N! M!) mergers."""
    return shape.B * shape.L * sliced.to_sort(shape.N + (shape.M or shape.N))


SIZES = Family(
    op="sliced_wasserstein-unequal",
    p=2,
    shapes=SIZES_SHAPES,
    providers=PROVIDERS,
    inputs=sliced.inputs,
    expect=expect,
    bytes=sliced.moved_bytes,
    flops=sliced.flops,
    size=sliced.points_times_directions,
    size_label=sliced.SIZE_LABEL,
    goals=_speedups(SIZES_SHAPES["cpu"], (18, 38, 60), CELLS),
    note="Clouds of N and M points, each point of mass 1/N or 1/M.",
    comparisons=sliced.comparisons,
)
WEIGHTS = Family(
    op="sliced_wasserstein-weights",
    p=2,
    shapes=WEIGHTS_SHAPES,
    providers=PROVIDERS,
    inputs=weighted_inputs,
    expect=_expect_weighted,
    bytes=_weighted_bytes,
    flops=sliced.flops,
    size=sliced.points_times_directions,
    size_label=sliced.SIZE_LABEL,
    goals=_speedups(WEIGHTS_SHAPES["cpu"], (4, 4, 4)),
    note="Both clouds with weights; gradients to the points.",
    comparisons=_weighted_comparisons,
)
