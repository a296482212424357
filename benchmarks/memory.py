"""Peak memory of one call above its inputs, in bytes, measured.

On the CPU only a fresh process tells: what an allocator kept from earlier calls would hide the
next peak. ``python -m benchmarks.memory SHAPES CASE PROVIDER`` is that process; it prints a number.
"""

import gc
import os
import subprocess
import sys
from pathlib import Path

import torch

from . import cases
from .measure import Call

ROOT = Path(__file__).resolve().parent.parent


def peak_cuda(call):
    """Peak of the caching allocator during one call above what is allocated before it."""
    call.reset()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak_cpu(shapes, case, provider):
    """Peak resident memory of the first call in a fresh process above what it held before."""
    command = [sys.executable, "-m", "benchmarks.memory", shapes, case.name, provider]
    # Large blocks go back to the system when freed, so warming up leaves nothing to be reused.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def _status(field):
    """A size from /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _main(shapes, name, provider_name):
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    (case,) = [c for c in cases.select(shapes) if c.name == name]
    provider = next(p for p in case.family.providers if p.name == provider_name)
    function = provider.make()
    # Code is loaded on a tiny input; code made for one shape is loaded on that shape.
    (tiny, *_), full = case.family.shapes["smoke"], case.shape
    warm = full if provider.per_shape else tiny
    Call(function, case.family.inputs(warm), case.mode)()
    call = Call(function, case.family.inputs(full), case.mode)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    call()
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
