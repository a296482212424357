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
from ._transforms import has_tangent, is_compiling_transform, needs_grad, no_tangents

# Where the fast forms of an op stand, below otkernels.
FOLDERS = {"cpu": "cpu", "triton": "kernels"}
# Asked once, for the compiler of torch 2.11 cannot trace the question.
HAS_TRITON = importlib.util.find_spec("triton") is not None


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
        if device.type == "cpu":
            return "cpu"
        return "triton" if device.type == "cuda" and HAS_TRITON else "torch"
    _check.one_of(function, "impl", impl, _check.IMPLS)
    if impl == "cpu":
        ok = device.type == "cpu"
        _check.require(ok, function, "impl", f"be 'torch' or 'triton' on {device}", "'cpu'")
    if impl == "triton":
        condition = "be 'torch' or 'cpu': no Triton here"
        _check.require(HAS_TRITON, function, "impl", condition, "'triton'")
        interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
        condition = (
            f"be 'torch' or 'cpu' on {device} (Triton runs on CUDA and ROCm tensors, and on CPU "
            "tensors only in its interpreter, with TRITON_INTERPRET=1 set before the start)"
        )
        ok = device.type == "cuda" or interpreted
        _check.require(ok, function, "impl", condition, "'triton'")
    return impl


def stream(generator):
    """The ``generator=`` of torch's draws, left out where it is None.

    torch refuses ``generator=None`` with sizes that torch.compile varies.
    """
    return {} if generator is None else {"generator": generator}


def without_autocast(device):
    """A context in which autocast does not lower the precision of our own arithmetic."""
    kind = device.type
    # Not torch.amp.is_autocast_available, which the compiler of torch 2.11 cannot trace.
    if kind != "meta" and torch.is_autocast_enabled(kind):
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
        on_device = torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext()
        with on_device, torch.no_grad():
            results = run(first, *args)
        return _values_only(results, (first, *args)) if torch.is_grad_enabled() else results

    qualified = f"otkernels::{name}"
    torch.library.define(qualified, schema)
    torch.library.impl(qualified, "CompositeExplicitAutograd", launch)
    torch.library.register_fake(qualified, fake)
    op = getattr(torch.ops.otkernels, name).default

    def batched(info, in_dims, *args):
        """vmap: every tensor argument takes leading axes, so the mapped axis becomes the first."""
        moved = [
            _to_front(a, d, info.batch_size) if isinstance(a, torch.Tensor) else a
            for a, d in zip(args, in_dims, strict=True)
        ]
        results = op(*moved)
        return results, (0,) * len(results) if isinstance(results, tuple) else 0

    torch.library.register_vmap(qualified, batched)
    return op


def _values_only(results, args):
    """Results of a launcher, whose gradient is refused to who calls the operator by itself.

    That is who runs an exported program, in which no autograd.Function is left.
    """
    at = [t for t in args if isinstance(t, torch.Tensor) and t.requires_grad]
    if not at:
        return results
    if isinstance(results, torch.Tensor):
        return first_order(results, *at, refusal=_VALUES_ONLY)
    return tuple(first_order(t, *at, refusal=_VALUES_ONLY) for t in results)


def _to_front(tensor, dim, size):
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def value_and_grad(op, tensors, *args, inner=False):
    """The value of a raw op, differentiable once with respect to each of ``tensors``.

    The op is ``(*tensors, *args, bool[] needs) -> (value, *details, *grads)`` with one need and one
    gradient for each of the tensors, some of which may be None. Where a tensor needs no gradient
    its own is empty. ``inner``: a transform of our own, whose gradient the compiler keeps.

    Returns:
        (value, details): details is a tuple, without gradients.
    """
    refuse_lost_derivatives(tensors, inner)
    needs = [needs_grad(t) for t in tensors]
    if not any(needs):
        value, *details = op(*tensors, *args, needs)[: -len(tensors)]
        return value, tuple(details)
    value, *details = call(_ValueAndGrad, op, args, needs, *tensors)[: -len(tensors)]
    # A copy, because backward needs the value: users may change theirs in place.
    return value.clone(), tuple(details)


def refuse_lost_derivatives(tensors, inner=False):
    """Raise where a raw operator would drop a derivative, which would then come out as 0."""
    if any(has_tangent(t) for t in tensors if t is not None):
        no_tangents()
    # Dynamo traces an autograd.Function there as its forward pass, if no gradient shows.
    if is_compiling_transform() and torch.is_grad_enabled() and not inner:
        raise NotImplementedError(
            "otkernels: torch.compile loses gradients of impl='cpu' and impl='triton' within "
            "torch.func. Use impl='torch', compile no transform, or call it under no_grad()."
        )


def call(function, *args, jvp=no_tangents):
    """``function.apply(*args)`` of an autograd.Function, whose forward mode ``jvp`` refuses."""
    if any(has_tangent(a) for a in args if isinstance(a, torch.Tensor)):
        jvp()
    return function.apply(*args)


class _ValueAndGrad(torch.autograd.Function):
    """Value and gradients from one launch; backward multiplies the gradients by its cotangent."""

    generate_vmap_rule = True

    @staticmethod
    def forward(op, args, needs, *tensors):
        return op(*tensors, *args, needs)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, _, needs, *tensors = inputs
        value, *rest = output
        grads = rest[-len(tensors) :]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*rest)
        ctx.needs = needs
        ctx.dtypes = [None if t is None else t.dtype for t in tensors]
        kept = [t if need else None for t, need in zip(tensors, needs, strict=True)]
        ctx.save_for_backward(value, *grads, *kept)

    @staticmethod
    def backward(ctx, grad_out, *_grads_of_the_rest):
        value, *saved = ctx.saved_tensors
        n = len(ctx.needs)
        if grad_out is None:
            return (None,) * (3 + n)
        # A fast form meets a NaN or an infinity only at some points; no point of that problem may
        # get a finite gradient.
        grad_out = torch.where(value.isfinite(), grad_out, torch.nan)
        grads = [
            _scale(grad, grad_out, dtype) if need else None
            for grad, dtype, need in zip(saved[:n], ctx.dtypes, ctx.needs, strict=True)
        ]
        kept = [t for t in saved[n:] if t is not None]
        grads = [None if g is None else first_order(g, *kept) for g in grads]
        return None, None, None, *grads


def _scale(grad, grad_out, dtype):
    shape = grad_out.shape + (1,) * (grad.dim() - grad_out.dim())
    return (grad * grad_out.reshape(shape).to(grad.dtype)).to(dtype)


_VALUES_ONLY = (
    "an exported program has values and no gradients with impl='cpu' and impl='triton'. "
    "Train with the module that was exported."
)
_FAST_FORMS = (
    "impl='cpu' and impl='triton' have first derivatives only. "
    "Use impl='torch' where a second derivative is needed."
)


def first_order(grad, *at, refusal=_FAST_FORMS):
    """A gradient taken at the tensors ``at``, that refuses to be differentiated again."""
    return call(_FirstOrder, refusal, grad, *at) if torch.is_grad_enabled() else grad


class _FirstOrder(torch.autograd.Function):
    """The identity on a gradient, tied to the tensors it was taken at.

    Differentiating that gradient again, with respect to anything, is then refused instead of
    silently missing a term.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(refusal, grad, *at):
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.refusal = inputs[0]

    @staticmethod
    def backward(ctx, grad_out):
        raise NotImplementedError(f"otkernels: {ctx.refusal}")
