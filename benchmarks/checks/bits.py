"""Whether calls give the same bits: on a second call, and from a CUDA graph's replay.

A second call takes place beside other work, so that programs run in another order, and a third with
NaN in all memory that is not written: each shows what a call on an idle device may hide.
"""

import contextlib
import functools
import threading
import warnings

import torch

from .. import cases, clocks, measure
from .findings import Refused, Wrong

LARGEST = 2**24  # cases of a larger size take too long
WORK = 512  # rows of the matrices multiplied as other work


def repeat(device, smoke):
    """Cases of the second calls: pairs of a name and a function."""
    return [(case.name, functools.partial(_repeat, case, device)) for case in _cases(device, smoke)]


def graph(device, smoke):
    """Cases of the replays."""
    return [(case.name, functools.partial(_graph, case, device)) for case in _cases(device, smoke)]


def _cases(device, smoke):
    """The smoke cases and the device's up to a size."""
    chosen = cases.select("smoke")
    if not smoke:
        chosen += [c for c in cases.select(device) if c.family.size(c.shape) <= LARGEST]
    return chosen


def _call(case, device):
    inputs = tuple(t.to(device) for t in case.family.inputs(case.shape))
    return measure.Call(case.family.providers[0].make(), inputs, case.mode, case.family.clouds)


def bits(call):
    """Value and gradients of one eager call."""
    call.reset()
    torch.manual_seed(measure.SEED)
    return [call().clone(), *(leaf.grad.clone() for leaf in call.leaves)]


def same(first, second, when):
    """Raise ``Wrong`` unless all tensors have the same bits, none of them NaN."""
    names = ("value", "first gradient", "second gradient")
    for name, a, b in zip(names, first, second, strict=False):
        if not torch.equal(a, b):
            differ = a != b
            by = (a - b)[differ].abs().double().nan_to_num(nan=torch.inf).max().item()
            count = f"{differ.sum().item()} of {differ.numel()} numbers"
            raise Wrong(f"{name} {when} has other bits in {count}, by {by:.3g} at most")


# --- a second call ------------------------------------------------------------------------------


def _repeat(case, device):
    call = _call(case, device)
    first = bits(call)
    same(first, bits(call), "of a second call")
    with busy(device):
        same(first, bits(call), "beside other work")
    with poisoned():
        same(first, bits(call), "on memory full of NaN")


@contextlib.contextmanager
def busy(device):
    """Another thread multiplies matrices, on a GPU in a stream of its own."""
    started, end, failures = threading.Event(), threading.Event(), []

    def work():
        try:
            stream = torch.cuda.Stream() if device == "cuda" else None
            with torch.cuda.stream(stream):
                a = torch.ones(WORK, WORK, device=device)
                while not end.is_set():
                    for size in (WORK, WORK // 2, WORK // 3):  # memory of changing sizes, too
                        a[:size] @ a[:, :size].clone()
                    if stream is not None:
                        stream.synchronize()
                    started.set()
        except Exception as error:
            failures.append(error)
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        end.set()
        thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def poisoned():
    """``torch.empty`` returns NaN, so that a number which nobody writes shows."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # only the filling of memory is wanted
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=only_warn)


# --- a graph's replay ---------------------------------------------------------------------------


def _graph(case, device):
    call = _call(case, device)
    first = bits(call)  # before the capture: kernels get compiled, tables copied to the device
    try:
        captured = clocks.Captured(call)
    except Exception as error:  # eagerly it ran, so what is missing is the capture
        raise Refused(f"no capture: {type(error).__name__}: {error}") from error
    same(first, _replayed(captured, call), "of a replay")
    with torch.no_grad():
        for cloud in call.clouds:
            cloud.add_(case.family.noise(cloud))
    replayed = _replayed(captured, call)
    if torch.equal(first[0], replayed[0]):
        raise Wrong("value of a replay is stuck at the inputs of the capture")
    same(bits(call), replayed, "of a replay on other inputs")


def _replayed(captured, call):
    return [captured().clone(), *(leaf.grad.clone() for leaf in call.leaves)]
