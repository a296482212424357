"""Argument checks, in one message format: ``<function>: <argument> must <condition>; got <value>``.

Checks read metadata (type, shape, dtype, device), so they cost no synchronisation and also run
while torch.compile traces. Those that read values say so: they are for ``validate=True``, and for
lengths on the CPU.
"""

import math
import numbers
from typing import get_args

import torch

from ._types import Impl, Reduction

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
REDUCTIONS = get_args(Reduction)
IMPLS = get_args(Impl)


def message(function, argument, condition, got):
    """The one error format."""
    return f"{function}: {argument} must {condition}; got {got}"


def require(ok, function, argument, condition, got):
    """Raise ValueError in the one format unless ``ok``."""
    if not ok:
        raise ValueError(message(function, argument, condition, got))


def one_of(function, argument, value, allowed):
    """``value`` must be one of the strings ``allowed``."""
    names = ", ".join(repr(a) for a in allowed)
    known = isinstance(value, str) and value in allowed
    require(known, function, argument, f"be one of {names}", repr(value))


def floating(function, argument, value):
    """``value`` must be a tensor of a supported floating dtype; TypeError otherwise."""
    if not isinstance(value, torch.Tensor):
        got = type(value).__name__
        raise TypeError(message(function, argument, "be a torch.Tensor", got))
    if value.dtype not in FLOATS:
        condition = "be float16, bfloat16, float32 or float64"
        raise TypeError(message(function, argument, condition, value.dtype))


def same_kind(function, x, y, names):
    """``y`` must share dtype and device with ``x``."""
    nx, ny = names
    require(x.dtype == y.dtype, function, ny, f"have {nx}'s dtype {x.dtype}", y.dtype)
    require(x.device == y.device, function, ny, f"be on {nx}'s device {x.device}", y.device)


def broadcastable(function, argument, shape, batch, of):
    """``shape`` (leading axes) must broadcast to ``batch``; returns the broadcast shape."""
    if not shape or shape == batch:  # the common cases; torch.broadcast_shapes takes its time
        return batch
    try:
        return torch.broadcast_shapes(shape, batch)
    except RuntimeError:
        condition = f"have leading axes that broadcast with {of} {tuple(batch)}"
        raise ValueError(message(function, argument, condition, tuple(shape))) from None


def cloud(function, argument, value, least=1):
    """A point cloud (..., N, D) with at least so many points, and one feature."""
    floating(function, argument, value)
    shape = tuple(value.shape)
    require(len(shape) >= 2, function, argument, "have shape (..., N, D)", shape)
    condition = "have at least one point and feature" if least else "have at least one feature"
    ok = shape[-2] >= least and shape[-1] > 0
    require(ok, function, argument, condition, shape)


def clouds(function, x, y, least=1):
    """Two point clouds (..., N, D) and (..., M, D): tensors of one kind, see :func:`cloud`."""
    cloud(function, "x", x, least)
    cloud(function, "y", y, least)
    same_kind(function, x, y, ("x", "y"))
    d = x.shape[-1]
    require(y.shape[-1] == d, function, "y", f"have x's {d} features", tuple(y.shape))


def lines(function, u, v):
    """Two sets of numbers (..., N) and (..., M): tensors of one kind, not empty."""
    for name, line in (("u", u), ("v", v)):
        floating(function, name, line)
        require(line.dim() >= 1, function, name, "have shape (..., N)", tuple(line.shape))
        shape = tuple(line.shape)
        require(shape[-1] > 0, function, name, "have at least one point", shape)
    same_kind(function, u, v, ("u", "v"))


def weights(function, argument, value, n, points, of):
    """Weights (..., n) for ``points``, which are named ``of``."""
    floating(function, argument, value)
    ok = value.dim() >= 1 and value.shape[-1] == n
    if not ok:  # only now: a message that names n would make torch.compile take n for fixed
        condition = f"have shape (..., {n}), one weight a point of {of}"
        raise ValueError(message(function, argument, condition, tuple(value.shape)))
    same = value.device == points.device
    require(same, function, argument, f"be on {of}'s device {points.device}", value.device)


def lengths(function, argument, value, n, points, validate, least=1):
    """Lengths (...), integers from ``least`` to n, of padded ``points``.

    Values are read where that makes nobody wait, and always with ``validate``.
    """
    got = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
    if got not in INTEGERS:
        raise TypeError(message(function, argument, "be an integer tensor", got))
    same = value.device == points.device
    require(same, function, argument, f"be on the points' device {points.device}", value.device)
    if validate or at_hand(value):
        wrong = value[(value < least) | (value > n)]
        got = None if wrong.numel() == 0 else wrong.flatten()[0].item()
        condition = f"be from {least} to {n}, the number of points"
        require(got is None, function, argument, condition, got)


def at_hand(value):
    """Whether reading values costs no synchronisation and breaks no trace."""
    traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(value)
    return value.device.type == "cpu" and not traced


def finite(function, argument, value):
    """All values must be finite. Reads them: for ``validate=True`` only."""
    wrong = value[~value.isfinite()]
    got = None if wrong.numel() == 0 else wrong.flatten()[0].item()
    require(got is None, function, argument, "be finite everywhere", got)


def masses(function, argument, value):
    """Weights must be no less than 0 with a positive total. Reads them, as :func:`finite` does."""
    finite(function, argument, value)
    least = value.min().item() if value.numel() else 0.0
    require(least >= 0, function, argument, "not be negative", least)
    total = value.sum(-1).min().item() if value.numel() else 1.0
    require(total > 0, function, argument, "have a positive total in every problem", total)


def exponent(function, p):
    """The exponent p: a finite number of at least 1."""
    ok = isinstance(p, numbers.Real) and not isinstance(p, bool) and math.isfinite(p) and p >= 1
    require(ok, function, "p", "be a finite number >= 1", repr(p))


def generator(function, value, device):
    """A torch.Generator of ``device``, or None."""
    if value is None:
        return
    its = getattr(value, "device", None)
    if its is None:
        got = type(value).__name__
        raise TypeError(message(function, "generator", "be a torch.Generator or None", got))
    device = torch.empty(0, device=device).device  # "cuda" is the current one of the GPUs
    require(its == device, function, "generator", f"be on device {device}", its)


def positive(function, argument, value):
    """``value`` must be a finite number above 0."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (real and 0 < value < math.inf):
        # Only now, because a number that is being traced has no repr.
        raise ValueError(message(function, argument, "be a positive number", repr(value)))


def positive_int(function, argument, value):
    """``value`` must be an integer of at least 1."""
    _integer_from(1, function, argument, value)


def not_negative_int(function, argument, value):
    """``value`` must be an integer of at least 0."""
    _integer_from(0, function, argument, value)


def _integer_from(least, function, argument, value):
    integer = isinstance(value, numbers.Integral | torch.SymInt) and not isinstance(value, bool)
    if not integer or value < least:
        # Only now, because a size that is being traced has no repr.
        raise ValueError(message(function, argument, f"be an integer >= {least}", repr(value)))


def unsupported(function, argument, condition, got, instead):
    """NotImplementedError for a capability that is missing, naming the alternative."""
    return NotImplementedError(f"{message(function, argument, condition, got)}. Use {instead}.")
