"""Sorting rows on the CPU, with the place that each value came from.

torch sorts rows on the CPU one scalar at a time; NumPy's sort is vectorised (AVX-512, AVX2, NEON)
and releases the GIL, but gives no permutation. So value and index travel together: a float32 cast
to float64 leaves 29 zero bits, which hold the index, and sorting the float64 words sorts both.
"""

import threading

import numpy as np

# Buffers of up to this many elements are kept for the next call.
KEPT = 2**20

# A float32 as float64 ends in 29 zero bits; the highest is left alone, as half a unit rounds.
INDEX_MASK = np.int64(2**28 - 1)
# Below 2^-149, where float32 ends, words are denormal: that of 0.0 is nothing but its index.
DENORMAL = 5e-324

_kept = threading.local()


def buffer(name, size, dtype):
    """An uninitialised array (size,) of this thread; one of up to ``KEPT`` elements is reused.

    Fresh memory costs a page fault every 4 KB, a tenth of a call at N = 16384.
    """
    buffers = _kept.__dict__
    kept = buffers.get((name, dtype))
    if kept is None or kept.size < size:
        kept = np.empty(size, dtype)
        if size <= KEPT:
            buffers[name, dtype] = kept
    return kept[:size]


def sort(side, rows, index, need):
    """Sorted rows and, if needed, the position in the flat block that each value came from.

    Without need, rows are sorted in place. ``side`` names the buffers; ``index`` (rows, N) numbers
    the elements of the block.
    """
    if not need:
        rows.sort(axis=1)
        return rows, None
    index = index[: len(rows)]
    if rows.dtype != np.float32 or index.size > INDEX_MASK or _flushes_denormals():
        order = rows.argsort(axis=1)
        order += index[:, :1]
        return rows.take(order), order
    words = buffer(f"{side} words", rows.size, np.float64).reshape(rows.shape)
    bits = words.view(np.int64)
    np.copyto(words, rows)
    bits |= index
    words.sort(axis=1)
    # Rounding drops the index: it is less than half a unit in the last place of a float32.
    values = buffer(f"{side} values", rows.size, np.float32).reshape(rows.shape)
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
