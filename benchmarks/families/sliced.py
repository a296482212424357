"""Sliced Wasserstein against its peers, p = 2, all on the same given directions."""

import contextlib
import io
import math
import os

import torch

import otkernels

from ..case import Family, Goal, Provider, Shape
from .sliced_reference import expect

# --- shapes -------------------------------------------------------------------------------------

_MODELS = (
    Shape(1, 100, 2, 50, "models/: default batch, latent plane"),
    Shape(1, 100, 8, 50, "models/: default batch, eight latent dimensions"),
    Shape(1, 500, 8, 50, "models/: the batch of the published SWAE code"),
)
_GOALS = tuple(Shape(1, n, 64, 128, f"goal: one batch of {n} codes") for n in (1024, 4096, 16384))
_ODD = Shape(1, 3000, 64, 128, "N not a power of two")

SHAPES = {
    "cpu": (
        *_GOALS,
        *_MODELS,
        _ODD,
        Shape(16, 512, 32, 64, "a batch of problems; POT loops over it"),
        Shape(1, 65536, 64, 32, "rows larger than a second-level cache"),
        Shape(1, 262144, 16, 16, "a point cloud; sorting dominates"),
    ),
    "cuda": (
        _GOALS[0],
        Shape(1, 1024, 64, 1024, "goal S1: many short rows"),
        Shape(64, 512, 32, 256, "goal S2: a batch of problems; POT loops over it"),
        Shape(1, 4096, 64, 1024, "goal S3: sort-bound"),
        Shape(1, 16384, 64, 1024, "goal S4: rows sorted in two runs"),
        Shape(1, 65536, 64, 128, "goal S5: rows too long for one program"),
        Shape(1, 1_000_000, 64, 128, "goal S5: a point cloud, library sort"),
        *_GOALS[1:],
        *_MODELS,
        _ODD,
    ),
    "growth": tuple(
        Shape(1, n, 16, 64, "growth with N") for n in (*(2**k for k in range(8, 20, 2)), 1_000_000)
    ),
    "smoke": (
        Shape(1, 64, 8, 16, "smoke"),
        Shape(3, 33, 5, 7, "smoke, a batch of odd sizes"),
    ),
}


def inputs(shape):
    """Shifted and stretched codes x, standard normal y, directions: the start of a training.

    Were x and y alike, all gaps would be differences of nearly equal numbers, and the relative
    error of any float32 code would mostly be that of the question.
    """
    generator = torch.Generator().manual_seed(shape.N)
    batch = () if shape.B == 1 else (shape.B,)
    sizes = shape.N, shape.M or shape.N
    x, y = (torch.randn(*batch, n, shape.D, generator=generator) for n in sizes)
    x = x * torch.linspace(0.5, 1.5, shape.D) + 0.5
    projections = otkernels.sample_projections(shape.D, shape.L, generator=generator)
    return x, y, projections


# --- providers ----------------------------------------------------------------------------------


def _ours(x, y, projections):
    return otkernels.sliced_wasserstein(x, y, projections=projections)


def _definition(x, y, projections):
    return otkernels.sliced_wasserstein(x, y, projections=projections, impl="torch")


def careful(x, y, projections):
    """What someone who knows torch writes: rows contiguous, two sorts, subtract, square, mean."""
    u, v = ((projections.mT @ t.mT).sort(dim=-1).values for t in (x, y))
    return (u - v).square().mean(dim=(-2, -1))


def _compiled():
    # A graph of an earlier shape would count towards the limit of recompilations.
    torch.compiler.reset()
    return torch.compile(careful, fullgraph=True, dynamic=False)


def quiet_pot():
    """The module ot; ImportError if it is not installed."""
    # POT asks JAX before torch where that is installed, and JAX then takes most of a GPU's memory.
    for other in ("JAX", "CUPY", "TENSORFLOW"):
        os.environ[f"POT_BACKEND_DISABLE_{other}"] = "1"
    # KeOps, which POT imports where it is installed, prints about CUDA on import.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import ot
    return ot


def pot():
    """POT's loss of one problem, to the power as ours; ImportError if it is not installed."""
    ot = quiet_pot()

    def one(x, y, projections, a=None, b=None):
        return ot.sliced_wasserstein_distance(x, y, a, b, projections=projections) ** 2

    return one


def each_problem(one):
    """A function of batches that calls a function of one problem in a loop."""

    def function(x, y, projections, *rest):
        if x.dim() == 2:
            return one(x, y, projections, *rest)
        problems = zip(x, y, *rest, strict=True)
        return torch.stack([one(x, y, projections, *rest) for x, y, *rest in problems])

    return function


def pot_error(shape):
    """Of value and gradient: POT cumulates the weights 1 / N in float32, each right within eps."""
    return 0.0, max(shape.N, shape.M or 0) * torch.finfo(torch.float32).eps


PROVIDERS = (
    Provider("otkernels", "sliced_wasserstein as users call it", lambda: _ours, ours=True),
    Provider("definition", "the same with impl='torch'", lambda: _definition, ours=True),
    Provider("torch", "two torch.sort along contiguous rows, subtract, mean", lambda: careful),
    Provider("torch.compile", "the same, compiled for the shape", _compiled, per_shape=True),
    Provider(
        "pot",
        "ot.sliced_wasserstein_distance, squared; loops over a batch",
        lambda: each_problem(pot()),
        own_error=pot_error,
    ),
)

# --- costs and goals ----------------------------------------------------------------------------


def moved_bytes(shape, n_grads, itemsize):
    """Both clouds and the directions read once, each gradient written once."""
    sizes = shape.N, shape.M or shape.N
    points = shape.B * (sum(sizes) + sum(sizes[:n_grads]))
    return itemsize * shape.D * (points + shape.L)


def flops(shape, n_grads):
    """Projection of both clouds and one product of the same size for each gradient."""
    sizes = shape.N, shape.M or shape.N
    return 2 * shape.B * shape.D * shape.L * (sum(sizes) + sum(sizes[:n_grads]))


def to_sort(n):
    """Comparisons that tell the n! orders of n numbers apart: no sort by comparison needs fewer."""
    return math.lgamma(n + 1) / math.log(2)


def comparisons(shape, n_grads):
    """Both rows of each direction sorted, without a look at other directions."""
    return shape.B * shape.L * (to_sort(shape.N) + to_sort(shape.M or shape.N))


def points_times_directions(shape):
    """What figures draw time against."""
    return shape.B * shape.N * shape.L


SIZE_LABEL = "points of a cloud times directions, B N L"


def _speedups(device, clock, shape, pot, torch_, why=""):
    return (
        Goal(device, shape, clock, "speedup", pot, "pot", why),
        Goal(device, shape, clock, "speedup", torch_, "torch", why),
    )


def _times(shape, graph_ms, wall_ms=None):
    goals = (Goal("cuda", shape, "graph", "ms", graph_ms),)
    return goals if wall_ms is None else (*goals, Goal("cuda", shape, "wall", "ms", wall_ms))


FIXED = "fixed cost of a call, then the sorts"
SORTS = "the sorts, on a processor without AVX-512"

GOALS = (
    *_speedups("cpu", "wall", "B1-N1024-D64-L128", 18, 6, FIXED),
    *_speedups("cpu", "wall", "B1-N4096-D64-L128", 38, 6.5, SORTS),
    *_speedups("cpu", "wall", "B1-N16384-D64-L128", 60, 7.5, SORTS),
    *_times("B1-N1024-D64-L128", 0.060, 0.130),
    *_speedups("cuda", "wall", "B1-N1024-D64-L128", 5, 1.6),
    *_times("B1-N1024-D64-L1024", 0.060, 0.130),
    *_speedups("cuda", "wall", "B1-N1024-D64-L1024", 5, 1.6),
    *_times("B64-N512-D32-L256", 0.40),
    *_speedups("cuda", "wall", "B64-N512-D32-L256", 100, 4),
    *_times("B1-N4096-D64-L1024", 0.33),
    *_speedups("cuda", "wall", "B1-N4096-D64-L1024", 5, 1.4),
    *_times("B1-N16384-D64-L1024", 1.9),
    *_speedups("cuda", "wall", "B1-N16384-D64-L1024", 4, 1.4),
    *_times("B1-N65536-D64-L128", 1.3),
    *_speedups("cuda", "wall", "B1-N65536-D64-L128", 4, 1.3),
    Goal("cuda", "B1-N65536-D64-L128", "wall", "memory", 0.25, "pot"),
    *_times("B1-N1000000-D64-L128", 20),
    *_speedups("cuda", "wall", "B1-N1000000-D64-L128", 3, 1.3),
    Goal("cuda", "B1-N1000000-D64-L128", "wall", "memory", 0.25, "pot"),
)

FAMILY = Family(
    op="sliced_wasserstein",
    p=2,
    shapes=SHAPES,
    providers=PROVIDERS,
    inputs=inputs,
    expect=expect,
    bytes=moved_bytes,
    flops=flops,
    size=points_times_directions,
    size_label=SIZE_LABEL,
    goals=GOALS,
    comparisons=comparisons,
)
