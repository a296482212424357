"""Rows in memory, sorted by kernels: as runs in the registers of a program, merged where too long.

Rows of up to LONGEST_RUN elements take one launch of ``_sort_run_kernel``; up to twice that one of
twice the programs and, where the merged row itself is wanted, one of ``_merge_kernel``. Longer rows
and float64 are left to the library's sort. Bytes an element: 4 read and 4 written, 8 with a
payload; a merge reads and writes both again.
"""

import torch
import triton
import triton.language as tl

from .sort import bitonic_sort, load_keys

# Longest run that one program sorts in its registers.
LONGEST_RUN = 8192
# Ranks that one program of the kernels that do not sort handles, with 4 warps.
RANKS = 512


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


@triton.jit
def _sorted_row(
    row_ptr, n, PAYLOAD: tl.constexpr, LOG: tl.constexpr, THREADS: tl.constexpr
):  # fmt: skip
    """Keys of a row in order and, with PAYLOAD, their positions (else meaningless)."""
    key, position = load_keys(row_ptr, n, 2**LOG, THREADS)
    return bitonic_sort(key, position, PAYLOAD, LOG)


@triton.jit(do_not_specialize=["n"])
def _sort_run_kernel(
    x_ptr,  # (R, n) rows
    key_ptr,  # (R, RUNS, RUN) sorted keys of the first RUN elements of each row, and of the next
    position_ptr,  # (R, RUNS, RUN) the position in its row of each key; written where PAYLOAD
    count_ptr,  # (R / rows_each,) how many elements of a row count, read where COUNTED
    n,
    rows_each,
    PAYLOAD: tl.constexpr,
    COUNTED: tl.constexpr,
    RUNS: tl.constexpr,
    LOG: tl.constexpr,  # RUN = 2^LOG
    THREADS: tl.constexpr,
):
    """One program: one run, sorted in registers, with whatever does not count at its end."""
    RUN: tl.constexpr = 2**LOG
    row = (tl.program_id(0) // RUNS).to(tl.int64)
    start = tl.program_id(0) % RUNS * RUN
    x_ptr += row * n + start
    length = n
    if COUNTED:
        length = tl.load(count_ptr + row // rows_each).to(tl.int32)
    key, position = _sorted_row(x_ptr, length - start, PAYLOAD, LOG, THREADS)
    out = row * (RUNS * RUN) + start + tl.arange(0, RUN)
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


@triton.jit
def _merge_kernel(
    key_ptr,  # (R, 2, RUN) from _sort_run_kernel
    position_ptr,
    key_out_ptr,  # (R, 2 RUN) in order
    position_out_ptr,
    PAYLOAD: tl.constexpr,
    LOG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK consecutive ranks of one row of two sorted runs."""
    BLOCKS: tl.constexpr = 2 * 2**LOG // BLOCK
    start = (tl.program_id(0) // BLOCKS).to(tl.int64) * (2 * 2**LOG)
    rank = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    key, slot = _merged(key_ptr + start, rank, LOG)
    tl.store(key_out_ptr + start + rank, key)
    if PAYLOAD:
        tl.store(position_out_ptr + start + rank, tl.load(position_ptr + start + slot))


# --- launchers ----------------------------------------------------------------------------------


def sort_runs(x, payload, runs, counts=None):
    """Keys and positions (R, runs, 2^log) of the sorted runs of each row of x (R, n), and log.

    counts (P,) says how many elements of each row of a problem count, of R / P rows each.
    """
    rows, n = x.shape
    log, threads = sort_config(triton.cdiv(n, runs))
    keys = torch.empty(rows, runs, 2**log, dtype=torch.int32, device=x.device)
    positions = torch.empty_like(keys) if payload else keys
    counted = counts is not None
    _sort_run_kernel[(rows * runs,)](
        x,
        keys,
        positions,
        counts if counted else keys,
        n,
        rows // counts.numel() if counted else 1,
        PAYLOAD=payload,
        COUNTED=counted,
        RUNS=runs,
        LOG=log,
        THREADS=threads,
        **launch_options(threads),
    )
    return keys, positions, log


def sorted_rows(x, payload, counts=None):
    """Values in order and the position in its row of each, (R, at least n), of x (R, n); scratch.

    Values are float32 as keys (int32), or floats as they are, where the library sorts. Positions
    are meaningless without payload. Elements beyond ``counts`` come last.
    """
    rows, n = x.shape
    if x.dtype != torch.float32 or n > 2 * LONGEST_RUN:
        if counts is not None:
            beyond = (
                torch.arange(n, device=x.device)
                >= counts.repeat_interleave(rows // counts.numel(), output_size=rows)[:, None]
            )
            # NaN goes last, and the sort is stable: behind a NaN that counts.
            x = x.masked_fill(beyond, torch.nan)
        return x.sort(dim=-1, stable=counts is not None)
    if n <= LONGEST_RUN:
        keys, positions, _ = sort_runs(x, payload, 1, counts)
        return keys[:, 0], positions[:, 0]
    keys, positions, log = sort_runs(x, payload, 2, counts)
    merged_keys = torch.empty_like(keys)
    merged_positions = torch.empty_like(positions) if payload else merged_keys
    _merge_kernel[(rows * 2 * 2**log // RANKS,)](
        keys, positions, merged_keys, merged_positions, PAYLOAD=payload, LOG=log, BLOCK=RANKS
    )
    return merged_keys.view(rows, -1), merged_positions.view(rows, -1)
