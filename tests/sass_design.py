"""What the design says of every kernel's machine code.

One entry a kernel: the matrix instructions it has, the arrays it reads 16 bytes at a time, those it
cannot and why, and what it may do in float64 or in much code. ``broken`` compares that with what
``tests/sass.py`` counted.
"""

from collections.abc import Callable
from typing import NamedTuple

from tests.sass_cases import kernel

BYTES = {"*bf16": 2, "*fp16": 2, "*fp32": 4, "*fp64": 8, "*i64": 8}
# More code than this does not stay in the instruction cache.
CODE = 100 * 1024

ONE = "one number a program or a step"
FOUND = "read where a search, a walk or a payload leads"
TILED = "a vector along a tile, a few numbers a thread, spread as the tile is"
SPREAD = (
    "elements of a thread lie apart so that most exchanges stay in it; a warp reads whole lines"
)
FEW = "of a small tile a thread has less than 16 bytes"
COORDINATE = "one coordinate of each point, D apart"
ONCE = "read once; all steps follow in registers"
ANY_D = "16 coordinates of a point at a time, whatever D is"
DOUBLES = "float64, 8 bytes a lane: a warp reads two whole lines; sizes are not specialized"
TWO = "two ranks a thread"


class Design(NamedTuple):
    """What one kernel's machine code has."""

    result: str = ""
    """The pointer whose type the kernel computes in; none: float64 always."""
    matrix: str | Callable[[dict], str] = ""
    """What matrix instructions multiply in a float32 result, or how constants tell; "" for none.
    In a float64 result it is f64."""
    wide: tuple[str, ...] = ()
    """Arrays read 16 bytes at a time, or all at once that a thread has of a tile."""
    told: bool = True
    """That takes a launch whose sizes and strides are multiples of 16."""
    narrow: dict[str, tuple[str, ...]] = {}
    """Other arrays, by the reason why they are read in less."""
    doubles: tuple[int, str] = (0, "")
    """Float64 instructions that loops of a float32 kernel may have, and what for."""
    code: tuple[int, str] = (CODE, "")
    """Most bytes of code, and why more than CODE."""


SORTS = 140 * 1024, "rows of 4096 with both payloads, or runs of 8192: fewer variants spill or cost"
SORTED = "match.sorted_u_ptr", "match.sorted_v_ptr"
POSITIONS = "match.position_u_ptr", "match.position_v_ptr"
BETWEEN = 12, "a potential is added up in float64; a walk divides its coefficient"

DESIGNS = {
    "match._match_kernel": Design("u_ptr", narrow={SPREAD: ("sort.row_ptr",)}, code=SORTS),
    "rows._sort_run_kernel": Design(
        "x_ptr", narrow={SPREAD: ("sort.row_ptr",), ONE: ("rows.count_ptr",)}, code=SORTS
    ),
    "rows._merge_kernel": Design("key_ptr", narrow={FOUND: ("rows.key_ptr", "rows.position_ptr")}),
    "match._merge_match_kernel": Design(
        "u_ptr",
        narrow={FOUND: ("rows.key_ptr", *POSITIONS)},
    ),
    "match._rank_match_kernel": Design("u_ptr", wide=(*SORTED, *POSITIONS)),
    "cells._cells_kernel": Design(
        "slope_ptr",
        narrow={
            FOUND: ("cells.ptr", "cells.levels_ptr", "cells.levels_v_ptr"),
            TWO: ("cells.from_u_ptr", "cells.levels_u_ptr"),
            ONE: ("cells.count_u_ptr", "cells.count_v_ptr"),
        },
        doubles=(12, "levels are float64"),
    ),
    "cells._potential_kernel": Design(
        narrow={
            FOUND: ("cells.ptr", "cells.levels_ptr"),
            TWO: ("cells.from_u_ptr", "cells.levels_u_ptr"),
        },
    ),
    "cells._levels_kernel": Design(
        narrow={FOUND: ("cells.mass_ptr",), DOUBLES: ("cells.level_ptr", "cells.position_ptr")}
    ),
    "matmul._matmul_kernel": Design(
        "out_ptr",
        "tf32",
        wide=("matmul.a_ptr", "matmul.b_ptr"),
        narrow={FEW: ("matmul.out_ptr",)},
    ),
    "products._product_kernel": Design(
        "out_ptr",
        "tf32",
        wide=("products.a_ptr", "products.b_ptr"),
        narrow={
            FEW: ("products.e_ptr",),
            ONE: ("products.active_ptr", "products.coefficient_ptr"),
        },
    ),
    "moments._products_kernel": Design(
        "cov_ptr",
        "tf32",
        wide=("moments.x_ptr",),
        narrow={TILED: ("moments.mass_ptr",)},
        doubles=(60, "masses are float64"),
    ),
    "moments._merge_kernel": Design(
        narrow={
            TILED: ("moments.at", "moments.means_ptr"),
            FEW: ("moments.part_ptr",),
            ONE: ("moments.total_ptr",),
        },
    ),
    "walks._products_kernel": Design(
        "norm_ptr",
        "f16",
        wide=("pairs.ptr",),
        told=False,
        narrow={
            TILED: ("pairs.mass_ptr", "walks.mass_ptr", "walks.norm_ptr", "walks.delta_ptr"),
            ONE: ("pairs.coefficient_ptr", "profiles.rate_ptr", "walks.unit_ptr"),
        },
        doubles=BETWEEN,
    ),
    "walks._differences_kernel": Design(
        "grad_ptr",
        narrow={
            COORDINATE: ("pairs.x_ptr", "pairs.y_ptr"),
            TILED: ("pairs.mass_ptr", "walks.mass_ptr"),
            ONE: ("pairs.coefficient_ptr", "profiles.rate_ptr"),
        },
        doubles=BETWEEN,
    ),
    "walks._near_kernel": Design(
        "grad_ptr",
        narrow={
            COORDINATE: ("pairs.x_ptr", "pairs.y_ptr", "walks.grad_ptr"),
            TILED: ("pairs.mass_ptr", "walks.mass_ptr", "walks.potential_ptr"),
            ONE: ("pairs.coefficient_ptr", "profiles.rate_ptr", "walks.bits_ptr"),
        },
        doubles=BETWEEN,
    ),
    "split._extent_kernel": Design(
        "extent_ptr", narrow={ANY_D: ("split.z_ptr",), TILED: ("split.mass_ptr",)}
    ),
    "split._split_kernel": Design("norm_ptr", narrow={ANY_D: ("split.z_ptr", "split.extent_ptr")}),
    "mmd._totals_kernel": Design(
        narrow={DOUBLES: ("mmd.at", "mmd.mass_ptr"), ONE: ("mmd.coefficient_ptr",)}
    ),
    "factor._factor_kernel": Design(narrow={ONCE: ("factor.s_ptr",)}),
    "factor._long_factor_kernel": Design(
        narrow={DOUBLES: ("factor.f_ptr", "factor.g_ptr"), TILED: ("factor.s_ptr",)}
    ),
    "factor_large._pivoted_kernel": Design(
        narrow={
            DOUBLES: ("factor_large.f_ptr", "factor_large.g_ptr", "factor_large.s_ptr"),
            ONE: ("factor_large.regular_ptr",),
        },
    ),
    "polar._start_kernel": Design(narrow={DOUBLES: ("inside.ptr",)}),
    "polar._polar_kernel": Design(
        "q_ptr",
        lambda constants: "f16" if constants["HALVES"] else "",
        narrow={ONCE: ("polar.x_ptr", "polar.low_ptr"), TILED: ("polar.step_ptr",)},
    ),
    "polar._value_kernel": Design(narrow={DOUBLES: ("inside.ptr",)}),
    "polar_double._polar_kernel": Design(
        matrix="f64",
        narrow={
            DOUBLES: ("inside.ptr",),
            ONE: ("polar_double.step_ptr", "polar_double.residual_ptr", "polar_double.x_ptr"),
        },
    ),
    "covariance_gradient._gradient_kernel": Design(
        matrix="f64",
        narrow={
            DOUBLES: ("inside.ptr",),
            ONE: (
                "polar_double.step_ptr",
                "covariance_gradient.redone_ptr",
                "covariance_gradient.regular_ptr",
                "covariance_gradient.residual_ptr",
            ),
        },
    ),
}


def broken(case, found):
    """The rules that the counts of a case break, as a list of words."""
    design = DESIGNS[kernel(case)]
    double = not design.result or case.pointers[design.result] == "*fp64"
    return [
        *_of_memory(case, design, found),
        *_of_products(case, design, double, found),
        *_of_size(case, design, double, found),
    ]


def _of_memory(case, design, found):
    if found["local"]:
        yield f"{found['local']} accesses of local memory"
    allowed = {name for names in design.narrow.values() for name in names}
    for place in found["loads"]:
        name, size = place.split()
        if name not in design.wide:
            if int(size) < 16 and name not in allowed:
                yield f"{name} is read {size} bytes at a time, and no reason is given"
        elif (case.aligned or not design.told) and int(size) < min(16, _share(case, name)):
            yield f"{name} is read {size} bytes at a time"
    read = {place.split()[0] for place in found["loads"]}
    for name in design.wide:
        if name not in read and name.rpartition(".")[2] not in _unread(case):
            yield f"{name} is not read"


def _share(case, name):
    """Bytes that a thread has of the smaller tile of an array."""
    pointer = name.rpartition(".")[2]
    given = case.pointers[pointer if pointer in case.pointers else "high_ptr"]
    each = case.constants
    if "BLOCK" in each:
        tile = each["BLOCK"] * each.get("d", each.get("SIDE", 1))
    else:
        inner = each["BLOCK_K"] if "BLOCK_K" in each else each["BLOCK_D"]
        tile = min(each["BLOCK_M"], each["BLOCK_N"]) * inner
    return tile * BYTES[given] // (case.threads or 32 * case.warps)


def _unread(case):
    """Pointers that these flags leave alone."""
    flags = {"position_u_ptr": "NEED_U", "position_v_ptr": "NEED_V"}
    return {pointer for pointer, flag in flags.items() if not case.constants.get(flag, True)}


def _of_products(case, design, double, found):
    wanted = design.matrix if isinstance(design.matrix, str) else design.matrix(case.constants)
    wanted = {"f64" if double else wanted} if wanted else set()
    kinds = {place.split()[1] for place in found["matrix"]}
    if kinds != wanted:
        yield f"matrix instructions multiply {sorted(kinds)}, not {sorted(wanted)}"
    exponential = case.constants.get("PROFILE") in ("gaussian", "laplacian") and not double
    if exponential and not found["exponentials"]:
        yield "no exponential is an instruction"


def _of_size(case, design, double, found):
    most, _ = design.doubles
    if not double and found["double_in_loops"] > most:
        yield f"{found['double_in_loops']} float64 instructions in loops, {most} at most"
    most, _ = design.code
    if found["bytes"] > most:
        yield f"{found['bytes']} bytes of code, {most} at most"
