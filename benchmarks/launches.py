"""Launches and bytes of one call of the Triton kernels, counted: ``python -m benchmarks.launches``.

The launchers run at the real sizes on meta tensors, which have no data, with a recorder in place of
every kernel: no GPU is needed and nothing is estimated. A launch moves each array that it reads or
writes once; a library call its tensor arguments and results, but not the passes inside a sort.
Counted is the raw operator: drawing directions, normalising weights and the product with the
cotangent in backward come on top.
"""

import contextlib
import math
import sys
from typing import NamedTuple
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from otkernels.kernels import cells, match, matmul, mmd, rows, sliced, split

from . import cases
from .case import MODES
from .pages import page

MODULES = (cells, match, matmul, mmd, rows, split)
MODE = "forward_backward"
# Calls of the library that only allocate.
_ALLOCATE = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"}


class Launch(NamedTuple):
    """One launch of a Triton kernel, or one call of the library that reads or writes memory."""

    name: str
    triton: bool
    bytes: int


# --- bytes of the kernels -----------------------------------------------------------------------


def _matmul(k):
    return _size(k["a_ptr"]) + _size(k["b_ptr"]) + (1 + k["ACCUMULATE"]) * _size(k["out_ptr"])


def _match(k):
    sides = (1 + k["NEED_U"]) * _size(k["u_ptr"]) + (1 + k["NEED_V"]) * _size(k["v_ptr"])
    return sides + _size(k["part_ptr"])


def _sort_run(k):
    keys = (1 + k["PAYLOAD"]) * _size(k["key_ptr"])
    return _size(k["x_ptr"]) + keys + k["COUNTED"] * _size(k["count_ptr"])


def _merge(k):
    return 2 * (1 + k["PAYLOAD"]) * _size(k["key_ptr"])


def _merge_match(k):
    total = _size(k["part_ptr"])
    for side, need in (("u", k["NEED_U"]), ("v", k["NEED_V"])):
        # Of the positions, int32, as many as there are slopes, float32.
        total += _size(k[f"key_{side}_ptr"]) + 2 * need * _size(k[f"{side}_ptr"])
    return total


def _rank_match(k):
    total = _size(k["part_ptr"])
    for side, need in (("u", k["NEED_U"]), ("v", k["NEED_V"])):
        with_gradient = _size(k[f"position_{side}_ptr"]) + _size(k[f"{side}_ptr"])
        total += _size(k[f"sorted_{side}_ptr"]) + need * with_gradient
    return total


def _cells(k):
    u, v, n = k["u_ptr"], k["v_ptr"], k["n"]
    total = len(u) * n * u.itemsize + len(v) * k["m"] * v.itemsize
    if k["COUNTED"]:
        total += _size(k["count_u_ptr"]) + _size(k["count_v_ptr"])
    if k["LEVELS"]:
        total += _size(k["levels_u_ptr"]) + _size(k["levels_v_ptr"])
    if k["SLOPE"]:
        total += len(u) * n * k["from_u_ptr"].itemsize + _size(k["slope_ptr"])
    return total + k["COST"] * _size(k["part_ptr"])


def _levels(k):
    positions = len(k["level_ptr"]) * k["n"] * k["position_ptr"].itemsize
    # Levels are written, read, and written again divided by the last: the second time in cache.
    return _size(k["mass_ptr"]) + positions + 2 * _size(k["level_ptr"])


def _potential(k):
    u, v = k["u_ptr"], k["v_ptr"]
    values = len(u) * (k["n"] * (u.itemsize + k["from_u_ptr"].itemsize) + k["m"] * v.itemsize)
    return values + sum(_size(k[f"{name}_ptr"]) for name in ("levels_u", "levels_v", "potential"))


def _extent(k):
    return _points(k) + _size(k["mass_ptr"]) + _size(k["extent_ptr"])


def _split(k):
    written = (1 + k["SPLIT"]) * _size(k["high_ptr"])
    others = sum(_size(k[f"{name}_ptr"]) for name in ("extent", "norm", "delta", "unit"))
    return _points(k) + written + others


def _points(k):
    """The points of both clouds, without their padding."""
    return len(k["z_ptr"]) * (k["n"] + k["m"]) * k["d"] * k["z_ptr"].itemsize


def _walked(k):
    """Points that one launch of a walk reads: its rows, and the columns between the clouds."""
    in_y = k["first_row"] > 0
    across = k["walks"] >> (2 * in_y + 1) & 1
    blocks = -(-(k["n"] if in_y else k["m"]) // k["BLOCK_N"])
    return k["blocks"] * k["BLOCK_M"], across * blocks * k["BLOCK_N"]


def _walk(k):
    """What every walk moves besides points: masses, rates, two coefficients, its results."""
    batch, own, other = len(k["mass_ptr"]), *_walked(k)
    results = 2 * own * k["shares"] * k["part_ptr"].itemsize
    scalars = _size(k["rate_ptr"]) + batch * 2 * k["coefficient_ptr"].itemsize
    size = k["m"] if k["first_row"] > 0 else k["n"]
    own_masses = own if k["GRAD"] else -(-size // k["BLOCK_N"]) * k["BLOCK_N"]
    masses = batch * (own_masses + other) * k["mass_ptr"].itemsize
    return batch * results + scalars + masses + k["GRAD"] * _size(k["grad_ptr"])


def _products(k):
    batch, own, other = len(k["mass_ptr"]), *_walked(k)
    width = -(-k["d"] // k["BLOCK_D"]) * k["BLOCK_D"]
    points = (own + other) * width * k["high_ptr"].itemsize * (1 + k["SPLIT"])
    numbers = (2 * own + other + 1 + k["GRAD"] * width) * k["norm_ptr"].itemsize
    return _walk(k) + batch * (points + numbers) + _size(k["near_ptr"])


def _differences(k):
    return _walk(k) + len(k["z_ptr"]) * sum(_walked(k)) * k["d"] * k["z_ptr"].itemsize


def _near(k):
    # The tiles that it takes again depend on the points, so only those it looks for are counted.
    return _size(k["near_ptr"])


def _totals(k):
    each = 8 * len(k["mass_ptr"])
    read = each * ((1 + 2 * k["shares"] + k["POTENTIAL"]) * k["rows"] + 3)
    return read + each * 4


BYTES = {
    "_extent_kernel": _extent,
    "_split_kernel": _split,
    "_products_kernel": _products,
    "_differences_kernel": _differences,
    "_near_kernel": _near,
    "_totals_kernel": _totals,
    "_matmul_kernel": _matmul,
    "_match_kernel": _match,
    "_sort_run_kernel": _sort_run,
    "_merge_kernel": _merge,
    "_merge_match_kernel": _merge_match,
    "_rank_match_kernel": _rank_match,
    "_cells_kernel": _cells,
    "_levels_kernel": _levels,
    "_potential_kernel": _potential,
}


def _size(tensor):
    """Bytes of the elements of a tensor, those that a broadcast repeats counted once."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.itemsize * math.prod(size for size, stride in pairs if stride != 0)


# --- the recorder -------------------------------------------------------------------------------


def record(call, execute=False):
    """The ``Launch`` of everything that ``call()`` launches, in order.

    Without ``execute`` kernels do not run, and tensors may be on the meta device.
    """
    found = []
    with contextlib.ExitStack() as stack:
        for module in MODULES:
            for name in [name for name in vars(module) if name.endswith("_kernel")]:
                kernel = _Recorder(getattr(module, name), name, found, execute)
                stack.enter_context(mock.patch.object(module, name, kernel))
        stack.enter_context(_Library(found))
        call()
    return found


class _Recorder:
    """Stands in for a Triton kernel."""

    def __init__(self, kernel, name, found, execute):
        self.kernel, self.name, self.found, self.execute = kernel, name, found, execute

    def __getitem__(self, grid):
        def launch(*args, **options):
            arguments = dict(zip(self.kernel.arg_names, args, strict=False)) | options
            self.found.append(Launch(self.name, True, BYTES[self.name](arguments)))
            if self.execute:
                with torch.utils._python_dispatch._disable_current_modes():
                    self.kernel[grid](*args, **options)

        return launch


class _Library(TorchDispatchMode):
    """Notes every operator of torch that is neither a view nor an allocation."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        name = op._schema.name.removeprefix("aten::")
        if not op.is_view and name not in _ALLOCATE:
            given = [*args, *(kwargs or {}).values()]
            results = result if isinstance(result, tuple) else (result,)
            moved = sum(_size(t) for t in (*_flat(given), *results))
            self.found.append(Launch(name, False, moved))
        return result


def _flat(values):
    """The tensors among some arguments, which may be lists of them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _flat(value)


# --- calls of the launchers ---------------------------------------------------------------------


def launcher(family, inputs, mode=MODE):
    """A function without arguments: the raw operator as the public function of a family calls it.

    Directions are broadcast, weights float64 masses and lengths counts, as they are there.
    """
    needs = [name in MODES[mode] for name in family.clouds]
    clouds, (projections, *rest) = inputs[: len(needs)], inputs[len(needs) :]
    *batch, n, _ = clouds[0].shape
    projections = projections.expand(*batch, -1, -1)
    if family.op == "sliced_wasserstein_to_normal":
        target = clouds[0].new_empty(n).expand(*batch, n)
        return lambda: sliced.to_normal(*clouds, projections, target, None, [*needs, False])
    measures = (None, None, None, None)
    if family.op.endswith("-weights"):
        measures = (*(t.double() for t in rest), None, None)
    elif family.op.endswith("-ragged"):
        measures = (None, None, *rest)
    return lambda: sliced.sliced(*clouds, projections, *measures, 2.0, [*needs] + [False] * 3)


def chunks(shape):
    """How many chunks of directions a call takes."""
    longest = max(shape.N, shape.M or 0)
    step = sliced.directions_per_chunk(shape.B, longest, torch.float32)
    return -(-shape.L // step)


def rows_of_table():
    """For every shape of a sliced family on a GPU: chunks, launches, library calls, megabytes."""
    for family in cases.FAMILIES:
        if not family.op.startswith("sliced"):
            continue
        for shape in family.shapes["cuda"]:
            inputs = [t.to("meta") for t in family.inputs(shape)]
            found = record(launcher(family, inputs))
            own = [launch for launch in found if launch.triton]
            library = [launch for launch in found if not launch.triton]
            parts = (found, own)
            yield [
                f"`{family.op}` {shape.name}",
                str(chunks(shape)),
                str(len(own)),
                str(len(library)),
                *(_megabytes(sum(launch.bytes for launch in part)) for part in parts),
                _megabytes(family.bytes(shape, 1, 4)),
            ]


def _megabytes(size):
    return f"{size / 1e6:.3g}" if size < 1e9 else f"{size / 1e6:.0f}"


def main():
    """Print the table in Markdown."""
    head = ["value and gradient to x, float32", "chunks", "Triton launches", "library calls"]
    print(page.table([*head, "MB", "of these Triton", "MB at least"], rows_of_table()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
