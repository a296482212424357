"""Whether the small calls launch their kernels and are right, by float64 with ``impl="torch"``."""

import contextlib
import functools
import importlib
import pkgutil
from unittest import mock

import torch

from otkernels import kernels

from .. import measure
from .findings import Wrong
from .small_calls import CALLS

# --- kernels, and who launches them -------------------------------------------------------------


def modules():
    """The modules of otkernels.kernels."""
    names = [m.name for m in pkgutil.iter_modules(kernels.__path__)]
    return [importlib.import_module(f"{kernels.__name__}.{name}") for name in names]


def every_kernel():
    """Module and name of each Triton kernel, such as match._match_kernel, by the kernel's id."""
    found = {}
    for module in modules():
        for name, value in vars(module).items():
            if name.endswith("_kernel") and value.fn.__module__ == module.__name__:
                found[id(value)] = f"{module.__name__.rpartition('.')[2]}.{name}"
    return found


class _Watched:
    """Stands before a Triton kernel, or for it, and notes its launches."""

    def __init__(self, kernel, note, execute):
        self.kernel, self.note, self.execute = kernel, note, execute

    def __getitem__(self, grid):
        self.note()
        return self.kernel[grid] if self.execute else lambda *args, **options: None


@contextlib.contextmanager
def launched(execute=True):
    """The names of the kernels that are launched within, whether they then run or not."""
    names, found = every_kernel(), set()
    with contextlib.ExitStack() as stack:
        for module in modules():
            for name, value in list(vars(module).items()):
                if id(value) in names:
                    note = functools.partial(found.add, names[id(value)])
                    watched = _Watched(value, note, execute)
                    stack.enter_context(mock.patch.object(module, name, watched))
        yield found


# --- the check ----------------------------------------------------------------------------------


def small(device, smoke):
    """Pairs of a name and a function: all calls, on the CPU without long ones, or quick ones."""
    chosen = [c for c in CALLS if c.quick or not (smoke or (c.long and device == "cpu"))]
    return [(call.name, functools.partial(check, call, device)) for call in chosen]


def check(call, device):
    """Run one call; raise ``Wrong`` if it left a kernel out or is off float64."""
    torch.manual_seed(measure.SEED)
    inputs = [t.to(device) for t in call.inputs()]
    with launched() as found:
        actual = results(call, inputs, "triton")
    if missing := set(call.kernels) - found:
        raise Wrong(f"launches no {', '.join(sorted(missing))}")
    # On the CPU, where compute-sanitizer does not slow it, nor finds fault with torch's kernels.
    wide = [t.cpu().double() if t.is_floating_point() else t.cpu() for t in inputs]
    bound = call.condition * measure.bound(call.terms, inputs[0].dtype)
    for k, (got, expected) in enumerate(zip(actual, results(call, wide, "torch"), strict=True)):
        error = ((got.cpu().double() - expected).abs().max() / expected.abs().max()).item()
        if not error <= bound:
            what = f"gradient {k}" if k else "value"
            raise Wrong(f"{what} is off float64 by {error:.3g}, above {bound:.3g}")


def results(call, inputs, impl):
    """All values in one vector, and the gradients of a sum in which each has its own weight."""
    leaves = [t.clone().requires_grad_() for t in inputs[: call.leaves]]
    value = call.function(*leaves, *inputs[call.leaves :], impl=impl)
    value = torch.cat([t.flatten() for t in (value if isinstance(value, tuple) else (value,))])
    if not leaves:
        return (value,)
    weight = torch.linspace(0.5, 1.5, len(value), dtype=value.dtype, device=value.device)
    return value.detach(), *torch.autograd.grad(value @ weight, leaves)
