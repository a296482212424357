"""A stand-in for a GPU: launchers run on meta tensors, and their kernels are not launched.

Meta tensors have shapes and no data, so whatever would read a value from the device raises, and the
host's part of a launch runs as it does on a GPU. Copies from the host are found by looking at each
operation, and memory is counted as it is asked for.
"""

import contextlib
import functools
import re
import sys
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from otkernels import _ops

META = torch.device("meta")
# Functions of torch that make a tensor out of numbers of the host.
FROM_NUMBERS = ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor"))
# Solvers whose kernels for CUDA read from the device whether they succeeded. On meta tensors they
# read nothing, and so would not raise.
READ_A_STATUS = re.compile(r"_?linalg_(check_errors|cholesky|eig\w*|inv|lstsq|pinv|solve|svd\w*)")


class HostWaitError(AssertionError):
    """The host copies to the device or reads from it: it waits, and no graph can be captured."""


class Watch(TorchDispatchMode):
    """Sees each operation of torch, also those within raw operators, and counts memory.

    ``peak`` is the most bytes, allocated within the mode, that were alive at a time: memory of
    tensors, not what a library function asks for and gives back by itself.
    """

    def __init__(self):
        super().__init__()
        self.raw_ops = []
        self.peak = 0
        self._alive = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "otkernels":
            self.raw_ops.append(func.__name__.split(".")[0])
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        given = list(_tensors((args, kwargs)))
        self.look_at(func, given, args, kwargs)
        before = {StorageWeakRef(t.untyped_storage()).cdata for t in given}
        result = func(*args, **kwargs)
        for t in _tensors(result):
            ref = StorageWeakRef(t.untyped_storage())
            if ref.cdata not in before:
                self._alive[ref.cdata] = ref, t.untyped_storage().nbytes()
        self._alive = {k: v for k, v in self._alive.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result

    def look_at(self, func, given, args, kwargs):
        """Called before each operation."""


class MetaDevice(Watch):
    """The stand-in: raises :class:`HostWaitError` for copies from the host.

    ``warm_up``: collect the names of the functions that copy, instead.
    """

    def __init__(self, warm_up=False):
        super().__init__()
        self.warm_up = warm_up
        self.copies = set()
        self.kernels = []
        self._patches = contextlib.ExitStack()
        self._depth = 0

    def __enter__(self):
        if self._depth == 0:
            for owner, name in FROM_NUMBERS:
                self._replace(owner, name, self._from_numbers(getattr(owner, name)))
            for name in ("__getitem__", "__setitem__"):
                self._replace(torch.Tensor, name, self._indexed(getattr(torch.Tensor, name)))
            self._replace(_ops, "choose_impl", lambda function, impl, device: impl or "triton")
            self._replace(_kernel_type(), "run", functools.partialmethod(_launch, self))
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *error):
        self._depth -= 1
        if self._depth == 0:
            self._patches.close()
        return super().__exit__(*error)

    def _replace(self, owner, name, new):
        self._patches.enter_context(mock.patch.object(owner, name, new))

    def _from_numbers(self, make):
        def checked(*args, **kwargs):
            result = make(*args, **kwargs)
            if result.is_meta and not any(result is a for a in args):
                self._copied()
            return result

        return checked

    def _indexed(self, index):
        def checked(tensor, at, *value):
            if tensor.is_meta and any(isinstance(k, list) for k in (at, *_tuple(at))):
                self._copied()
            return index(tensor, at, *value)

        return checked

    def look_at(self, func, given, args, kwargs):
        """Tensors of the host may not meet those of the device; single numbers are arguments."""
        on_device = [t for t in given if t.is_meta]
        from_host = [t for t in given if not t.is_meta and t.dim() > 0]
        to_device = any(
            isinstance(v, torch.device) and v == META for v in (*args, *kwargs.values())
        )
        if from_host and (on_device or to_device):
            self._copied()
        if on_device and READ_A_STATUS.fullmatch(func.__name__.split(".")[0]):
            raise HostWaitError(f"{_library_function()} makes the host wait for {func.__name__}")

    def _copied(self):
        where = _library_function()
        if where is None:
            return
        if not self.warm_up:
            raise HostWaitError(f"{where} copies from the host")
        self.copies.add(where)


def _launch(kernel, device, *args, grid, **options):
    """In place of the ``run`` of a kernel."""
    assert all(isinstance(size, int) for size in grid), grid
    for t in (*args, *options.values()):
        assert not isinstance(t, torch.Tensor) or t.is_meta, f"{kernel} reads host memory"
    device.kernels.append(kernel.__name__)


def _kernel_type():
    """The class of a Triton kernel: that of the interpreter or of the compiler."""
    from otkernels.kernels import matmul

    return type(matmul._matmul_kernel)


def _library_function():
    """The innermost function of the library on the stack, or None."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] == "otkernels":
            return f"{module}.{frame.f_code.co_name}"
        frame = frame.f_back
    return None


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def _tensors(values):
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
