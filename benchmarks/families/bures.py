"""Bures-Wasserstein distance of covariances against eigendecompositions."""

import math

import torch

import otkernels

from ..case import Expected, Family, Goal, Provider, Shape
from . import bures_peers
from .bures_reference import amplification, distance, largest, nearby, symmetric, trace
from .cupy_eigh import UNCAPTURABLE, without_gpu

# --- shapes and inputs --------------------------------------------------------------------------


def batch(b, d, reason):
    """The shape of b problems of D x D covariances."""
    return Shape(b, None, d, None, reason)


SMOKE = batch(1, 6, "smoke"), batch(3, 5, "smoke, a batch")
CPU = (
    batch(1024, 16, "goal: many small problems"),
    batch(256, 32, "goal: many problems"),
    batch(64, 64, "goal: a batch of problems"),
    batch(8, 256, "few large problems"),
    batch(1, 1024, "goal: one large problem"),
)
CUDA = (
    batch(1024, 32, "goal B1: many problems, one in a program"),
    batch(8192, 32, "goal B1: very many problems"),
    batch(1024, 64, "goal B2: on chip"),
    batch(64, 128, "goal B3: few problems, the largest that fit on a chip"),
    batch(1024, 128, "goal B3: many of these"),
    batch(64, 512, "goal B4: batched products"),
    batch(1, 2048, "goal B4: one large problem"),
    batch(1024, 16, "many small problems, several in a program"),
)
SHAPES = {"cpu": CPU, "cuda": CUDA, "smoke": SMOKE}


def covariances(shape, count=2):
    """Covariances of 2D normal points: condition numbers of about 34 at large D."""
    generator = torch.Generator().manual_seed(shape.D)
    sizes = *(() if shape.B == 1 else (shape.B,)), shape.D
    points = (torch.randn(*sizes, 2 * shape.D, generator=generator) for _ in range(count))
    return tuple(symmetric(p @ p.mT / (2 * shape.D)) for p in points)


def wishart(like):
    """Random covariances of a shape and device, of one half more points than dimensions."""
    d = like.shape[-1]
    points = like.new_empty(*like.shape[:-1], d + d // 2 + 1).normal_()
    return symmetric(points @ points.mT / points.shape[-1])


def inputs(shape):
    """Two covariances and, as constants, two means."""
    x, y = covariances(shape)
    generator = torch.Generator().manual_seed(shape.D + 1)
    means = (torch.randn(x.shape[:-1], generator=generator) / 2 for _ in range(2))
    return x, y, *means


# --- reference ----------------------------------------------------------------------------------


@torch.no_grad()
def expect(x, y, mean_x, mean_y):
    """Value and gradients to the covariances in float64.

    The longest chain of additions behind both is four times D: a root, two products, a second root.
    The value is a small difference of traces.
    """
    x, y, mean_x, mean_y = (t.double() for t in (x, y, mean_x, mean_y))
    value, *grads = distance(x, y)
    _, *moved = distance(*(symmetric(nearby(t)) for t in (x, y)))
    value = value + (apart := (mean_x - mean_y).square().sum(-1))
    return Expected(
        value,
        tuple(grads),
        tuple(torch.zeros_like(g) for g in grads),
        terms_value=4 * x.shape[-1],
        terms_grad=4 * x.shape[-1],
        condition_value=largest(apart + trace(x) + trace(y)) / largest(value),
        condition_grad=max(map(amplification, grads, moved)),
    )


# --- providers ----------------------------------------------------------------------------------


def _ours(x, y, mean_x, mean_y, impl=None):
    return otkernels.bures_wasserstein(mean_x, x, mean_y, y, impl=impl)


def _definition(*inputs):
    return _ours(*inputs, impl="torch")


# --- where a provider is left out ---------------------------------------------------------------

LARGEST_DEFINITION = 2**27  # B D^3, above which its singular values take seconds or minutes
LONGEST_LOOP = {"cpu": 1024, "cuda": 64}  # problems of a Python loop, milliseconds each


def definition_too_slow(shapes, shape):
    """The rule for a definition of eigenvalues and singular values in float64."""
    if shape.B * shape.D**3 <= LARGEST_DEFINITION:
        return None
    return "eigenvalues and singular values in float64 take too long"


def loop_too_slow(shapes, shape):
    """The rule for a Python loop over problems."""
    if LONGEST_LOOP.get(shapes, math.inf) >= shape.B:
        return None
    return f"a loop over {shape.B} problems, too slow"


PROVIDERS = (
    Provider("otkernels", "bures_wasserstein as users call it", lambda: _ours, ours=True),
    Provider(
        "definition",
        "the same with impl='torch', in float64",
        lambda: _definition,
        ours=True,
        left_out=definition_too_slow,
    ),
    Provider(
        "torch",
        "root of y by batched eigh, products, batched eigvalsh",
        lambda: bures_peers.careful,
        own_error=bures_peers.gap_error,
    ),
    Provider(
        "torch.eigh",
        "root of x and root of the product by batched eigh",
        lambda: bures_peers.as_written,
        own_error=bures_peers.gap_error,
    ),
    Provider(
        "cupy",
        "two batched cuSOLVER calls by CuPy",
        bures_peers.with_cupy,
        left_out=without_gpu,
        uncapturable=UNCAPTURABLE,
    ),
    Provider(
        "pot",
        "ot.gaussian.bures_wasserstein_distance, squared, a loop over a batch",
        lambda: bures_peers.each_problem(bures_peers.pot()),
        left_out=loop_too_slow,
    ),
    Provider(
        "pot.paired",
        "the same with paired=True",
        lambda: bures_peers.batched(bures_peers.pot(paired=True)),
    ),
)

# --- costs and goals ----------------------------------------------------------------------------


def moved_bytes(shape, n_grads, itemsize):
    """Both covariances read once, each gradient written once."""
    return itemsize * shape.B * shape.D**2 * (2 + n_grads)


def flops(shape, n_grads):
    """The product of both factors, and two products for each gradient; nothing that iterates."""
    return 2 * shape.B * shape.D**3 * (1 + 2 * n_grads)


def rows(shape):
    """What figures draw time against: batches are chosen to hold about as many entries each."""
    return shape.D


ROWS = "rows of a covariance, D"


def _speedups(device, shape, targets, why=""):
    return [Goal(device, shape, "wall", "speedup", t, peer, why) for peer, t in targets.items()]


def _cuda_goals(shape, ms, eigh=None, cupy=None):
    targets = {"torch.eigh": eigh, "cupy": cupy}
    targets = {peer: target for peer, target in targets.items() if target}
    return Goal("cuda", shape, "graph", "ms", ms), *_speedups("cuda", shape, targets)


FLOAT64 = "Cholesky, inverses and a first step in float64; gradients are over ten times as exact"
FEW = "64 calls only: POT's loop costs little beside its eigh"

GOALS = (
    *_speedups("cpu", "B1024-D16", {"torch.eigh": 4, "pot": 10}, FLOAT64),
    *_speedups("cpu", "B256-D32", {"torch.eigh": 3.5, "pot": 10}, FLOAT64),
    *_speedups("cpu", "B64-D64", {"torch.eigh": 2.7}, FLOAT64),
    *_speedups("cpu", "B64-D64", {"pot": 10}, FEW),
    *_speedups("cpu", "B1-D1024", {"torch.eigh": 1}),
    *_cuda_goals("B1024-D32", 0.060, eigh=8),
    *_cuda_goals("B8192-D32", 0.35, eigh=15),
    *_cuda_goals("B1024-D64", 0.30, eigh=1000, cupy=20),
    *_cuda_goals("B64-D128", 0.20, eigh=500, cupy=20),
    *_cuda_goals("B1024-D128", 2.5, eigh=500, cupy=20),
    *_cuda_goals("B64-D512", 9, cupy=10),
    *_cuda_goals("B1-D2048", 12, cupy=8),
)

FAMILY = Family(
    op="bures_wasserstein",
    p=None,
    shapes=SHAPES,
    providers=PROVIDERS,
    inputs=inputs,
    expect=expect,
    bytes=moved_bytes,
    flops=flops,
    size=rows,
    size_label=ROWS,
    goals=GOALS,
    noise=wishart,
    note="Gradients to the covariances. x and y are covariances of 2D normal points, of condition "
    "number near 34 at large D; the means are constants.",
)
