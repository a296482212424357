"""Peak memory of one call in bytes, measured.

On the CPU only a fresh process tells: what an allocator kept from earlier calls would hide the
next peak. ``python -m benchmarks.memory SHAPES CASE PROVIDER`` is that process; it prints JSON.
"""

import dataclasses
import gc
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from . import cases
from .measure import Call

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Peak:
    """Resident memory of a process that makes one call.

    Attributes:
        imports: with everything imported and one tiny call made.
        inputs: with the inputs as well, just before the call.
        total: the most during the call, gradient included.
    """

    imports: int
    inputs: int
    total: int

    @property
    def call(self):
        """What the call adds to its inputs."""
        return self.total - self.inputs

    @property
    def data(self):
        """All but interpreter and imports: inputs, gradient and scratch."""
        return self.total - self.imports


def peak_cuda(call):
    """Peak of the caching allocator during one call above what is allocated before it."""
    call.reset()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def release():
    """Give back what a call that raised may have left, such as one that ran out of memory.

    Its frames lie in cycles, and libraries that allocate past torch see what torch keeps as taken.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def peak_cpu(shapes, case, provider):
    """The ``Peak`` of the first call of a provider in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", shapes, case.name, provider]
    # Large blocks go back to the system when freed, so warming up leaves nothing to be reused.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def _status(field):
    """A size from /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _main(shapes, name, provider_name):
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    (case,) = [c for c in cases.select(shapes) if c.name == name]
    provider = next(p for p in case.family.providers if p.name == provider_name)
    function = provider.make()
    # Code is loaded on a tiny input, since some peers make it for a D; code made for one shape is
    # loaded on that shape.
    full = case.shape
    tiny = dataclasses.replace(case.family.shapes["smoke"][0], D=full.D)
    warm = full if provider.per_shape else tiny
    Call(function, case.family.inputs(warm), case.mode, case.family.clouds)()
    gc.collect()
    imports = _status("VmRSS")
    call = Call(function, case.family.inputs(full), case.mode, case.family.clouds)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    inputs = _status("VmRSS")
    call()
    print(json.dumps(dataclasses.asdict(Peak(imports, inputs, _status("VmHWM")))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
