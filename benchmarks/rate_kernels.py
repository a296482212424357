"""Two Triton kernels that do one thing as fast as a GPU can, for ``rates.py`` to time.

Numbers stay in registers, several chains a thread and many threads a multiprocessor, so nothing
waits for memory and little for the step before. Nothing can be left out: every step takes what the
step before gave, and the number of steps is not known when the kernel is compiled.
"""

import torch
import triton
import triton.language as tl

NUMBERS = 1024  # in a program, eight a thread
COMPARISONS = 2  # a number in each step: a minimum and a maximum


# Compiled for sm_90, the loop is 32 MUFU.EX2, as many FADD that change the sign, and three others.
# A multiprocessor takes 16 MUFU and 128 FADD a clock, so the former set the time.
@triton.jit(do_not_specialize=["steps"])
def _exponentials_kernel(
    x_ptr,  # (programs, NUMBERS)
    out_ptr,
    steps,
    NUMBERS: tl.constexpr,
):
    """Each number x becomes 2^-x, again and again: it neither overflows nor vanishes."""
    at = tl.program_id(0) * NUMBERS + tl.arange(0, NUMBERS)
    x = tl.load(x_ptr + at)
    for _ in range(steps):
        x = tl.exp2(-x)
    tl.store(out_ptr + at, x)


# Compiled for sm_90, 64 of the 67 instructions of the loop are VIMNMX.
@triton.jit(do_not_specialize=["steps"])
def _comparisons_kernel(
    x_ptr,  # (programs, 4, BLOCK) int32
    out_ptr,
    steps,
    BLOCK: tl.constexpr,
):
    """Four numbers in a ring; each step orders neighbours, the last pair the wrong way round."""
    at = tl.program_id(0) * 4 * BLOCK + tl.arange(0, BLOCK)
    a, b = tl.load(x_ptr + at), tl.load(x_ptr + at + BLOCK)
    c, d = tl.load(x_ptr + at + 2 * BLOCK), tl.load(x_ptr + at + 3 * BLOCK)
    for _ in range(steps):
        a, b = tl.minimum(a, b), tl.maximum(a, b)
        c, d = tl.minimum(c, d), tl.maximum(c, d)
        b, c = tl.minimum(b, c), tl.maximum(b, c)
        d, a = tl.minimum(d, a), tl.maximum(d, a)
    tl.store(out_ptr + at, a)
    tl.store(out_ptr + at + BLOCK, b)
    tl.store(out_ptr + at + 2 * BLOCK, c)
    tl.store(out_ptr + at + 3 * BLOCK, d)


def exponentials(x, out, steps):
    """``steps`` times 2^-x of float32 numbers, (programs, NUMBERS)."""
    _exponentials_kernel[(len(x),)](x, out, steps, NUMBERS=NUMBERS)


def comparisons(x, out, steps):
    """``steps`` minima and as many maxima for each of int32 numbers, (programs, NUMBERS)."""
    _comparisons_kernel[(len(x),)](x, out, steps, BLOCK=NUMBERS // 4)


def numbers(programs, dtype, device):
    """Random numbers for either kernel."""
    bits = torch.randint(-(2**31), 2**31 - 1, (programs, NUMBERS), device=device)
    return bits.to(torch.int32) if dtype == torch.int32 else bits.to(dtype) / 2**31
