"""The kernels that walk over pairs: rows of one cloud over columns of their own and of the other.

In each a program takes a block of rows and a share of the columns and gathers, in registers, the
potentials of its rows within the cloud and between the clouds, and their gradient. Launches take
the rows of one cloud, which begin at ``first_row``.
"""

import triton
import triton.language as tl

from .pairs import (
    add_long_products,
    add_products,
    columns_of_walk,
    gap,
    load_split,
    pair_mass,
    slope_of_pairs,
    weighted,
)
from .profiles import kernel_and_slope
from .split import padded

# Tiles whose bits share a number.
GROUP = 31
_VARIED = ("n", "m", "d", "rates", "rows", "groups", "first_row", "blocks", "walks", "shares")


@triton.jit(do_not_specialize=_VARIED)
def _products_kernel(
    high_ptr,  # (P, T, width) and so on: see Split
    low_ptr,
    norm_ptr,
    delta_ptr,
    unit_ptr,
    mass_ptr,  # (P, T) masses, 1 on average in each cloud
    rate_ptr,  # (P, rates)
    coefficient_ptr,  # (P, 3)
    part_ptr,  # (P, shares, 2, rows) potentials within the cloud and between the clouds
    grad_ptr,  # (P, shares, points of the cloud, d), written where GRAD
    near_ptr,  # (P, blocks, shares, 2, groups) bits: tiles left out, written where ROOT
    n,
    m,
    d,
    rates,
    rows,  # padded: all of x's or all
    groups,
    first_row,
    blocks,
    walks,  # bits: x to x, x to y, y to y, y to x
    shares,
    PROFILE: tl.constexpr,
    GRAD: tl.constexpr,
    SPLIT: tl.constexpr,
    CHUNKED: tl.constexpr,  # d > BLOCK_D
    NEAR: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: rows, columns and a block of coordinates, by matrix products.

    Profiles with a root leave out tiles that hold points too close together for it.
    """
    ROOT: tl.constexpr = PROFILE == "laplacian" or PROFILE == "energy"
    DISTANCE: tl.constexpr = PROFILE != "polynomial"
    width = padded(d, BLOCK_D)
    chunks = width // BLOCK_D if GRAD else 1
    chunk = tl.program_id(0) % chunks
    share = tl.program_id(0) // chunks % shares
    block = tl.program_id(0) // chunks // shares % blocks
    problem = (tl.program_id(0) // chunks // shares // blocks).to(tl.int64)
    total = padded(n, ROWS) + padded(m, ROWS)
    row, in_y = first_row + block * BLOCK_M, (first_row > 0).to(tl.int32)
    column = chunk * BLOCK_D + tl.arange(0, BLOCK_D)
    local, local_col = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    mass_ptr += problem * total
    norm_ptr += 2 * problem * total
    rate_ptr += problem * rates
    x_at = (problem * total + row) * width
    if not CHUNKED:
        x, x_low = load_split(high_ptr, low_ptr, x_at, column, width, BLOCK_M, SPLIT)
    dtype = norm_ptr.dtype.element_ty
    unit = tl.load(unit_ptr + problem)
    grad = tl.zeros((BLOCK_M, BLOCK_D), dtype)
    pull, pull_between = tl.zeros((BLOCK_M,), dtype), tl.zeros((BLOCK_M,), dtype)
    for between in range(2):
        first, size, start, end = columns_of_walk(
            between, in_y, n, m, walks, share, shares, ROWS, BLOCK_N
        )
        c = slope_of_pairs(coefficient_ptr + problem * 3, between, in_y, size).to(dtype)
        potential = tl.zeros((BLOCK_M,), tl.float64)
        x_norm = tl.load(norm_ptr + between * total + row + local)
        near_tiles = 0
        at = ((problem * blocks + block) * shares + share) * 2 + between
        bits_ptr = near_ptr + at * groups
        for step in range(start, end):
            col = first + step * BLOCK_N
            y_at = (problem * total + col) * width
            u = tl.zeros((BLOCK_M, BLOCK_N), dtype)
            if CHUNKED:
                u = add_long_products(high_ptr, low_ptr, x_at, y_at, width, u, SPLIT, BLOCK_D)
            if GRAD or not CHUNKED:
                y, y_low = load_split(high_ptr, low_ptr, y_at, column, width, BLOCK_N, SPLIT)
            if not CHUNKED:
                u = add_products(x, x_low, y, y_low, u, SPLIT)
            present = 1
            if DISTANCE:
                y_norm = tl.load(norm_ptr + between * total + col + local_col)
                u = (x_norm[:, None] + y_norm[None, :]) - 2 * u
                u = tl.where(u < 0, 0.0, u)  # keeps NaN
            if ROOT:
                near = u < NEAR * (tl.abs(x_norm)[:, None] + tl.abs(y_norm)[None, :])
                near &= row + local[:, None] != col + local_col[None, :]
                any_near = tl.max(near.to(tl.int32))
                present = 1 - any_near
                place = (step - start) % GROUP
                near_tiles = tl.where(place == 0, 0, near_tiles) | (any_near << place)
                # Programs of other coordinates store the same.
                tl.store(bits_ptr + (step - start) // GROUP, near_tiles)
            k, weight = kernel_and_slope(u * (unit * unit), rate_ptr, rates, PROFILE, GRAD)
            mass = pair_mass(mass_ptr, row, col, present, dtype, BLOCK_M, BLOCK_N)
            potential += tl.sum(k * mass, 1).to(tl.float64)
            if GRAD:
                pulled, sums, scale = weighted(weight * mass, y, y_low, SPLIT)
                scale *= c
                grad += pulled * scale[:, None]
                if DISTANCE:
                    sums *= scale
                    pull += sums
                    pull_between += sums * between
        if chunk == 0:
            at = ((problem * shares + share) * 2 + between) * rows + row
            tl.store(part_ptr + at + local, potential)
    if GRAD:
        if DISTANCE:
            own, own_low = load_split(high_ptr, low_ptr, x_at, column, width, BLOCK_M, SPLIT)
            own = own.to(dtype)
            if SPLIT:
                own += own_low.to(dtype)
            delta = tl.load(delta_ptr + problem * width + column)
            delta = tl.where(in_y == 1, -delta, delta)
            grad -= pull[:, None] * own + pull_between[:, None] * delta[None, :]
        size = tl.where(in_y == 1, m, n)
        factor = tl.load(mass_ptr + row + local).to(dtype) / size * unit
        grad *= (2 * factor if DISTANCE else factor)[:, None]
        inside = (block * BLOCK_M + local < size)[:, None] & (column < d)[None, :]
        grad_ptr += ((problem * shares + share) * size + block * BLOCK_M) * d
        tl.store(grad_ptr + (local[:, None] * d + column[None, :]), grad, mask=inside)


@triton.jit(do_not_specialize=_VARIED)
def _differences_kernel(
    z_ptr,  # (P, T, d) points as given
    mass_ptr,
    rate_ptr,
    coefficient_ptr,
    part_ptr,
    grad_ptr,
    n,
    m,
    d,
    rates,
    rows,
    first_row,
    blocks,
    walks,
    shares,
    PROFILE: tl.constexpr,
    GRAD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,  # d or more, a power of two
):
    """One program: rows and columns, by squared differences of few coordinates."""
    share = tl.program_id(0) % shares
    block = tl.program_id(0) // shares % blocks
    problem = (tl.program_id(0) // shares // blocks).to(tl.int64)
    total = padded(n, ROWS) + padded(m, ROWS)
    row, in_y = first_row + block * BLOCK_M, (first_row > 0).to(tl.int32)
    local, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    mass_ptr += problem * total
    rate_ptr += problem * rates
    z_ptr += problem * total * d
    dtype = grad_ptr.dtype.element_ty
    grad = tl.zeros((BLOCK_M, BLOCK_D), dtype)
    for between in range(2):
        first, size, start, end = columns_of_walk(
            between, in_y, n, m, walks, share, shares, ROWS, BLOCK_N
        )
        c = slope_of_pairs(coefficient_ptr + problem * 3, between, in_y, size).to(dtype)
        potential = tl.zeros((BLOCK_M,), tl.float64)
        for step in range(start, end):
            col = first + step * BLOCK_N
            x_ptr, y_ptr = z_ptr + row.to(tl.int64) * d, z_ptr + col.to(tl.int64) * d
            u = tl.zeros((BLOCK_M, BLOCK_N), dtype)
            for i in tl.range(d, num_stages=1):
                apart = gap(x_ptr, y_ptr, i, d, u)
                u += apart * apart
            k, weight = kernel_and_slope(u, rate_ptr, rates, PROFILE, GRAD)
            mass = pair_mass(mass_ptr, row, col, 1, dtype, BLOCK_M, BLOCK_N)
            potential += tl.sum(k * mass, 1).to(tl.float64)
            if GRAD:
                weight *= mass * c
                for i in tl.range(d, num_stages=1):
                    pull = tl.sum(weight * gap(x_ptr, y_ptr, i, d, u), 1)
                    grad += tl.where((column == i)[None, :], pull[:, None], 0.0)
        at = ((problem * shares + share) * 2 + between) * rows + row
        tl.store(part_ptr + at + local, potential)
    if GRAD:
        size = tl.where(in_y == 1, m, n)
        grad *= (2 * tl.load(mass_ptr + row + local).to(dtype) / size)[:, None]
        inside = (block * BLOCK_M + local < size)[:, None] & (column < d)[None, :]
        grad_ptr += ((problem * shares + share) * size + block * BLOCK_M) * d
        tl.store(grad_ptr + (local[:, None] * d + column[None, :]), grad, mask=inside)


@triton.jit(do_not_specialize=_VARIED)
def _near_kernel(
    z_ptr,  # (P, T, d) points as given
    mass_ptr,
    rate_ptr,
    coefficient_ptr,
    part_ptr,
    grad_ptr,
    near_ptr,  # (P, blocks, shares, 2, groups)
    n,
    m,
    d,
    rates,
    rows,
    groups,
    first_row,
    blocks,
    walks,
    shares,
    PROFILE: tl.constexpr,
    GRAD: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: adds, by differences, the tiles that the same one by products left out.

    Such tiles are few, so results stay in memory, which only this program touches.
    """
    share = tl.program_id(0) % shares
    block = tl.program_id(0) // shares % blocks
    problem = (tl.program_id(0) // shares // blocks).to(tl.int64)
    total = padded(n, ROWS) + padded(m, ROWS)
    row, in_y = first_row + block * BLOCK_M, (first_row > 0).to(tl.int32)
    local = tl.arange(0, BLOCK_M)
    mass_ptr += problem * total
    rate_ptr += problem * rates
    z_ptr += problem * total * d
    own = tl.where(in_y == 1, m, n)
    grad_ptr += ((problem * shares + share) * own + block * BLOCK_M) * d
    inside = block * BLOCK_M + local < own
    dtype = grad_ptr.dtype.element_ty
    x_ptr = z_ptr + row.to(tl.int64) * d
    factor = 2 * tl.load(mass_ptr + row + local).to(dtype) / own
    for between in range(2):
        first, size, start, end = columns_of_walk(
            between, in_y, n, m, walks, share, shares, ROWS, BLOCK_N
        )
        c = slope_of_pairs(coefficient_ptr + problem * 3, between, in_y, size).to(dtype)
        at = ((problem * blocks + block) * shares + share) * 2 + between
        bits_ptr = near_ptr + at * groups
        at = ((problem * shares + share) * 2 + between) * rows + row
        for group in range(tl.cdiv(end - start, GROUP)):
            bits = tl.load(bits_ptr + group)
            for place in range(GROUP if bits != 0 else 0):
                if (bits >> place) & 1:
                    col = first + (start + group * GROUP + place) * BLOCK_N
                    y_ptr = z_ptr + col.to(tl.int64) * d
                    u = tl.zeros((BLOCK_M, BLOCK_N), dtype)
                    for i in tl.range(d, num_stages=1):
                        apart = gap(x_ptr, y_ptr, i, d, u)
                        u += apart * apart
                    k, weight = kernel_and_slope(u, rate_ptr, rates, PROFILE, GRAD)
                    mass = pair_mass(mass_ptr, row, col, 1, dtype, BLOCK_M, BLOCK_N)
                    potential_ptr = part_ptr + at + local
                    before = tl.load(potential_ptr)
                    tl.store(potential_ptr, before + tl.sum(k * mass, 1).to(tl.float64))
                    if GRAD:
                        weight *= mass
                        for i in tl.range(d, num_stages=1):
                            pull = tl.sum(weight * gap(x_ptr, y_ptr, i, d, u), 1) * (factor * c)
                            pull += tl.load(grad_ptr + local * d + i, mask=inside, other=0.0)
                            tl.store(grad_ptr + local * d + i, pull, mask=inside)
                    tl.debug_barrier()  # the next tile adds to what this one stored
