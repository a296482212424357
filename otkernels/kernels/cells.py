"""Matching rows of any sizes and masses: cells of the quantile functions, found by each point.

A program takes consecutive ranks of one side and, for each, walks over the points of the other
whose levels lie within its own. The other side's gradient is another launch with the sides changed,
so nobody writes what another writes, and sums have one order. Levels are integers (i m of n m)
where masses are equal, float64 where they are given.

For R row pairs of n and m, after the rows are sorted (``rows``): one launch for the cost and the
gradient to u, one more for v. A launch reads n values of its own and about n + m of the other's,
as many levels where they are given, and writes n slopes. A point walks over about 1 + m/n others,
or as many as its mass covers: the work of a program is that of its heaviest point. Masses add one
launch a side for the levels and one for their gradient.

Sums along a row, levels and potentials, are taken by one program in a fixed order: torch's
``cumsum`` on a GPU may give other bits on another run.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from otkernels._masses import COINCIDENT

from .match import _cost_and_slope
from .rows import sorted_rows
from .sort import key_to_float

# Ranks that a program handles, with 4 warps: two a thread. Four spilled a few values on sm_100.
RANKS = 256
# Elements that the program of one row adds at a time, with 4 warps.
SUMMED = 1024


@triton.jit
def _first_above(levels_ptr, x, m, OR_EQUAL: tl.constexpr):
    """The first of m ascending levels above x (or equal to it), m where there is none."""
    low = tl.zeros(x.shape, tl.int32)
    high = low + m
    searching = low < high
    while tl.max(searching.to(tl.int32), 0) > 0:
        middle = (low + high) // 2
        level = tl.load(levels_ptr + middle, mask=searching, other=0.0)
        found = level >= x if OR_EQUAL else level > x
        high = tl.where(searching & found, middle, high)
        low = tl.where(searching & (found == 0), middle + 1, low)
        searching = low < high
    return low


@triton.jit
def _value(ptr, at, mask, KEYS: tl.constexpr):
    """Values of a sorted row, which may be stored as keys."""
    stored = tl.load(ptr + at, mask=mask, other=0)
    return key_to_float(stored) if KEYS else stored


@triton.jit
def _nan_if_not_finite(ptr, n, KEYS: tl.constexpr):
    """0, or NaN if a sorted row has an infinity or a NaN: even one without mass shall show."""
    first = tl.load(ptr)
    last = tl.load(ptr + n - 1)
    if KEYS:
        first = key_to_float(first)
        last = key_to_float(last)
    return (first - first) + (last - last)


@triton.jit(do_not_specialize=["n", "rows_each"])
def _levels_kernel(
    mass_ptr,  # (R / rows_each, n) float64, by position
    position_ptr,  # (R, stride) the position in its row of each rank
    level_ptr,  # (R, n) out: masses cumulated by rank, the last exactly 1
    n,
    rows_each,
    stride,
    BLOCK: tl.constexpr,
):
    """One program: the levels of one row."""
    row = tl.program_id(0).to(tl.int64)
    mass_ptr += row // rows_each * n
    position_ptr += row * stride
    level_ptr += row * n
    total = tl.zeros((), tl.float64)
    for start in range(0, n, BLOCK):
        rank = start + tl.arange(0, BLOCK)
        position = tl.load(position_ptr + rank, mask=rank < n, other=0)
        mass = tl.load(mass_ptr + position, mask=rank < n, other=0.0)
        tl.store(level_ptr + rank, total + tl.cumsum(mass, 0), mask=rank < n)
        total += tl.sum(mass)
    tl.debug_barrier()
    last = tl.load(level_ptr + n - 1)
    for start in range(0, n, BLOCK):
        rank = start + tl.arange(0, BLOCK)
        level = tl.load(level_ptr + rank, mask=rank < n, other=0.0)
        tl.debug_barrier()  # all have read the last level before one of them writes there
        tl.store(level_ptr + rank, level / last, mask=rank < n)


@triton.jit(do_not_specialize=["n", "m", "rows_each", "v_each", "directions"])
def _cells_kernel(
    u_ptr,  # (R, stride_u) values in order, or their keys
    v_ptr,  # (R, stride_v), or (R / v_each, stride_v), the same
    from_u_ptr,  # (R, stride_u) position in its row of each value, read where SLOPE
    levels_u_ptr,  # (R, n) cumulated masses in order, read where LEVELS
    levels_v_ptr,  # (R, m)
    count_u_ptr,  # (R / rows_each,) points that count, read where COUNTED
    count_v_ptr,
    slope_ptr,  # (R, n) slopes out, by position, where SLOPE
    part_ptr,  # (R, blocks) sums of costs out, where COST
    n,
    m,
    stride_u,
    stride_v,
    rows_each,
    v_each,
    directions,  # the slopes are those of a mean over so many rows
    P: tl.constexpr,
    U_KEYS: tl.constexpr,
    V_KEYS: tl.constexpr,
    COUNTED: tl.constexpr,
    LEVELS: tl.constexpr,
    COST: tl.constexpr,
    SLOPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK consecutive ranks of one row of u, against a row of v."""
    blocks = tl.cdiv(n, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    rank = block * BLOCK + tl.arange(0, BLOCK)
    u_ptr += row * stride_u
    from_u_ptr += row * stride_u
    v_ptr += row // v_each * stride_v
    size_u = n
    size_v = m
    if COUNTED:
        size_u = tl.load(count_u_ptr + row // rows_each).to(tl.int32)
        size_v = tl.load(count_v_ptr + row // rows_each).to(tl.int32)
    inside = rank < size_u
    u = _value(u_ptr, rank, inside, U_KEYS)
    if LEVELS:
        levels_u_ptr += row * n
        levels_v_ptr += row * m
        start = tl.load(levels_u_ptr + rank - 1, mask=inside & (rank > 0), other=0.0)
        end = tl.load(levels_u_ptr + rank, mask=inside, other=0.0)
        j = _first_above(levels_v_ptr, start, size_v, False)
    else:
        start = rank.to(tl.int64) * size_v
        end = start + size_v
        j = (start // size_u).to(tl.int32)
    cost = tl.zeros((BLOCK,), u.dtype)
    slope = tl.zeros((BLOCK,), u.dtype)
    walking = inside & (start < end) & (j < size_v)
    while tl.max(walking.to(tl.int32), 0) > 0:
        v = _value(v_ptr, j, walking, V_KEYS)
        if LEVELS:
            end_v = tl.load(levels_v_ptr + j, mask=walking, other=0.0)
            mass = (tl.minimum(end, end_v) - start).to(u.dtype)
        else:
            end_v = (j + 1).to(tl.int64) * size_u
            mass = (tl.minimum(end, end_v) - start).to(u.dtype) / size_u / size_v
        cell_cost, cell_slope = _cost_and_slope(u - v, P)
        cost += tl.where(walking, mass * cell_cost, 0.0)
        slope += tl.where(walking, mass * cell_slope, 0.0)
        start = tl.where(walking, end_v, start)
        j += 1
        walking = walking & (end_v < end) & (j < size_v)
    if COST:
        nan = _nan_if_not_finite(u_ptr, size_u, U_KEYS)
        nan += _nan_if_not_finite(v_ptr, size_v, V_KEYS)
        if LEVELS:
            # The last level is 1, or NaN if the masses are.
            nan += (tl.load(levels_u_ptr + n - 1) * tl.load(levels_v_ptr + m - 1) - 1).to(u.dtype)
        tl.store(part_ptr + row * blocks + block, tl.sum(cost) + nan)
    if SLOPE:
        at = tl.load(from_u_ptr + rank, mask=inside, other=0)
        tl.store(slope_ptr + row * n + at, slope / directions, mask=inside)


@triton.jit(do_not_specialize=["n", "m"])
def _potential_kernel(
    u_ptr,  # (R, stride_u) values in order, or their keys
    v_ptr,  # (R, stride_v), the same
    from_u_ptr,  # (R, stride_u) position in its row of each value
    levels_u_ptr,  # (R, n) cumulated masses in order
    levels_v_ptr,  # (R, m)
    potential_ptr,  # (R, n) out, by position
    n,
    m,
    stride_u,
    stride_v,
    P: tl.constexpr,
    U_KEYS: tl.constexpr,
    V_KEYS: tl.constexpr,
    COINCIDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: the derivative of the cost to the masses of one row, up to a constant.

    A step is what the cost gains as the level behind a rank rises (``_moving_levels`` of
    otkernels/_quantiles.py). The mass at a rank moves all levels from there on; less the constant
    that is the sum of all, that is minus the steps before it.
    """
    row = tl.program_id(0).to(tl.int64)
    u_ptr += row * stride_u
    v_ptr += row * stride_v
    from_u_ptr += row * stride_u
    levels_u_ptr += row * n
    levels_v_ptr += row * m
    potential_ptr += row * n
    before = tl.zeros((), tl.float64)
    for start in range(0, n, BLOCK):
        rank = start + tl.arange(0, BLOCK)
        has_next = rank + 1 < n
        here = _value(u_ptr, rank, has_next, U_KEYS)
        after = _value(u_ptr, rank + 1, has_next, U_KEYS)
        level = tl.load(levels_u_ptr + rank, mask=has_next, other=0.0)
        step = tl.zeros((BLOCK,), here.dtype)
        for above in tl.static_range(0, 2):
            near = level + (2 * above - 1) * COINCIDENT * (n + m)
            j = tl.minimum(_first_above(levels_v_ptr, near, m, above == 0), m - 1)
            v = _value(v_ptr, j, has_next, V_KEYS)
            step += _cost_and_slope(here - v, P)[0] - _cost_and_slope(after - v, P)[0]
        step = tl.where(has_next, step.to(tl.float64) / 2, 0.0)
        potential = step - tl.cumsum(step, 0) - before
        position = tl.load(from_u_ptr + rank, mask=rank < n, other=0)
        tl.store(potential_ptr + position, potential, mask=rank < n)
        before += tl.sum(step)


# --- launchers ----------------------------------------------------------------------------------


class Side(NamedTuple):
    """One side of a match, in order: what a launch reads of it."""

    values: torch.Tensor
    """(R, at least n) values, or their keys; fewer rows if several of the other side share one."""
    positions: torch.Tensor
    n: int
    levels: torch.Tensor | None = None
    """(R, n) float64."""


def sorted_side(rows, need, masses=None, counts=None):
    """The side of rows (R, n), with masses (P, n) float64 or counts (P,) of P problems or None."""
    values, positions = sorted_rows(rows, need or masses is not None, counts)
    if masses is None:
        return Side(values, positions, rows.shape[1])
    masses = masses.contiguous()
    levels = torch.empty(rows.shape, dtype=torch.float64, device=rows.device)
    _levels_kernel[(len(rows),)](
        masses,
        positions,
        levels,
        rows.shape[1],
        len(rows) // len(masses),
        positions.stride(0),
        BLOCK=SUMMED,
    )
    return Side(values, positions, rows.shape[1], levels)


def match_cells(sides, rows, directions, p, needs, counts=(None, None), mass_grads=(None, None)):
    """The cost of each pair of rows: (R,).

    Args:
        sides: the two of a match, the first with as many rows as there are pairs.
        rows: what the sides were sorted from; where ``needs`` says so, overwritten with the
            derivative of the mean cost over ``directions`` rows.
        directions: see rows.
        p: exponent.
        needs: which slopes are wanted.
        counts: (P,) points that count on each side of P problems, or None.
        mass_grads: (P, n) float64, to which the potentials of all rows of a problem are added, or
            None where nobody wants them.
    """
    u, v = sides
    pairs, blocks = len(u.values), triton.cdiv(u.n, RANKS)
    dtype = torch.float64 if u.values.dtype == torch.float64 else torch.float32
    part = torch.empty(pairs, blocks, dtype=dtype, device=u.values.device)
    _launch(u, v, part, rows[0] if needs[0] else None, directions, p, counts)
    if needs[1]:
        _launch(v, u, None, rows[1], directions, p, counts[::-1])
    for grad, pair in zip(mass_grads, ((u, v), (v, u)), strict=True):
        if grad is not None:
            grad += _potentials(*pair, p).view(len(grad), -1, pair[0].n).sum(1)
    return part.sum(1)


def _launch(u, v, part, slopes, directions, p, counts):
    unused = u.values
    _cells_kernel[(len(u.values) * triton.cdiv(u.n, RANKS),)](
        u.values,
        v.values,
        u.positions,
        *(unused if t is None else t for t in (u.levels, v.levels, *counts, slopes, part)),
        u.n,
        v.n,
        u.values.stride(0),
        v.values.stride(0),
        1 if counts[0] is None else len(u.values) // len(counts[0]),
        len(u.values) // len(v.values),
        directions,
        P=p,
        **_keys(u, v),
        COUNTED=counts[0] is not None,
        LEVELS=u.levels is not None,
        COST=part is not None,
        SLOPE=slopes is not None,
        BLOCK=RANKS,
        **register_limit(u.values.dtype),
    )


def register_limit(dtype):
    """A limit for float64: where none is stated, ptxas of Triton 3.9.0 spills a few on sm_80."""
    return {"maxnreg": 128} if dtype == torch.float64 and not torch.version.hip else {}


def _keys(u, v):
    return {"U_KEYS": u.values.dtype == torch.int32, "V_KEYS": v.values.dtype == torch.int32}


def _potentials(u, v, p):
    """The derivative of each row's cost to the masses of u: (R, n), up to a constant a row."""
    potential = torch.empty_like(u.levels)
    _potential_kernel[(len(u.values),)](
        u.values,
        v.values,
        u.positions,
        u.levels,
        v.levels,
        potential,
        u.n,
        v.n,
        u.values.stride(0),
        v.values.stride(0),
        P=p,
        **_keys(u, v),
        COINCIDENT=COINCIDENT,
        BLOCK=RANKS,
        **register_limit(u.values.dtype),
    )
    return potential
