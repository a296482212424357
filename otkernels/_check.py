"""Argument checks, in one message format: ``<function>: <argument> must <condition>; got <value>``.

Every check reads metadata only (type, shape, dtype, device), so it costs no synchronisation and
also runs while torch.compile traces.
"""

import math
import numbers

import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REDUCTIONS = ("none", "mean", "sum")
IMPLS = ("torch", "cpu", "triton")


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
    require(value in allowed, function, argument, f"be one of {names}", repr(value))


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


def clouds(function, x, y):
    """Two point clouds (..., N, D) and (..., M, D): tensors of one kind, not empty."""
    for name, cloud in (("x", x), ("y", y)):
        floating(function, name, cloud)
        require(cloud.dim() >= 2, function, name, "have shape (..., N, D)", tuple(cloud.shape))
        shape = tuple(cloud.shape)
        require(0 not in shape[-2:], function, name, "have at least one point and feature", shape)
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


def weights(function, argument, value, points, of):
    """Weights (..., N) for a cloud of ``points.shape[-1]`` points named ``of``, or None."""
    if value is None:
        return
    floating(function, argument, value)
    n = points.shape[-1]
    ok = value.dim() >= 1 and value.shape[-1] == n
    require(ok, function, argument, f"have shape (..., {n}), one weight a point of {of}",
            tuple(value.shape))  # fmt: skip
    require(value.device == points.device, function, argument,
            f"be on {of}'s device {points.device}", value.device)  # fmt: skip


def exponent(function, p):
    """The exponent p: a finite number of at least 1."""
    ok = isinstance(p, numbers.Real) and not isinstance(p, bool) and math.isfinite(p) and p >= 1
    require(ok, function, "p", "be a finite number >= 1", repr(p))


def positive_int(function, argument, value):
    """``value`` must be an integer of at least 1."""
    ok = isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1
    require(ok, function, argument, "be an integer >= 1", repr(value))


def unsupported(function, argument, condition, got, instead):
    """NotImplementedError for a capability that is missing, naming the alternative."""
    return NotImplementedError(f"{message(function, argument, condition, got)}. Use {instead}.")
