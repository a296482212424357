"""Batched matrix product with a stated precision, for operands of any strides.

torch.matmul would follow ``torch.backends.cuda.matmul.allow_tf32``, and with it lose half of
float32's digits without a word; here float32 is split in three TF32 products.

2 B m n k FLOP; bytes about B (m k ceil(n / BLOCK_N) + k n ceil(m / BLOCK_M) + m n) elements.
"""

import torch
import triton
import triton.language as tl


def matmul_config(m, n, dtype):
    """(BLOCK_M, BLOCK_N, BLOCK_K, warps) for an m x n result. Not yet tuned on a GPU.

    Tiles of 64 x 16 are left out: on sm_100 with Triton 3.7.1 they spill.
    """
    block_n = min(64, max(16, triton.next_power_of_2(n)))
    block_m = min(64, max(16, triton.next_power_of_2(m)), 2 * block_n)
    return block_m, block_n, 16 if dtype == torch.float64 else 32, 4


def dot_precision(dtype):
    """TF32 products truncate; three of them are as good as float32 (AMD has no such mode)."""
    return "ieee" if dtype == torch.float64 or torch.version.hip else "tf32x3"


@triton.jit
def _matmul_kernel(
    a_ptr,  # (B, m, k)
    b_ptr,  # (B, k, n)
    out_ptr,  # (B, m, n)
    m,
    n,
    k,
    stride_a_b,
    stride_a_m,
    stride_a_k,
    stride_b_b,
    stride_b_k,
    stride_b_n,
    stride_out_b,
    stride_out_m,
    stride_out_n,
    ACCUMULATE: tl.constexpr,  # add to what out holds
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
    row = (tile // tiles_n).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = (tile % tiles_n).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K).to(tl.int64)
    a_ptr += batch * stride_a_b + row[:, None] * stride_a_m
    b_ptr += batch * stride_b_b + col[None, :] * stride_b_n
    dtype = out_ptr.dtype.element_ty
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype)
    for start in range(0, k, BLOCK_K):
        step = start + inner
        in_a = (row[:, None] < m) & (step[None, :] < k)
        in_b = (step[:, None] < k) & (col[None, :] < n)
        a = tl.load(a_ptr + step[None, :] * stride_a_k, mask=in_a, other=0.0).to(dtype)
        b = tl.load(b_ptr + step[:, None] * stride_b_k, mask=in_b, other=0.0).to(dtype)
        total = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=dtype)
    out_ptr += batch * stride_out_b + row[:, None] * stride_out_m + col[None, :] * stride_out_n
    inside = (row[:, None] < m) & (col[None, :] < n)
    if ACCUMULATE:
        total += tl.load(out_ptr, mask=inside, other=0.0)
    tl.store(out_ptr, total, mask=inside)


def matmul(a, b, out, accumulate=False):
    """Write a (B, m, k) @ b (B, k, n) to out (B, m, n), or add it with ``accumulate``.

    Operands may have any strides (0 to broadcast) and any floating dtype; out's is computed in.
    """
    batch, m, n = out.shape
    block_m, block_n, block_k, warps = matmul_config(m, n, out.dtype)
    grid = (batch * triton.cdiv(m, block_m) * triton.cdiv(n, block_n),)  # only x exceeds 2^16
    _matmul_kernel[grid](
        a,
        b,
        out,
        m,
        n,
        a.shape[-1],
        *a.stride(),
        *b.stride(),
        *out.stride(),
        ACCUMULATE=accumulate,
        PRECISION=dot_precision(out.dtype),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        num_warps=warps,
    )
