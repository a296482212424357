"""Whether the losses compile whole by Inductor, at one size and then at another, and stay right.

``fullgraph=True`` refuses graph breaks. The second size makes the compiler replace the first graph
by one for any size. Results are held to the bounds that an eager call is held to, against float64.
"""

import dataclasses
import functools
import os
import shutil

import torch

from .. import CannotRun, cases, measure
from .bits import bits, same
from .findings import Wrong

# Families in which nothing but an operator of otkernels rounds: compiled or not, the same bits.
OPAQUE = (
    "sliced_wasserstein",
    "sliced_wasserstein-unequal",
    "sliced_wasserstein-ragged",
    "sliced_wasserstein_to_normal",
)


def compile(device, smoke):
    """Pairs of a name and a function: each family, with ``smoke`` the first one alone.

    Raises:
        CannotRun: there is no C++ compiler, which Inductor takes on the CPU.
    """
    compiler = os.environ.get("CXX", "g++")
    if device == "cpu" and shutil.which(compiler) is None:
        raise CannotRun(f"needs a C++ compiler, and there is no {compiler}")
    families = cases.FAMILIES[:1] if smoke else cases.FAMILIES
    return [(f.op, functools.partial(_compile, f, device)) for f in families]


def _compile(family, device):
    function = family.providers[0].make()
    torch.compiler.reset()  # graphs of an earlier family would count towards the limit
    compiled = torch.compile(function, fullgraph=True)
    for shape in sizes(family.shapes["smoke"][0]):
        inputs = tuple(t.to(device) for t in family.inputs(shape))
        mode = family.modes[-1]
        calls = [measure.Call(f, inputs, mode, family.clouds) for f in (compiled, function)]
        errors = measure.check(calls[0], family.expect(*inputs))
        if not errors.ok:
            raise Wrong(f"compiled, {shape.name} is off float64: {_text(errors)}")
        if family.op in OPAQUE:
            same(*map(bits, calls), f"compiled, {shape.name}")


def _text(errors):
    text = f"value by {errors.value:.3g}, bound {errors.bound_value:.3g}"
    if errors.grad is not None:
        text += f"; gradient by {errors.grad_excess:.3g}, bound {errors.bound_grad:.3g}"
    return text


def sizes(shape):
    """A shape and another one: other numbers of points or, where there are none, of rows."""
    yield shape
    if shape.N is None:
        yield dataclasses.replace(shape, D=shape.D + 3)
    else:
        more = None if shape.M is None else shape.M + 5
        yield dataclasses.replace(shape, N=shape.N + 3, M=more)
