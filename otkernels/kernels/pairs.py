"""Tiles of pairs of points: their products, their distances, and sums weighted by pair.

Points ``x`` are the rows of a tile and ``y`` its columns; pointers stand at the first of them.
Points are padded to whole tiles, with zeros of no mass, so nothing here is masked.
"""

import triton
import triton.language as tl

from .split import padded, power_of_two


@triton.jit
def columns_of_walk(
    between, in_y, n, m, walks, share, shares, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """What rows of a cloud walk over, within or ``between`` clouds.

    Returns the first row of that cloud, its number of points, and the first and past the last
    block of the program's share.
    """
    other = in_y ^ between
    size = tl.where(other == 1, m, n)
    walked = (walks >> (2 * in_y + between)) & 1
    blocks = tl.cdiv(size, BLOCK) * walked
    each = tl.cdiv(blocks, shares)
    return other * padded(n, ROWS), size, share * each, tl.minimum(blocks, share * each + each)


@triton.jit
def slope_of_pairs(coefficient_ptr, between, in_y, size):
    """Derivative of the value by a pair with mean masses: pairs within a cloud count twice."""
    c = tl.load(coefficient_ptr + tl.where(between == 1, 2, in_y))
    return tl.where(between == 1, c, 2 * c) / size


@triton.jit
def pair_mass(
    mass_ptr,
    row,
    col,
    present,
    dtype: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Masses of the columns times ``present``, and 0 for a pair of a point with itself."""
    x, y = row + tl.arange(0, BLOCK_M), col + tl.arange(0, BLOCK_N)
    mass = tl.load(mass_ptr + y).to(dtype) * present
    return tl.where(x[:, None] != y[None, :], mass[None, :], 0.0)


@triton.jit
def load_points(ptr, column, d, ROWS: tl.constexpr):
    """The coordinates ``column`` of ROWS points: (ROWS, len(column))."""
    return tl.load(ptr + (tl.arange(0, ROWS)[:, None] * d + column[None, :]))


@triton.jit
def load_split(high_ptr, low_ptr, at, column, d, ROWS: tl.constexpr, SPLIT: tl.constexpr):
    """High and low parts of the points at ``at``; without SPLIT there is no low part."""
    high = load_points(high_ptr + at, column, d, ROWS)
    low = high
    if SPLIT:
        low = load_points(low_ptr + at, column, d, ROWS)
    return high, low


@triton.jit
def add_products(x, x_low, y, y_low, total, SPLIT: tl.constexpr):
    """Return total + x @ y^T, with SPLIT of high and low parts, the least first."""
    if SPLIT:
        total = tl.dot(x, tl.trans(y_low), total, out_dtype=total.dtype)
        total = tl.dot(x_low, tl.trans(y), total, out_dtype=total.dtype)
    return tl.dot(x, tl.trans(y), total, input_precision="ieee", out_dtype=total.dtype)


@triton.jit
def add_long_products(
    high_ptr, low_ptr, x_at, y_at, d, total, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):
    """The same for points of any dimension, BLOCK coordinates at a time."""
    for start in range(0, d, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x, x_low = load_split(high_ptr, low_ptr, x_at, column, d, total.shape[0], SPLIT)
        y, y_low = load_split(high_ptr, low_ptr, y_at, column, d, total.shape[1], SPLIT)
        total = add_products(x, x_low, y, y_low, total, SPLIT)
    return total


@triton.jit
def gap(x_ptr, y_ptr, c, d, like):
    """Coordinate c of each y less that of each x, in the type and shape of ``like``."""
    x = tl.load(x_ptr + (tl.arange(0, like.shape[0]) * d + c)).to(like.dtype)
    y = tl.load(y_ptr + (tl.arange(0, like.shape[1]) * d + c)).to(like.dtype)
    return y[None, :] - x[:, None]


@triton.jit
def weighted(weight, y, y_low, SPLIT: tl.constexpr):
    """Products weight @ y and sums of the weights as rounded, both over the scale of their row."""
    if y.dtype == tl.float64:
        scale = tl.full((weight.shape[0],), 1.0, tl.float64)
        pulled = tl.dot(weight, y, input_precision="ieee", out_dtype=tl.float64)
        sums = tl.sum(weight, 1)
    else:
        # With the greatest weight of a row near 2^14, halves keep its digits and 2^-24 to 2^-38.
        scale, inverse = power_of_two(tl.max(tl.where(weight > 0, weight, 0.0), 1), 13)
        weight *= inverse[:, None]
        high = weight.to(tl.float16)
        rounded = high.to(tl.float32)
        if SPLIT:
            low = (weight - rounded).to(tl.float16)
            rounded += low.to(tl.float32)
            pulled = tl.dot(high, y, tl.dot(low, y, tl.dot(high, y_low)))
        else:
            pulled = tl.dot(high, y)
        sums = tl.sum(rounded, 1)
    return pulled, sums, scale
