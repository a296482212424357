"""Gradients of a fidelity to covariances, in float64, one program a problem.

With factors S = F F^T, S' = F' F'^T and Q' the polar factor between them, the gradient to S is half
of the symmetric T with T F = F' Q'. F has the inverse G on its range: T = F' Q' G, if S is regular.
If not, T P alone is determined, P = U U^T being the projector on the range of F = U H, and T is 0
from the complement to the complement: the gradient to rows X of S = X^T X stays exact.

FLOP: 4 D^3 for a regular covariance, and those of a float64 polar factor more for a singular one.
"""

import torch
import triton
import triton.language as tl

from .inside import asymmetry, combine, inner, inverse_or_zero, put_tile, tile_of
from .polar import launch_options, steps
from .polar_double import PROGRAMS, config, iterate, least_of, plain


@triton.jit(do_not_specialize=["batch", "d", "k", "least", "longest", "octaves"])
def _gradient_kernel(
    other_ptr,  # (B, d, k) factor of the other covariance
    q_ptr,  # (B, k, d) polar factor that stands between the two
    f_ptr,  # (B, d, d) float64
    g_ptr,  # (B, d, d) float64
    regular_ptr,  # (B,) int32, read where CHECKED
    redone_ptr,  # (B,) int32, read where CHECKED
    residual_ptr,  # (B,) float64, read and written
    grad_ptr,  # (B, d, d)
    scratch_ptr,  # (programs, 6, d, d) float64
    step_ptr,  # (octaves + 1, longest + 1, 3) float64
    batch,
    d,
    k,
    stride_other_b,
    stride_other_row,
    stride_other_col,
    stride_q_b,
    stride_q_row,
    stride_q_col,
    least,
    longest,
    octaves,
    CHECKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: some problems, one after the other. See ``gradient``."""
    scratch_ptr += tl.program_id(0).to(tl.int64) * 6 * d * d
    t_ptr, along_ptr, work_ptr = scratch_ptr, scratch_ptr + d * d, scratch_ptr + 2 * d * d
    for number in range(tl.program_id(0), batch, tl.num_programs(0)):
        problem = tl.full((), number, tl.int64)
        active = True
        if CHECKED:
            active = tl.load(redone_ptr + problem) != 0
        if active:
            own_ptr, inverse_ptr = f_ptr + problem * d * d, g_ptr + problem * d * d
            plain(
                other_ptr + problem * stride_other_b, stride_other_row, stride_other_col,
                q_ptr + problem * stride_q_b, stride_q_row, stride_q_col,
                work_ptr, d, k, d, BLOCK,
            )  # fmt: skip
            plain(work_ptr, d, 1, inverse_ptr, d, 1, t_ptr, d, d, d, BLOCK)
            part_ptr = t_ptr
            if CHECKED:
                singular = tl.load(regular_ptr + problem) == 0
                if singular:
                    _project(
                        own_ptr, t_ptr, along_ptr, work_ptr, d, least,
                        step_ptr, longest, octaves, BLOCK,
                    )  # fmt: skip
                else:
                    combine(t_ptr, d, 1, 1, t_ptr, d, 1, 0, along_ptr, d, 1, d, d, BLOCK)
                part_ptr = along_ptr
            _store_gradient(t_ptr, part_ptr, grad_ptr + problem * d * d, d, BLOCK)
            error = asymmetry(part_ptr, d, BLOCK)
            residual = tl.load(residual_ptr + problem)
            tl.debug_barrier()  # all threads have read it, and the next problem takes the scratch
            tl.store(residual_ptr + problem, tl.where(error > residual, error, residual))


@triton.jit
def _project(
    f_ptr, t_ptr, along_ptr, work_ptr, d, least, step_ptr, longest, octaves, BLOCK: tl.constexpr
):
    """Replace T by T P, and write P T P, P = U U^T the projector on the range of F = U H."""
    u_ptr = work_ptr
    size = tl.sqrt(inner(f_ptr, d, 1, f_ptr, d, 1, d, d, BLOCK))
    scale = inverse_or_zero(size)
    combine(f_ptr, d, 1, scale, f_ptr, d, 1, 0, u_ptr, d, 1, d, d, BLOCK)
    rest_ptr = work_ptr + d * d
    low = tl.full((), least, tl.float64)
    iterate(u_ptr, d, 1, d, d, low, rest_ptr, step_ptr, longest, octaves, BLOCK)
    plain(t_ptr, d, 1, u_ptr, d, 1, rest_ptr, d, d, d, BLOCK)
    plain(rest_ptr, d, 1, u_ptr, 1, d, t_ptr, d, d, d, BLOCK)
    plain(u_ptr, 1, d, t_ptr, d, 1, rest_ptr, d, d, d, BLOCK)
    plain(u_ptr, d, 1, rest_ptr, d, 1, along_ptr, d, d, d, BLOCK)


@triton.jit
def _store_gradient(t_ptr, part_ptr, grad_ptr, d, BLOCK: tl.constexpr):
    """Half of T + T^T - (A + A^T) / 2, A being the part of T along the range."""
    for i in range(0, d, BLOCK):
        for j in range(0, d, BLOCK):
            total = tile_of(t_ptr, d, 1, i, j, d, d, BLOCK, BLOCK)
            total += tile_of(t_ptr, 1, d, i, j, d, d, BLOCK, BLOCK)
            part = tile_of(part_ptr, d, 1, i, j, d, d, BLOCK, BLOCK)
            part += tile_of(part_ptr, 1, d, i, j, d, d, BLOCK, BLOCK)
            put_tile(0.5 * (total - 0.5 * part), grad_ptr, d, 1, i, j, d, d, BLOCK)


def gradient(other, q, own, residual, grad, double, redone=None):
    """Write the gradient of tr Q^T F1^T F2 to a covariance to grad (B, D, D).

    It is half of the symmetric T with T F = F' Q', F and F' factors of this and the other
    covariance, Q' being Q or Q^T. Where F has not the full rank, T P alone is determined, P the
    projector on its range, and T is 0 from the complement to the complement.

    Args:
        other: F' (B, D, K), any strides.
        q: Q' (B, K, D), any strides.
        own: the :class:`Factor` of this covariance.
        residual: (B,), raised to the relative asymmetry of P T P.
        grad: written to, contiguous.
        double: whether singular values below float32's rounding matter.
        redone: (B,) int32: do these problems only, and look at the rank. None takes all for
            regular.
    """
    batch, d, _ = grad.shape
    block, warps = config(d)
    programs = min(batch, PROGRAMS)
    if programs == 0:
        return
    table = steps(grad.device, torch.float64)
    _gradient_kernel[(programs,)](
        other,
        q,
        own.f,
        own.g,
        own.regular,
        own.regular if redone is None else redone,
        residual,
        grad,
        own.f.new_empty((programs, 6, d, d)),
        table,
        batch,
        d,
        q.shape[1],
        *other.stride(),
        *q.stride(),
        least_of(double),
        table.shape[1] - 1,
        table.shape[0] - 1,
        CHECKED=redone is not None,
        BLOCK=block,
        num_warps=warps,
        **launch_options(),
    )
