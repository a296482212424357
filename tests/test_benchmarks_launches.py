import itertools

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("counts in the interpreter", allow_module_level=True)

from triton.runtime import interpreter

from benchmarks import cases, launches
from benchmarks.case import Shape
from otkernels.kernels import match, mmd, rows, sliced

FUSED = ["_matmul_kernel", "_matmul_kernel", "_match_kernel", "_matmul_kernel"]


def counted(op, shape, mode="forward_backward", execute=False):
    """What one call launches, on meta tensors or interpreted."""
    family = cases.family(op)
    inputs = family.inputs(shape)
    if not execute:
        inputs = [t.to("meta") for t in inputs]
    return launches.record(launches.launcher(family, inputs, mode), execute)


def names(found):
    return [launch.name for launch in found if launch.triton]


@pytest.fixture
def small(monkeypatch):
    """Limits at which rows of 64 are merged from two runs, and longer ones left to the library."""
    monkeypatch.setattr(match, "FUSED", 32)
    monkeypatch.setattr(match, "MERGED", 64)
    monkeypatch.setattr(rows, "LONGEST_RUN", 32)
    monkeypatch.setattr(rows, "RANKS", 32)


@pytest.fixture
def touched(monkeypatch):
    """For each interpreted launch the bytes at the addresses it reads, and at those it writes."""
    found = []

    def note(kind, pointers, mask):
        size = pointers.get_element_ty().primitive_bitwidth // 8
        found[-1][kind].update((address, size) for address in pointers.data[mask.data].tolist())

    class Builder(interpreter.InterpreterBuilder):
        def create_masked_load(self, pointers, mask, *rest):
            note("read", pointers, mask)
            return super().create_masked_load(pointers, mask, *rest)

        def create_masked_store(self, pointers, value, mask, *rest):
            note("written", pointers, mask)
            return super().create_masked_store(pointers, value, mask, *rest)

    run = interpreter.GridExecutor.__call__

    def launch(self, *args, **options):
        found.append({"read": set(), "written": set()})
        return run(self, *args, **options)

    monkeypatch.setattr(interpreter.interpreter_builder, "__class__", Builder)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch)
    return found


# The paths of the launchers: fused, merged and library sort; cells of runs, merged runs, library.
TINY = [
    ("sliced_wasserstein", Shape(1, 13, 3, 2, "")),
    ("sliced_wasserstein", Shape(2, 64, 3, 1, "")),
    ("sliced_wasserstein", Shape(1, 70, 3, 1, "")),
    ("sliced_wasserstein-unequal", Shape(1, 13, 3, 2, "", 9)),
    ("sliced_wasserstein-unequal", Shape(1, 64, 3, 1, "", 20)),
    ("sliced_wasserstein-weights", Shape(1, 13, 3, 2, "", 9)),
    ("sliced_wasserstein-ragged", Shape(2, 8, 3, 1, "", 6)),
    ("sliced_wasserstein_to_normal", Shape(1, 13, 3, 2, "")),
]


@pytest.mark.parametrize(("op", "shape"), TINY, ids=lambda v: getattr(v, "name", v))
def test_the_count_is_that_of_a_real_call(op, shape, small, touched):
    dry, real = counted(op, shape), counted(op, shape, execute=True)
    assert [launch[:2] for launch in dry] == [launch[:2] for launch in real]
    assert dry == real
    stated = [launch.bytes for launch in real if launch.triton]
    moved = [sum(size for kind in one.values() for _, size in kind) for one in touched]
    if op.endswith("ragged"):  # the statement is of full clouds, the call of some shorter ones
        assert all(m <= s for m, s in zip(moved, stated, strict=True))
        assert sum(moved) > 0.8 * sum(stated)
    else:
        assert moved == stated


def test_gradients_to_masses_are_counted(touched):
    family = cases.family("sliced_wasserstein-weights")
    x, y, theta, a, b = family.inputs(Shape(1, 13, 3, 1, "", 9))
    needs = [False, False, False, True, True]
    found = launches.record(
        lambda: sliced.sliced(x, y, theta, a.double(), b.double(), None, None, 2.0, needs), True
    )
    assert names(found)[-2:] == ["_potential_kernel"] * 2
    stated = [launch.bytes for launch in found if launch.triton]
    moved = [sum(size for kind in one.values() for _, size in kind) for one in touched]
    assert moved[:-2] == stated[:-2]
    # A search reads some of the other side's levels, and of its values those that it finds.
    assert all(0.5 * s < m <= s for m, s in zip(moved[-2:], stated[-2:], strict=True))


@pytest.mark.parametrize("masses", [False, True])
@pytest.mark.parametrize(
    ("d", "kernels"), [(3, ["_differences_kernel"]), (10, ["_products_kernel"])]
)
def test_kernel_sums_are_counted(d, kernels, masses, touched):
    """Rows of x with a gradient, rows of y without, in launches of their own."""
    x, y, rates = torch.randn(2, 65, d), torch.randn(2, 9, d), torch.ones(2, 1)
    needs = [True, False, masses, False, False]
    a = torch.full((2, 65), 1 / 65, dtype=torch.float64) if masses else None
    found = launches.record(
        lambda: mmd.kernel_sums(
            x, y, a, None, None, rates, None, None, "gaussian", [True] * 3, False, needs
        ),
        True,
    )
    prepared = ["_extent_kernel", "_split_kernel"] if d > mmd.DIRECT else []
    assert names(found) == [*prepared, *kernels, *kernels, "_totals_kernel"]
    stated = [launch.bytes for launch in found if launch.triton]
    moved = [sum(size for kind in one.values() for _, size in kind) for one in touched]
    assert moved == stated


def test_both_gradients_and_none(small):
    shape = Shape(1, 13, 3, 2, "", 9)
    every = {
        mode: len(names(counted("sliced_wasserstein-unequal", shape, mode)))
        for mode in ("forward", "forward_backward", "forward_backward_both")
    }
    assert every == {"forward": 5, "forward_backward": 6, "forward_backward_both": 8}


def test_counts_at_real_sizes():
    assert names(counted("sliced_wasserstein", Shape(1, 4096, 64, 128, ""))) == FUSED
    six = names(counted("sliced_wasserstein", Shape(1, 16384, 64, 128, "")))
    assert len(six) == 6
    assert six.count("_sort_run_kernel") == 2
    long = counted("sliced_wasserstein", Shape(1, 65536, 64, 16, ""))
    assert len(names(long)) == 4
    assert [launch.name for launch in long].count("sort") == 2


def test_launches_of_a_call_are_those_of_its_chunks():
    one, many = Shape(1, 4096, 64, 768, ""), Shape(1, 4096, 64, 1024, "")
    assert [launches.chunks(shape) for shape in (one, many)] == [1, 2]
    assert names(counted("sliced_wasserstein", many)) == 2 * FUSED


def test_table_has_a_row_for_each_gpu_shape(monkeypatch):
    family = cases.family("sliced_wasserstein")
    monkeypatch.setattr(cases, "FAMILIES", (family,))
    shapes = family.shapes["cuda"][:2]
    monkeypatch.setitem(family.shapes, "cuda", shapes)
    for row, shape in itertools.zip_longest(launches.rows_of_table(), shapes):
        assert row[0] == f"`sliced_wasserstein` {shape.name}"
        assert row[1:3] == ["1", "4"]
        assert float(row[4]) > float(row[5]) > float(row[6])
