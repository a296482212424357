"""Which implementations a test runs on this machine."""

import torch

INTERPRETED = not torch.cuda.is_available()
FAST = ["cpu", "triton"] if INTERPRETED else ["triton"]
IMPLS = ["torch", *FAST]
QUICK = ["torch", FAST[0]]  # all but the interpreter, which takes 0.3 s for the smallest problem


def slow(impl):
    return impl == "triton" and INTERPRETED


def every(cases, interpreted=()):
    """Cases (impl, *options): all for the quick implementations, some for the interpreter."""
    cases = [(impl, *case) for case in cases for impl in QUICK]
    return cases + [("triton", *case) for case in interpreted if INTERPRETED]
