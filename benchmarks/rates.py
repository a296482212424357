"""What a device can do at most, measured: the ceilings that ``roofline.py`` divides by.

Each is the best of several timings, so it is the rate of an undisturbed device at its boost clock.
"""

import contextlib
import functools
import itertools
import time
from dataclasses import dataclass

import torch

from . import clocks

MIN_REPETITIONS, SECONDS = 5, 0.05  # of a timing, at least
COPIED = {"cpu": 2**27, "cuda": 2**30}  # bytes, more than caches hold
SIDE = {"cpu": 512, "cuda": 8192}  # of the matrices of a product
# Numbers a CPU thread takes at once: in its second-level cache, or enough to hide the call.
CACHED = (2**15, 2**18)
# What keeps a GPU busy: programs a multiprocessor, and steps, which take some 2 ms on an H100.
PROGRAMS, EXPONENTIALS, COMPARISONS = 16, 4096, 2048


@dataclass(frozen=True)
class Rates:
    """Ceilings of a device, all a second.

    Attributes:
        copied: bytes read and bytes written by a large copy, together.
        products: floating-point operations of a large matrix product, by precision: "float64",
            "float32" ("ieee", no TF32) and on a GPU "tf32", "float16" and "bfloat16".
        exponentials: of float32.
        comparisons: minima or maxima of int32.
    """

    copied: float
    products: dict[str, float]
    exponentials: float
    comparisons: float

    def __str__(self):
        """One line for readers."""
        products = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in self.products.items())
        return (
            f"measured: copy {self.copied / 1e9:.3g} GB/s; products {products} TFLOP/s; "
            f"{self.exponentials:.2g} exponentials/s; {self.comparisons:.2g} comparisons/s"
        )


@functools.cache
def measured(device):
    """The rates of a device, measured when first asked for.

    Args:
        device: "cpu", with as many threads as torch uses now, or "cuda".
    """
    if device == "cuda":
        clock = clocks.Cuda()
        # The clock of graphs takes any call, and queues it before the device is ready for it.
        return _measured(device, lambda call: clock.graph(call)["graph"], by_kernels)
    return _measured(device, lambda call: clocks.host(call)["wall"], by_torch)


def _measured(device, read, on_chip):
    copied, products = _copied(device, read), _products(device, read)
    return Rates(copied, products, *on_chip(device, read))


def _rate(work, call, read):
    """Work a second of the fastest of several calls, after one that is not timed."""
    call()
    times, start = [], time.perf_counter()
    while len(times) < MIN_REPETITIONS or time.perf_counter() - start < SECONDS:
        times.append(read(call))
    return 1e3 * work / min(times)


def _copied(device, read):
    some = torch.randint(-128, 128, (2**20,), dtype=torch.int8, device=device)
    source = some.repeat(COPIED[device] // len(some))
    target = torch.zeros_like(source)
    return _rate(2 * source.numel(), lambda: target.copy_(source), read)


# --- products -----------------------------------------------------------------------------------


def _products(device, read):
    kinds = {"float64": torch.float64, "float32": torch.float32}
    if device == "cuda":
        kinds |= {"tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return {name: _product(name, dtype, device, read) for name, dtype in kinds.items()}


def _product(name, dtype, device, read):
    # Normal numbers: with zeros a chip needs less power, and is faster.
    shape = 2, SIDE[device], SIDE[device]
    a, b = torch.randn(shape, device=device, dtype=torch.float32).to(dtype)
    out = torch.empty_like(a)
    with _float32_products("high" if name == "tf32" else "highest"):
        return _rate(2 * SIDE[device] ** 3, lambda: torch.mm(a, b, out=out), read)


@contextlib.contextmanager
def _float32_products(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# --- exponentials and comparisons ---------------------------------------------------------------


def by_torch(device, read):
    """Exponentials and comparisons by torch: the fastest function and size of those tried.

    ``exp`` is slow where torch's MKL does not know the processor. ``amax`` compares each number
    once and, other than ``minimum``, writes none.
    """
    sizes = [torch.get_num_threads() * size for size in CACHED]
    exponentials, comparisons = [], []
    for size, function in itertools.product(sizes, (torch.exp, torch.exp2)):
        x = torch.randn(size, device=device)
        call = functools.partial(function, x, out=torch.empty_like(x))
        exponentials.append(_rate(size, call, read))
    for size in sizes:
        x = torch.randint(-(2**31), 2**31 - 1, (size,), dtype=torch.int32, device=device)
        comparisons.append(_rate(size, functools.partial(torch.amax, x), read))
    return max(exponentials), max(comparisons)


def by_kernels(device, read):
    """The two kernels of ``rate_kernels`` on all multiprocessors."""
    from . import rate_kernels as kernels  # needs Triton, which a CPU does not

    programs = PROGRAMS * _multiprocessors(device)
    found = []
    for dtype, function, steps, each in (
        (torch.float32, kernels.exponentials, EXPONENTIALS, 1),
        (torch.int32, kernels.comparisons, COMPARISONS, kernels.COMPARISONS),
    ):
        x = kernels.numbers(programs, dtype, device)
        call = functools.partial(function, x, torch.empty_like(x), steps)
        found.append(_rate(each * steps * x.numel(), call, read))
    return found


def _multiprocessors(device):
    if device == "cpu":  # interpreted
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
