"""Polar factors in float64, one program a problem.

The slow and safe way: no inverse is needed, singular values down to ``LEAST`` times the norm come
out as 1, and those below as something between 0 and 1. A launch leaves out the problems that
another form has done well enough. Matrices are in memory, and one program takes all of a problem.

FLOP: 6 D^3 a step, 14 to 22 steps, a third of that with V.
"""

import torch
import triton
import triton.language as tl

from .inside import (
    asymmetry,
    combine,
    distance,
    inner,
    inverse_or_zero,
    multiply,
)
from .polar import launch_options, row_of_steps, steps

# Programs that fill a device; with more problems each takes several, in the same memory.
PROGRAMS = 528
# Singular values of at least this times the norm are brought to 1.
LEAST = {torch.float32: 1e-8, torch.float64: 1e-12}


def config(d):
    """(BLOCK, warps) of the tiles for D rows. Not yet tuned on a GPU."""
    return (16, 2) if d <= 16 else (32, 4)


@triton.jit
def plain(
    a_ptr, a_row, a_col, b_ptr, b_row, b_col, out_ptr, n, k, m, BLOCK: tl.constexpr
):  # fmt: skip
    """Out = A B, contiguous."""
    multiply(
        a_ptr, a_row, a_col, b_ptr, b_row, b_col, out_ptr, m, 1, n, k, m,
        out_ptr, 1.0, 0.0, 0.0, False, BLOCK,
    )  # fmt: skip


@triton.jit
def iterate(
    x_ptr,  # (n, m), n >= m
    x_row,
    x_col,
    n,
    m,
    low,
    scratch_ptr,  # (2 m + n) m
    step_ptr,
    longest,
    octaves,
    BLOCK: tl.constexpr,
):
    """Replace X by its polar factor; its singular values are at least ``low`` or count less."""
    gram_ptr, p_ptr, y_ptr = scratch_ptr, scratch_ptr + m * m, scratch_ptr + 2 * m * m
    plain(x_ptr, x_col, x_row, x_ptr, x_row, x_col, gram_ptr, m, n, m, BLOCK)
    # The root of |X^T X| bounds the largest singular value.
    bound = tl.sqrt(tl.sqrt(inner(gram_ptr, m, 1, gram_ptr, m, 1, m, m, BLOCK))) * (1 + 1e-12)
    shrink = inverse_or_zero(bound)
    combine(x_ptr, x_row, x_col, shrink, x_ptr, x_row, x_col, 0, x_ptr, x_row, x_col, n, m, BLOCK)
    step_ptr += row_of_steps((low * shrink).to(tl.float32), octaves) * (longest + 1) * 3
    for step in range(1, tl.load(step_ptr).to(tl.int32) + 1):
        a, b = tl.load(step_ptr + step * 3), tl.load(step_ptr + step * 3 + 1)
        c = tl.load(step_ptr + step * 3 + 2)
        plain(x_ptr, x_col, x_row, x_ptr, x_row, x_col, gram_ptr, m, n, m, BLOCK)
        multiply(
            gram_ptr, m, 1, gram_ptr, m, 1, p_ptr, m, 1, m, m, m,
            gram_ptr, c, b, a, True, BLOCK,
        )  # fmt: skip
        plain(x_ptr, x_row, x_col, p_ptr, m, 1, y_ptr, n, m, m, BLOCK)
        combine(y_ptr, m, 1, 1, y_ptr, m, 1, 0, x_ptr, x_row, x_col, n, m, BLOCK)


@triton.jit(do_not_specialize=["batch", "n", "m", "least", "tolerance", "longest", "octaves"])
def _polar_kernel(
    m_ptr,  # (B, n, m) float64, n >= m
    v_ptr,  # (B, n, m) float64, read where NEWTON
    q_ptr,  # (B, n, m) float64
    value_ptr,  # (B,) float64
    residual_ptr,  # (B,) float64, read too where CHECKED
    redone_ptr,  # (B,) int32, written where CHECKED
    x_ptr,  # (B,) int32, whether problems are regular, read where CHECKED
    y_ptr,  # (B,) int32, the same of the other covariance
    scratch_ptr,  # (programs, (2 m + n) m) float64
    step_ptr,  # (octaves + 1, longest + 1, 3) float64
    batch,
    n,
    m,
    stride_b,
    stride_row,
    stride_col,
    least,
    tolerance,
    longest,
    octaves,
    NEWTON: tl.constexpr,
    CHECKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: some problems, one after the other. See ``polar``."""
    scratch_ptr += tl.program_id(0).to(tl.int64) * (2 * m + n) * m
    for number in range(tl.program_id(0), batch, tl.num_programs(0)):
        problem = tl.full((), number, tl.int64)
        active = True
        if CHECKED:
            residual = tl.load(residual_ptr + problem)
            regular = tl.load(x_ptr + problem) * tl.load(y_ptr + problem)
            # A NaN is left as it is: it does not get better.
            active = ((regular == 0) & (residual == residual)) | (residual > tolerance)
            tl.store(redone_ptr + problem, active.to(tl.int32))
        if active:
            at = problem * stride_b
            source_ptr, target_ptr = m_ptr + at, q_ptr + at
            size = inner(
                source_ptr, stride_row, stride_col, source_ptr, stride_row, stride_col, n, m, BLOCK
            )
            for_m, for_v, low = inverse_or_zero(tl.sqrt(size)), 0.0, tl.full((), least, tl.float64)
            other_ptr = source_ptr
            if NEWTON:
                other_ptr = v_ptr + at
                of_v = inner(
                    other_ptr, stride_row, stride_col, other_ptr, stride_row, stride_col,
                    n, m, BLOCK,
                )  # fmt: skip
                # Both parts get the same norm, whatever the unit of M is.
                low = inverse_or_zero(tl.sqrt(tl.sqrt(size)) * tl.sqrt(tl.sqrt(of_v)))
                for_m, for_v = 0.5 * for_m, 0.5 * inverse_or_zero(tl.sqrt(of_v))
            combine(
                source_ptr, stride_row, stride_col, for_m,
                other_ptr, stride_row, stride_col, for_v,
                target_ptr, stride_row, stride_col, n, m, BLOCK,
            )  # fmt: skip
            iterate(
                target_ptr, stride_row, stride_col, n, m, low,
                scratch_ptr, step_ptr, longest, octaves, BLOCK,
            )  # fmt: skip
            _store_results(
                source_ptr, target_ptr, stride_row, stride_col, n, m, tl.sqrt(size),
                scratch_ptr, value_ptr + problem, residual_ptr + problem, BLOCK,
            )  # fmt: skip


@triton.jit
def _store_results(
    m_ptr,
    q_ptr,
    stride_row,
    stride_col,
    n,
    m,
    size,
    scratch_ptr,
    value_ptr,
    residual_ptr,
    BLOCK: tl.constexpr,
):
    """The value tr Q^T M, and how far H = Q^T M is from symmetric and Q H from M."""
    h_ptr, back_ptr = scratch_ptr, scratch_ptr + m * m
    plain(q_ptr, stride_col, stride_row, m_ptr, stride_row, stride_col, h_ptr, m, n, m, BLOCK)
    plain(q_ptr, stride_row, stride_col, h_ptr, m, 1, back_ptr, n, m, m, BLOCK)
    left = distance(m_ptr, stride_row, stride_col, back_ptr, m, 1, n, m, BLOCK)
    tl.store(residual_ptr, tl.maximum(asymmetry(h_ptr, m, BLOCK), left * inverse_or_zero(size)))
    value = inner(
        q_ptr, stride_row, stride_col, m_ptr, stride_row, stride_col, n, m, BLOCK
    )  # fmt: skip
    tl.store(value_ptr, value)
    tl.debug_barrier()  # the next problem takes the scratch


def polar(m, v, double, checks=None):
    """Polar factors Q (B, n, m) float64 of M, tr Q^T M and a residual (B,) float64.

    Args:
        m: (B, n, m) float64, contiguous.
        v: M^-T (n = m) for a start near Q, or None.
        double: whether singular values below float32's rounding matter.
        checks: None, or (value, residual, regular of x, of y, tolerance): do only what is not
            regular or has too large a residual, and write to value and residual. Q of the other
            problems is undefined.

    Returns:
        (q, value, residual, redone): redone (B,) int32, undefined without checks.
    """
    batch, rows, columns = m.shape
    if rows < columns:
        q, *rest = polar(m.mT, v, double, checks)
        return q.mT, *rest
    q = torch.empty_strided(m.shape, m.stride(), dtype=torch.float64, device=m.device)
    redone = m.new_empty(batch, dtype=torch.int32)
    value, residual, x, y, tolerance = (
        (m.new_empty(batch), m.new_empty(batch), redone, redone, 0) if checks is None else checks
    )
    block, warps = config(rows)
    programs = min(batch, PROGRAMS)
    if programs:
        _polar_kernel[(programs,)](
            m,
            m if v is None else v,
            q,
            value,
            residual,
            redone,
            x,
            y,
            m.new_empty((programs, (2 * columns + rows) * columns)),
            table := steps(m.device, torch.float64),
            batch,
            rows,
            columns,
            *m.stride(),
            least_of(double),
            float(tolerance),
            table.shape[1] - 1,
            table.shape[0] - 1,
            NEWTON=v is not None,
            CHECKED=checks is not None,
            BLOCK=block,
            num_warps=warps,
            **launch_options(),
        )
    return q, value, residual, redone


def least_of(double):
    """The entry of LEAST."""
    return LEAST[torch.float64 if double else torch.float32]
