"""Polar factors of matrices of up to LARGEST rows, all steps in one launch.

    X <- a X + b X X^T X + c X (X^T X)^2,  X_0 = M / bound,

brings all singular values near 1 with coefficients from ``_polar_schedule``. For M = F1^T F2 with
V = M^-T known, X_0 is half of g M + V / g, g^2 = |V| / |M|: one Newton step, after which no
singular value is below 1, so that a bound above is a condition number, and few steps are needed.

FLOP: 6 D^3 a step, 3 to 8 steps. Bytes: 16 D^2 read, D^2 of the result written.
"""

import functools

import torch
import triton
import triton.language as tl

from otkernels._polar_schedule import NEWTON_SCHULZ, schedule

from . import polar_large
from .inside import asymmetry, combine, inner, inverse_or_zero

# More rows do not fit in the registers of a program, and take a launch for each product.
LARGEST = 64
# Tiles from this on multiply halves of two parts; smaller ones float32 as it is.
HALVED = 64
# Entries, at most 1 or a few, are multiplied by this before they are split.
UNIT = tl.constexpr(256.0)
# Singular values end this near to 1.
TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-14}
# Least powers of two for which there is a schedule.
OCTAVES = {torch.float32: 24, torch.float64: 42}


@functools.cache
def steps(device, dtype):
    """(OCTAVES + 1, longest + 1, 3) float64: the schedule for 2^-r in row r, behind its length.

    Shorter ones go on with steps that change nothing any more. The table is copied to a device
    once, on first use.
    """
    each = [schedule(2.0**-octave, TOLERANCE[dtype]) for octave in range(OCTAVES[dtype] + 1)]
    longest = max(len(row) for row in each)
    rows = [[(len(row), 0, 0), *row, *[NEWTON_SCHULZ] * (longest - len(row))] for row in each]
    return torch.tensor(rows, dtype=torch.float64, device=device)


def block_config(d):
    """(BLOCK, warps) where a program goes through a matrix of D rows block by block."""
    return (16, 1) if d <= 16 else (32, 4)


def config(d):
    """(TILE, SIZE, warps) for D rows: tiles of TILE / SIZE problems. Not yet tuned on a GPU.

    Chosen so that nothing spills and shared memory suffices (docs/kernels.md).
    """
    tile = max(16, triton.next_power_of_2(d))
    return tile, triton.next_power_of_2(d), {16: 1, 32: 4, 64: 8}[tile]


def launch_options():
    """Of the iterations: no pipelines, as loops load little, and all registers, not ptxas's 128."""
    return {"num_stages": 1} | ({} if torch.version.hip else {"maxnreg": 255})


@triton.jit
def _each(v, SIZE: tl.constexpr, TILE: tl.constexpr):
    """Sums of SIZE entries at a time of v (TILE,), in the place of each of them."""
    sums = tl.sum(tl.reshape(v, (TILE // SIZE, SIZE)), 1)
    return tl.reshape(tl.broadcast_to(sums[:, None], (TILE // SIZE, SIZE)), (TILE,))


@triton.jit
def _halves(x):
    """High and low half of UNIT x, float16: 22 bits of what is above 2^-24 / UNIT."""
    x *= UNIT
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _dot(a, b, start, HALVES: tl.constexpr):
    """A B + start, as accurate as float32."""
    if not HALVES:
        return tl.dot(a, b, start, input_precision="ieee")
    high, low = _halves(a)
    b_high, b_low = _halves(b)
    return _dot_of_halves(high, low, b_high, b_low, start)


@triton.jit
def _dot_of_halves(high, low, b_high, b_low, start):
    total = tl.dot(low, b_high, start * (UNIT * UNIT))
    total = tl.dot(high, b_low, total)
    return tl.dot(high, b_high, total) * (1 / (UNIT * UNIT))


@triton.jit
def _gram(x, HALVES: tl.constexpr):
    """X^T X, as accurate as float32."""
    zero = tl.zeros_like(x)
    if not HALVES:
        return tl.dot(tl.trans(x), x, zero, input_precision="ieee")
    high, low = _halves(x)
    return _dot_of_halves(tl.trans(high), tl.trans(low), high, low, zero)


@triton.jit
def _norm(x, SIZE: tl.constexpr, TILE: tl.constexpr):
    """Frobenius norms of the problems of a tile, in each of their rows."""
    return tl.sqrt(_each(tl.sum(x * x, 1), SIZE, TILE))


@triton.jit(do_not_specialize=["n"])
def _start_kernel(
    m_ptr,  # (B, n, n) float64
    v_ptr,  # (B, n, n) float64
    x_ptr,  # (B, n, n) float32
    low_ptr,  # (B,) float32
    n,
    BLOCK: tl.constexpr,
):
    """One program: the Newton step of one problem, in a unit in which both parts have norm 1/2."""
    problem = tl.program_id(0).to(tl.int64)
    m_ptr += problem * n * n
    v_ptr += problem * n * n
    of_m = tl.sqrt(tl.sqrt(inner(m_ptr, n, 1, m_ptr, n, 1, n, n, BLOCK)))
    of_v = tl.sqrt(tl.sqrt(inner(v_ptr, n, 1, v_ptr, n, 1, n, n, BLOCK)))
    for_m, for_v = 0.5 * inverse_or_zero(of_m * of_m), 0.5 * inverse_or_zero(of_v * of_v)
    x_ptr += problem * n * n
    combine(m_ptr, n, 1, for_m, v_ptr, n, 1, for_v, x_ptr, n, 1, n, n, BLOCK)
    tl.store(low_ptr + problem, inverse_or_zero(of_m * of_v).to(tl.float32))


@triton.jit(do_not_specialize=["batch", "longest", "octaves"])
def _polar_kernel(
    x_ptr,  # (B, n, n) float32
    low_ptr,  # (B,) float32, no singular value is less
    q_ptr,  # (B, n, n) float32
    step_ptr,  # (octaves + 1, longest + 1, 3) float64
    batch,
    n,
    longest,
    octaves,
    HALVES: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program: TILE / SIZE problems, the blocks on the diagonal of one tile."""
    index = tl.arange(0, TILE)
    first = tl.program_id(0).to(tl.int64) * (TILE // SIZE)
    problem = index // SIZE
    present = problem < batch - first
    row, col = index[:, None] % SIZE, index[None, :] % SIZE
    own = problem[:, None] == (index // SIZE)[None, :]
    inside = own & (row < n) & (col < n) & present[:, None]
    at = problem[:, None] * n * n + row * n + col
    x = tl.load(x_ptr + first * n * n + at, mask=inside, other=0.0)
    low = tl.load(low_ptr + first + problem, mask=present, other=1.0)
    # What is not finite would spread to the neighbours in the tile.
    broken = _each(tl.sum(x * 0.0, 1), SIZE, TILE)
    x = tl.where((broken == 0)[:, None], x, 0.0)
    x, low, gram = _bounded(x, low, HALVES, SIZE, TILE)
    step_ptr += row_of_steps(low, octaves) * (longest + 1) * 3
    # In any order: with the order kept, Triton 3.7.1 fails on sm_100.
    counts = tl.reshape(tl.load(step_ptr), (TILE,), can_reorder=True)
    count = tl.max(counts, 0).to(tl.int32)
    for step in range(1, count + 1):
        a = tl.load(step_ptr + step * 3).to(tl.float32)[:, None]
        b = tl.load(step_ptr + step * 3 + 1).to(tl.float32)[:, None]
        c = tl.load(step_ptr + step * 3 + 2).to(tl.float32)[:, None]
        p = c * _dot(gram, gram, gram * (b / c), HALVES)
        p += tl.where(index[:, None] == index[None, :], a, 0.0)
        x = _dot(x, p, tl.zeros_like(x), HALVES)
        gram = _gram(x, HALVES)
    tl.store(q_ptr + first * n * n + at, x + broken[:, None], mask=inside)


@triton.jit
def _bounded(x, low, HALVES: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr):
    """X with singular values of at most 1, the bound ``low`` below, and X^T X.

    The root of |X^T X| bounds the largest one, and costs no product more.
    """
    shrink = inverse_or_zero(_norm(x, SIZE, TILE))
    x *= shrink[:, None]
    gram = _gram(x, HALVES)
    bound = tl.sqrt(_norm(gram, SIZE, TILE)) * (1 + 1e-5)
    inverse = inverse_or_zero(bound)
    return x * inverse[:, None], low * shrink * inverse, gram * (inverse * inverse)[:, None]


@triton.jit
def row_of_steps(low, octaves):
    """Row of the table of steps for singular values of at least ``low``."""
    octave = tl.ceil(-tl.log2(tl.where(low > 0, low, 1.0)) + 1e-3).to(tl.int32)
    return tl.minimum(tl.maximum(octave, 0), octaves)


@triton.jit(do_not_specialize=["n"])
def _value_kernel(
    m_ptr,  # (B, n, n) float64
    q_ptr,  # (B, n, n) float32
    h_ptr,  # (B, n, n) float64, Q^T M, read where RESIDUAL
    value_ptr,  # (B,) float64
    residual_ptr,  # (B,) float64
    n,
    RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: tr Q^T M of one problem, and how far Q^T M is from symmetric, or 0."""
    problem = tl.program_id(0).to(tl.int64)
    m_ptr += problem * n * n
    value = inner(m_ptr, n, 1, q_ptr + problem * n * n, n, 1, n, n, BLOCK)
    residual = value * 0.0
    if RESIDUAL:
        residual = asymmetry(h_ptr + problem * n * n, n, BLOCK)
    tl.store(value_ptr + problem, value)
    tl.store(residual_ptr + problem, residual)


def polar(m, v):
    """Polar factor Q (B, D, D) float32 of M.

    Args:
        m: (B, D, D) float64, contiguous.
        v: M^-T, the same. Where M is singular Q is finite and means nothing.
    """
    batch, d, _ = m.shape
    x, low = torch.empty_like(m, dtype=torch.float32), m.new_empty(batch, dtype=torch.float32)
    q = torch.empty_like(x)
    if batch == 0:
        return q
    block, warps = block_config(d)
    _start_kernel[(batch,)](m, v, x, low, d, BLOCK=block, num_warps=warps)
    if d > LARGEST:
        x0, unit = polar_large.scaled(x)
        return polar_large.polar(x0, low * unit, False)
    tile, size, warps = config(d)
    table = steps(m.device, torch.float32)
    _polar_kernel[(triton.cdiv(batch, tile // size),)](
        x,
        low,
        q,
        table,
        batch,
        d,
        table.shape[1] - 1,
        table.shape[0] - 1,
        HALVES=tile >= HALVED,
        SIZE=size,
        TILE=tile,
        num_warps=warps,
        **launch_options(),
    )
    return q


def value(m, q, h=None):
    """Tr Q^T M and a residual, (B,) float64: how far h = Q^T M is from symmetric; without h, 0."""
    batch, d, _ = m.shape
    trace, residual = m.new_empty(batch), m.new_empty(batch)
    block, warps = block_config(d)
    if batch:
        each = {"RESIDUAL": h is not None, "BLOCK": block, "num_warps": warps}
        _value_kernel[(batch,)](m, q, m if h is None else h, trace, residual, d, **each)
    return trace, residual
