"""Singular covariances whose loss and gradients are known: those of a block, and zeros around it.

No case of its own: the tuner's inputs for the kernels that regular covariances leave at once.
"""

import dataclasses

import torch
from torch.nn.functional import pad

from ..case import Shape
from ..families import bures


def inputs(shape):
    """As ``bures.inputs``, with covariances of half the rank: zero in the last coordinates."""
    x, y, *means = bures.inputs(shape)
    rank, d = shape.D // 2, shape.D
    x, y = (pad(t[..., :rank, :rank], (0, d - rank, 0, d - rank)) for t in (x, y))
    return x, y, *means


@torch.no_grad()
def expect(x, y, mean_x, mean_y):
    """The block's value and gradients; the rest of a gradient is that of the trace."""
    d = x.shape[-1]
    rank = d // 2
    blocks = (t[..., :rank, :rank] for t in (x, y))
    found = bures.expect(*blocks, mean_x, mean_y)
    rest = torch.diag((torch.arange(d, device=x.device) >= rank).double())
    grads = tuple(pad(g, (0, d - rank, 0, d - rank)) + rest for g in found.grads)
    return dataclasses.replace(found, grads=grads, slack=tuple(torch.zeros_like(g) for g in grads))


FAMILY = dataclasses.replace(
    bures.FAMILY,
    op="bures_wasserstein-singular",
    shapes={"smoke": (Shape(2, None, 6, None, "smoke, of half the rank"),)},
    inputs=inputs,
    expect=expect,
    goals=(),
)
