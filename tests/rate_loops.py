"""The instructions in the loops of benchmarks/rate_kernels.py on sm_90, as JSON; needs no GPU.

A process of its own compiles them, for tests interpret kernels: ``python -m tests.rate_loops``.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import triton

from benchmarks import rate_kernels as kernels
from tests.compile_gate import TARGETS, Case

KERNELS = {
    "exponentials": (kernels._exponentials_kernel, "*fp32", {"NUMBERS": kernels.NUMBERS}),
    "comparisons": (kernels._comparisons_kernel, "*i32", {"BLOCK": kernels.NUMBERS // 4}),
}


def machine_code(compiled):
    """Instructions and addresses: [(address, opcode, operands)]."""
    tool = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [tool, "-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+ )?\s*([\w.]+)([^;]*);", text)
    return [(int(address, 16), opcode, rest) for address, opcode, rest in found]


def longest_loop(code):
    """How often each opcode is in the longest stretch that a branch at its end repeats."""
    loops = [
        [op for at, op, _ in code if int(target, 16) <= at <= end]
        for end, opcode, rest in code
        if opcode == "BRA" and (target := rest.split()[-1]) and int(target, 16) < end
    ]
    return collections.Counter(max(loops, key=len))


if __name__ == "__main__":
    target, _ = TARGETS["sm_90"]
    loops = {}
    for name, (kernel, pointer, constants) in KERNELS.items():
        case = Case(name, kernel, dict.fromkeys(("x_ptr", "out_ptr"), pointer), constants, warps=4)
        loops[name] = longest_loop(machine_code(case.compile(target)))
    sys.stdout.write(json.dumps(loops))
