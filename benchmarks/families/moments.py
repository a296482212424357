"""Mean and covariance of points against torch.cov and the centred product."""

import torch

import otkernels

from ..case import Expected, Family, Goal, Provider
from ..measure import cotangent
from . import gaussian, mmd
from .bures_reference import largest

SHAPES = {
    "cpu": (
        mmd.one(1000, 16, "goal: one batch"),
        mmd.one(10000, 64, "goal: one large batch"),
        mmd.one(4096, 512, "goal: features of a network"),
        mmd.MANY,
    ),
    "cuda": (
        mmd.one(4096, 64, "one batch"),
        mmd.one(1_000_000, 64, "a point cloud"),
        mmd.one(50000, 2048, "features for a Frechet distance"),
        mmd.MANY,
    ),
    "smoke": mmd.SMOKE,
}


def inputs(shape):
    """The cloud x of the other families, whose mean is not 0."""
    return mmd.inputs(shape)[:1]


@torch.no_grad()
def expect(x):
    """Covariance and gradient in float64: N additions behind a mean or an entry, then D."""
    x = x.double()
    n, d = x.shape[-2:]
    x = x - x.mean(-2, keepdim=True)
    value = x.mT @ x / n
    weights = cotangent(value, x)
    weights = weights + weights.mT
    grad = x @ weights / n
    return Expected(
        value,
        (grad,),
        (torch.zeros_like(grad),),
        terms_value=n,
        terms_grad=n + d,
        condition_value=largest(x.mT.abs() @ x.abs() / n) / largest(value),
        condition_grad=largest(x.abs() @ weights / n) / largest(grad),
    )


# --- providers ----------------------------------------------------------------------------------


def _ours(x, impl=None):
    return otkernels.mean_cov(x, impl=impl)[1]


def _definition(x):
    return _ours(x, impl="torch")


PROVIDERS = (
    Provider("otkernels", "mean_cov as users call it", lambda: _ours, ours=True),
    Provider("definition", "the same with impl='torch'", lambda: _definition, ours=True),
    Provider("torch", "centred, one product", lambda: gaussian.covariance),
    Provider(
        "torch.cov",
        "torch.cov of the transposed points",
        lambda: gaussian.covariance_by_torch,
        left_out=gaussian.no_batch,
    ),
)


def _flops(shape, n_grads):
    """Half of a product, the covariance being symmetric, and a whole one for the gradient."""
    return shape.B * shape.N * shape.D**2 * (1 + 2 * n_grads)


FAMILY = Family(
    op="mean_cov",
    p=None,
    shapes=SHAPES,
    providers=PROVIDERS,
    inputs=inputs,
    expect=expect,
    bytes=lambda shape, n_grads, itemsize: (
        itemsize * shape.B * shape.D * (shape.N * (1 + n_grads) + shape.D)
    ),
    flops=_flops,
    size=gaussian.coordinates,
    size_label=gaussian.COORDINATES,
    goals=tuple(
        Goal("cpu", shape.name, "wall", "speedup", 1, "torch.cov", "fixed cost of a call")
        for shape in SHAPES["cpu"]
        if shape.B == 1
    ),
    clouds=("x",),
    note="Compared is the covariance, and the gradient of a weighted sum of all its entries; the "
    "mean, which `mean_cov` returns as well, is not used.",
)
