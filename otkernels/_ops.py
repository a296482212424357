"""From a fast implementation to a differentiable torch op: registration, autograd, dispatch.

A fast implementation of a loss computes value and gradient in one pass. Its launcher is registered
as an opaque operator, so torch.compile keeps the launch whole, and :func:`value_and_grad` puts one
autograd.Function around it whose backward only scales the stored gradient.
"""

import contextlib
import importlib
import importlib.util
import os

import torch

from . import _check


def accumulation_dtype(dtype):
    """Sums are taken in float64 for float64 input and in float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_grad(x, need):
    """Uninitialised memory for the gradient that a raw op returns: none of it without ``need``.

    It is kept in the accumulation dtype until the cotangent has scaled it: the gradient of a mean
    over many points may be too small for float16, where a loss scaled up would not have been.
    """
    shape = x.shape if need else (*x.shape[:-1], 0)
    return x.new_empty(shape, dtype=accumulation_dtype(x.dtype))


def choose_impl(function, impl, device):
    """Resolve ``impl`` for tensors on ``device``: obey an explicit request or refuse it.

    None picks the fastest one made for the device: "triton" for CUDA and ROCm (both are device
    type "cuda" in torch), "cpu" for the CPU, "torch" elsewhere and where Triton is not installed.
    """
    if impl is None:
        if device.type == "cuda" and importlib.util.find_spec("triton"):
            return "triton"
        return "cpu" if device.type == "cpu" else "torch"
    _check.one_of(function, "impl", impl, _check.IMPLS)
    if impl == "cpu":
        ok = device.type == "cpu"
        _check.require(ok, function, "impl", f"be 'torch' or 'triton' on {device}", "'cpu'")
    if impl == "triton":
        found = importlib.util.find_spec("triton")
        _check.require(found, function, "impl", "be 'torch' or 'cpu': no Triton here", "'triton'")
        interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
        condition = (
            f"be 'torch' or 'cpu' on {device} (Triton runs on CUDA and ROCm tensors, and on CPU "
            "tensors only in its interpreter, with TRITON_INTERPRET=1 set before the start)"
        )
        ok = device.type == "cuda" or interpreted
        _check.require(ok, function, "impl", condition, "'triton'")
    return impl


def without_autocast(device):
    """A context in which autocast does not lower the precision of our own arithmetic."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def register(name, schema, launcher, fake):
    """Register the raw operator ``otkernels::<name>`` and return it.

    Args:
        name: operator name.
        schema: argument and result part of its schema.
        launcher: "module:function" below otkernels, imported when the operator first executes, so
            that importing otkernels never imports Triton.
        fake: function of the same arguments that returns empty results of the right shape.
    """
    module, function = launcher.split(":")

    def launch(first, *args):
        run = getattr(importlib.import_module(f"otkernels.{module}"), function)
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext():
            return run(first, *args)

    qualified = f"otkernels::{name}"
    torch.library.define(qualified, schema)
    torch.library.impl(qualified, "CompositeExplicitAutograd", launch)
    torch.library.register_fake(qualified, fake)
    op = getattr(torch.ops.otkernels, name).default

    def batched(info, in_dims, *args):
        """vmap: every tensor argument takes leading axes, so the mapped axis becomes the first."""
        moved = [
            a if d is None and not isinstance(a, torch.Tensor) else _to_front(a, d, info.batch_size)
            for a, d in zip(args, in_dims, strict=True)
        ]
        return op(*moved), (0,) * len(op._schema.returns)

    torch.library.register_vmap(qualified, batched)
    return op


def _to_front(tensor, dim, size):
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def value_and_grad(op, x, y, *args):
    """The value of a raw op ``(x, y, *args, need_x, need_y) -> (value, grad_x, grad_y)``.

    Differentiable once with respect to x and y.
    """
    need_x, need_y = (torch.is_grad_enabled() and t.requires_grad for t in (x, y))
    # A copy, because backward needs the value: users may change theirs in place.
    return _ValueAndGrad.apply(op, x, y, args, need_x, need_y)[0].clone()


class _ValueAndGrad(torch.autograd.Function):
    """Value and gradient from one launch; backward multiplies the gradient by its cotangent."""

    generate_vmap_rule = True

    @staticmethod
    def forward(op, x, y, args, need_x, need_y):
        return op(x, y, *args, need_x, need_y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, x, y, _, need_x, need_y = inputs
        ctx.dtype = x.dtype
        value, grad_x, grad_y = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(grad_x, grad_y)
        ctx.needs = need_x, need_y
        ctx.save_for_backward(x if need_x else None, y if need_y else None, value, grad_x, grad_y)

    @staticmethod
    def backward(ctx, grad_out, _grad_of_grad_x, _grad_of_grad_y):
        x, y, value, *grads = ctx.saved_tensors
        if grad_out is None:
            return (None,) * 6
        # A fast form meets a NaN or an infinity only at some points; no point of that problem may
        # get a finite gradient.
        grad_out = torch.where(value.isfinite(), grad_out, torch.nan)
        grads = [
            _scale(g, grad_out, ctx.dtype) if need else None
            for g, need in zip(grads, ctx.needs, strict=True)
        ]
        if torch.is_grad_enabled():
            grads = [None if g is None else _FirstOrder.apply(g, x, y) for g in grads]
        return None, *grads, None, None, None


def _scale(grad, grad_out, dtype):
    shape = grad_out.shape + (1,) * (grad.dim() - grad_out.dim())
    return (grad * grad_out.reshape(shape)).to(dtype)


class _FirstOrder(torch.autograd.Function):
    """The identity on a gradient, tied to the points it was taken at.

    Differentiating that gradient again, with respect to anything, is then refused instead of
    silently missing a term.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, y):
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad_out):
        raise NotImplementedError(
            "otkernels: impl='cpu' and impl='triton' have first derivatives only. "
            "Use impl='torch' where a second derivative is needed."
        )
