"""Matrix products whose derivatives autocast leaves as precise as themselves."""

import torch
from torch.autograd import forward_ad

from . import _ops


def product(a, b):
    """Return a @ b for a (..., N, D) and b (..., D, M) of one dtype.

    Where autocast is off for a product but on where ``backward`` is called, torch lowers the
    products of the backward pass; this function does not.
    """
    # Dynamo traces no Function that has a jvp, and one without has no forward mode.
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return a @ b
    return _Product.apply(a, b)


class _Product(torch.autograd.Function):
    """a @ b, differentiable to any order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        return a @ b

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        to_a = to_b = None
        with _ops.without_autocast(grad.device):
            if ctx.needs_input_grad[0]:
                to_a = product(grad, b.mT).sum_to_size(a.shape)
            if ctx.needs_input_grad[1]:
                to_b = product(a.mT, grad).sum_to_size(b.shape)
        return to_a, to_b
