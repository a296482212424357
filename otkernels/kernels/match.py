"""Matching rows of equal length by rank: value and slopes in one pass.

For R pairs of rows of length n:

     n <= FUSED        ``_match_kernel``: a row pair in the registers of one program    1 launch
     n <= MERGED       ``_sort_run_kernel`` per cloud, then ``_merge_match_kernel``     3 launches
     else, or float64  library sort per cloud, then ``_rank_match_kernel``     1 launch and 2 sorts

Work: R (n/2) log2(n) (log2(n) + 1) / 2 compare-exchanges a sorted cloud. Bytes per element of a
pair, float32: 8 read, and 4 written for each gradient; a merged cloud adds 4 (8 with its gradient)
each way. Rows reach 2^31 - 1 elements.
"""

import torch
import triton
import triton.language as tl

from .rows import LONGEST_RUN, RANKS, _merged, _sorted_row, launch_options, sort_config, sort_runs
from .sort import key_to_float

# Longest row of a pair that one program sorts in its registers. A pair of 8192 with both payloads
# spills, up to 180 values, depending on the exponent and the version of Triton.
FUSED = 4096
# Longest row sorted as two runs that are merged while they are matched; the library sorts the rest.
MERGED = 2 * LONGEST_RUN


# --- device functions ---------------------------------------------------------------------------


@triton.jit
def _cost_and_slope(gap, P: tl.constexpr):
    """|gap|^P and P sign(gap) |gap|^(P-1).

    Whole factors of |gap|^(P-1) are multiplied: exp2(log2) alone loses digits away from |gap| = 1.
    """
    size = tl.abs(gap)
    power = tl.full(size.shape, 1.0, size.dtype)
    for factor in tl.static_range(1, 16):
        if factor <= P - 1:
            power *= size
    REST: tl.constexpr = (P - 1) % 1 if P < 17 else P - 16
    if REST == 0.5:
        power *= tl.sqrt(size)
    elif REST != 0:
        power *= tl.exp2(REST * tl.log2(size))
    sign = tl.where(gap > 0, 1.0, tl.where(gap < 0, -1.0, gap))  # NaN stays NaN
    return size * power, P * power * sign


@triton.jit
def _finish(
    u,  # values of U at the ranks of this program
    v,  # values of V at the same ranks
    from_u,  # position in its row of each value of U
    from_v,
    inside,  # which ranks exist
    u_row_ptr,  # where slopes of U go, by position
    v_row_ptr,
    part_ptr,  # where the cost goes
    n,
    directions,  # the mean is over n * directions gaps
    P: tl.constexpr,
    NEED_U: tl.constexpr,
    NEED_V: tl.constexpr,
):
    """Cost of the gaps and, where needed, the derivative of the mean cost at each point."""
    gap = tl.where(inside, u - v, 0.0)
    cost, slope = _cost_and_slope(gap, P)
    tl.store(part_ptr, tl.sum(cost))
    slope = slope / n / directions  # one at a time: their product may pass 2^31
    if NEED_U:
        tl.store(u_row_ptr + from_u, slope, mask=inside)
    if NEED_V:
        tl.store(v_row_ptr + from_v, -slope, mask=inside)


# --- kernels ------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n", "directions"])
def _match_kernel(
    u_ptr,  # (R, n) rows; slopes replace them where NEED_U
    v_ptr,  # (R, n) rows; slopes replace them where NEED_V
    part_ptr,  # (R,) sum of costs of a row pair
    n,
    directions,
    P: tl.constexpr,
    NEED_U: tl.constexpr,
    NEED_V: tl.constexpr,
    LOG: tl.constexpr,
    THREADS: tl.constexpr,
):
    """One program: one pair of rows, sorted in registers.

    Slopes may overwrite the rows they come from: a slot is written by the thread that holds the
    element read from it, so after that element was read.
    """
    row = tl.program_id(0).to(tl.int64)
    u_ptr += row * n
    v_ptr += row * n
    u, from_u = _sorted_row(u_ptr, n, NEED_U, LOG, THREADS)
    v, from_v = _sorted_row(v_ptr, n, NEED_V, LOG, THREADS)
    _finish(
        key_to_float(u), key_to_float(v), from_u, from_v, tl.arange(0, 2**LOG) < n,
        u_ptr, v_ptr, part_ptr + row, n, directions, P, NEED_U, NEED_V,
    )  # fmt: skip


@triton.jit(do_not_specialize=["directions"])
def _merge_match_kernel(
    u_ptr,  # (R, n) slopes out, where NEED_U
    v_ptr,  # (R, n) slopes out, where NEED_V
    key_u_ptr,  # (R, 2, RUN) from _sort_run_kernel
    key_v_ptr,
    position_u_ptr,  # (R, 2, RUN), read where NEED_U
    position_v_ptr,  # (R, 2, RUN), read where NEED_V
    part_ptr,  # (R, blocks) sums of costs
    n,
    directions,
    P: tl.constexpr,
    NEED_U: tl.constexpr,
    NEED_V: tl.constexpr,
    LOG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK consecutive ranks of one pair of rows, each row two sorted runs."""
    blocks = tl.cdiv(n, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    rank = block * BLOCK + tl.arange(0, BLOCK)
    inside = rank < n
    runs = row * (2 * 2**LOG)
    u, from_u = _merged(key_u_ptr + runs, rank, LOG)
    v, from_v = _merged(key_v_ptr + runs, rank, LOG)
    if NEED_U:
        from_u = tl.load(position_u_ptr + runs + from_u, mask=inside, other=0)
    if NEED_V:
        from_v = tl.load(position_v_ptr + runs + from_v, mask=inside, other=0)
    _finish(
        key_to_float(u), key_to_float(v), from_u, from_v, inside, u_ptr + row * n, v_ptr + row * n,
        part_ptr + row * blocks + block, n, directions, P, NEED_U, NEED_V,
    )  # fmt: skip


@triton.jit(do_not_specialize=["directions"])
def _rank_match_kernel(
    u_ptr,  # (R, n) slopes out, where NEED_U
    v_ptr,  # (R, n) slopes out, where NEED_V
    sorted_u_ptr,  # (R, n) values in order
    sorted_v_ptr,
    position_u_ptr,  # (R, n) int64, read where NEED_U
    position_v_ptr,  # (R, n) int64, read where NEED_V
    part_ptr,  # (R, blocks) sums of costs
    n,
    directions,
    P: tl.constexpr,
    NEED_U: tl.constexpr,
    NEED_V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK consecutive ranks of one pair of sorted rows."""
    blocks = tl.cdiv(n, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    rank = block * BLOCK + tl.arange(0, BLOCK)
    inside = rank < n
    at = row * n + rank
    u = tl.load(sorted_u_ptr + at, mask=inside, other=0.0)
    v = tl.load(sorted_v_ptr + at, mask=inside, other=0.0)
    from_u = rank
    from_v = rank
    if NEED_U:
        from_u = tl.load(position_u_ptr + at, mask=inside, other=0)
    if NEED_V:
        from_v = tl.load(position_v_ptr + at, mask=inside, other=0)
    _finish(
        u, v, from_u, from_v, inside, u_ptr + row * n, v_ptr + row * n,
        part_ptr + row * blocks + block, n, directions, P, NEED_U, NEED_V,
    )  # fmt: skip


# --- launcher -----------------------------------------------------------------------------------


def match(u, v, directions, p, need_u, need_v):
    """Match rows u and v (R, n), contiguous, by rank; overwrites both.

    Returns the sum of |gap|^p of each row (R,). Where needed, u and v are left holding the
    derivative of the mean over n * directions gaps; otherwise their content is scratch.
    """
    if need_v and not need_u:  # the cost is symmetric: one kernel less to compile
        u, v, need_u, need_v = v, u, need_v, need_u
    rows, n = u.shape
    common = {"P": p, "NEED_U": need_u, "NEED_V": need_v}
    if u.dtype == torch.float32 and n <= FUSED:
        log, threads = sort_config(n)
        part = u.new_empty(rows)
        _match_kernel[(rows,)](
            u, v, part, n, directions, **common, LOG=log, THREADS=threads, **launch_options(threads)
        )
        return part
    blocks = triton.cdiv(n, RANKS)
    part = u.new_empty(rows, blocks)
    if u.dtype == torch.float32 and n <= MERGED:
        (key_u, from_u, log), (key_v, from_v, _) = (
            sort_runs(x, need, 2) for x, need in ((u, need_u), (v, need_v))
        )
        _merge_match_kernel[(rows * blocks,)](
            u, v, key_u, key_v, from_u, from_v, part, n, directions, **common, LOG=log, BLOCK=RANKS
        )
    else:
        (sorted_u, from_u), (sorted_v, from_v) = u.sort(dim=-1), v.sort(dim=-1)
        _rank_match_kernel[(rows * blocks,)](
            u, v, sorted_u, sorted_v, from_u, from_v, part, n, directions, **common, BLOCK=RANKS
        )
    return part.sum(1)
