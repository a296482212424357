"""Time block sizes other than those the Triton kernels choose: ``python -m benchmarks.tune``.

Each line is one change to the kernels' own choice, checked against float64 before it is timed. The
result is read by a person, who edits ``sort_config``, ``matmul_config`` or the switch points in
``otkernels/kernels``; nothing is tuned while a user's program runs.
"""

import itertools
import sys
from contextlib import ExitStack
from unittest import mock

import numpy as np

import otkernels
from otkernels.kernels import match, matmul, rows

from .. import clocks, measure
from ..case import Shape
from ..families.sliced import expect, inputs

SHAPES = (
    Shape(1, 1024, 64, 128, "eight elements a thread"),
    Shape(1, 4096, 64, 128, "eight elements a thread, 512 threads"),
    Shape(64, 512, 32, 256, "a batch of problems"),
    Shape(1, 8192, 64, 128, "two runs of 4096 and a merge"),
    Shape(1, 16384, 64, 128, "two runs of 8192 and a merge"),
)
SECONDS = 0.3


def candidates():
    """Pairs of a label and the patches (module, name, value) that make it so."""
    yield "as chosen", []
    for elements in (4, 8, 16, 32):
        yield f"sort of {elements} elements a thread", [(rows, "sort_config", _spread(elements))]
    yield "rows in two runs", [(match, "FUSED", 0)]
    yield "library sort", [(match, "FUSED", 0), (match, "MERGED", 0)]
    for m, n, k, warps in itertools.product((32, 64, 128), (32, 64, 128), (32, 64), (4, 8)):
        patch = (matmul, "matmul_config", lambda *_, c=(m, n, k, warps): c)
        yield f"product tile {m} x {n} x {k}, {warps} warps", [patch]


def _spread(elements):
    """A ``sort_config`` that gives each thread so many elements, within 32 to 1024 threads."""
    chosen = rows.sort_config

    def config(n):
        log, _ = chosen(n)
        return log, min(1024, max(32, 2**log // elements))

    return config


def _ours(x, y, projections):
    return otkernels.sliced_wasserstein(x, y, projections=projections, impl="triton")


def times(shape, device, capture, read, wanted=candidates):
    """Yield (label, median ms or None, remark) for every candidate at one shape.

    Args:
        shape: the sizes.
        device: "cuda", or "cpu" under the interpreter.
        capture: turns a call into what is timed, such as ``clocks.Captured``.
        read: the clock.
        wanted: the candidates.
    """
    tensors = tuple(t.to(device) for t in inputs(shape))
    expected = expect(*tensors)
    for label, patches in wanted():
        with ExitStack() as stack:
            for patch in patches:
                stack.enter_context(mock.patch.object(*patch))
            try:
                call = measure.Call(_ours, tensors, "forward_backward")
                errors = measure.check(call, expected)
                if not errors.ok:
                    yield label, None, f"WRONG: {errors}"
                    continue
                timed = {label: capture(call)}
                (readings,) = measure.interleave(timed, read, SECONDS)[label].values()
            except Exception as error:  # a candidate that does not compile or fit is a result
                yield label, None, f"does not run: {type(error).__name__}"
                continue
        yield label, float(np.median(readings)), ""


def main():
    """Print a table for each shape, a line as soon as it is known."""
    cuda = clocks.Cuda()
    for shape in SHAPES:
        print(f"\n{shape.name}  ({shape.reason}); GPU ms of a CUDA graph's replay, cold L2")
        for label, ms, remark in times(shape, "cuda", clocks.Captured, cuda.graph):
            print(f"  {label:36} {'' if ms is None else f'{ms:8.4f}'} {remark}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
