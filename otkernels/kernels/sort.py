"""Sorting rows of float32 inside one program: ordered keys and a bitonic network with a payload.

``tl.sort`` sorts keys only, and keeps ties apart only if the payload is packed below the key in an
int64. This network moves an int32 payload along with an int32 key and takes the smaller or larger
key by min and max. Compiled for sm_90 with N = 4096 and 8 warps that is 6888 instructions against
8864 for packed words in ``tl.sort``, and 3520 against 5320 for keys alone (docs/kernels.md).
"""

import triton
import triton.language as tl

PADDING = tl.constexpr(0x7FFFFFFF)  # the largest key: sorts behind every number and every NaN
NAN_KEY = tl.constexpr(0x7FC00000)  # one key for every NaN: above infinity, below PADDING


@triton.jit
def ordered(bits):
    """Bits of float32 as int32 <-> int32 in the order of the floats; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def key_to_float(key):
    """The float32 of an ordered key."""
    return ordered(key).to(tl.float32, bitcast=True)


@triton.jit
def load_keys(row_ptr, n, BLOCK: tl.constexpr, THREADS: tl.constexpr):
    """Ordered keys (BLOCK,) of the n float32 of a row, padded, and the position of each.

    A thread reads elements that are THREADS apart, so reads are coalesced; permuting and
    flattening then numbers all elements of a thread consecutively, so that the most used exchanges
    of the network stay inside a thread. Which element starts where is free before a sort.

    Kernels that call this do not specialize on n: told that rows are aligned, the compiler reads
    vectors of 4, and most exchanges would leave the thread.
    """
    EACH: tl.constexpr = BLOCK // THREADS
    position = tl.arange(0, EACH)[:, None] * THREADS + tl.arange(0, THREADS)[None, :]
    x = tl.load(row_ptr + position, mask=position < n, other=0.0)
    key = tl.where(x == x, ordered(x.to(tl.int32, bitcast=True)), NAN_KEY)
    key = tl.where(position < n, key, PADDING)
    flat_key = tl.reshape(tl.permute(key, (1, 0)), [BLOCK])
    return flat_key, tl.reshape(tl.permute(position, (1, 0)), [BLOCK])


@triton.jit
def bitonic_sort(key, payload, PAYLOAD: tl.constexpr, LOG: tl.constexpr):
    """Keys (2^LOG,) in ascending order and, with PAYLOAD, the payload in the order of its keys.

    Batcher's bitonic network (1968) on the hypercube [2] * LOG, whose last axis is bit 0 of an
    element's position. Blocks that must descend are stored as complements, so that every exchange
    ascends; both sides of an exchange of equal keys keep their own payload. The partner across a
    bit is the sum over that axis less the element itself, which the compiler folds.
    """
    key = tl.reshape(key, [2] * LOG)
    payload = tl.reshape(payload, [2] * LOG)
    zero_one = tl.arange(0, 2)
    for stage in tl.static_range(1, LOG + 1):
        descending = 0
        if stage < LOG:
            descending = -tl.reshape(zero_one, [1] * (LOG - stage - 1) + [2] + [1] * stage)
        key = key ^ descending
        for axis in tl.static_range(LOG - stage, LOG):
            right = tl.reshape(zero_one, [1] * axis + [2] + [1] * (LOG - axis - 1)) != 0
            other = tl.sum(key, axis, True) - key
            kept = tl.where(right, tl.maximum(key, other), tl.minimum(key, other))
            if PAYLOAD:
                payload = tl.where(kept == key, payload, tl.sum(payload, axis, True) - payload)
            key = kept
        key = key ^ descending
    return tl.reshape(key, [2**LOG]), tl.reshape(payload, [2**LOG])
