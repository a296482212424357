"""What the tests of a GPU share: when they run, at which sizes, and their references in float64.

``OTKERNELS_GPU_TESTS=interpreter`` runs the same tests without a GPU, in Triton's interpreter and
at tiny sizes: what is wrong in a test itself shows there.
"""

import functools
import importlib
import os

import pytest
import torch
import triton
from support import value_and_grads

from otkernels.kernels.match import MERGED

FOUND = torch.cuda.is_available()
INTERPRETED = not FOUND and os.environ.get("OTKERNELS_GPU_TESTS") == "interpreter"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")

MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (FOUND or INTERPRETED), reason="needs a GPU"),
    # What torch says of itself on a GPU, in the deterministic mode that poisons memory (conftest),
    # of that mode for waits, and of compiling products of float32 as such.
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning"),
    pytest.mark.filterwarnings("ignore:Deterministic behavior was enabled.*CuBLAS:UserWarning"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores.*not enabled:UserWarning"),
    # Triton 3.6.0's interpreter with the NumPy of today.
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]
needs_hardware = pytest.mark.skipif(INTERPRETED, reason="the interpreter has no streams or graphs")

# The limits between forms that the interpreter's sizes are to reach too.
_SHRUNK = {
    "match": {"FUSED": 16, "MERGED": 64, "LONGEST_RUN": 32, "RANKS": 32},
    "sliced": {"MERGED": 64},
    "rows": {"LONGEST_RUN": 32, "RANKS": 32},
    "cells": {"RANKS": 32, "SUMMED": 32},
    "split": {"ROWS": 16},
    "mmd": {"ROWS": 16, "GROUP": 2, "PROGRAMS": 16, "BLOCKS": 1},
    "sqrtm": {"OCTAVES": 7, "DEEP": 7},  # the steps of a condition of 1e8
}
# What one program sorts, two runs that are merged, and what the library sorts.
LENGTHS = [5, 40] if INTERPRETED else [300, 10_000, 40_000]
assert INTERPRETED or LENGTHS[1] <= MERGED < LENGTHS[2]


def sizes(real, tiny):
    """The sizes of a test: those for a GPU, or those for the interpreter."""
    return tiny if INTERPRETED else real


def shrink(monkeypatch):
    """Interpreted, limits between forms are as tiny as the sizes."""
    if INTERPRETED:
        for module, values in _SHRUNK.items():
            found = importlib.import_module(f"otkernels.kernels.{module}")
            for name, value in values.items():
                monkeypatch.setattr(found, name, value)
        products = importlib.import_module("otkernels.kernels.mmd")
        monkeypatch.setattr(products, "config", _tiny_tiles)


def _tiny_tiles(d, dtype, direct):
    return 16, 16, triton.next_power_of_2(d) if direct else 16, 4


def takes(gigabytes):
    """Mark of a test that takes so much memory: skipped with too little, and all given back."""

    def decorate(test):
        @functools.wraps(test)
        def run(*args, **kwargs):
            if INTERPRETED:
                return test(*args, **kwargs)
            torch.cuda.empty_cache()
            free = torch.cuda.mem_get_info()[0] / 1e9
            if free < gigabytes:
                pytest.skip(f"needs {gigabytes} GB of memory, {free:.1f} GB are free")
            try:
                return test(*args, **kwargs)
            finally:
                torch.cuda.empty_cache()

        return run

    return decorate


def both(function, *tensors, weight=None, **options):
    """(value, *gradients) of the kernels, and of the definition in float64 at the same numbers.

    ``function(*tensors, impl=, **options)``; ``weight`` is that of ``value_and_grads``.
    """
    return tuple(
        value_and_grads(
            functools.partial(function, impl=impl, **options),
            *(t.to(torch.float64 if impl == "torch" else t.dtype) for t in tensors),
            weight=weight,
        )
        for impl in ("triton", "torch")
    )


def same_bits(actual, expected):
    for out, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(out, reference, rtol=0, atol=0, equal_nan=True)


# --- clouds whose projections have one order, whatever rounds -----------------------------------


def ordered_cloud(n, d, *batch, dtype=torch.float32):
    """Points (*batch, n, d) that all ``steep`` directions put in the order of coordinate 0.

    That is a permutation of 0 .. n - 1, the others are within half a step around 0. Two points
    closer than the rounding of their projections may legally change places; here none are.
    """
    points = torch.rand(*batch, n, d, device=DEVICE) - 0.5
    points[..., 0] = torch.rand(*batch, n, device=DEVICE).argsort(-1).float()
    assert dtype.itemsize > 2 or n <= {torch.bfloat16: 256, torch.float16: 2048}[dtype]
    return points.to(dtype)


def steep(d, n_directions, dtype=torch.float32):
    """Directions (d, L) along which other coordinates than the first add up to less than 0.9."""
    theta = (1.8 * torch.rand(d, n_directions, device=DEVICE) - 0.9) / d
    theta[0] = torch.randint(0, 2, (n_directions,), device=DEVICE) * 2.0 - 1
    return theta.to(dtype)
