"""Energy distance against its peers."""

import dataclasses
import math

import torch

import otkernels

from ..case import Provider
from . import mmd
from .kernel_reference import energy

SHAPES = {
    "cpu": (*mmd.SHAPES["cpu"][:3], mmd.WAE_BATCHES[1], mmd.MANY),
    "cuda": (*mmd.SHAPES["cuda"][:3], mmd.MANY),
    "smoke": mmd.SMOKE,
}


def _ours(x, y, impl=None):
    return otkernels.energy_distance(x, y, impl=impl)


def _torch(x, y):
    def mean(p, q):
        return torch.cdist(p, q).mean((-2, -1))

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def _error_of_a_zero_distance(shape):
    """What it costs value and gradient to take distances from products.

    The distance of a point to itself, one of N, comes out as sqrt(eps) |x| or 0 or a floor. In the
    gradient it has one over that as its weight, where it should have 0: this cancels, but the N
    additions beside it are rounded at its size.
    """
    eps, n = torch.finfo(torch.float32).eps, min(shape.N, shape.M or shape.N)
    return math.sqrt(eps) / n, math.sqrt(eps / n)


_TENSORIZED, _ONLINE = mmd.geomloss_providers("energy")

FAMILY = mmd.family(
    op="energy_distance",
    shapes=SHAPES,
    providers=(
        Provider("otkernels", "energy_distance as users call it", lambda: _ours, ours=True),
        mmd.definition(_ours),
        mmd.dense("torch", "torch.cdist", lambda: _torch, own_error=_error_of_a_zero_distance),
        dataclasses.replace(_TENSORIZED, own_error=_error_of_a_zero_distance),
        _ONLINE,
    ),
    expect=mmd.reference(energy),
)
