"""Factors of covariances of more rows than one tile holds: what ``factor`` gives, in float64.

Regular covariances take the library's Cholesky and triangular solve. Singular ones cannot, and no
host waits to learn which they are: a kernel that takes pivots runs over the batch, and its
programs leave regular problems at once.

Library calls and one launch, one program a problem. FLOP: 4 D^3 / 3; of a singular problem 2 D R^2
more, R its rank, and 8 D R^2 bytes, from the second-level cache through one multiprocessor.
"""

import torch
import triton
import triton.language as tl

from .factor import CLEAR, Factor, passes


def config(d):
    """(TILE, INNER, warps) for D rows. Not yet tuned on a GPU; chosen so that nothing spills."""
    tile = triton.next_power_of_2(d)
    return tile, max(1, 2048 // tile), 8


@triton.jit(do_not_specialize=["n", "cutoff"])
def _pivoted_kernel(
    s_ptr,  # (B, n, n), contiguous
    f_ptr,  # (B, n, n), columns of F as rows; 0, and left so past the rank
    g_ptr,  # (B, n, n), likewise the rows of G
    regular_ptr,  # (B,)
    n,
    cutoff,
    INNER: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program: one covariance, unless it is regular."""
    problem = tl.program_id(0).to(tl.int64)
    if tl.load(regular_ptr + problem) != 0:
        return
    index, inner = tl.arange(0, TILE), tl.arange(0, INNER)
    s_ptr += problem * n * n
    f_ptr += problem * n * n
    g_ptr += problem * n * n
    left = tl.load(s_ptr + index * (n + 1), mask=index < n, other=float("-inf"))
    pivot, j = tl.max(left, 0), tl.argmax(left, 0)
    floor = pivot * cutoff
    k = 0
    while (k < n) & (pivot > floor):
        c = tl.load(s_ptr + j * n + index, mask=index < n, other=0.0)
        g = tl.where(index == j, 1.0, 0.0).to(tl.float64)
        for start in range(0, k, INNER):
            row = start + inner
            known = row[:, None] < k
            at = row[:, None] * n + index[None, :]
            inside = known & (index < n)[None, :]
            weight = tl.load(f_ptr + row[:, None] * n + j, mask=known, other=0.0)
            c -= tl.sum(tl.load(f_ptr + at, mask=inside, other=0.0) * weight, 0)
            g -= tl.sum(tl.load(g_ptr + at, mask=inside, other=0.0) * weight, 0)
        # Rows that had their turn are -inf.
        c = tl.where(left == float("-inf"), 0.0, c / tl.sqrt(pivot))
        tl.store(f_ptr + k * n + index, c, mask=index < n)
        tl.store(g_ptr + k * n + index, g / tl.sqrt(pivot), mask=index < n)
        tl.debug_barrier()  # the next step reads what other threads have written
        left = tl.where(index == j, float("-inf"), left - c * c)
        pivot, j = tl.max(left, 0), tl.argmax(left, 0)
        k += 1


def factor(s, cutoff):
    """The :class:`Factor` of symmetric s (B, D, D), float64 and contiguous.

    Args:
        s: covariances. NaN or infinity makes all of its problem NaN.
        cutoff: a problem is singular where eigenvalues may be up to this times the largest;
            pivots up to max(CLEAR, D^1/2) times this and the largest diagonal entry count as 0.
    """
    batch, d, _ = s.shape
    lower, info = torch.linalg.cholesky_ex(s)
    found = (info == 0)[:, None, None]
    identity = torch.eye(d, dtype=s.dtype, device=s.device)
    g = torch.linalg.solve_triangular(torch.where(found, lower, identity), identity, upper=False)
    regular = (info == 0).int() * passes(s, g, cutoff)
    fine = regular[:, None, None] != 0
    f, g = torch.where(fine, lower, 0).mT.contiguous(), torch.where(fine, g, 0).contiguous()
    if batch:
        tile, inner, warps = config(d)
        # Below this, what is left of a singular matrix is the rounding of its entries.
        cutoff = float(max(CLEAR, d**0.5) * cutoff)
        _pivoted_kernel[(batch,)](
            s, f, g, regular, d, cutoff, INNER=inner, TILE=tile, num_warps=warps
        )  # fmt: skip
    broken = (s * 0).sum((-2, -1), keepdim=True)
    return Factor(f.mT + broken, g + broken, regular)
