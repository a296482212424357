"""Block estimate of the squared maximum mean discrepancy, for samples too large for all pairs."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import _check
from ._kernels import KERNELS
from ._results import nan_everywhere
from ._types import Bandwidth, Impl, Kernel, Precision
from .bandwidth import median_bandwidth
from .mmd import answer, clouds

__all__ = ["MMDBlocks", "mmd_blocks"]


class MMDBlocks(NamedTuple):
    """What :func:`mmd_blocks` returns.

    Attributes:
        value: (...) mean over the blocks of their unbiased MMD^2.
        standard_error: (...) the blocks' standard deviation over the root of their number, without
            gradient; NaN where there is only one block.
    """

    value: torch.Tensor
    standard_error: torch.Tensor


def mmd_blocks(
    x: Tensor,
    y: Tensor,
    *,
    block_size: int,
    kernel: Kernel = "gaussian",
    bandwidth: Bandwidth = "median",
    precision: Precision = "full",
    validate: bool = False,
    impl: Impl | None = None,
) -> MMDBlocks:
    """Mean of the unbiased MMD^2 over disjoint blocks of the samples.

    Of B = min(N, M) // block_size blocks each has N // B points of x and M // B points of y, next
    to each other as they come; the fewer than B points of a sample that are left at its end are not
    used. Blocks of independent draws are independent, so their spread tells the standard error, and
    ``value / standard_error`` is about standard normal where both laws are the same and blocks are
    many (Zaremba, Gretton, Blaschko 2013, "B-test: a non-parametric, low variance kernel two-sample
    test"). It is not, where the order of the points means something: shuffle those first.

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's.
        block_size: least number of points of each sample in a block, from 2 to min(N, M).
        kernel: name of the kernel, see :func:`otkernels.mmd`.
        bandwidth: as for :func:`otkernels.mmd`, one for all blocks of a problem; "median" is
            :func:`otkernels.median_bandwidth` of the whole samples.
        precision: "full" or "fast", see :func:`otkernels.mmd`.
        validate: check values too, which waits for a GPU.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.

    Returns:
        :class:`MMDBlocks`, float32 (float64 for float64 input). The mean of ``value`` over draws is
        MMD^2, so where that is near 0 it is often negative. One block gives
        ``mmd(x, y, unbiased=True)``.

    Gradients: of ``value`` to x and y as for :func:`otkernels.mmd`; 0 at points left over. A NaN
        makes value and gradient of all points in blocks NaN in its own problem.

    Raises:
        ValueError: block_size out of range; otherwise as :func:`otkernels.mmd`.
        TypeError, NotImplementedError: as :func:`otkernels.mmd`.

    Cost: O((N + M) (N + M) D / B) time, that is O((N + M) block_size D) for N = M.

    >>> import torch
    >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> mmd_blocks(x, x + 3, block_size=2, kernel="energy").value.item()
    6.0
    """
    name = "mmd_blocks"
    clouds(name, x, y, (None, None), (None, None), unbiased=False)
    _check.one_of(name, "kernel", kernel, KERNELS)
    _check.positive_int(name, "block_size", block_size)
    smaller = min(x.shape[-2], y.shape[-2])
    if not 2 <= block_size <= smaller:  # only now: see _check.weights
        condition = f"be from 2 to {smaller}, the size of the smaller sample"
        raise ValueError(_check.message(name, "block_size", condition, block_size))
    n_blocks = smaller // block_size
    each = answer(
        name,
        _blocks(x, n_blocks),
        _blocks(y, n_blocks),
        (None, None),
        (None, None),
        kernel,
        _for_blocks(x, y, kernel, bandwidth),
        unbiased=True,
        squared=True,
        reduction="none",
        precision=precision,
        validate=validate,
        impl=impl,
    )
    value = nan_everywhere(each.mean(-1))
    return MMDBlocks(value, _standard_error(each.detach()))


def _blocks(points, n_blocks):
    """Points (..., N, D) as (..., n_blocks, N // n_blocks, D)."""
    size = points.shape[-2] // n_blocks
    return points[..., : n_blocks * size, :].unflatten(-2, (n_blocks, size))


def _for_blocks(x, y, kernel, bandwidth):
    """The bandwidth with an axis for the blocks behind those of the batch, if it has any."""
    if isinstance(bandwidth, str) and bandwidth == "median" and KERNELS[kernel].factor is not None:
        return median_bandwidth(x, y)[..., None, None]
    if isinstance(bandwidth, torch.Tensor) and bandwidth.dim() > 1:
        return bandwidth.unsqueeze(-2)
    return bandwidth


def _standard_error(each):
    """Of the mean over the last axis; NaN for a single number."""
    n = each.shape[-1]
    if n == 1:
        return torch.full_like(each[..., 0], torch.nan)
    return each.std(-1) / math.sqrt(n)
