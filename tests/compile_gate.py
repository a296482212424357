"""Compile every kernel ahead of time, with no GPU, and read what the machine code needs.

    python -m tests.compile_gate             compile everything with the Triton that is imported
    python -m tests.compile_gate --update    and write the register table of this Triton version

A kernel passes on a target if no register spills and its shared memory fits. The table of
registers, shared bytes and instructions is committed (tests/registers/), so a change shows in diff.
"""

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import pathlib
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from otkernels.kernels import (
    cells,
    covariance_gradient,
    factor,
    factor_large,
    match,
    matmul,
    mmd,
    moments,
    polar,
    polar_double,
    products,
    rows,
    split,
    walks,
)

TABLES = pathlib.Path(__file__).parent / "registers"

# Target: (Triton's description, bytes of shared memory a program may use).
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
}

POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}


class Case:
    """One kernel with one choice of constants: what a launch on some target would compile.

    ``aligned`` names the integers that are multiples of 16, which a launch tells the compiler.
    ``warps`` is for launches that ask for as many whatever their width, else ``threads`` counts.
    """

    def __init__(
        self,
        name,
        kernel,
        pointers,
        constants,
        threads=None,
        precision=None,
        aligned=(),
        options=None,
        warps=None,
    ):
        self.warps = warps
        self.aligned = aligned
        self.options = options or {}
        self.name = name
        self.kernel = kernel
        self.pointers = pointers
        self.constants = constants
        self.threads = threads
        self.precision = precision

    def compile(self, target):
        """The compiled kernel, with the alignment that freshly allocated tensors have."""
        hip = target.backend == "hip"
        constants = dict(self.constants)
        if self.precision is not None:
            constants["PRECISION"] = "ieee" if hip else self.precision
        names = self.kernel.arg_names
        signature = {
            n: "constexpr" if n in constants else self.pointers.get(n, "i32") for n in names
        }
        source = ASTSource(
            fn=self.kernel,
            signature=signature,
            constexprs={(names.index(n),): v for n, v in constants.items()},
            attrs={
                (names.index(n),): [["tt.divisibility", 16]]
                for n in (*self.pointers, *self.aligned)
            },
        )
        # AMD's compiler knows no limit of registers.
        options = {k: v for k, v in self.options.items() if not (hip and k == "maxnreg")}
        if self.warps is not None:
            options |= {"num_warps": self.warps}
        elif hip:
            options |= {"num_warps": max(1, self.threads // target.warp_size)}
        else:
            options = rows.launch_options(self.threads) | options
        return triton.compile(source, target=target, options=options)


def match_flags(orders):
    """Flag sets of a matching kernel: values only, gradient to one cloud, to both."""
    for p in orders:
        for need_u, need_v in ((False, False), (True, False), (True, True)):
            yield {"P": p, "NEED_U": need_u, "NEED_V": need_v}


def late_flags():
    """For the kernels that only match: the exponent with most registers, and the common one."""
    return [*match_flags((1.5,)), {"P": 2.0, "NEED_U": True, "NEED_V": False}]


def label(flags):
    return ",".join(f"{k}={v}" for k, v in flags.items())


def sort_cases():
    """Every configuration that sort_config can choose, for the kernels that sort."""
    pointers = {n: POINTERS[torch.float32] for n in ("u_ptr", "v_ptr", "part_ptr")}
    for log, threads in sorted({rows.sort_config(n) for n in range(1, match.FUSED + 1)}):
        # The exponent enters after the sort, so one costly exponent in the longest row will do.
        longest = [{"P": 1.5, "NEED_U": True, "NEED_V": True}] if 2**log == match.FUSED else []
        for flags in (*match_flags((2.0,)), *longest):
            constants = {**flags, "LOG": log, "THREADS": threads}
            name = f"match log={log} {label(flags)}"
            yield Case(name, match._match_kernel, pointers, constants, threads)


def run_cases():
    """Every configuration of the kernels that sort runs and merge them."""
    pointers = {"x_ptr": "*fp32", "key_ptr": "*i32", "position_ptr": "*i32", "count_ptr": "*i64"}
    one = {(*rows.sort_config(n), 1) for n in range(1, rows.LONGEST_RUN + 1)}
    lengths = range(match.FUSED + 1, match.MERGED + 1)
    two = {(*rows.sort_config(triton.cdiv(n, 2)), 2) for n in lengths}
    for log, threads, runs in sorted(one | two):
        for payload, counted in ((False, False), (True, False), (True, True)):
            constants = {"PAYLOAD": payload, "COUNTED": counted, "RUNS": runs}
            name = f"sort_run log={log} {label(constants)}"
            constants |= {"LOG": log, "THREADS": threads}
            yield Case(name, rows._sort_run_kernel, pointers, constants, threads)
    floats = {n: POINTERS[torch.float32] for n in ("u_ptr", "v_ptr", "part_ptr")}
    integers = ("key_u_ptr", "key_v_ptr", "position_u_ptr", "position_v_ptr")
    for log in sorted({log for log, _, _ in two}):
        for flags in late_flags():
            constants = {**flags, "LOG": log, "BLOCK": rows.RANKS}
            name = f"merge_match log={log} {label(flags)}"
            pointers = floats | dict.fromkeys(integers, "*i32")
            yield Case(name, match._merge_match_kernel, pointers, constants, 128)
        for payload in (False, True):
            constants = {"PAYLOAD": payload, "LOG": log, "BLOCK": rows.RANKS}
            names = ("key_ptr", "position_ptr", "key_out_ptr", "position_out_ptr")
            name = f"merge log={log} PAYLOAD={payload}"
            pointers = dict.fromkeys(names, "*i32")
            yield Case(name, rows._merge_kernel, pointers, constants, 128)


def cells_cases():
    """Sides as keys, a target in order, the library's sort; equal masses, counts, levels."""
    for u_keys, v_keys, dtype in (
        (True, True, torch.float32),
        (True, False, torch.float32),
        (False, False, torch.float32),
        (False, False, torch.float64),
    ):
        pointers = dict.fromkeys(("slope_ptr", "part_ptr"), POINTERS[dtype])
        pointers |= dict.fromkeys(("count_u_ptr", "count_v_ptr"), "*i64")
        pointers["from_u_ptr"] = "*i32" if u_keys else "*i64"
        values = {"u_ptr": "*i32" if u_keys else POINTERS[dtype]}
        values["v_ptr"] = "*i32" if v_keys else POINTERS[dtype]
        levels = dict.fromkeys(("levels_u_ptr", "levels_v_ptr"), "*fp64")
        known_target = u_keys and not v_keys
        limit = cells.register_limit(dtype)
        keys = {"U_KEYS": u_keys, "V_KEYS": v_keys}
        for flags in cells_flags(known_target):
            constants = {**keys, **flags}
            name = f"cells {dtype} {label(constants)}"
            constants["BLOCK"] = cells.RANKS
            given = pointers | values | levels
            yield Case(name, cells._cells_kernel, given, constants, 128, options=limit)
        if known_target:
            continue
        for p in (1.5, 2.0):
            constants = {"P": p, **keys, "BLOCK": cells.RANKS}
            name = f"potential {dtype} {label(constants)}"
            constants["COINCIDENT"] = cells.COINCIDENT
            pointers_of_it = {"from_u_ptr": pointers["from_u_ptr"], "potential_ptr": "*fp64"}
            given = values | levels | pointers_of_it
            yield Case(name, cells._potential_kernel, given, constants, 128, options=limit)
    for integer in ("*i32", "*i64"):
        pointers = {"mass_ptr": "*fp64", "position_ptr": integer, "level_ptr": "*fp64"}
        name = f"levels positions={integer}"
        yield Case(name, cells._levels_kernel, pointers, {"BLOCK": cells.SUMMED}, 128)


def cells_flags(known_target):
    """What a launch may ask for: cost and slopes, or slopes of the other side."""
    for levels, counted in ((False, False), (False, True), (True, False)):
        if known_target and levels:
            continue
        for p in (2.0,) if known_target else (1.5, 2.0):
            for cost in (True, False):
                flags = {"LEVELS": levels, "COUNTED": counted, "COST": cost, "SLOPE": True}
                yield {"P": p, **flags}


def contiguous_matmul_cases():
    """The largest tile as contiguous clouds launch it: unit strides, the rest multiples of 16."""
    ones = ("stride_a_m", "stride_b_k", "stride_out_n")
    strides = [n for n in matmul._matmul_kernel.arg_names if n.startswith("stride")]
    aligned = ("m", "n", "k", *(n for n in strides if n not in ones))
    for case in matmul_cases():
        if "BLOCK_M=64,BLOCK_N=64" in case.name:
            constants = case.constants | dict.fromkeys(ones, 1)
            name, precision = f"{case.name} contiguous", case.precision
            yield Case(
                name, case.kernel, case.pointers, constants, case.threads, precision, aligned
            )


def one_point_cases():
    """A launch turns integers that are 1 into constants, which are no tensors."""
    ones = {
        matmul._matmul_kernel: ("m", "n", "k", "stride_a_k", "stride_b_n", "stride_out_n"),
        moments._products_kernel: ("d", "stride_n"),
    }
    for case in [*matmul_cases(), *moments_cases()]:
        sides = {case.constants.get(n, 16) for n in ("BLOCK_M", "BLOCK_N", "SIDE")}
        rows_of = "stride_d" in case.constants or case.kernel is matmul._matmul_kernel
        if case.kernel in ones and sides == {16} and rows_of:
            case.name += " with ones"
            case.constants = case.constants | dict.fromkeys(ones[case.kernel], 1)
            case.aligned = [n for n in case.aligned if n not in ones[case.kernel]]
            yield case


def rank_cases():
    for dtype in (torch.float32, torch.float64):
        floats = ("u_ptr", "v_ptr", "sorted_u_ptr", "sorted_v_ptr", "part_ptr")
        pointers = dict.fromkeys(floats, POINTERS[dtype])
        pointers |= {"position_u_ptr": "*i64", "position_v_ptr": "*i64"}
        for flags in late_flags():
            constants = {**flags, "BLOCK": rows.RANKS}
            name = f"rank_match {dtype} {label(flags)}"
            yield Case(name, match._rank_match_kernel, pointers, constants, 128)


def matmul_cases():
    """Every tile that matmul_config can choose, float32 and float64, from halves in the largest."""
    sides = [1, 32, 64]
    for dtype in (torch.float32, torch.float64):
        configs = {matmul.matmul_config(m, n, dtype) for m in sides for n in sides}
        for block_m, block_n, block_k, warps in sorted(configs):
            tile = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}
            for accumulate in (False, True):
                inputs = [dtype]
                if (block_m, block_n) == (64, 64) and dtype == torch.float32:
                    inputs.append(torch.bfloat16)
                for given in inputs:
                    pointers = {"a_ptr": POINTERS[dtype], "out_ptr": POINTERS[dtype]}
                    pointers["b_ptr"] = POINTERS[given]
                    yield Case(
                        f"matmul {given}->{dtype} {label(tile)},ACCUMULATE={accumulate}",
                        matmul._matmul_kernel,
                        pointers,
                        {"ACCUMULATE": accumulate, **tile},
                        32 * warps,
                        "ieee" if dtype == torch.float64 else "tf32x3",
                    )


def pair_cases():
    """Every width that ``mmd.config`` can choose, every profile, all kinds of products."""
    for given, d, profile, flags in pair_kinds():
        dtype = torch.float64 if given == torch.float64 else torch.float32
        flags = {"PROFILE": profile, "GRAD": True, **flags}
        direct = d <= mmd.DIRECT and profile != "polynomial"
        block_m, block_n, block_d, warps = mmd.config(d, dtype, direct)
        flags["BLOCK_M"], flags["BLOCK_N"], flags["ROWS"] = block_m, block_n, split.ROWS
        pointers = dict.fromkeys(("rate_ptr", "grad_ptr"), POINTERS[dtype])
        pointers |= dict.fromkeys(("mass_ptr", "coefficient_ptr", "part_ptr"), "*fp64")
        given_too = pointers | {"z_ptr": POINTERS[given]}
        if direct:
            constants = flags | {"BLOCK_D": block_d}
            name = f"differences {given} {label(constants)}"
            yield Case(name, walks._differences_kernel, given_too, constants, warps=warps)
            continue
        constants = {"SPLIT": dtype == torch.float32, **flags, "CHUNKED": d > block_d}
        constants |= {"BLOCK_D": block_d}
        name = f"products {given} {label(constants)}"
        constants |= {"NEAR": mmd.NEAR, "GROUP": walks.GROUP}
        half = "*fp16" if dtype == torch.float32 else POINTERS[dtype]
        pointers |= {"high_ptr": half, "low_ptr": half, "near_ptr": "*i32"}
        pointers |= dict.fromkeys(("norm_ptr", "delta_ptr", "unit_ptr"), POINTERS[dtype])
        limit = mmd.register_limit()
        yield Case(name, walks._products_kernel, pointers, constants, options=limit, warps=warps)
        if profile == "laplacian":
            flags.pop("SPLIT", None)
            name = f"near {given} {label(flags)}"
            constants = flags | {"GROUP": walks.GROUP}
            given_too["near_ptr"] = "*i32"
            yield Case(name, walks._near_kernel, given_too, constants, warps=warps)


def pair_kinds():
    """Type of the points, their dimension, profile and flags other than those of most launches."""
    single, double, half = torch.float32, torch.float64, torch.bfloat16
    yield single, 64, "laplacian", {}
    yield single, 64, "gaussian", {}
    yield single, 64, "gaussian", {"GRAD": False}
    yield single, 64, "energy", {}
    yield single, 512, "gaussian", {}
    yield single, 16, "cauchy", {}
    yield single, 512, "polynomial", {}
    yield half, 512, "laplacian", {"SPLIT": False}
    yield double, 512, "energy", {}
    yield half, 8, "cauchy", {}
    yield double, 8, "laplacian", {}


def split_cases():
    """The kernels that make points ready, and the totals."""
    block = {"ROWS": split.ROWS, "COLUMNS": split.COLUMNS, "SHARES": split.SHARES}
    pointers = {"z_ptr": "*bf16", "mass_ptr": "*fp64", "extent_ptr": "*fp32"}
    yield Case(f"extent {label(block)}", split._extent_kernel, pointers, block, warps=4)
    pointers = {"z_ptr": "*bf16", "high_ptr": "*fp16", "low_ptr": "*fp16"}
    pointers |= dict.fromkeys(("extent_ptr", "norm_ptr", "delta_ptr", "unit_ptr"), "*fp32")
    constants = {"CENTRED": True, "SCALED": True, "SPLIT": True, **block}
    name = f"split {label(constants)}"
    yield Case(name, split._split_kernel, pointers, constants, warps=4, aligned=("width",))
    names = ("part", "mass", "coefficient", "value", "sums", "potential")
    pointers = dict.fromkeys((f"{name}_ptr" for name in names), "*fp64")
    constants = {"POTENTIAL": True, "ROWS": split.ROWS, "BLOCK": mmd.SUMMED}
    yield Case(f"totals {label(constants)}", mmd._totals_kernel, pointers, constants, warps=4)


def moments_cases():
    """Every tile of the moments: points as rows and in any layout, one share and several."""
    for given, dtype in (
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
    ):
        pointers = {"x_ptr": POINTERS[given], "cov_ptr": POINTERS[dtype]}
        pointers |= dict.fromkeys(("mass_ptr", "total_ptr"), "*fp64")
        precision = "ieee" if dtype == torch.float64 else "tf32x3"
        for side, block, warps in sorted({moments.config(d, dtype) for d in (1, 17, 33)}):
            tile = {"SIDE": side, "BLOCK": block}
            for weighted, whole, rows_of in ((False, True, True), (True, False, False)):
                flags = {"WEIGHTED": weighted, "WHOLE": whole}
                name = f"moments {given}->{dtype} {label(tile | flags)}"
                constants = tile | flags | {"GROUP": moments.GROUP}
                constants |= {"stride_d": 1} if rows_of else {}
                means = {"mean_ptr": POINTERS[dtype] if whole else "*fp64"}
                yield Case(
                    name,
                    moments._products_kernel,
                    pointers | means,
                    constants,
                    precision=precision,
                    aligned=("stride_b", "stride_n", "d") if rows_of else (),
                    options=moments.register_limit(),
                    warps=warps,
                )
            if given == torch.float32:
                names = ("part_ptr", "mean_ptr", "cov_ptr")
                types = dict.fromkeys(names, POINTERS[dtype])
                types |= dict.fromkeys(("means_ptr", "total_ptr"), "*fp64")
                name = f"merge_moments {dtype} SIDE={side}"
                yield Case(name, moments._merge_kernel, types, {"SIDE": side}, warps=4)


def bures_cases():
    """Every tile of the factors, of both forms of the polar factor and of the gradients."""
    for d in (1, 2, 4, 8, 16, 32, 64, 128):
        tile, step, warps = factor.config(d)
        constants = {"CLEAR": factor.CLEAR, "TILE": tile}
        if d <= factor.SHORT:
            yield bures_case("factor", factor._factor_kernel, constants, warps)
        else:
            constants |= {"STEP": step}
            yield bures_case("factor", factor._long_factor_kernel, constants, warps)
    for d in (1, 2, 4, 8, 16, 32, 64):
        tile, size, warps = polar.config(d)
        constants = {"HALVES": tile >= polar.HALVED, "SIZE": size, "TILE": tile}
        yield bures_case("polar", polar._polar_kernel, constants, warps)
    for d in (16, 32):
        block, warps = polar.block_config(d)
        yield bures_case("start", polar._start_kernel, {"BLOCK": block}, warps)
        constants = {"RESIDUAL": True, "BLOCK": block}
        yield bures_case("fidelity", polar._value_kernel, constants, warps)
        block, warps = polar_double.config(d)
        for newton, checked in ((False, False), (True, False), (False, True)):
            constants = {"NEWTON": newton, "CHECKED": checked, "BLOCK": block}
            yield bures_case("polar_double", polar_double._polar_kernel, constants, warps, "*fp64")
        for checked, q in ((False, "*fp32"), (False, "*fp64"), (True, "*fp64")):
            constants = {"CHECKED": checked, "BLOCK": block}
            yield bures_case(
                f"gradient {q}", covariance_gradient._gradient_kernel, constants, warps, q
            )


def bures_case(name, kernel, constants, warps, q="*fp32"):
    """The case of a kernel of covariances in float32; what is not is float64, flags are int32."""
    types = dict.fromkeys(("s_ptr", "low_ptr", "grad_ptr", "cutoff", "least", "tolerance"), "*fp32")
    types |= dict.fromkeys(("regular_ptr", "redone_ptr"), "*i32") | {"q_ptr": q}
    flags = "*i32" if "y_ptr" in kernel.arg_names else "*fp32"
    types |= {"x_ptr": flags, "y_ptr": flags}
    given = {n: types.get(n, "*fp64") for n in kernel.arg_names if n in types or n.endswith("_ptr")}
    given |= {n: "fp32" for n in ("cutoff", "least", "tolerance") if n in given}
    staged = (
        {"options": polar.launch_options()} if name not in ("factor", "start", "fidelity") else {}
    )
    return Case(f"{name} {label(constants)}", kernel, given, constants, warps=warps, **staged)


def large_cases():
    """Products and factors of matrices above one tile, in the layouts that launches have."""
    names = [n for n in products._product_kernel.arg_names if n.startswith("stride")]
    layouts = {"rows": ("a_k", "b_n"), "columns": ("a_m", "b_n"), "both": ("a_m", "b_k")}
    plain = {"HAS_E": False, "BETA": 1, "COEFFICIENTS": False, "HAS_ACTIVE": False}
    added = {"HAS_E": True, "BETA": -1, "COEFFICIENTS": False, "HAS_ACTIVE": True}
    factors = {"HAS_E": True, "BETA": 1, "COEFFICIENTS": True, "HAS_ACTIVE": True}
    for dtype in (torch.float32, torch.float64):
        pointers = dict.fromkeys(("a_ptr", "b_ptr", "e_ptr", "out_ptr"), POINTERS[dtype])
        pointers |= {"coefficient_ptr": "*fp64", "active_ptr": "*i32"}
        kinds = [(d, s) for d in (16, 32, 64, products.LONG) for s in (False, True)]
        tiles = {(*products.config(d, d, dtype, s), s) for d, s in kinds}
        for *tile, warps, symmetric in sorted(tiles):
            blocks = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), tile, strict=True))
            # Small tiles need few registers, so one launch of each will do.
            launches = ((factors, "both"), (plain, "columns"), (added, "rows"))
            for flags, layout in launches if tile[0] >= 64 else launches[:1]:
                flags = flags | {"SYMMETRIC": symmetric}
                ones = [f"stride_{n}" for n in (*layouts[layout], "e_n", "out_n")]
                aligned = ("m", "n", "k", *(n for n in names if n not in ones))
                for at in ((), aligned) if tile[0] >= 64 else ((),):
                    name = f"product {dtype} {label(flags | blocks)} {layout} aligned={bool(at)}"
                    yield Case(
                        name,
                        products._product_kernel,
                        pointers,
                        flags | blocks | dict.fromkeys(ones, 1),
                        precision="ieee" if dtype == torch.float64 else "tf32x3",
                        aligned=at,
                        warps=warps,
                        options=products.register_limit(tile[0], symmetric),
                    )
    pointers = {"s_ptr": "*fp64", "f_ptr": "*fp64", "g_ptr": "*fp64", "regular_ptr": "*i32"}
    pointers["cutoff"] = "fp32"
    for tile, inner, warps in sorted({factor_large.config(d) for d in (129, 300, 600, 2000, 4096)}):
        constants = {"INNER": inner, "TILE": tile}
        name = f"pivoted {label(constants)}"
        yield Case(name, factor_large._pivoted_kernel, pointers, constants, warps=warps)


@functools.cache
def cases():
    """All cases by name."""
    kinds = (
        sort_cases,
        run_cases,
        cells_cases,
        rank_cases,
        matmul_cases,
        contiguous_matmul_cases,
        one_point_cases,
        pair_cases,
        split_cases,
        moments_cases,
        bures_cases,
        large_cases,
    )
    return {case.name: case for kind in kinds for case in kind()}


def measure(case_name, target_name):
    """Registers, spills, shared bytes and instructions of one case on one target."""
    target, _ = TARGETS[target_name]
    compiled = cases()[case_name].compile(target)
    needs = _amd(compiled) if target.backend == "hip" else _nvidia(compiled)
    return {**needs, "shared": compiled.metadata.shared}


def _amd(compiled):
    text = compiled.asm["amdgcn"]

    def field(name):
        return int(re.search(rf"\.{name}:\s+(\d+)", text).group(1))

    return {
        "registers": field("vgpr_count"),
        "spills": field("vgpr_spill_count"),
        # To lanes of a vector register, not to memory: recorded, but no problem.
        "scalar_spills": field("sgpr_spill_count"),
        "instructions": len(re.findall(r"^\s+[vsdgb][a-z]*_\w+", text, re.MULTILINE)),
    }


def _nvidia(compiled):
    tool = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True)
            for flag in ("-res-usage", "-sass")
        )
    registers = int(re.search(r"REG:(\d+)", usage.stdout + usage.stderr).group(1))
    return {
        "registers": registers,
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", code.stdout)),
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code.stdout, re.MULTILINE)),
    }


def problems(target_name, needs):
    """What is wrong with one measurement, as a list of words."""
    _, limit = TARGETS[target_name]
    found = []
    if needs["spills"]:
        found.append(f"{needs['spills']} spill instructions")
    if needs["shared"] > limit:
        found.append(f"{needs['shared']} bytes of shared memory, limit {limit}")
    return found


def table_path(version):
    return TABLES / f"triton-{version}.json"


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.compile_gate", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the register table")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--only", action="append", help="cases whose name contains this")
    parser.add_argument("--json", type=pathlib.Path, help="write the measurements here as well")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    work = [
        (name, target)
        for target in options.target or TARGETS
        for name in cases()
        if any(part in name for part in options.only or [""])
    ]
    table, bad = {}, 0
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        results = pool.map(measure, *zip(*work, strict=True))
        for (name, target), needs in zip(work, results, strict=True):
            table.setdefault(target, {})[name] = needs
            wrong = problems(target, needs)
            bad += bool(wrong)
            print(f"{target:7} {name:60} {needs} {'; '.join(wrong)}", flush=True)
    print(
        f"Triton {triton.__version__}: {len(work)} compiled, {bad} with spills or too much memory"
    )
    if options.update and not options.only and not options.target:
        TABLES.mkdir(exist_ok=True)
        table_path(triton.__version__).write_text(json.dumps(table, indent=1) + "\n")
    if options.json:
        options.json.write_text(json.dumps(table))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
