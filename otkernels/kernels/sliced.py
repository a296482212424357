"""Triton kernels of sliced Wasserstein: match rows by rank, with value and slopes in one pass.

For one chunk of l directions of B problems, with rows of length N:

1. ``matmul``          U = theta^T x^T and V = theta^T y^T, rows contiguous            2 launches
2. match               sort both rows, cost of the gaps, slopes in place of U and V
     N <= FUSED        ``_match_kernel``: a row pair in the registers of one program    1 launch
     N <= MERGED       ``_sort_run_kernel`` per cloud, then ``_merge_match_kernel``     3 launches
     else, or float64  library sort per cloud, then ``_rank_match_kernel``     1 launch and 2 sorts
3. ``matmul``          grad += U^T theta^T for each cloud that needs a gradient    0 to 2 launches

Work per chunk: 2 B l N D FLOP a product; B l (N/2) log2(N) (log2(N) + 1) / 2 compare-exchanges a
sorted cloud. Bytes per direction and point, float32: 8 written and 8 read for the projections, 4
written and 4 read for each gradient; a merged cloud adds 4 (8 with its gradient) each way.
Scratch is that of one chunk (``directions_per_chunk``). Rows reach 2^31 - 1 elements.
"""

import torch
import triton
import triton.language as tl

from otkernels._ops import accumulation_dtype, empty_grad

from .matmul import matmul
from .sort import bitonic_sort, key_to_float, load_keys

# Longest row of a pair that one program sorts in its registers. A pair of 8192 with both payloads
# spills, up to 180 values, depending on the exponent and the version of Triton.
FUSED = 4096
# Longest row sorted as two runs that are merged while they are matched; the library sorts the rest.
MERGED = 16384
# Ranks that one program of the merge and rank kernels handles, with 4 warps.
RANKS = 512
# Scratch of one chunk of directions, though never less than one direction of every problem. Both
# projections should stay in a GPU's second-level cache; the library sort, with sorted values and
# int64 positions besides, wants many rows at a time more.
CHUNK_BYTES = 24 * 2**20
CHUNK_BYTES_SORTED = 128 * 2**20
# The least side of a tile in the products.
DIRECTIONS = 16


def sort_config(n):
    """(log2 of the padded row, threads) to sort a row of n <= 8192: 8 elements a thread, then 16.

    More elements a thread mean fewer exchanges between threads but longer code, which then leaves
    the instruction cache. Chosen from compiled code (docs/kernels.md); not yet tuned on a GPU.
    """
    log = max(5, (n - 1).bit_length())
    return log, min(512, max(32, 2**log // 8))


def launch_options(threads):
    """num_warps, and for the widest programs a register limit, of a program of the given threads.

    512 threads can have 128 registers each. Where that is not stated, ptxas at times settles for
    fewer and spills a few values; stated for smaller programs, it uses more than they need.
    """
    if torch.version.hip:
        warp = triton.runtime.driver.active.get_current_target().warp_size
        return {"num_warps": max(1, threads // warp)}
    return {"num_warps": threads // 32} | ({"maxnreg": 128} if threads == 512 else {})


# --- device functions ---------------------------------------------------------------------------


@triton.jit
def _sorted_row(
    row_ptr, n, PAYLOAD: tl.constexpr, LOG: tl.constexpr, THREADS: tl.constexpr
):  # fmt: skip
    """Keys of a row in order and, with PAYLOAD, their positions (else meaningless)."""
    key, position = load_keys(row_ptr, n, 2**LOG, THREADS)
    return bitonic_sort(key, position, PAYLOAD, LOG)


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


@triton.jit(do_not_specialize=["directions"])
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


@triton.jit
def _sort_run_kernel(
    x_ptr,  # (R, n) rows
    key_ptr,  # (R, 2, RUN) sorted keys of the first RUN elements of each row, and of the rest
    position_ptr,  # (R, 2, RUN) the position in its row of each key; written where PAYLOAD
    n,
    PAYLOAD: tl.constexpr,
    LOG: tl.constexpr,  # RUN = 2^LOG
    THREADS: tl.constexpr,
):
    """One program: one run, sorted in registers."""
    RUN: tl.constexpr = 2**LOG
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * RUN
    key, position = _sorted_row(x_ptr + row * n + start, n - start, PAYLOAD, LOG, THREADS)
    out = row * (2 * RUN) + start + tl.arange(0, RUN)
    tl.store(key_ptr + out, key)
    if PAYLOAD:
        tl.store(position_ptr + out, start + position)


@triton.jit
def _merged(key_ptr, rank, LOG: tl.constexpr):
    """Key and slot, in 0..2 RUN - 1, of the element at each rank of two sorted runs.

    Binary search for how many of the elements before the rank come from the first run (Green,
    McColl, Bader 2012, "GPU merge path"); of equal keys the first run's come first.
    """
    RUN: tl.constexpr = 2**LOG
    low = tl.maximum(rank - RUN, 0)
    high = tl.minimum(rank, RUN)
    for _ in range(LOG + 1):
        middle = (low + high) // 2
        searching = low < high
        first = tl.load(key_ptr + middle, mask=searching, other=0)
        second = tl.load(key_ptr + RUN + rank - 1 - middle, mask=searching, other=0)
        more = first <= second
        low = tl.where(searching & more, middle + 1, low)
        high = tl.where(more, high, tl.where(searching, middle, high))
    in_first = low < RUN
    in_second = rank - low < RUN
    first = tl.load(key_ptr + low, mask=in_first, other=0)
    second = tl.load(key_ptr + RUN + rank - low, mask=in_second, other=0)
    use_first = in_first & ((first <= second) | (rank - low >= RUN))
    return tl.where(use_first, first, second), tl.where(use_first, low, RUN + rank - low)


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


# --- launchers ----------------------------------------------------------------------------------


def _match(u, v, directions, p, need_u, need_v):
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
        log, threads = sort_config(triton.cdiv(n, 2))
        (key_u, from_u), (key_v, from_v) = (
            _sort_runs(x, log, threads, need) for x, need in ((u, need_u), (v, need_v))
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


def _sort_runs(x, log, threads, payload):
    """Keys and positions (R, 2, 2^log) of the two sorted runs of each row of x."""
    rows, n = x.shape
    keys = torch.empty(rows, 2, 2**log, dtype=torch.int32, device=x.device)
    positions = torch.empty_like(keys) if payload else keys
    _sort_run_kernel[(rows, 2)](
        x, keys, positions, n, PAYLOAD=payload, LOG=log, THREADS=threads, **launch_options(threads)
    )
    return keys, positions


def line(u, v, p, need_u, need_v):
    """Value (...) and gradients of W_p^p between rows u and v (..., N); see otkernels.sliced."""
    n = u.shape[-1]
    dtype = accumulation_dtype(u.dtype)
    work = [t.reshape(-1, n).to(dtype, copy=True).contiguous() for t in (u, v)]
    if work[0].numel() == 0:
        cost = work[0].new_empty(work[0].shape[0])
    else:
        cost = _match(*work, 1, p, need_u, need_v) / n
    grads = [
        w.reshape(t.shape) if need else empty_grad(t, False)
        for t, w, need in zip((u, v), work, (need_u, need_v), strict=True)
    ]
    return cost.reshape(u.shape[:-1]), *grads


def sliced(x, y, projections, p, need_x, need_y):
    """Value (...) and gradients of SW_p^p between x and y (..., N, D); see otkernels.sliced.

    projections is (D, L) or (..., D, L) in the accumulation dtype.
    """
    (n, d), total, dtype = x.shape[-2:], projections.shape[-1], projections.dtype
    clouds = [t.reshape(-1, n, d) for t in (x, y)]
    batch = clouds[0].shape[0]
    theta = projections.reshape(-1, d, total).expand(batch, -1, -1)
    grads = [
        torch.zeros(batch, n, d, dtype=dtype, device=x.device) if need else None
        for need in (need_x, need_y)
    ]
    cost = torch.zeros(batch, dtype=dtype, device=x.device)
    step = directions_per_chunk(max(1, batch), n, dtype)
    for start in range(0, total if batch else 0, step):
        part = theta[..., start : start + step]
        rows = [torch.empty(batch, part.shape[-1], n, dtype=dtype, device=x.device) for _ in clouds]
        for cloud, out in zip(clouds, rows, strict=True):
            matmul(part.mT, cloud.mT, out)
        flat = [r.view(-1, n) for r in rows]
        cost += _match(*flat, total, p, need_x, need_y).view(batch, -1).sum(1)
        for grad, slopes in zip(grads, rows, strict=True):
            if grad is not None:
                matmul(slopes.mT, part.mT, grad, accumulate=True)
    value = (cost / n / total).reshape(x.shape[:-2])
    return value, *(
        empty_grad(t, False) if g is None else g.reshape(t.shape)
        for t, g in zip((x, y), grads, strict=True)
    )


def directions_per_chunk(batch, n, dtype):
    """How many directions to handle at a time, in whole tiles of the products if that many fit."""
    if dtype == torch.float32 and n <= MERGED:
        fit = CHUNK_BYTES // (2 * dtype.itemsize * n * batch)
    else:
        fit = CHUNK_BYTES_SORTED // (2 * (2 * dtype.itemsize + 8) * n * batch)
    return max(1, fit // DIRECTIONS * DIRECTIONS or fit)
