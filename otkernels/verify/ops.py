"""What is verified: a table of ops, the cases of each, and the peer library that has it too.

A new op is one entry in OPS: how to call ours, its float64 formula, its cases and settings, what it
needs besides clouds, and its peer or None.
"""

import contextlib
import importlib
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

import otkernels

from . import reference

__all__ = ["OPS", "Case", "Inputs", "Op", "Peer", "draw", "given", "load"]


class Peer(NamedTuple):
    """Another library's version of an op: ``call(module, x, y, **keywords)`` on float64 tensors."""

    name: str
    module: str
    call: Callable


class Case(NamedTuple):
    """Sizes and kind of one pair of clouds; ``m`` None means N points in y too."""

    n: int
    d: int = 8
    l: int = 16
    m: int | None = None
    batch: tuple[int, ...] = ()
    kind: str = ""
    all_settings: bool = False
    """Run every setting of the op, not only its first."""


class Inputs(NamedTuple):
    """Clouds in the dtype under test, and the further tensors in its accumulation dtype."""

    case: str
    x: torch.Tensor
    y: torch.Tensor
    tensors: dict[str, torch.Tensor]


class Op(NamedTuple):
    """One entry of the table.

    ``ours(x, y, impl=..., **settings, **tensors)`` is a tensor of values, one a problem;
    ``formula(x, y, rounding, **settings, **tensors)`` a :class:`reference.Solution`.
    """

    name: str
    ours: Callable
    formula: Callable
    settings: tuple[dict, ...]
    cases: tuple[Case, ...]
    peer: Peer | None = None
    extra: Callable | None = None
    """Function of D and L: arrays by keyword, drawn from a fixed seed."""
    lines: bool = False
    """Whether it takes numbers (..., N) instead of points (..., N, D)."""


EXPONENTS = ({"p": 2}, {"p": 1}, {"p": 1.5}, {"p": 3})
OFFSET = 1000.0
GIVEN_PROJECTIONS = 64

SLICED_CASES = (
    Case(1),
    Case(64, d=1),
    Case(61, d=7, l=13, all_settings=True),
    *(Case(n) for n in (127, 128, 129)),
    *(Case(n, d=16, l=32) for n in (1023, 1024, 1025)),
    Case(4096, d=64, l=64),
    Case(33, batch=(3,)),
    Case(33, d=5, batch=(2, 3)),
    Case(61, m=40, all_settings=True),
    Case(61, m=40, kind="weights", all_settings=True),
    Case(61, kind="offset", all_settings=True),
    Case(61, kind="equal", all_settings=True),
)
LINE_CASES = (
    Case(1),
    Case(61, all_settings=True),
    *(Case(n) for n in (127, 128, 129, 1023, 1024, 1025, 16384)),
    Case(33, batch=(3,)),
    Case(33, batch=(2, 3)),
    Case(61, m=40, all_settings=True),
    Case(61, m=40, kind="weights", all_settings=True),
    Case(61, kind="offset", all_settings=True),
    Case(61, kind="equal", all_settings=True),
)


def _directions(d, l):
    normal = np.random.default_rng(1).standard_normal((d, l))
    return {"projections": normal / np.linalg.norm(normal, axis=0)}


def _pot_sliced(ot, x, y, *, p, projections, a=None, b=None):
    a, b = (None if w is None else w / w.sum() for w in (a, b))
    return ot.sliced_wasserstein_distance(x, y, a, b, projections=projections, p=p) ** p


def _pot_line(ot, u, v, *, p, a=None, b=None):
    a, b = (None if w is None else w / w.sum() for w in (a, b))
    return ot.wasserstein_1d(u[:, None], v[:, None], a, b, p=p)[0]


OPS = (
    Op(
        "sliced_wasserstein",
        ours=lambda *args, **kwargs: otkernels.sliced_wasserstein(*args, **kwargs),
        formula=reference.sliced_wasserstein,
        settings=EXPONENTS,
        cases=SLICED_CASES,
        peer=Peer("POT", "ot", _pot_sliced),
        extra=_directions,
    ),
    Op(
        "wasserstein_1d",
        ours=lambda *args, **kwargs: otkernels.wasserstein_1d(*args, **kwargs),
        formula=reference.wasserstein_1d,
        settings=EXPONENTS,
        cases=LINE_CASES,
        peer=Peer("POT", "ot", _pot_line),
        lines=True,
    ),
)


def load(peer):
    """The peer's module, or None where it is not installed. What it prints on import is dropped."""
    if importlib.util.find_spec(peer.module) is None:
        return None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module(peer.module)


def draw(op, case, dtype):
    """The inputs of a case, the same numbers for every dtype up to its rounding."""
    rng = np.random.default_rng(0)
    m = case.n if case.m is None else case.m
    last = () if op.lines else (case.d,)
    x = rng.standard_normal((*case.batch, case.n, *last))
    y = 0.5 + 1.5 * rng.standard_normal((*case.batch, m, *last))
    weights = {}
    if case.kind == "weights":
        weights = {"a": rng.uniform(0.1, 1.0, case.n), "b": rng.uniform(0.1, 1.0, m)}
        weights["a"][0] = 0.0  # a point without mass: its gradient is 0
    if case.kind == "offset":
        x, y = x + OFFSET, y + OFFSET
    if case.kind == "equal":
        y = x
    return _inputs(op, x, y, weights, case.l, dtype, case.kind)


def given(op, x, y, dtype):
    """Inputs from the user's own clouds x (N, D) and y (M, D), or (N,) and (M,)."""
    return _inputs(op, x, y, {}, GIVEN_PROJECTIONS, dtype, "")


def _inputs(op, x, y, weights, l, dtype, kind):
    arrays = weights | (op.extra(x.shape[-1], l) if op.extra else {})
    # Rounding the inputs is not an error of the op: the formula gets the rounded numbers too.
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = {name: torch.from_numpy(array).to(wide) for name, array in arrays.items()}
    x, y = (torch.from_numpy(z).to(dtype) for z in (x, y))
    return Inputs(_case(x, y, op.lines, kind), x, y, tensors)


def _case(x, y, lines, kind):
    own = 1 if lines else 2
    n, m = x.shape[-own], y.shape[-own]
    points = str(n) if n == m else f"{n}/{m}"
    sizes = [*x.shape[:-own], points, *x.shape[len(x.shape) - own + 1 :]]
    return " ".join(filter(None, ["x".join(map(str, sizes)), kind]))
