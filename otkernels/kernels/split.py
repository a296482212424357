"""Points made ready for half-precision products that are as accurate as float32.

Each cloud is moved to a centre of its own and both are scaled by one power of two; every coordinate
becomes a high and a low half. In these units, with delta the distance of the centres,

    |x - y|^2 = (|x'|^2 + 2 delta x' + |delta|^2) + (|y'|^2 - 2 delta y') - 2 x' y',

so a pair of clouds needs one product of the points and, besides the norms within a cloud, one more
norm of each point. Neither a common offset nor clouds far apart then cost accuracy.

2 launches. Bytes, float32, T = N + M points in all: 4 T D read twice, 4 T D + 8 T written.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from otkernels._ops import accumulation_dtype

ROWS, COLUMNS = 64, 16  # points and coordinates at a time
SHARES = 32  # programs at most that measure one cloud, a power of two


class Split(NamedTuple):
    """Points, centred, in units of ``unit``; ``high`` is all of them where there is no low part."""

    high: torch.Tensor  # (P, T, width)
    low: torch.Tensor
    norm: torch.Tensor  # (P, 2, T): for pairs within a cloud, for pairs between the clouds
    delta: torch.Tensor  # (P, width): centre of x less centre of y
    unit: torch.Tensor  # (P,)


@triton.jit
def padded(size, TILE: tl.constexpr):
    """The multiple of TILE that size points take."""
    return tl.cdiv(size, TILE) * TILE


@triton.jit(do_not_specialize=["n", "m", "d"])
def _extent_kernel(
    z_ptr,  # (P, T, d) points of x, then of y, each padded to a multiple of ROWS
    mass_ptr,  # (P, T) masses, 1 on average in each cloud
    extent_ptr,  # (P, 2, SHARES, 3, d): weighted sum, least and greatest of each share of a cloud
    n,
    m,
    d,
    SHARES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: one block of coordinates of every SHARES-th block of one cloud."""
    chunks = tl.cdiv(d, COLUMNS)
    place = tl.program_id(0) // chunks
    share, cloud = place % SHARES, place // SHARES % 2
    problem = (place // (2 * SHARES)).to(tl.int64)
    column = tl.program_id(0) % chunks * COLUMNS + tl.arange(0, COLUMNS)
    size = tl.where(cloud == 1, m, n)
    first = problem * (padded(n, ROWS) + padded(m, ROWS)) + cloud * padded(n, ROWS)
    dtype = extent_ptr.dtype.element_ty
    total = tl.zeros((ROWS, COLUMNS), dtype)
    least = tl.full((ROWS, COLUMNS), float("inf"), dtype)
    greatest = tl.full((ROWS, COLUMNS), float("-inf"), dtype)
    for start in range(share * ROWS, size, SHARES * ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row[:, None] < size) & (column[None, :] < d)
        mass = tl.load(mass_ptr + first + row).to(dtype)
        at = (first + row)[:, None] * d + column[None, :]
        z = tl.load(z_ptr + at, mask=inside, other=0.0).to(dtype)
        total += z * (mass / size)[:, None]
        least = tl.minimum(least, tl.where(inside, z, float("inf")))
        greatest = tl.maximum(greatest, tl.where(inside, z, float("-inf")))
    extent_ptr += (problem * 2 * SHARES + place % (2 * SHARES)) * 3 * d + column
    tl.store(extent_ptr, tl.sum(total, 0), mask=column < d)
    tl.store(extent_ptr + d, tl.min(least, 0), mask=column < d)
    tl.store(extent_ptr + 2 * d, tl.max(greatest, 0), mask=column < d)


@triton.jit
def _centre_and_radius(
    extent_ptr, column, d, CENTRED: tl.constexpr, SHARES: tl.constexpr
):  # fmt: skip
    """Some coordinates of a cloud's centre, and how far points lie from them at most."""
    at = tl.arange(0, SHARES)[:, None] * 3 * d + column[None, :]
    inside = (column < d)[None, :]
    centre = tl.sum(tl.load(extent_ptr + at, mask=inside, other=0.0), 0)
    if not CENTRED:
        centre = tl.zeros_like(centre)
    least = tl.min(tl.load(extent_ptr + d + at, mask=inside, other=0.0), 0)
    greatest = tl.max(tl.load(extent_ptr + 2 * d + at, mask=inside, other=0.0), 0)
    return centre, tl.maximum(greatest - centre, centre - least)


@triton.jit
def power_of_two(value, LOG: tl.constexpr):
    """For float32 numbers, powers of two s such that value / s is from 2^LOG up to 2^(LOG + 1).

    Returns s and 1 / s, neither of which over- or underflows.
    """
    exponent = (value.to(tl.int32, bitcast=True) >> 23) & 255
    exponent = tl.minimum(tl.maximum(exponent, LOG + 1), 254)
    scale = ((exponent - LOG) << 23).to(tl.float32, bitcast=True)
    return scale, ((254 + LOG - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _unit(extent_ptr, d, CENTRED: tl.constexpr, SHARES: tl.constexpr, COLUMNS: tl.constexpr):
    """The power of two in whose multiples all coordinates are below 2^14, and its inverse."""
    far = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, d, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        x, of_x = _centre_and_radius(extent_ptr, column, d, CENTRED, SHARES)
        y, of_y = _centre_and_radius(extent_ptr + SHARES * 3 * d, column, d, CENTRED, SHARES)
        # The centres enter norms only; still, in these units no square of theirs may overflow.
        apart = tl.abs(x - y) * 2.0**-20
        far = tl.maximum(far, tl.maximum(tl.maximum(of_x, of_y), apart))
    return power_of_two(tl.max(far, 0), 13)


@triton.jit(do_not_specialize=["n", "m", "d"])
def _split_kernel(
    z_ptr,  # (P, T, d) points of x, then of y, each padded to a multiple of ROWS
    extent_ptr,  # (P, 2, SHARES, 3, d)
    high_ptr,  # (P, T, width)
    low_ptr,  # (P, T, width), written where SPLIT
    norm_ptr,  # (P, 2, T)
    delta_ptr,  # (P, width)
    unit_ptr,  # (P,)
    n,
    m,
    d,
    width,  # d padded to whole blocks of coordinates
    CENTRED: tl.constexpr,
    SCALED: tl.constexpr,
    SPLIT: tl.constexpr,
    SHARES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS points of one cloud, all their coordinates."""
    of_x, total = padded(n, ROWS), padded(n, ROWS) + padded(m, ROWS)
    problem = (tl.program_id(0) // (total // ROWS)).to(tl.int64)
    first = tl.program_id(0) % (total // ROWS) * ROWS
    row = first + tl.arange(0, ROWS)
    in_y = first >= of_x
    present = tl.where(in_y, row - of_x < m, row < n)
    dtype = norm_ptr.dtype.element_ty
    extent_ptr += problem * 2 * SHARES * 3 * d
    unit, inverse = 1.0, 1.0
    if SCALED:
        unit, inverse = _unit(extent_ptr, d, CENTRED, SHARES, COLUMNS)
    point = (problem * total + row)[:, None]
    within, between = tl.zeros((ROWS,), dtype), tl.zeros((ROWS,), dtype)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        x, _ = _centre_and_radius(extent_ptr, column, d, CENTRED, SHARES)
        y, _ = _centre_and_radius(extent_ptr + SHARES * 3 * d, column, d, CENTRED, SHARES)
        inside = present[:, None] & (column < d)[None, :]
        z = tl.load(z_ptr + point * d + column[None, :], mask=inside, other=0.0).to(dtype)
        z = tl.where(inside, z - tl.where(in_y, y, x)[None, :], 0.0) * inverse
        high = z.to(high_ptr.dtype.element_ty)
        tl.store(high_ptr + point * width + column[None, :], high)
        high = high.to(dtype)
        # Norms are those of the products: points that coincide must be at distance 0.
        square, kept = high * high, high
        if SPLIT:
            low = (z - high).to(low_ptr.dtype.element_ty)
            tl.store(low_ptr + point * width + column[None, :], low)
            low = low.to(dtype)
            square += 2 * high * low
            kept += low
        delta = (x - y) * inverse
        within += tl.sum(square, 1)
        towards = tl.where(in_y, -delta, delta)
        between += tl.sum(2 * towards[None, :] * kept, 1)
        between += tl.where(in_y, 0.0, tl.sum(delta * delta, 0))
        if first == 0:
            tl.store(delta_ptr + problem * width + column, delta)
    norm_ptr += problem * 2 * total + row
    tl.store(norm_ptr, tl.where(present, within, 0.0))
    tl.store(norm_ptr + total, tl.where(present, within + between, 0.0))
    if first == 0:
        tl.store(unit_ptr + problem, unit)


def split(z, mass, sizes, width, centred, fast):
    """The :class:`Split` of points z (P, T, D): x's, padded to a multiple of ROWS, then y's.

    Args:
        z: the points, contiguous, 0 in the padding.
        mass: (P, T) masses, float64, 1 on average in each cloud and 0 in the padding.
        sizes: numbers of points of x and of y.
        width: coordinates of the result, a multiple of 16: D and zeros.
        centred: move each cloud to its centre; without, distances have no meaning.
        fast: the high part alone will do. In float64 it is all there is.
    """
    batch, total, d = z.shape
    dtype = accumulation_dtype(z.dtype)
    half = dtype != torch.float64
    shares = min(SHARES, triton.next_power_of_2(triton.cdiv(max(sizes), 4 * ROWS)))
    high = z.new_empty((batch, total, width), dtype=torch.float16 if half else dtype)
    low = torch.empty_like(high) if half and not fast else high
    norm = z.new_empty((batch, 2, total), dtype=dtype)
    delta, unit = z.new_empty((batch, width), dtype=dtype), z.new_empty(batch, dtype=dtype)
    extent = z.new_empty((batch, 2, shares, 3, d), dtype=dtype)
    block = {"ROWS": ROWS, "COLUMNS": COLUMNS, "SHARES": shares}
    programs = batch * 2 * shares * triton.cdiv(d, COLUMNS)
    _extent_kernel[(programs,)](z, mass, extent, *sizes, d, **block)
    _split_kernel[(batch * total // ROWS,)](
        z,
        extent,
        high,
        low,
        norm,
        delta,
        unit,
        *sizes,
        d,
        width,
        CENTRED=centred,
        SCALED=half,
        SPLIT=low is not high,
        **block,
    )
    return Split(high, low, norm, delta, unit)
