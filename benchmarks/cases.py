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
    mmd,
    moments,
    ragged,
    sliced,
    sqrtm,
    to_normal,
    unequal,
)

FAMILIES = (
    sliced.FAMILY,
    unequal.SIZES,
    unequal.WEIGHTS,
    ragged.FAMILY,
    to_normal.FAMILY,
    mmd.FAMILY,
    bandwidths.BANDWIDTHS,
    bandwidths.WAE,
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


def _kept(family, shapes, shape):
    kept = tuple(p for p in family.providers if p.left_out(shapes, shape) is None)
    return dataclasses.replace(family, providers=kept)


def family(op):
    """The family of an op by its name."""
    return next(f for f in FAMILIES if f.op == op)
