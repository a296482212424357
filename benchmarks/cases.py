"""Every case there is, and the choice among them."""

import re

from . import CannotRun, ragged, sliced, to_normal, unequal
from .case import Case

FAMILIES = (
    sliced.FAMILY,
    unequal.SIZES,
    unequal.WEIGHTS,
    ragged.FAMILY,
    to_normal.FAMILY,
)


def select(shapes, pattern=""):
    """Cases of one set of shapes, such as "cpu" or "smoke", in whose name ``pattern`` is found.

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
        if found((case := Case(family, shape, mode)).name)
    ]


def family(op):
    """The family of an op by its name."""
    return next(f for f in FAMILIES if f.op == op)
