"""Mean and covariance on the GPU, in one pass over the points.

A program takes one tile of features by features, on or below the diagonal, of one problem and walks
over a share of its points, moved to near their mean before anything is multiplied. With one share
it stores the result, and its mirror image. With several, for problems that are few and long, tiles
and means of the shares are kept and a second launch merges them, in one order, by

    sum_s M_s + W_s (m_s - m) (m_s - m)^T

(Chan, Golub, LeVeque 1983), with M_s the products about the mean m_s of a share and W_s its mass.

1 launch, or 2. With T = ceil(D / SIDE): N SIDE^2 T (T + 1) FLOP, about N D (D + SIDE), in three
TF32 products each for float32; (T + 1) N D elements read, all but N D of them from the second-level
cache; D^2 + D written. Shares take no more than PROGRAMS tiles of scratch memory.
"""

import torch
import triton
import triton.language as tl

from otkernels._ops import accumulation_dtype

from .matmul import dot_precision

# Programs that fill a device; with fewer, the points are shared out, some blocks to each.
PROGRAMS, BLOCKS = 264, 8
# Points whose products are added up by themselves. Tensor cores cut sums off rather than round
# them, which over a million points would bias a variance by 1e-3.
GROUP = 1024


def config(d, dtype):
    """(SIDE, BLOCK, warps): features of a tile, points at a time. Not yet tuned on a GPU.

    Chosen so that nothing spills (docs/kernels.md).
    """
    side = min(32 if dtype == torch.float64 else 64, max(16, triton.next_power_of_2(d)))
    return side, 16, side // 4 if dtype == torch.float64 else side // 8


def register_limit():
    """Launch option: unless it is stated, ptxas at times takes 168 registers and spills."""
    return {} if torch.version.hip else {"maxnreg": 255}


def shares_of(programs, blocks):
    """Into how many shares to split the points so that enough programs work."""
    return max(1, min(PROGRAMS // max(1, programs), blocks // BLOCKS))


@triton.jit
def _place(tile):
    """Row and column of a tile, numbered along the rows of a lower triangle."""
    row = ((tl.sqrt((8 * tile + 1).to(tl.float32)) - 1) / 2).to(tl.int32)
    row -= (row * (row + 1) // 2 > tile).to(tl.int32)
    row += ((row + 1) * (row + 2) // 2 <= tile).to(tl.int32)
    return row, tile - row * (row + 1) // 2


@triton.jit
def _masses(mass_ptr, row, last, dtype: tl.constexpr, WEIGHTED: tl.constexpr):
    """Masses of points, 1 each if they are equal, 0 past the last."""
    if WEIGHTED:
        mass = tl.load(mass_ptr + row, mask=row < last, other=0.0).to(dtype)
    else:
        mass = (row < last).to(dtype)
    return mass


@triton.jit
def _load(x_ptr, row, column, last, d, stride_n, stride_d, dtype: tl.constexpr):
    """Coordinates of points, broadcast of ``row`` and ``column``, 0 outside."""
    at = row.to(tl.int64) * stride_n + column.to(tl.int64) * stride_d
    return tl.load(x_ptr + at, mask=(row < last) & (column < d), other=0.0).to(dtype)


@triton.jit
def _first_with_mass(mass_ptr, first, last, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    """Masses of the first block of points that has any, and where it begins."""
    step = tl.arange(0, BLOCK)
    mass = _masses(mass_ptr, first + step, last, tl.float64, WEIGHTED)
    if WEIGHTED:
        while (tl.sum(mass, 0) == 0) & (first + BLOCK < last):
            first += BLOCK
            mass = _masses(mass_ptr, first + step, last, tl.float64, WEIGHTED)
    total = tl.sum(mass, 0)
    return mass / tl.where(total == 0, 1.0, total), first


@triton.jit
def _factor(count, total, correction, dtype: tl.constexpr):
    """What makes a covariance of products summed, NaN where too few points have mass."""
    left = tl.where(count > correction, count - correction, float("nan"))
    return (count / left / total).to(dtype)


@triton.jit
def _store(cov_ptr, value, row, column, d):
    """Store a tile of a covariance, the part below the diagonal also above it."""
    row, column = row[:, None], column[None, :]
    inside = (row < d) & (column < d)
    far = row.to(tl.int64)
    tl.store(cov_ptr + far * d + column, value, mask=inside & (row >= column))
    tl.store(cov_ptr + column.to(tl.int64) * d + row, value, mask=inside & (row > column))


@triton.jit
def _walk(
    x_ptr, mass_ptr, i, j, shift_i, shift_j, first, last, d, stride_n, stride_d,
    WEIGHTED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Sums over points from the first to before the last, moved by the shifts.

    Returns products of features i and j, sums of each, the mass and the number of points that have
    any.
    """
    dtype: tl.constexpr = shift_i.dtype
    SIDE: tl.constexpr = shift_i.shape[0]
    products = tl.zeros((SIDE, SIDE), dtype)
    sum_i, sum_j = tl.zeros_like(shift_i), tl.zeros_like(shift_j)
    total, points = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for begin in range(first, last, GROUP):
        group = tl.zeros((SIDE, SIDE), dtype)
        for start in range(begin, tl.minimum(begin + GROUP, last), BLOCK):
            row = start + tl.arange(0, BLOCK)
            mass = _masses(mass_ptr, row, last, tl.float64 if WEIGHTED else dtype, WEIGHTED)
            if WEIGHTED:
                total += mass
                points += (mass != 0).to(tl.float64)
                mass = mass.to(dtype)
            left = _load(x_ptr, row[None, :], i[:, None], last, d, stride_n, stride_d, dtype)
            left = (left - shift_i[:, None]) * mass[None, :]
            right = _load(x_ptr, row[:, None], j[None, :], last, d, stride_n, stride_d, dtype)
            right -= shift_j[None, :]
            sum_i += tl.sum(left, 1)
            sum_j += tl.sum(right * mass[:, None], 0)
            group = tl.dot(left, right, group, input_precision=PRECISION, out_dtype=dtype)
        products += group
    if WEIGHTED:
        mass_sum, count = tl.sum(total, 0), tl.sum(points, 0)
    else:
        mass_sum = (last - first).to(tl.float64)
        count = mass_sum
    return products, sum_i, sum_j, mass_sum, count


@triton.jit(do_not_specialize=["n", "correction", "tiles", "shares", "each"])
def _products_kernel(
    x_ptr,  # (P, n, d) of any strides
    mass_ptr,  # (P, n) float64, read where WEIGHTED
    mean_ptr,  # (P, d) out; (P, shares, 2, d) float64 unless WHOLE: shift, what mean is above it
    cov_ptr,  # (P, d, d) out; (P, shares, tiles, SIDE, SIDE) products unless WHOLE
    total_ptr,  # (P, shares, 2) float64 out unless WHOLE: mass, points of mass
    n,
    d,
    correction,
    tiles,
    shares,
    each,  # points of a share, a multiple of BLOCK
    stride_b,
    stride_n,
    stride_d,
    WEIGHTED: tl.constexpr,
    WHOLE: tl.constexpr,  # there is one share
    PRECISION: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One program: one tile of one share of one problem."""
    tile, place = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    share, problem = place % shares, (place // shares).to(tl.int64)
    tile_row, tile_column = _place(tile)
    i, j = tile_row * SIDE + tl.arange(0, SIDE), tile_column * SIDE + tl.arange(0, SIDE)
    x_ptr += problem * stride_b
    mass_ptr += problem * n
    dtype = cov_ptr.dtype.element_ty
    first, last = share * each, tl.minimum(n, share * each + each)
    near, start = _first_with_mass(mass_ptr, first, last, WEIGHTED, BLOCK)
    near, row = near.to(dtype)[:, None], (start + tl.arange(0, BLOCK))[:, None]
    shift_i = _load(x_ptr, row, i[None, :], last, d, stride_n, stride_d, dtype)
    shift_i = tl.sum(shift_i * near, 0)
    shift_j = _load(x_ptr, row, j[None, :], last, d, stride_n, stride_d, dtype)
    shift_j = tl.sum(shift_j * near, 0)
    products, rest_i, rest_j, total, points = _walk(
        x_ptr, mass_ptr, i, j, shift_i, shift_j, first, last, d, stride_n, stride_d,
        WEIGHTED, PRECISION, BLOCK, GROUP,
    )  # fmt: skip
    safe = tl.where(total == 0, 1.0, total)
    off_i = rest_i / safe.to(dtype)
    products -= off_i[:, None] * rest_j[None, :]
    shift_i, rest_i = shift_i.to(tl.float64), rest_i.to(tl.float64) / safe
    inside = (i < d) & (tile_row == tile_column)
    if WHOLE:
        value = products * _factor(points, total, correction, dtype)
        _store(cov_ptr + problem * d * d, value, i, j, d)
        tl.store(mean_ptr + problem * d + i, shift_i + rest_i, mask=inside)
    else:
        at = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
        tl.store(cov_ptr + (place.to(tl.int64) * tiles + tile) * SIDE * SIDE + at, products)
        mean_ptr += place.to(tl.int64) * 2 * d + i
        tl.store(mean_ptr, shift_i, mask=inside)
        tl.store(mean_ptr + d, rest_i, mask=inside)
        if tile == 0:
            tl.store(total_ptr + place * 2, total)
            tl.store(total_ptr + place * 2 + 1, points)


@triton.jit
def _offset(means_ptr, share, i, d):
    """Mean of a share less the shift of the first one: of numbers near each other, so exact."""
    at = means_ptr + share * 2 * d + i
    here = tl.load(at, mask=i < d, other=0.0) - tl.load(means_ptr + i, mask=i < d, other=0.0)
    return here + tl.load(at + d, mask=i < d, other=0.0)


@triton.jit(do_not_specialize=["d", "correction", "tiles", "shares"])
def _merge_kernel(
    part_ptr,  # (P, shares, tiles, SIDE, SIDE) products of each share about its own mean
    means_ptr,  # (P, shares, 2, d) float64: shift, what the mean is above it
    total_ptr,  # (P, shares, 2) float64
    mean_ptr,  # (P, d) out
    cov_ptr,  # (P, d, d) out
    d,
    correction,
    tiles,
    shares,
    SIDE: tl.constexpr,
):
    """One program: one tile of one problem."""
    tile, problem = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    tile_row, tile_column = _place(tile)
    i, j = tile_row * SIDE + tl.arange(0, SIDE), tile_column * SIDE + tl.arange(0, SIDE)
    dtype = cov_ptr.dtype.element_ty
    means_ptr += problem * shares * 2 * d
    total_ptr += problem * shares * 2
    part_ptr += (problem * shares * tiles + tile) * SIDE * SIDE
    mean_i, mean_j = tl.zeros((SIDE,), tl.float64), tl.zeros((SIDE,), tl.float64)
    total, count = 0.0 * tl.load(total_ptr), 0.0 * tl.load(total_ptr)
    for share in range(shares):
        mass = tl.load(total_ptr + share * 2)
        total += mass
        count += tl.load(total_ptr + share * 2 + 1)
        mean_i += mass * _offset(means_ptr, share, i, d)
        mean_j += mass * _offset(means_ptr, share, j, d)
    mean_i, mean_j = mean_i / total, mean_j / total
    value = tl.zeros((SIDE, SIDE), dtype)
    at = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    for share in range(shares):
        mass = tl.load(total_ptr + share * 2)
        off_i = _offset(means_ptr, share, i, d) - mean_i
        off_j = _offset(means_ptr, share, j, d) - mean_j
        value += (off_i * mass).to(dtype)[:, None] * off_j.to(dtype)[None, :]
        value += tl.load(part_ptr + at)
        part_ptr += tiles * SIDE * SIDE
    value *= _factor(count, total, correction, dtype)
    _store(cov_ptr + problem * d * d, value, i, j, d)
    mean_i += tl.load(means_ptr + i, mask=i < d, other=0.0)
    inside = (i < d) & (tile_row == tile_column)
    tl.store(mean_ptr + problem * d + i, mean_i, mask=inside)


def moments(x, a, correction, double):
    """The raw op ``moments``: see otkernels/moments.py."""
    batch, (n, d) = x.shape[:-2], x.shape[-2:]
    dtype = torch.float64 if double else accumulation_dtype(x.dtype)
    points = x.reshape(-1, n, d)
    problems, masses = len(points), points if a is None else a.reshape(-1, n).contiguous()
    mean, cov = (points.new_empty((problems, *s), dtype=dtype) for s in ((d,), (d, d)))
    side, block, warps = config(d, dtype)
    tiles = triton.cdiv(d, side) * (triton.cdiv(d, side) + 1) // 2
    blocks = triton.cdiv(n, block)
    shares = shares_of(problems * tiles, blocks)
    each = triton.cdiv(blocks, shares) * block
    shares = triton.cdiv(n, each)
    out = mean, cov, cov  # nothing is written to the last
    if shares > 1:
        means = points.new_empty((problems, shares, 2, d), dtype=torch.float64)
        part = points.new_empty((problems, shares, tiles, side, side), dtype=dtype)
        out = means, part, points.new_empty((problems, shares, 2), dtype=torch.float64)
    if problems:
        _products_kernel[(problems * tiles * shares,)](
            points,
            masses,
            *out,
            *(n, d, correction, tiles, shares, each),
            *points.stride(),
            WEIGHTED=a is not None,
            WHOLE=shares == 1,
            PRECISION=dot_precision(dtype),
            SIDE=side,
            BLOCK=block,
            GROUP=GROUP,
            num_warps=warps,
            **register_limit(),
        )
        if shares > 1:
            sizes = d, correction, tiles, shares
            _merge_kernel[(problems * tiles,)](part, means, out[2], mean, cov, *sizes, SIDE=side)
    return mean.view(*batch, d), cov.view(*batch, d, d)
