"""The estimate behind the Kernel Inception Distance: cubic kernel, U-statistic, equal sizes."""

import torch

import otkernels

from ..case import Expected, Provider, Shape
from . import bures_peers, mmd

SHAPES = {
    "cpu": (
        mmd.one(1000, 64, "a subset of the metric, of short features"),
        mmd.one(1000, 2048, "a subset of the metric, of features of the Inception network"),
    ),
    "cuda": (
        mmd.one(1000, 2048, "a subset of the metric"),
        Shape(16, 1000, 2048, None, "some subsets of the metric; torchmetrics loops over them"),
        mmd.one(10000, 2048, "features of ten thousand images at once"),
    ),
    "smoke": (
        mmd.one(32, 6, "smoke"),
        Shape(2, 21, 5, None, "smoke, a batch"),
    ),
}


# --- reference ----------------------------------------------------------------------------------


@torch.no_grad()
def expect(x, y):
    """Value and gradients in float64.

    The longest chain of additions behind a value is D (a product), then a row and a column; behind
    an entry of a gradient it is D, then a row. The value is a difference of three sums, the
    gradient one of two; the conditions say how much larger these are.
    """
    x, y = x.double(), y.double()
    n, m, d = x.shape[-2], y.shape[-2], x.shape[-1]
    (xx, xx_x, _), (yy, yy_y, _) = (_mean(t, t, own=True) for t in (x, y))
    xy, xy_x, xy_y = _mean(x, y)
    value = xx + yy - 2 * xy
    # A point meets its own cloud on both sides of the kernel.
    grads = 2 * xx_x - 2 * xy_x, 2 * yy_y - 2 * xy_y
    sizes = 2 * xx_x.abs() + 2 * xy_x.abs(), 2 * yy_y.abs() + 2 * xy_y.abs()
    return Expected(
        value,
        grads,
        tuple(torch.zeros_like(g) for g in grads),
        terms_value=d + n + m,
        terms_grad=d + max(n, m),
        condition_value=((xx.abs() + yy.abs() + 2 * xy.abs()).max() / value.abs().max()).item(),
        condition_grad=max(
            (s.max() / g.abs().max()).item() for s, g in zip(sizes, grads, strict=True)
        ),
    )


def _mean(p, q, own=False):
    """Mean of (<p, q> / D + 1)^3 and its gradients to p and to q as if these were two clouds.

    With ``own`` the two are one, and no point meets itself.
    """
    n, m, d = p.shape[-2], q.shape[-2], p.shape[-1]
    base = p @ q.mT / d + 1
    if own:
        base.diagonal(dim1=-2, dim2=-1).zero_()
    pairs = n * (m - own)
    weights = 3 / (d * pairs) * base.square()
    return base.pow(3).sum((-2, -1)) / pairs, weights @ q, weights.mT @ p


# --- providers ----------------------------------------------------------------------------------


def _ours(x, y, impl=None):
    return otkernels.mmd(x, y, kernel="polynomial", unbiased=True, impl=impl)


def _definition(x, y):
    return _ours(x, y, impl="torch")


def careful(x, y):
    """What someone who knows torch writes: one product a matrix, then its powers."""
    d = x.shape[-1]

    def mean(p, q, own=False):
        base = torch.add(p @ q.mT / d, 1)
        kernel = base * base * base
        pairs = p.shape[-2] * (q.shape[-2] - own)
        total = kernel.sum((-2, -1))
        if own:
            total = total - kernel.diagonal(dim1=-2, dim2=-1).sum(-1)
        return total / pairs

    return mean(x, x, own=True) + mean(y, y, own=True) - 2 * mean(x, y)


def _compiled():
    # A graph of an earlier shape would count towards the limit of recompilations.
    torch.compiler.reset()
    return torch.compile(careful, fullgraph=True, dynamic=False)


def _torchmetrics():
    """The function of one subset behind its metric; ImportError if it is not installed."""
    from torchmetrics.image.kid import poly_mmd

    return bures_peers.each_problem(poly_mmd)


FAMILY = mmd.family(
    op="mmd-kid",
    shapes=SHAPES,
    providers=(
        Provider("otkernels", "mmd, polynomial kernel, unbiased", lambda: _ours, ours=True),
        Provider("definition", "the same with impl='torch'", lambda: _definition, ours=True),
        mmd.dense("torch", "x @ y.T, its third power, diagonals taken off", lambda: careful),
        mmd.dense("torch.compile", "the same, compiled for the shape", _compiled, per_shape=True),
        mmd.dense(
            "torchmetrics",
            "poly_mmd of its Kernel Inception Distance; loops over a batch",
            _torchmetrics,
        ),
    ),
    expect=expect,
    note="The kernel (⟨x, y⟩ / D + 1)³ of the Kernel Inception Distance, U-statistic: one subset a "
    "problem.",
)
