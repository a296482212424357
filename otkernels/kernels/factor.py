"""Factors S = F F^T of covariances, and inverse rows G with G F = I, in float64, on the GPU.

Cholesky with pivots, so that singular covariances and zero need no care of the host: each step
takes the largest diagonal entry that is left, and columns of F past the rank are 0, as are rows of
G. Rows of F keep their places; it is triangular only in the order of the pivots.

One launch, one program a problem. FLOP: 5 D^3. Bytes, float32 input: 4 D^2 read, 16 D^2 written;
beyond TOGETHER rows F is read once more, from the cache.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

# A problem is regular if its smallest pivot is above so many times the cutoff.
CLEAR = 16
# Up to so many rows a covariance fits in the registers of a program; F and G as well.
SHORT = 64
# Beyond this the library's Cholesky is faster: see ``factor_large``.
LARGEST = 128


class Factor(NamedTuple):
    """Factors of a batch of covariances (B, D, D)."""

    f: torch.Tensor  # (B, D, D) float64
    g: torch.Tensor  # (B, D, D) float64
    regular: torch.Tensor  # (B,) int32, 1 or 0


def passes(s, g, cutoff):
    """Whether all eigenvalues of S = (G^T G)^-1 surely pass the cutoff: (B,), 1 or 0.

    1 / |G|^2 is no more than the smallest, |S| no less than the largest; pivots are no such bound.
    """
    least = g.square().sum((-2, -1))
    return (least * torch.linalg.matrix_norm(s) * cutoff < 1).int()


def config(d):
    """(TILE, STEP, warps) for D rows. Not yet tuned on a GPU; chosen so that nothing spills."""
    tile = triton.next_power_of_2(d)
    if d <= SHORT:
        return tile, 0, max(1, tile * tile // 512)
    return tile, max(1, 2048 // tile), max(4, tile // 256)


@triton.jit(do_not_specialize=["n", "cutoff"])
def _factor_kernel(
    s_ptr,  # (B, n, n)
    f_ptr,  # (B, n, n)
    g_ptr,  # (B, n, n)
    regular_ptr,  # (B,)
    n,
    cutoff,
    stride_b,
    stride_row,
    stride_col,
    CLEAR: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program: one covariance, of which the symmetric part counts, in registers."""
    problem = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, TILE)
    row, col = index[:, None], index[None, :]
    inside = (row < n) & (col < n)
    s_ptr += problem * stride_b
    s = tl.load(s_ptr + row * stride_row + col * stride_col, mask=inside, other=0.0)
    other = tl.load(s_ptr + col * stride_row + row * stride_col, mask=inside, other=0.0)
    s = (s.to(tl.float64) + other.to(tl.float64)) * 0.5
    broken = tl.sum(tl.sum(s * 0.0, 1), 0)  # NaN where anything is not finite
    largest = tl.max(tl.sum(tl.where(row == col, s, 0.0), 1), 0)
    floor, least = largest * cutoff, largest
    # What the steps so far have made of the identity.
    r = tl.where(row == col, 1.0, 0.0).to(tl.float64)
    f_ptr += problem * n * n
    g_ptr += problem * n * n
    for k in range(n):
        diagonal = tl.sum(tl.where(row == col, s, 0.0), 1)
        j, pivot, inverse = _pivot(diagonal, floor)
        least = tl.minimum(least, pivot)
        inverse += broken
        c = tl.sum(tl.where(col == j, s, 0.0), 1) * inverse
        c_row = tl.sum(tl.where(row == j, s, 0.0), 0) * inverse
        g = tl.sum(tl.where(row == j, r, 0.0), 0) * inverse
        s = tl.where((row == j) | (col == j), 0.0, s - c[:, None] * c_row[None, :])
        r -= c[:, None] * g[None, :]
        tl.store(f_ptr + index * n + k, c, mask=index < n)
        tl.store(g_ptr + k * n + index, g, mask=index < n)
    regular = (least > CLEAR * floor) & (largest > 0)
    tl.store(regular_ptr + problem, regular.to(tl.int32))


@triton.jit
def _pivot(diagonal, floor):
    """Place and size of the largest entry, and its inverse root: 0 if it counts as 0."""
    pivot, j = tl.max(diagonal, 0), tl.argmax(diagonal, 0)
    live = pivot > floor
    return j, pivot, tl.where(live, 1.0 / tl.sqrt(tl.where(live, pivot, 1.0)), 0.0)


@triton.jit(do_not_specialize=["n", "cutoff"])
def _long_factor_kernel(
    s_ptr,  # (B, n, n)
    f_ptr,  # (B, n, n)
    g_ptr,  # (B, n, n)
    regular_ptr,  # (B,)
    n,
    cutoff,
    stride_b,
    stride_row,
    stride_col,
    CLEAR: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """One program: one covariance, of which vectors are in registers and the rest in memory."""
    problem = tl.program_id(0).to(tl.int64)
    index, inner = tl.arange(0, TILE).to(tl.int64), tl.arange(0, STEP)
    inside = index < n
    s_ptr += problem * stride_b
    diagonal = tl.load(s_ptr + index * (stride_row + stride_col), mask=inside, other=0.0)
    diagonal = diagonal.to(tl.float64)
    largest = tl.max(diagonal, 0)
    floor, least = largest * cutoff, largest
    broken = tl.sum(diagonal * 0.0, 0)
    left = inside  # rows without a pivot so far
    f_ptr += problem * n * n
    g_ptr += problem * n * n
    for k in range(n):
        j, pivot, inverse = _pivot(tl.where(left, diagonal, 0.0), floor)
        least = tl.minimum(least, pivot)
        c = tl.load(s_ptr + index * stride_row + j * stride_col, mask=inside, other=0.0)
        other = tl.load(s_ptr + j * stride_row + index * stride_col, mask=inside, other=0.0)
        c = (c.to(tl.float64) + other.to(tl.float64)) * 0.5
        # The whole column, though entries of earlier pivots are known to be 0: NaN must show.
        broken += tl.sum(c * 0.0, 0)
        g = tl.where(index == j, 1.0, 0.0).to(tl.float64)
        for start in range(0, k, STEP):
            at = start + inner
            done = at < k
            f_j = tl.load(f_ptr + j * n + at, mask=done, other=0.0)
            both = inside[:, None] & done[None, :]
            f = tl.load(f_ptr + index[:, None] * n + at[None, :], mask=both, other=0.0)
            c -= tl.sum(f * f_j[None, :], 1)
            f = tl.load(g_ptr + at[None, :] * n + index[:, None], mask=both, other=0.0)
            g -= tl.sum(f * f_j[None, :], 1)
        c = tl.where(left, c, 0.0) * inverse + broken
        g = g * inverse + broken
        left &= index != j
        diagonal -= c * c
        tl.store(f_ptr + index * n + k, c, mask=inside)
        tl.store(g_ptr + k * n + index, g, mask=inside)
        tl.debug_barrier()  # the next column reads this one
    regular = (least > CLEAR * floor) & (largest > 0)
    tl.store(regular_ptr + problem, regular.to(tl.int32))


def factor(s, cutoff):
    """The :class:`Factor` of covariances s (B, D, D) of any strides.

    Args:
        s: covariances, symmetric up to rounding, any floating dtype. NaN or infinity makes all of
            its problem NaN.
        cutoff: pivots up to this times the largest diagonal entry count as 0.
    """
    batch, d, _ = s.shape
    if d * max(s.stride()[1:]) >= 2**31:  # places within a covariance are counted in int32
        s = s.contiguous()
    f, g = (s.new_empty((batch, d, d), dtype=torch.float64) for _ in range(2))
    regular = s.new_empty(batch, dtype=torch.int32)
    tile, step, warps = config(d)
    each = {"CLEAR": CLEAR, "TILE": tile, "num_warps": warps}
    given = s, f, g, regular, d, float(cutoff), *s.stride()
    if batch and d <= SHORT:
        _factor_kernel[(batch,)](*given, **each)
    elif batch:
        _long_factor_kernel[(batch,)](*given, STEP=step, **each)
    return Factor(f, g, regular)
