"""Sliced Wasserstein on the CPU: value and gradient in one pass over blocks of sorted rows.

torch sorts rows on the CPU one scalar at a time; NumPy's sort is vectorised (AVX-512, AVX2, NEON)
and releases the GIL, but gives no permutation. So value and index travel together: a float32 cast
to float64 leaves 29 zero bits, which hold the index, and sorting the float64 words sorts both.

Cost per direction and point of one cloud, float32: one word of 8 bytes and one value of 4 sorted in
cache, 2 D multiply-adds for the projection and 2 D for the gradient. Memory beyond the result: two
chunks of at most ``CHUNK`` projections (or one direction of the whole batch) and, per thread, 20
bytes for each element of a block.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from otkernels._ops import accumulation_dtype

# Elements sorted at a time, so that words, values and gaps stay in a core's second-level cache.
BLOCK = 2**15
# Projections of one cloud held at a time. Measured at N = 16384, D = 64: larger chunks pay for page
# faults, smaller ones for thin matrix products.
CHUNK = 2**19
# Below this many elements starting threads costs more than they save.
PARALLEL = 2**17

INDEX_BITS = 29
INDEX_MASK = np.int64(2**INDEX_BITS - 1)
# Set in the exponent of every word. It keeps their order (exponents of float32 lie in 874..1150,
# where this bit is 1 below 1024 and 0 from there) and makes 0.0 a normal number: a denormal one
# would lose its index where the processor flushes denormals to zero.
EXPONENT_BIT = np.int64(2**61)


def line(u, v, p, need_u, need_v):
    """Value (...) and gradients of W_p^p between rows u and v (..., N); see otkernels.sliced."""
    n = u.shape[-1]
    dtype = accumulation_dtype(u.dtype)
    work_u, work_v = (t.reshape(-1, n).to(dtype, copy=True).contiguous() for t in (u, v))
    cost = _match(work_u.numpy(), work_v.numpy(), p, need_u, need_v)
    value = (torch.from_numpy(cost) / n).to(dtype).reshape(u.shape[:-1])
    grads = (
        (work * (p / n)).to(t.dtype).reshape(t.shape) if need else _no_grad(t)
        for t, work, need in ((u, work_u, need_u), (v, work_v, need_v))
    )
    return value, *grads


def sliced(x, y, projections, p, need_x, need_y):
    """Value (...) and gradients of SW_p^p between x and y (..., N, D); see otkernels.sliced.

    projections is (D, L) or (..., D, L) in the accumulation dtype.
    """
    (n, d), n_directions, dtype = x.shape[-2:], projections.shape[-1], projections.dtype
    clouds = [t.reshape(-1, n, d).to(dtype) for t in (x, y)]
    batch = clouds[0].shape[0]
    directions = projections.reshape(-1, d, n_directions).expand(batch, -1, -1)
    grads = [
        torch.zeros_like(c) if need else None
        for c, need in zip(clouds, (need_x, need_y), strict=True)
    ]
    cost = np.zeros(batch)
    step = max(1, min(n_directions, CHUNK // max(1, batch * n)))
    buffers = [c.new_empty(batch * step * n) for c in clouds]
    for start in range(0, n_directions, step):
        theta = directions[..., start : start + step]
        shape = (batch, theta.shape[-1], n)
        projected = [b[: batch * shape[1] * n].view(shape) for b in buffers]
        for cloud, out in zip(clouds, projected, strict=True):
            torch.bmm(theta.mT, cloud.mT, out=out)
        rows = [t.view(-1, n).numpy() for t in projected]
        cost += _match(*rows, p, need_x, need_y).reshape(shape[:2]).sum(1)
        for grad, coefficients in zip(grads, projected, strict=True):
            if grad is not None:
                grad.baddbmm_(coefficients.mT, theta.mT, alpha=p / (n * n_directions))
    value = torch.from_numpy(cost / (n * n_directions)).to(dtype).reshape(x.shape[:-2])
    return value, *(
        _no_grad(t) if g is None else g.to(t.dtype).reshape(t.shape)
        for t, g in zip((x, y), grads, strict=True)
    )


def _no_grad(x):
    return x.new_empty((*x.shape[:-1], 0))


def _match(u, v, p, need_u, need_v):
    """Match rows of u and v (R, N) by rank; overwrites both.

    Returns sum_i |gap_i|^p of each row (float64). Where needed, u and v are left holding the
    derivative of that sum at each point, without its factor p; otherwise their content is scratch.
    """
    cost = np.empty(u.shape[0])
    per_block = max(1, min(u.shape[0], BLOCK // u.shape[1]))
    blocks = range(0, u.shape[0], per_block)

    def run(part):
        scratch = _Scratch(per_block, u.shape[1])
        for start in part:
            rows = slice(start, start + per_block)
            cost[rows] = _match_block(u[rows], v[rows], scratch, p, need_u, need_v)

    threads = min(torch.get_num_threads(), len(blocks)) if u.size > PARALLEL else 1
    if threads <= 1:
        run(blocks)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, (blocks[i::threads] for i in range(threads))))
    return cost


class _Scratch:
    """Buffers of one thread for sorting a block of ``rows`` x ``n`` float32 with its indices."""

    def __init__(self, rows, n):
        self.index = np.arange(rows * n).reshape(rows, n)
        self.tag = self.index | EXPONENT_BIT
        self.words = np.empty((rows, n))
        self.values = [np.empty((rows, n), np.float32) for _ in range(2)]


def _match_block(u, v, scratch, p, need_u, need_v):
    """:func:`_match` for one block of rows."""
    sorted_u, from_u = _sort(u, scratch, 0, need_u)
    sorted_v, from_v = _sort(v, scratch, 1, need_v)
    gap = np.subtract(sorted_u, sorted_v, out=sorted_u)
    cost, slope = _power(gap, p)
    if need_u:
        u.reshape(-1)[from_u] = slope
    if need_v:
        v.reshape(-1)[from_v] = np.negative(slope, out=slope)
    return cost


def _power(gap, p):
    """The sum of |gap|^p along rows, and sign(gap) |gap|^(p-1); may reuse gap's memory."""
    if p == 2:
        return (gap * gap).sum(1), gap
    size = np.abs(gap)
    if p == 1:
        return size.sum(1), np.sign(gap, out=gap)
    slope = size ** (p - 1)
    return np.multiply(size, slope, out=size).sum(1), np.copysign(slope, gap, out=slope)


def _sort(rows, scratch, side, need):
    """Sorted rows and, if needed, the position in the flat block that each value came from.

    Without need, rows are sorted in place.
    """
    if not need:
        rows.sort(axis=1)
        return rows, None
    index = scratch.index[: len(rows)]
    if rows.dtype != np.float32 or index.size > INDEX_MASK:
        order = rows.argsort(axis=1)
        order += index[:, :1]
        return rows.take(order), order
    words = scratch.words[: len(rows)]
    bits = words.view(np.int64)
    np.copyto(words, rows)
    bits |= scratch.tag[: len(rows)]
    words.sort(axis=1)
    # Infinities became NaN with their index, and the sort writes every NaN back as one constant, so
    # the order of such a row is lost. Left unsorted its cost is still not finite, as it must be.
    lost = np.isnan(words[:, -1])
    order = bits & INDEX_MASK
    order[lost] = index[lost]
    values = rows.take(order, out=scratch.values[side][: len(rows)], mode="clip")
    return values, order
