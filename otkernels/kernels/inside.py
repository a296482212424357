"""Products of float64 matrices in memory, each by one program, tile after tile.

For chains of products that one program makes of one problem: what a function here writes, all
threads of the program may read when it returns. Tiles of 32 rows, not 64, as for those Triton 3.7.1
fails on sm_100. On sm_80 and sm_90 the products become DMMA instructions.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of(ptr, stride_row, stride_col, i, j, n, m, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The ROWS x COLUMNS tile at (i, j) of a matrix (n, m), float64, 0 outside of it."""
    row, col = i + tl.arange(0, ROWS)[:, None], j + tl.arange(0, COLUMNS)[None, :]
    inside = (row < n) & (col < m)
    return tl.load(ptr + row * stride_row + col * stride_col, mask=inside, other=0.0).to(tl.float64)


@triton.jit
def put_tile(x, ptr, stride_row, stride_col, i, j, n, m, BLOCK: tl.constexpr):
    """Store the tile x at (i, j) of a matrix (n, m)."""
    row, col = i + tl.arange(0, BLOCK)[:, None], j + tl.arange(0, BLOCK)[None, :]
    tl.store(ptr + row * stride_row + col * stride_col, x, mask=(row < n) & (col < m))


@triton.jit
def multiply(
    a_ptr,  # (n, k)
    a_row,
    a_col,
    b_ptr,  # (k, m)
    b_row,
    b_col,
    out_ptr,  # (n, m), none of the others
    out_row,
    out_col,
    n,
    k,
    m,
    e_ptr,  # (n, m), strides as out's
    alpha,
    beta,
    delta,
    POLYNOMIAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Out = A B; or alpha A B + beta E + delta I with POLYNOMIAL."""
    index = tl.arange(0, BLOCK)
    for i in range(0, n, BLOCK):
        for j in range(0, m, BLOCK):
            total = tl.zeros((BLOCK, BLOCK), tl.float64)
            for start in range(0, k, BLOCK):
                a = tile_of(a_ptr, a_row, a_col, i, start, n, k, BLOCK, BLOCK)
                b = tile_of(b_ptr, b_row, b_col, start, j, k, m, BLOCK, BLOCK)
                total = tl.dot(a, b, total, input_precision="ieee", out_dtype=tl.float64)
            if POLYNOMIAL:
                total = alpha * total + beta * tile_of(
                    e_ptr, out_row, out_col, i, j, n, m, BLOCK, BLOCK
                )
                total += tl.where(i + index[:, None] == j + index[None, :], delta, 0.0)
            put_tile(total, out_ptr, out_row, out_col, i, j, n, m, BLOCK)
    tl.debug_barrier()


@triton.jit
def combine(
    a_ptr,
    a_row,
    a_col,
    alpha,
    b_ptr,
    b_row,
    b_col,
    beta,
    out_ptr,
    out_row,
    out_col,
    n,
    m,
    BLOCK: tl.constexpr,
):
    """Out = alpha A + beta B (n, m); out may be A or B, where strides are the same."""
    for i in range(0, n, BLOCK):
        for j in range(0, m, BLOCK):
            a = tile_of(a_ptr, a_row, a_col, i, j, n, m, BLOCK, BLOCK)
            b = tile_of(b_ptr, b_row, b_col, i, j, n, m, BLOCK, BLOCK)
            put_tile(alpha * a + beta * b, out_ptr, out_row, out_col, i, j, n, m, BLOCK)
    tl.debug_barrier()


@triton.jit
def inner(a_ptr, a_row, a_col, b_ptr, b_row, b_col, n, m, BLOCK: tl.constexpr):
    """Sum of the products of the entries of A and B (n, m), in one order."""
    total = tl.zeros((BLOCK, BLOCK), tl.float64)
    for i in range(0, n, BLOCK):
        for j in range(0, m, BLOCK):
            a = tile_of(a_ptr, a_row, a_col, i, j, n, m, BLOCK, BLOCK)
            total += a * tile_of(b_ptr, b_row, b_col, i, j, n, m, BLOCK, BLOCK)
    return tl.sum(tl.sum(total, 1), 0)


@triton.jit
def distance(a_ptr, a_row, a_col, b_ptr, b_row, b_col, n, m, BLOCK: tl.constexpr):
    """Frobenius norm of A - B (n, m)."""
    total = tl.zeros((BLOCK, BLOCK), tl.float64)
    for i in range(0, n, BLOCK):
        for j in range(0, m, BLOCK):
            a = tile_of(a_ptr, a_row, a_col, i, j, n, m, BLOCK, BLOCK)
            a -= tile_of(b_ptr, b_row, b_col, i, j, n, m, BLOCK, BLOCK)
            total += a * a
    return tl.sqrt(tl.sum(tl.sum(total, 1), 0))


@triton.jit
def inverse_or_zero(x):
    """1 / x, and 0 of 0."""
    return tl.where(x == 0, 0.0, 1.0 / tl.where(x == 0, 1.0, x))


@triton.jit
def asymmetry(a_ptr, n, BLOCK: tl.constexpr):
    """|A - A^T| / 2 |A| of a contiguous A (n, n), 0 of 0."""
    size = tl.sqrt(inner(a_ptr, n, 1, a_ptr, n, 1, n, n, BLOCK))
    return 0.5 * distance(a_ptr, n, 1, a_ptr, 1, n, n, n, BLOCK) * inverse_or_zero(size)
