"""Every case there is, and the choice among them."""

import re

from . import CannotRun, sliced
from .case import MODES, Case

FAMILIES = (sliced.FAMILY,)


def select(shapes, pattern=""):
    """Cases of one set of shapes ("cpu", "cuda" or "smoke") in whose name ``pattern`` is found.

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
        for shape in family.shapes[shapes]
        for mode in MODES
        if found((case := Case(family, shape, mode)).name)
    ]


def family(op):
    """The family of an op by its name."""
    return next(f for f in FAMILIES if f.op == op)
