"""Sliced Wasserstein on the CPU: value and gradient in one pass over blocks of sorted rows.

torch sorts rows on the CPU one scalar at a time; NumPy's sort is vectorised (AVX-512, AVX2, NEON)
and releases the GIL, but gives no permutation. So value and index travel together: a float32 cast
to float64 leaves 29 zero bits, which hold the index, and sorting the float64 words sorts both.

Cost per direction and point of one cloud, float32: one word of 8 bytes (or, where no gradient is
needed, one value of 4) sorted in cache, D multiply-adds for the projection and D for the gradient.
Memory beyond the result: two chunks of at most ``CHUNK`` projections (or one direction of the
whole batch) and, per thread, up to 44 bytes for each element of a block. The calling thread keeps
buffers of that size, some 10 MB, between calls: fresh memory costs a page fault every 4 KB, a tenth
of a call at N = 16384. Workers, where torch allows more threads, live for one chunk and keep none.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from otkernels._ops import accumulation_dtype, empty_grad

# Elements sorted at a time, so that words, values and gaps stay in a core's second-level cache.
BLOCK = 2**15
# Projections of one cloud held at a time. Smaller chunks read the cloud more often: with 2^19 a
# call with N = 65536, D = 64 takes a sixth longer.
CHUNK = 2**20
# Below this many elements starting threads costs more than they save.
PARALLEL = 2**17

# A float32 as float64 ends in 29 zero bits; the highest is left alone, as half a unit rounds.
INDEX_MASK = np.int64(2**28 - 1)
# Below 2^-149, where float32 ends, words are denormal: that of 0.0 is nothing but its index.
DENORMAL = 5e-324

_kept = threading.local()


def line(u, v, p, need_u, need_v):
    """Value (...) and gradients of W_p^p between rows u and v (..., N); see otkernels.sliced."""
    n = u.shape[-1]
    dtype = accumulation_dtype(u.dtype)
    work_u, work_v = (t.reshape(-1, n).to(dtype, copy=True).contiguous() for t in (u, v))
    cost = _match(work_u.numpy(), work_v.numpy(), p, need_u, need_v)
    value = (torch.from_numpy(cost) / n).to(dtype).reshape(u.shape[:-1])
    grads = (
        (work * (p / n)).reshape(t.shape) if need else empty_grad(t, False)
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
        c.new_zeros(c.shape) if need else None
        for c, need in zip(clouds, (need_x, need_y), strict=True)
    ]
    cost = np.zeros(batch)
    step = max(1, min(n_directions, CHUNK // max(1, batch * n)))
    numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
    buffers = [torch.from_numpy(_buffer(k, batch * step * n, numpy_dtype)) for k in ("u", "v")]
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
        empty_grad(t, False) if g is None else g.reshape(t.shape)
        for t, g in zip((x, y), grads, strict=True)
    )


def _buffer(name, size, dtype):
    """An uninitialised array (size,) of this thread; one of up to ``CHUNK`` elements is reused."""
    buffers = _kept.__dict__
    buffer = buffers.get((name, dtype))
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, dtype)
        if size <= CHUNK:
            buffers[name, dtype] = buffer
    return buffer[:size]


def _match(u, v, p, need_u, need_v):
    """Match rows of u and v (R, N) by rank; overwrites both.

    Returns sum_i |gap_i|^p of each row (float64). Where needed, u and v are left holding the
    derivative of that sum at each point, without its factor p; otherwise their content is scratch.
    """
    rows, n = u.shape
    cost = np.empty(rows)
    per_block = max(1, min(rows, BLOCK // n))
    blocks = range(0, rows, per_block)
    index = np.arange(per_block * n).reshape(per_block, n)

    def run(part):
        for start in part:
            block = slice(start, start + per_block)
            cost[block] = _match_block(u[block], v[block], index, p, need_u, need_v)

    threads = min(torch.get_num_threads(), len(blocks)) if u.size > PARALLEL else 1
    if threads <= 1:
        run(blocks)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, (blocks[i::threads] for i in range(threads))))
    return cost


@np.errstate(all="ignore")  # infinities and overflow flow, as in torch
def _match_block(u, v, index, p, need_u, need_v):
    """:func:`_match` for one block of rows; ``index`` (rows, N) numbers its elements."""
    sorted_u, from_u = _sort("u", u, index, need_u)
    sorted_v, from_v = _sort("v", v, index, need_v)
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
        square = _buffer("square", gap.size, gap.dtype.type).reshape(gap.shape)
        return np.multiply(gap, gap, out=square).sum(1), gap
    size = np.abs(gap)
    if p == 1:
        return size.sum(1), np.sign(gap, out=gap)
    slope = size ** (p - 1)
    return np.multiply(size, slope, out=size).sum(1), np.copysign(slope, gap, out=slope)


def _sort(side, rows, index, need):
    """Sorted rows and, if needed, the position in the flat block that each value came from.

    Without need, rows are sorted in place.
    """
    if not need:
        rows.sort(axis=1)
        return rows, None
    index = index[: len(rows)]
    if rows.dtype != np.float32 or index.size > INDEX_MASK or _flushes_denormals():
        order = rows.argsort(axis=1)
        order += index[:, :1]
        return rows.take(order), order
    words = _buffer(f"{side} words", rows.size, np.float64).reshape(rows.shape)
    bits = words.view(np.int64)
    np.copyto(words, rows)
    bits |= index
    words.sort(axis=1)
    # Rounding drops the index: it is less than half a unit in the last place of a float32.
    values = _buffer(f"{side} values", rows.size, np.float32).reshape(rows.shape)
    np.copyto(values, words, casting="same_kind")
    lost = np.isnan(words[:, -1])
    order = np.bitwise_and(bits, INDEX_MASK, out=bits)
    if lost.any():
        # Infinities became NaN with their index, and the sort writes every NaN as one constant.
        order[lost] = rows[lost].argsort(axis=1) + index[lost, :1]
        values[lost] = rows.take(order[lost])
    return values, order


def _flushes_denormals():
    """Whether this thread's processor takes denormal numbers for 0 (torch.set_flush_denormal)."""
    return not DENORMAL > 0.0
