"""Read the machine code of every kernel for NVIDIA: is it what the design says?

    python -m tests.sass              compile for sm_90 with the Triton that is imported, and judge
    python -m tests.sass --update     and write the table of this Triton version
    python -m tests.sass --markdown   print the committed table, a row a kernel, for docs/kernels.md

Needs no GPU. What the design says is in ``tests/sass_design.py``; what was found is committed
(tests/registers/sass-*.json), so a change shows in diff. Arrays are named by the file and pointer
of the ``tl.load`` or ``tl.store`` that the line numbers in the code lead to: "pairs.mass_ptr".
"""

import argparse
import collections
import concurrent.futures
import functools
import json
import multiprocessing
import pathlib
import re
import subprocess
import sys
import tempfile

import triton

from tests import compile_gate as gate
from tests import sass_cases
from tests import sass_design as design

KERNELS = pathlib.Path(gate.walks.__file__).parent
TARGET = "sm_90"

LINE = re.compile(r'//## File "([^"]+)", line (\d+)')
LABEL = re.compile(r"(\.L_\w+):")
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
# Accesses of global memory, and what of the source they come from.
MEMORY = {"LDG": "loads", "LDGSTS": "loads", "UTMALDG": "loads", "STG": "stores"}
ACCESS = {kind: re.compile(rf"tl\.{kind[:-1]}\(\(?(\w+)") for kind in ("loads", "stores")}
# Operands of matrix instructions: those that name none are half precision, or float64 alone.
OPERANDS = re.compile(r"\.(TF32|BF16|F16|E4M3|E5M2|S8|U8)\b")


def counts(text):
    """What there is in the machine code of one kernel, as nvdisasm prints it with line numbers."""
    found = {kind: collections.Counter() for kind in ("matrix", "loads", "stores")}
    seen, labels, loops, at = [], {}, [], None
    for line in text.splitlines():
        if place := LINE.search(line):
            at = place.groups()
        elif label := LABEL.match(line.strip()):
            labels[label.group(1)] = len(seen)
        elif instruction := INSTRUCTION.match(line):
            name, operands = instruction.groups()
            target = re.search(r"\.L_\w+", operands)
            if name.startswith("BRA") and target and target.group() in labels:
                loops.append((labels[target.group()], len(seen)))
            seen.append(name)
            stem = name.split(".")[0]
            if stem in MEMORY:
                kind = MEMORY[stem]
                found[kind][f"{array(kind, *at)} {width(name)}"] += 1
            if stem.endswith("MMA") and not stem.startswith("FP"):
                found["matrix"][f"{stem} {operand(name)}"] += 1
    looped = {i for first, last in loops for i in range(first, last + 1)}
    return {
        "bytes": 16 * len(seen),
        "local": number(seen, r"LDL|STL"),
        **{kind: dict(sorted(counter.items())) for kind, counter in found.items()},
        "shared": number(seen, r"LDS|STS|LDSM|STSM"),
        "barriers": number(seen, "BAR"),
        "exponentials": number(seen, r"MUFU\.EX2"),
        "double_in_loops": number([seen[i] for i in looped], "DADD|DMUL|DFMA|DSETP|DMNMX"),
    }


def number(names, pattern):
    """How many instructions are named so, up to a dot."""
    return sum(bool(re.match(rf"(?:{pattern})(?:\.|$)", name)) for name in names)


def width(name):
    """Bytes of one thread's access."""
    given = re.search(r"\.(U8|S8|U16|S16|64|128)\b", name)
    sizes = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
    return sizes[given.group(1)] if given else 4


def operand(name):
    """The type that a matrix instruction multiplies."""
    if name.startswith("DMMA"):
        return "f64"
    given = OPERANDS.search(name)
    return given.group(1).lower() if given else "f16"


@functools.cache
def lines(path):
    return pathlib.Path(path).read_text().splitlines()


def array(kind, path, line):
    """The array that a line of a kernel file loads or stores."""
    file = KERNELS / pathlib.Path(path).name
    access = ACCESS[kind].search(lines(file)[int(line) - 1])
    if access is None:
        raise RuntimeError(
            f"{file.name}, line {line} has no such access: the compiler's cache is of an older "
            "file; empty it (TRITON_CACHE_DIR)"
        )
    return f"{file.stem}.{access.group(1)}"


def measure(case_name, target_name=TARGET):
    """The counts of one case on one target."""
    target, _ = gate.TARGETS[target_name]
    tool = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    compiled = sass_cases.cases()[case_name].compile(target)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [tool, "-g", "-c", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return counts(done.stdout)


def table_path(version):
    return gate.TABLES / f"sass-{version}.json"


def report(table):
    """Print each case and the rules that it breaks; returns how many break any."""
    bad = 0
    for name, found in table.items():
        rules = design.broken(sass_cases.cases()[name], found)
        bad += bool(rules)
        matrix = ", ".join(f"{n} {kind}" for kind, n in found["matrix"].items()) or "none"
        print(
            f"{name}: {found['bytes']} bytes, matrix instructions: {matrix}, "
            f"loads: {found['loads']}; {'; '.join(rules) or 'as designed'}",
            flush=True,
        )
    return bad


def markdown(table):
    """A row a kernel: of its configurations the most code, and the widths of its loads."""
    rows = ["| kernel | cases | matrix instructions | 16-byte reads | most code, KB |"]
    rows.append("|---|---:|---|---|---:|")
    by_kernel = collections.defaultdict(list)
    for name, found in table.items():
        by_kernel[sass_cases.kernel(sass_cases.cases()[name])].append(found)
    for kernel, each in by_kernel.items():
        kinds = sorted({kind for found in each for kind in found["matrix"]})
        wide = sorted(name.rpartition(".")[2] for name in design.DESIGNS[kernel].wide)
        rows.append(
            f"| `{kernel}` | {len(each)} | {', '.join(kinds) or 'none'} | "
            f"{', '.join(f'`{name}`' for name in wide) or 'none'} | "
            f"{max(found['bytes'] for found in each) / 1024:.0f} |"
        )
    return "\n".join(rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.sass", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the table of this version")
    parser.add_argument("--markdown", action="store_true", help="print the committed table")
    parser.add_argument("--only", action="append", help="cases whose name contains this")
    parser.add_argument("--json", type=pathlib.Path, help="write the counts here as well")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.markdown:
        print(markdown(json.loads(table_path(triton.__version__).read_text())))
        return 0
    names = [n for n in sass_cases.cases() if any(part in n for part in options.only or [""])]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        table = dict(zip(names, pool.map(measure, names), strict=True))
    bad = report(table)
    print(f"Triton {triton.__version__}, {TARGET}: {len(table)} cases, {bad} not as designed")
    if options.update and not options.only:
        table_path(triton.__version__).write_text(written(table))
    if options.json:
        options.json.write_text(written(table))
    return 1 if bad else 0


def written(table):
    """The table as JSON, a line a case."""
    each = ",\n".join(f" {json.dumps(name)}: {json.dumps(found)}" for name, found in table.items())
    return f"{{\n{each}\n}}\n"


if __name__ == "__main__":
    sys.exit(main())
