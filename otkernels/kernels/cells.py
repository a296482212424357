"""Matching rows of any sizes and masses: cells of the quantile functions, found by each point.

A program takes consecutive ranks of one side and, for each, walks over the points of the other
whose levels lie within its own: cost, slope and, for masses, the step of the potential. The other
side's gradient is another launch with the sides changed, so nobody writes what another writes, and
sums have one order. Levels are integers (i m of n m) where masses are equal, float64 where they are
given.

For R row pairs of n and m, after the rows are sorted (``rows``): one launch for the cost and the
gradient to u, one more for v. A launch reads n values of its own and about n + m of the other's,
as many levels where they are given, and writes n slopes. A point walks over about 1 + m/n others,
or as many as its mass covers: the work of a program is that of its heaviest point. Masses add
library calls: three a side for the levels, four a side for their gradient.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .match import _cost_and_slope
from .rows import RANKS, sorted_rows
from .sort import key_to_float


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
def _nan_at_end(ptr, n, KEYS: tl.constexpr):
    """0, or NaN if a sorted row has a NaN: even one without mass shall show."""
    last = tl.load(ptr + n - 1)
    if KEYS:
        last = key_to_float(last)
    return tl.where(last == last, 0.0, last)


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
    step_ptr,  # (R, n) steps of the potential out, by rank, where STEP
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
    STEP: tl.constexpr,
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
        nan = _nan_at_end(u_ptr, size_u, U_KEYS) + _nan_at_end(v_ptr, size_v, V_KEYS)
        if LEVELS:
            # The last level is 1, or NaN if the masses are.
            nan += (tl.load(levels_u_ptr + n - 1) * tl.load(levels_v_ptr + m - 1) - 1).to(u.dtype)
        tl.store(part_ptr + row * blocks + block, tl.sum(cost) + nan)
    if SLOPE:
        at = tl.load(from_u_ptr + rank, mask=inside, other=0)
        tl.store(slope_ptr + row * n + at, slope / directions, mask=inside)
    if STEP:
        has_next = inside & (rank + 1 < size_u)
        after = _value(u_ptr, rank + 1, has_next, U_KEYS)
        left = tl.minimum(_first_above(levels_v_ptr, end, size_v, True), size_v - 1)
        right = tl.minimum(_first_above(levels_v_ptr, end, size_v, False), size_v - 1)
        v = _value(v_ptr, left, has_next, V_KEYS)
        w = _value(v_ptr, right, has_next, V_KEYS)
        here = _cost_and_slope(u - v, P)[0] + _cost_and_slope(u - w, P)[0]
        there = _cost_and_slope(after - v, P)[0] + _cost_and_slope(after - w, P)[0]
        step = tl.where(has_next, (here - there).to(tl.float64) / 2, 0.0)
        tl.store(step_ptr + row * n + rank, step, mask=rank < n)


# --- launchers ----------------------------------------------------------------------------------


class Side(NamedTuple):
    """One side of a match, in order: what a launch reads of it."""

    values: torch.Tensor
    """(R, at least n) values, or their keys; fewer rows if several of the other side share one."""
    positions: torch.Tensor
    n: int
    levels: torch.Tensor | None = None
    """(R, n) float64."""
    order: torch.Tensor | None = None
    """(R, n) positions as int64, with levels."""


def sorted_side(rows, need, masses=None, counts=None):
    """The side of rows (R, n), with masses (P, n) float64 or counts (P,) of P problems or None."""
    values, positions = sorted_rows(rows, need or masses is not None, counts)
    if masses is None:
        return Side(values, positions, rows.shape[1])
    order = positions[:, : rows.shape[1]].long()
    masses = masses.repeat_interleave(len(rows) // len(masses), 0)
    levels = masses.gather(1, order).cumsum(1)
    return Side(values, positions, rows.shape[1], levels / levels[:, -1:], order)


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
    _launch(u, v, part, rows[0] if needs[0] else None, mass_grads[0], directions, p, counts)
    if needs[1] or mass_grads[1] is not None:
        other = rows[1] if needs[1] else None
        _launch(v, u, None, other, mass_grads[1], directions, p, counts[::-1])
    return part.sum(1)


def _launch(u, v, part, slopes, mass_grad, directions, p, counts):
    pairs = len(u.values)
    unused = u.values
    step = None
    if mass_grad is not None:
        step = torch.empty(pairs, u.n, dtype=torch.float64, device=unused.device)
    _cells_kernel[(pairs * triton.cdiv(u.n, RANKS),)](
        u.values,
        v.values,
        u.positions,
        *(unused if t is None else t for t in (u.levels, v.levels, *counts, slopes, step, part)),
        u.n,
        v.n,
        u.values.stride(0),
        v.values.stride(0),
        1 if counts[0] is None else pairs // len(counts[0]),
        pairs // len(v.values),
        directions,
        P=p,
        U_KEYS=u.values.dtype == torch.int32,
        V_KEYS=v.values.dtype == torch.int32,
        COUNTED=counts[0] is not None,
        LEVELS=u.levels is not None,
        COST=part is not None,
        SLOPE=slopes is not None,
        STEP=step is not None,
        BLOCK=RANKS,
    )
    if step is not None:
        mass_grad += _potentials(step, u.order).view(len(mass_grad), -1, u.n).sum(1)


def _potentials(step, order):
    """Sums of the steps from each rank on, put where the ranks come from."""
    return torch.empty_like(step).scatter_(1, order, step.flip(1).cumsum(1).flip(1))
