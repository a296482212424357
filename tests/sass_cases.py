"""The launches whose machine code is looked at: the gate's, and contiguous ones that it has not."""

import copy
import functools

from otkernels.kernels import (
    cells,
    covariance_gradient,
    factor,
    match,
    matmul,
    polar,
    polar_double,
    products,
)
from tests import compile_gate as gate

# What a launch on contiguous arrays of round sizes tells the compiler, where the gate's cases do
# not: integers that are 1, and integers that are multiples of 16.
SIZES = ("m", "n", "k")
CONTIGUOUS = {
    match._rank_match_kernel: ((), ("n",)),
    cells._cells_kernel: ((), ("stride_u", "stride_v")),
    cells._potential_kernel: ((), ("stride_u", "stride_v")),
    cells._levels_kernel: ((), ("stride",)),
    matmul._matmul_kernel: (("stride_a_k", "stride_b_n", "stride_out_n"), SIZES),
    products._product_kernel: ((), SIZES),
    factor._factor_kernel: (("stride_col",), ("stride_b", "stride_row")),
    factor._long_factor_kernel: (("stride_col",), ("stride_b", "stride_row")),
    polar._polar_kernel: ((), ("n",)),
    polar_double._polar_kernel: (("stride_col",), ("stride_b", "stride_row")),
    covariance_gradient._gradient_kernel: (("stride_other_col", "stride_q_col"), ()),
}
# Enters after the loads, or is in the gate's aligned cases.
PLAIN = {"P": (2.0,), "ACCUMULATE": (False,), "COUNTED": (False,), "COST": (True,)}


@functools.cache
def cases():
    """The gate's cases by name, and contiguous launches that it has not."""
    found = dict(gate.cases())
    for case in gate.cases().values():
        plain = all(case.constants.get(n, of[0]) in of for n, of in PLAIN.items())
        large = case.constants.get("BLOCK_M", 0) >= 64 and case.constants.get("BLOCK_N", 0) >= 64
        tiny = case.kernel is polar._polar_kernel and case.constants["SIZE"] < 16
        if case.kernel in CONTIGUOUS and plain and not (large or tiny or " ones" in case.name):
            found[f"{case.name}, contiguous"] = contiguous(case)
    return found


def contiguous(case):
    """The case as a launch on contiguous arrays of round sizes compiles it."""
    ones, aligned = CONTIGUOUS[case.kernel]
    given = {n for n in case.kernel.arg_names if n.startswith("stride")} | set(aligned)
    other = copy.copy(case)
    other.name = f"{case.name}, contiguous"
    other.constants = case.constants | dict.fromkeys(ones, 1)
    other.aligned = tuple(sorted(given - set(other.constants)))
    return other


def kernel(case):
    """The kernel of a case, as DESIGNS names it."""
    function = case.kernel.fn
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
