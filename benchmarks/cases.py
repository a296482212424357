"""Every case there is, and the choice among them."""

import dataclasses
import re

from . import CannotRun
from .case import Case
from .families import (
    bandwidths,
    bures,
    energy,
    gaussian,
    kid,
    mmd,
    moments,
    ragged,
    sinkhorn,
    sliced,
    sqrtm,
    to_normal,
    unequal,
)

ORDER = ("forward_backward", "forward", "forward_backward_both")  # of modes, see by_weight
LARGE = 10**13  # floating-point operations of products, forward

FAMILIES = (
    sliced.FAMILY,
    unequal.SIZES,
    unequal.WEIGHTS,
    ragged.FAMILY,
    to_normal.FAMILY,
    sinkhorn.FAMILY,
    mmd.FAMILY,
    bandwidths.BANDWIDTHS,
    bandwidths.WAE,
    kid.FAMILY,
    energy.FAMILY,
    bures.FAMILY,
    gaussian.FAMILY,
    sqrtm.FAMILY,
    moments.FAMILY,
)


def select(shapes, pattern=""):
    """Cases of one set of shapes, such as "cpu" or "smoke", in whose name ``pattern`` is found.

    Each has the providers of its family that are not left out at its shape.

    Raises:
        CannotRun: the pattern is not a regular expression.
    """
    try:
        found = re.compile(pattern).search
    except re.error as error:
        raise CannotRun(f"--cases must be a regular expression; got {pattern!r}: {error}") from None
    return [
        case
        for family in FAMILIES
        for shape in family.shapes.get(shapes, ())
        for mode in family.modes
        if found((case := Case(_kept(family, shapes, shape), shape, mode)).name)
    ]


def by_weight(chosen, device):
    """Cases in the order in which a run that may be cut off should take them.

    First forward and backward at the shapes that have goals on this device, then forward at these,
    then the rest, and last what takes minutes: all pairs of a million points, also in float64.
    """
    goals = {(f.op, goal.shape) for f in FAMILIES for goal in f.goals if goal.device == device}
    shapes = list(dict.fromkeys((case.family.op, case.shape) for case in chosen))

    def place(case):
        large = case.family.flops(case.shape, 0) > LARGE
        mode = ORDER.index(case.mode)
        first = mode if (case.family.op, case.shape.name) in goals else 2
        # Modes of one shape stay together elsewhere, for they share its reference.
        return large, 0 if large else first, shapes.index((case.family.op, case.shape)), mode

    return sorted(chosen, key=place)


def _kept(family, shapes, shape):
    kept = tuple(p for p in family.providers if p.left_out(shapes, shape) is None)
    return dataclasses.replace(family, providers=kept)


def family(op):
    """The family of an op by its name."""
    return next(f for f in FAMILIES if f.op == op)
