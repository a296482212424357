"""What a call launches: kernels, grids and constants, and what compiling them has come to."""

import contextlib
import sys
from typing import NamedTuple
from unittest import mock

import torch


class Launch(NamedTuple):
    """One launch of a Triton kernel.

    Attributes:
        kernel: module and name, such as "match._match_kernel".
        grid: its programs.
        arguments: name -> value of everything that is no tensor, launch options included.
        compiled: what Triton made of it; None under the interpreter.
    """

    kernel: str
    grid: tuple
    arguments: dict
    compiled: object = None

    @property
    def what(self):
        """All of it that a launcher decides, to be compared."""
        return self.kernel, self.grid, tuple(sorted(self.arguments.items()))


@contextlib.contextmanager
def recorded(execute=True):
    """A list to which every launch within is added; without ``execute`` nothing runs."""
    found = []
    with contextlib.ExitStack() as stack:
        for module in _launchers():
            for name in [name for name in vars(module) if name.endswith("_kernel")]:
                recorder = _Recorder(module, name, found, execute)
                stack.enter_context(mock.patch.object(module, name, recorder))
        yield found


def _launchers():
    prefix = "otkernels.kernels."
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(prefix)]


class _Recorder:
    """Stands in for a kernel."""

    def __init__(self, module, name, found, execute):
        self.kernel, self.found, self.execute = getattr(module, name), found, execute
        self.name = f"{module.__name__.rpartition('.')[2]}.{name}"

    def __getitem__(self, grid):
        def launch(*args, **options):
            given = dict(zip(self.kernel.arg_names, args, strict=False)) | options
            values = {k: v for k, v in given.items() if not isinstance(v, torch.Tensor)}
            compiled = self.kernel[grid](*args, **options) if self.execute else None
            self.found.append(Launch(self.name, grid, values, compiled))

        return launch


def costs(launches, chosen):
    """What the compiler says of the launches that are not among the ``chosen`` ones.

    Returns:
        registers a thread, spilled 32-bit words a thread and bytes of shared memory, the most of
        any of these kernels; None where nothing was compiled.
    """
    common = {launch.what for launch in chosen}
    own = [launch for launch in launches if launch.what not in common] or launches
    compiled = [launch.compiled for launch in own if launch.compiled is not None]
    if not compiled:
        return {"registers": None, "spills": None, "shared": None}
    return {
        "registers": max(kernel.n_regs for kernel in compiled),
        "spills": max(kernel.n_spills for kernel in compiled),
        "shared": max(kernel.metadata.shared for kernel in compiled),
    }
