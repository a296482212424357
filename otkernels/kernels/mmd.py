"""Weighted sums of a kernel within and between two clouds, and their gradients, on the GPU.

Points of x and then of y stand in one array, each cloud padded to whole tiles. A program takes a
block of rows of one cloud and walks over columns, first of its own cloud, then of the other; it
keeps the potentials of its rows and their gradient in registers. So nothing of size N M is kept,
each number is written by one program, and sums have one order.

1. the points side by side, and their masses                          6 or 7 library calls
2. ``split``      centre, scale, high and low halves                                  2 launches
3. ``walks``      rows of x, and those of y if yy or a gradient asks for them         1 each
                  tiles with points close together, "laplacian" and "energy" only     1 each
4. totals         potentials to sums, value and gradients to masses                   1

Differences of up to DIRECT coordinates need no step 2, and are exact wherever the points lie.

Work: N^2 + N M pairs for the rows of x, M^2 for those of y, N M more where y or b needs a gradient.
A pair takes 3 products of halves (1 with ``fast``) of 2 D FLOP for its distance, as many for the
gradient, and K exponentials. Beyond 64 coordinates a gradient takes ceil(D / 64) times the
distances. Bytes, T = N + M: 4 T D of points for each block of 64 rows, from the second-level cache;
4 T D of gradients and 16 T of potentials for each share of the columns, of which there are several
only where blocks of rows are too few to fill the device. Tiles with points close together take a
bit each: about T^2 / 16000 bytes in all.
"""

import torch
import triton
import triton.language as tl

from otkernels._ops import empty_grad

from .split import ROWS, padded, split
from .walks import GROUP, _differences_kernel, _near_kernel, _products_kernel

# Dimensions up to which distances are sums of squared differences.
DIRECT = 8
# At these distances, relative to the norms, products have lost the digits that a root needs.
NEAR = 1e-3
# Programs that fill a device; with fewer, the columns are shared out, some blocks to each.
PROGRAMS, BLOCKS = 264, 4
# Points at a time of the program that takes the totals.
SUMMED = 256


def shares_of(programs, blocks):
    """Into how many shares to split the columns so that enough programs work."""
    return max(1, min(PROGRAMS // max(1, programs), blocks // BLOCKS))


def config(d, dtype, direct):
    """(BLOCK_M, BLOCK_N, BLOCK_D, warps) of a tile. Not yet tuned on a GPU.

    Chosen so that nothing spills (docs/kernels.md). BLOCK_M and BLOCK_N divide ``split.ROWS``.
    """
    if direct:
        return 64, 32, triton.next_power_of_2(d), 4
    if dtype == torch.float64:
        return 32, 16, 16, 4
    return 64, 32, min(64, max(16, triton.next_power_of_2(d))), 4 if d <= 64 else 8


def register_limit():
    """Launch option of the products: unless it is stated, ptxas at times takes 128 and spills."""
    return {} if torch.version.hip else {"maxnreg": 255}


@triton.jit(do_not_specialize=["n", "m", "rows", "shares", "terms"])
def _totals_kernel(
    part_ptr,  # (P, shares, 2, rows)
    mass_ptr,  # (P, T)
    coefficient_ptr,  # (P, 3)
    value_ptr,  # (P,)
    sums_ptr,  # (P, 3)
    potential_ptr,  # (P, T) gradients to the masses, written where POTENTIAL
    n,
    m,
    rows,
    shares,
    terms,  # bits: xx, yy, xy
    POTENTIAL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: one problem, all of it in float64 and in one order."""
    problem = tl.program_id(0).to(tl.int64)
    of_x, total = padded(n, ROWS), padded(n, ROWS) + padded(m, ROWS)
    mean_x, mean_y = 1.0 / n.to(tl.float64), 1.0 / m.to(tl.float64)
    c_x = tl.load(coefficient_ptr + problem * 3)
    c_y = tl.load(coefficient_ptr + problem * 3 + 1)
    c_xy = tl.load(coefficient_ptr + problem * 3 + 2)
    # A term that is not asked for counts as nothing, whatever its coefficient.
    c_x, c_y = tl.where((terms & 1) != 0, c_x, 0.0), tl.where((terms & 2) != 0, c_y, 0.0)
    c_xy = tl.where((terms & 4) != 0, c_xy, 0.0)
    xx = tl.zeros((BLOCK,), tl.float64)
    yy, xy = xx, xx
    part_ptr += problem * shares * 2 * rows
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        within, between = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
        for share in range(shares):
            at = part_ptr + share * 2 * rows + row
            within += tl.load(at, mask=row < rows, other=0.0)
            between += tl.load(at + rows, mask=row < rows, other=0.0)
        mass = tl.load(mass_ptr + problem * total + row, mask=row < rows, other=0.0)
        in_x = row < of_x
        own = tl.where(in_x, mean_x, mean_y)
        within *= own
        between *= tl.where(in_x, mean_y, mean_x)
        mass *= own
        xx += tl.where(in_x, within * mass, 0.0)
        yy += tl.where(in_x, 0.0, within * mass)
        xy += tl.where(in_x, between * mass, 0.0)
        if POTENTIAL:
            grad = 2 * tl.where(in_x, c_x, c_y) * within + c_xy * between
            tl.store(potential_ptr + problem * total + row, grad, mask=row < rows)
    xx, yy, xy = tl.sum(xx, 0), tl.sum(yy, 0), tl.sum(xy, 0)
    tl.store(value_ptr + problem, c_x * xx + c_y * yy + c_xy * xy)
    tl.store(sums_ptr + problem * 3, xx)
    tl.store(sums_ptr + problem * 3 + 1, yy)
    tl.store(sums_ptr + problem * 3 + 2, xy)


def kernel_sums(x, y, a, b, coefficients, rates, n, m, profile, terms, fast, needs):
    """The raw op ``kernel_sums`` of clouds (..., N, D), (..., M, D): see otkernels._kernel_sums."""
    batch, sizes = x.shape[:-2], (x.shape[-2], y.shape[-2])
    clouds = [t.reshape(-1, *t.shape[-2:]) for t in (x, y)]
    z, mass = _side_by_side(clouds, (a, b))
    factors = _coefficients(z, coefficients)
    given = rates.reshape(-1, rates.shape[-1]).contiguous()
    part, grads = _walk(z, sizes, mass, factors, given, profile, terms, fast, needs)
    value, sums, potential = _totals(part, mass, factors, sizes, terms, any(needs[2:4]))
    return (
        value.reshape(batch),
        *(
            grad.reshape(t.shape) if need else empty_grad(t, False)
            for t, grad, need in zip((x, y), grads, needs, strict=False)
        ),
        *(
            # A copy, as results of an operator may not share memory.
            potential[:, where].clone().reshape(*batch, k) if need else value.new_empty((*batch, 0))
            for where, need, k in zip(_places(*sizes), needs[2:4], sizes, strict=True)
        ),
        sums.reshape(*batch, 3) if needs[4] else value.new_empty((*batch, 0)),
    )


def _places(n, m):
    """Where x's points stand and where y's do: each cloud begins a block of its own."""
    of_x = triton.cdiv(n, ROWS) * ROWS
    return slice(n), slice(of_x, of_x + m)


def _side_by_side(clouds, masses):
    """Points z (P, T, D) and masses (P, T), float64, 1 on average in each cloud; padding has 0."""
    sizes = [t.shape[1] for t in clouds]
    batch, d = clouds[0].shape[0], clouds[0].shape[2]
    total = sum(triton.cdiv(k, ROWS) * ROWS for k in sizes)
    z = clouds[0].new_zeros((batch, total, d))
    mass = clouds[0].new_zeros((batch, total), dtype=torch.float64)
    for where, cloud, given, k in zip(_places(*sizes), clouds, masses, sizes, strict=True):
        z[:, where] = cloud
        mass[:, where] = 1.0 if given is None else given.reshape(batch, k) * k
    return z, mass


def _coefficients(z, given):
    if given is not None:
        return given.reshape(-1, 3).contiguous()
    factors = z.new_ones((z.shape[0], 3), dtype=torch.float64)
    factors[:, 2] = -2  # filled, not copied: a copy from the host would break a CUDA graph
    return factors


def _walk(z, sizes, mass, factors, rates, profile, terms, fast, needs):
    """Potentials (P, shares, 2, rows) of x's and perhaps y's points, gradients to x and to y."""
    (n, m), (batch, total, d), dtype = sizes, z.shape, rates.dtype
    need_x, need_y, _, need_b, _ = needs
    direct = d <= DIRECT and profile != "polynomial"
    block_m, block_n, block_d, warps = config(d, dtype, direct)
    of_x = _places(n, m)[1].start
    rows = total if terms[1] or need_y or need_b else of_x
    blocks_n = triton.cdiv(max(n, m), block_n)
    # Those of the larger launch, for both: programs of either walk as far, and shares cost memory.
    shares = shares_of(batch * max(of_x, rows - of_x) // block_m, blocks_n)
    part = z.new_empty((batch, shares, 2, rows), dtype=torch.float64)
    ready = None
    if not direct:
        width = triton.cdiv(d, block_d) * block_d
        ready = split(z, mass, sizes, width, profile != "polynomial", fast)
    each = {
        "mass_ptr": mass,
        "rate_ptr": rates,
        "coefficient_ptr": factors,
        "part_ptr": part,
        "n": n,
        "m": m,
        "rates": rates.shape[-1],
        "rows": rows,
        "walks": terms[0] + 2 * terms[2] + 4 * terms[1] + 8 * (terms[2] and (need_y or need_b)),
        "shares": shares,
        "PROFILE": profile,
        "ROWS": ROWS,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "num_warps": warps,
    }
    grads = []
    # Rows of x and rows of y are launches of their own: often one of them needs no gradient.
    for first, last, size, need in ((0, of_x, n, need_x), (of_x, rows, m, need_y)):
        grads.append(z.new_empty((batch, shares, size if need else 0, d), dtype=dtype))
        each |= {"grad_ptr": grads[-1], "first_row": first, "GRAD": need}
        each["blocks"] = (last - first) // block_m
        if batch * each["blocks"] == 0:
            continue
        if direct:
            grid = (batch * each["blocks"] * shares,)
            _differences_kernel[grid](z, **each, d=d, BLOCK_D=block_d)
        else:
            _by_products(z, ready, each, block_d, triton.cdiv(triton.cdiv(blocks_n, shares), GROUP))
    return part, [t.sum(1) if shares > 1 else t for t in grads]


def _by_products(z, ready, each, block_d, groups):
    """The walks of one cloud's rows, and those tiles again that need differences."""
    batch, d, width = z.shape[0], z.shape[2], ready.high.shape[2]
    root = each["PROFILE"] in ("laplacian", "energy")
    programs = batch * each["blocks"] * each["shares"]
    near = z.new_empty((programs * 2 * groups if root else 0,), dtype=torch.int32)
    _products_kernel[(programs * (width // block_d if each["GRAD"] else 1),)](
        *ready,
        **each,
        near_ptr=near,
        d=d,
        groups=groups,
        SPLIT=ready.low is not ready.high,
        CHUNKED=width > block_d,
        NEAR=NEAR,
        GROUP=GROUP,
        BLOCK_D=block_d,
        **register_limit(),
    )
    if root:
        _near_kernel[(programs,)](z, **each, near_ptr=near, d=d, groups=groups, GROUP=GROUP)


def _totals(part, mass, factors, sizes, terms, potential):
    """Value (P,), sums (P, 3) and, with ``potential``, gradients (P, T) to the masses."""
    batch, shares, _, rows = part.shape
    value, sums = mass.new_empty(batch), mass.new_empty((batch, 3))
    gradient = torch.zeros_like(mass) if potential else mass
    if batch:
        _totals_kernel[(batch,)](
            part,
            mass,
            factors,
            value,
            sums,
            gradient,
            *sizes,
            rows,
            shares,
            terms[0] + 2 * terms[1] + 4 * terms[2],
            POTENTIAL=potential,
            ROWS=ROWS,
            BLOCK=SUMMED,
        )
    return value, sums, gradient
