"""What one entry of the table says: an op of ours, what is true of it, and on which inputs."""

from collections.abc import Callable
from typing import NamedTuple

from .inputs import AXES, Case, clouds
from .peers import Peer

__all__ = ["DTYPES", "Op"]

DTYPES = ("float16", "bfloat16", "float32", "float64")


class Op(NamedTuple):
    """One entry of the table.

    ``ours(**tensors, **settings, impl=...)`` is a tensor of values, one a problem, or a dictionary
    of quantities with that as "value"; ``formula(**problem, **settings, rounding=...)`` is a
    :class:`reference.Solution` for the tensors of one problem. What the formula names is judged.
    """

    name: str
    against: str
    ours: Callable
    formula: Callable
    cases: tuple[Case, ...]
    draw: Callable = clouds
    settings: tuple[dict, ...] = ({"p": 2}, {"p": 1}, {"p": 1.5}, {"p": 3})
    peer: Peer | None = None
    axes: dict[str, int] = AXES
    yours: str = ""
    """What it takes of the user's own: "points", "numbers" or nothing."""
    pairwise: bool = False
    """Whether its truth and its plain torch form hold all pairs of points."""
    dtypes: tuple[str, ...] = DTYPES
    """In which its inputs are still what they should be once they are rounded."""
