"""Sliced Wasserstein to N(0, I) in closed form, against drawing samples of it, p = 2.

The two-sample losses compute another number: they add the noise of the prior samples that they draw
anew in each call, as a training does, drawing included in their time. Each is checked against
float64 on the samples that it draws from one seed.
"""

import dataclasses
import math

import torch

import otkernels

from ..case import Expected, Family, Provider, Shape
from ..measure import SEED
from . import sliced, sliced_reference

SHAPES = {
    "cpu": (
        *(Shape(1, n, 64, 128, f"one batch of {n} codes") for n in (1024, 4096, 16384)),
        Shape(1, 100, 8, 50, "models/: default batch, eight latent dimensions"),
        Shape(1, 500, 8, 50, "models/: the batch of the published SWAE code"),
        Shape(16, 512, 32, 64, "a batch of problems; POT loops over it"),
    ),
    "cuda": (
        Shape(1, 1024, 64, 128, "one batch of codes"),
        Shape(1, 16384, 64, 1024, "rows sorted in two runs"),
    ),
    "smoke": sliced.SHAPES["smoke"],
}


def inputs(shape):
    """The codes and the directions of the two-sample loss."""
    x, _, projections = sliced.inputs(shape)
    return x, projections


# --- references ---------------------------------------------------------------------------------


def expect(x, projections):
    """Value and gradient by the definition in float64."""
    eps, n = torch.finfo(x.dtype).eps, x.shape[-2]
    x, projections = x.detach().double().requires_grad_(), projections.double()
    mass = x.new_full((n,), 1 / n)
    target = _quantiles(n).to(x)

    def part(theta):
        value = otkernels.sliced_wasserstein_to_normal(x, projections=theta, impl="torch")
        (grad,) = torch.autograd.grad(value.sum(), x)
        u = (x.detach() @ theta).mT
        slack = sliced_reference.order_slack(u, mass, target.expand(u.shape), mass, theta, eps)
        return value.detach(), grad, slack

    value, grad, slack = sliced_reference.mean_over_directions(part, projections, x.numel())
    terms = sum(projections.shape)
    return Expected(value, (grad,), (slack,), terms + n, terms)


def _quantiles(n):
    """Means of the normal quantile function over n cells of equal mass."""
    level = torch.arange(n + 1, dtype=torch.float64) / n
    density = torch.exp(-torch.special.ndtri(level).square() / 2) / math.sqrt(2 * math.pi)
    return -n * density.diff()


def _expect_two_sample(x, projections):
    """The two-sample loss on the samples that the check of a provider draws."""
    torch.manual_seed(SEED)
    both = sliced_reference.expect(x, torch.randn_like(x), projections)
    return dataclasses.replace(both, grads=both.grads[:1], slack=both.slack[:1])


# --- providers ----------------------------------------------------------------------------------


def _ours(x, projections):
    return otkernels.sliced_wasserstein_to_normal(x, projections=projections)


def _definition(x, projections):
    return otkernels.sliced_wasserstein_to_normal(x, projections=projections, impl="torch")


def _two_sample(x, y, projections):
    return otkernels.sliced_wasserstein(x, y, projections=projections)


def _drawing(loss):
    """A loss of two clouds, the second drawn in each call."""
    return lambda x, projections: loss(x, torch.randn_like(x), projections)


def _drawing_provider(name, what, make, **rest):
    what = f"{what}; N prior samples drawn in each call"
    return Provider(
        name, what, lambda: _drawing(make()), expect=_expect_two_sample, **rest
    )  # fmt: skip


FAMILY = Family(
    op="sliced_wasserstein_to_normal",
    p=2,
    shapes=SHAPES,
    providers=(
        Provider("otkernels", "as users call it: no prior samples", lambda: _ours, ours=True),
        Provider("definition", "the same with impl='torch'", lambda: _definition, ours=True),
        _drawing_provider(
            "two-sample", "otkernels.sliced_wasserstein", lambda: _two_sample, ours=True
        ),
        _drawing_provider("torch", "two torch.sort, subtract, mean", lambda: sliced.careful),
        _drawing_provider(
            "pot",
            "ot.sliced_wasserstein_distance, squared; loops over a batch",
            lambda: sliced.each_problem(sliced.pot()),
            own_error=sliced.pot_error,
        ),
    ),
    inputs=inputs,
    expect=expect,
    bytes=lambda shape, n_grads, itemsize: (
        itemsize * shape.D * (shape.B * shape.N * (1 + n_grads) + shape.L)
    ),
    flops=lambda shape, n_grads: 2 * shape.B * shape.N * shape.D * shape.L * (1 + n_grads),
    size=sliced.points_times_directions,
    size_label=sliced.SIZE_LABEL,
    clouds=("x",),
    note="`two-sample`, `torch` and `pot` draw N prior samples in each call, drawing included.",
    comparisons=lambda shape, n_grads: shape.B * shape.L * sliced.to_sort(shape.N),
)
