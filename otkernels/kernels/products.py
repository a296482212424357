"""Batched products of matrices with a polynomial's end: C = alpha A B + beta E + delta I.

With A = B = E = G the epilogue makes b G + c G^2 + a I of one product, and nothing more is read or
written than a product needs. Where the result is known to be symmetric only the tiles on and below
the diagonal are computed, and stored twice: half the work, and exact symmetry.

One launch. FLOP: 2 B m n k, ``symmetric`` about B m n k (1 + BLOCK / m). Bytes about
B (m k ceil(n / BLOCK_N) + k n ceil(m / BLOCK_M) + m n) elements, through the second-level cache;
m n more with E. Sums have one order: the same bits on two runs, whatever the batch.
"""

import torch
import triton
import triton.language as tl

from .matmul import dot_precision

# Results with both sides this long take the large tile.
LONG = 512


def config(m, n, dtype, symmetric):
    """(BLOCK_M, BLOCK_N, BLOCK_K, warps) for an m x n result. Not yet tuned on a GPU.

    Chosen so that nothing spills, also where no row is aligned. The tiles of a symmetric result
    are square, as each is stored in two places.
    """
    if dtype != torch.float64 and not symmetric and min(m, n) >= LONG:
        return 128, 64, 32, 8
    side = min(64, max(16, triton.next_power_of_2(max(m, n))))
    return side, side, 16 if dtype == torch.float64 else 32, 8 if side == 64 else 4


def register_limit(block_m, symmetric):
    """Launch option of symmetric 64 x 64 tiles: unless stated, ptxas takes 80 or 128 and spills."""
    return {"maxnreg": 255} if symmetric and block_m == 64 and not torch.version.hip else {}


def with_unit_stride(t):
    """t, copied if neither rows nor columns stand side by side: such tiles would spill."""
    return t if 1 in t.stride()[-2:] else t.contiguous()


@triton.jit
def _product_kernel(
    a_ptr,  # (B, m, k)
    b_ptr,  # (B, k, n)
    e_ptr,  # (B, m, n), read where HAS_E
    out_ptr,  # (B, m, n)
    coefficient_ptr,  # (B, 3) alpha, beta, delta, read where COEFFICIENTS
    active_ptr,  # (B,), read where HAS_ACTIVE
    m,
    n,
    k,
    stride_a_b,
    stride_a_m,
    stride_a_k,
    stride_b_b,
    stride_b_k,
    stride_b_n,
    stride_e_b,
    stride_e_m,
    stride_e_n,
    stride_out_b,
    stride_out_m,
    stride_out_n,
    HAS_E: tl.constexpr,
    BETA: tl.constexpr,  # without COEFFICIENTS; alpha is 1 then and delta 0
    COEFFICIENTS: tl.constexpr,
    HAS_ACTIVE: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program: one BLOCK_M x BLOCK_N tile of one product, computed in out's dtype."""
    tiles_n = tl.cdiv(n, BLOCK_N)
    tiles = tl.cdiv(m, BLOCK_M) * tiles_n
    tile = tl.program_id(0) % tiles
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    if SYMMETRIC and tile % tiles_n > tile // tiles_n:
        return
    if HAS_ACTIVE and tl.load(active_ptr + batch) == 0:
        return
    first, first_col = tile // tiles_n * BLOCK_M, tile % tiles_n * BLOCK_N
    row, col, inner = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    in_m, in_n = (first + row < m)[:, None], (first_col + col < n)[None, :]
    # Where a tile begins is counted in int64, and within it in int32.
    down, right = first.to(tl.int64), first_col.to(tl.int64)
    a_ptr += batch * stride_a_b + down * stride_a_m
    b_ptr += batch * stride_b_b + right * stride_b_n
    a_at = row[:, None] * stride_a_m + inner[None, :] * stride_a_k
    b_at = inner[:, None] * stride_b_k + col[None, :] * stride_b_n
    dtype = out_ptr.dtype.element_ty
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype)
    for start in range(0, k, BLOCK_K):
        in_k = inner < k - start
        a = tl.load(a_ptr + a_at, mask=in_m & in_k[None, :], other=0.0).to(dtype)
        b = tl.load(b_ptr + b_at, mask=in_k[:, None] & in_n, other=0.0).to(dtype)
        total = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=dtype)
        a_ptr += BLOCK_K * stride_a_k
        b_ptr += BLOCK_K * stride_b_k
    inside = in_m & in_n
    below = first - first_col + row[:, None] - col[None, :]
    if SYMMETRIC:
        # Sums in the halves of a tile on the diagonal need not round alike.
        inside &= below >= 0
    if COEFFICIENTS:
        coefficient_ptr += batch * 3
        total *= tl.load(coefficient_ptr).to(dtype)
        total += tl.where(below == 0, tl.load(coefficient_ptr + 2).to(dtype), 0.0)
    if HAS_E:
        e_ptr += batch * stride_e_b + down * stride_e_m + right * stride_e_n
        e_at = row[:, None] * stride_e_m + col[None, :] * stride_e_n
        added = tl.load(e_ptr + e_at, mask=inside, other=0.0).to(dtype)
        if COEFFICIENTS:
            total += tl.load(coefficient_ptr + 1).to(dtype) * added
        else:
            total += BETA * added
    out_ptr += batch * stride_out_b
    at = row[:, None] * stride_out_m + col[None, :] * stride_out_n
    tl.store(out_ptr + down * stride_out_m + right * stride_out_n + at, total, mask=inside)
    if SYMMETRIC:
        at = col[None, :] * stride_out_m + row[:, None] * stride_out_n
        out_ptr += right * stride_out_m + down * stride_out_n
        tl.store(out_ptr + at, total, mask=inside & (below > 0))


def product(a, b, out, *, e=None, beta=1, coefficients=None, symmetric=False, active=None):
    """Write a (B, m, k) @ b (B, k, n) + beta e to out (B, m, n), and return it.

    Operands may have any strides (transposed; 0 to broadcast) and any floating dtype; out's is
    computed in, float32 with all of its digits. ``out`` is none of the operands.

    Args:
        a: left operand.
        b: right operand.
        out: the result, written to.
        e: (B, m, n) what is added, or None.
        beta: its factor, 1 or -1.
        coefficients: (B, 3) contiguous alpha, beta, delta of each problem for
            alpha a @ b + beta e + delta I, instead of ``beta``.
        symmetric: the result is symmetric: compute its lower half and mirror it.
        active: (B,) contiguous integers; out is left as it is where they are 0.
    """
    batch, m, n = out.shape
    a, b = with_unit_stride(a), with_unit_stride(b)
    added = out if e is None else with_unit_stride(e)
    block_m, block_n, block_k, warps = config(m, n, out.dtype, symmetric)
    programs = batch * triton.cdiv(m, block_m) * triton.cdiv(n, block_n)  # only x exceeds 2^16
    if programs == 0:
        return out
    _product_kernel[(programs,)](
        a,
        b,
        added,
        out,
        out if coefficients is None else coefficients,
        out if active is None else active,
        m,
        n,
        a.shape[-1],
        *a.stride(),
        *b.stride(),
        *added.stride(),
        *out.stride(),
        HAS_E=e is not None,
        BETA=beta,
        COEFFICIENTS=coefficients is not None,
        HAS_ACTIVE=active is not None,
        SYMMETRIC=symmetric,
        PRECISION=dot_precision(out.dtype),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        num_warps=warps,
        **register_limit(block_m, symmetric),
    )
    return out
