import importlib
import itertools
import math
import os
import time

import pytest
import torch

from benchmarks import clocks, records
from benchmarks.tune import __main__ as tune
from benchmarks.tune import timing
from benchmarks.tune.choices import Call, Choice, Name, Smoke, Table, choices
from benchmarks.tune.launched import Launch, costs, recorded
from benchmarks.tune.problems import CALLS, case
from benchmarks.tune.tables import TABLES
from benchmarks.tune.workers import Done, Workers

# Where the values of a table are to be found among the constants of one launch, in their order.
TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps")
REACHED = {
    "mmd: tile of pairs": ("BLOCK_M", "BLOCK_N", "BLOCK_D", "num_warps", "ROWS"),
    "mmd: registers": ("maxnreg",),
    "mmd: potentials added at a time": ("BLOCK",),
    "split: coordinates at a time and programs of a cloud": ("COLUMNS",),
    "sort: threads of a row": ("LOG", "THREADS"),
    "sort: registers of 512 threads": ("num_warps", "maxnreg"),
    "match: ranks of a program": ("BLOCK",),
    "matmul: tile of the projection": TILE,
    "matmul: tile of the gradient": TILE,
    "cells: ranks of a program": ("BLOCK",),
    "cells: masses added at a time": ("BLOCK",),
    "factor: steps and warps": ("TILE", None, "num_warps"),
    "factor: singular matrices of many rows": ("TILE", "INNER", "num_warps"),
    "polar: tile and warps": ("TILE", "SIZE", "num_warps"),
    "polar: tile of start and value": ("BLOCK", "num_warps"),
    "polar_double: tile of the float64 products, gradients included": ("BLOCK", "num_warps"),
    "products: tile, float32": TILE,
    "products: tile of symmetric results, float32": TILE,
    "products: tile, float64": TILE,
    "products: registers of symmetric tiles": ("maxnreg",),
    "moments: tile": ("SIDE", "BLOCK", "num_warps"),
    "moments: registers": ("maxnreg",),
}
# Of the others, launches must differ: by kernels, by their number or by their programs.
OTHERS = {
    "sort: one program, two runs or the library",
    "sliced: bytes of a chunk",
    "sliced: bytes of a chunk that the library sorts",
    "factor: one program or the library",
    "factor: rows in registers",
    "polar: rows from which halves are multiplied",
    "polar: one program or batched products",
    "polar_double: programs at a time, gradients included",
    "mmd: shares of the columns",
    "mmd: dimensions taken by differences",
    "moments: shares of the points",
}


def launches(choice, candidate):
    """What a candidate would launch; nothing runs."""
    op, shape = choice.case.family.op, choice.case.shape
    inputs = timing._inputs(op, shape, "cpu")
    with recorded(execute=False) as found:
        Call(choice, candidate, CALLS[op], inputs)()
    return found


def small(choice):
    """Whether the launchers of a real case take little time on a CPU."""
    shape = choice.case.shape
    if shape.N is None:
        return shape.B * shape.D**2 <= 2**20 and shape.D <= 64
    return shape.B * shape.N * max(shape.D, shape.L or 0) <= 2**22


def flat(values):
    for value in values:
        if isinstance(value, dict):
            yield from value.items()
        elif isinstance(value, tuple):
            yield from value
        else:
            yield value


def holds(launch, names, values):
    """Whether the constants of a launch are these values; of launch options, just these."""
    values = list(flat(values))
    if "maxnreg" in names:
        return {n: launch.arguments[n] for n in names if n in launch.arguments} == dict(values)
    pairs = zip(names, values, strict=False)
    return all(name is None or launch.arguments.get(name) == value for name, value in pairs)


def test_every_table_is_looked_into():
    assert {table.name for table in TABLES} == set(REACHED) | OTHERS
    assert len({choice.name for choice in choices(TABLES)}) == len(choices(TABLES))


EVERY = [*choices(TABLES, smoke=True), *filter(small, choices(TABLES))]


@pytest.mark.parametrize("choice", EVERY, ids=lambda choice: choice.name)
def test_candidates_reach_the_launches(choice):
    every = choice.candidates()
    assert [candidate.chosen for candidate in every] == [True] + [False] * (len(every) - 1)
    assert len(every) > 1
    found = {candidate.label: launches(choice, candidate) for candidate in every}
    for one, two in itertools.combinations(found, 2):
        assert not timing._same(found[one], found[two]), f"{one} launches what {two} does"
    names = REACHED.get(choice.table.name)
    for candidate in every if names else ():
        of_it = found[candidate.label]
        assert any(holds(launch, names, candidate.values) for launch in of_it), candidate.label


def test_a_name_is_patched_wherever_it_is():
    """What another module has imported by name would go on as before."""
    kernels = {
        path.stem: importlib.import_module(f"otkernels.kernels.{path.stem}")
        for path in (records.ROOT / "otkernels" / "kernels").glob("[a-z]*.py")
    }
    for choice in choices(TABLES):
        for name in choice.table.names(choice.case.shape):
            own = getattr(name.modules[0], name.attribute)
            assert all(getattr(module, name.attribute) is own for module in name.modules)
            if callable(own):
                holders = {m for m in kernels.values() if getattr(m, name.attribute, None) is own}
                assert holders == set(name.modules), name.attribute


# --- one choice ---------------------------------------------------------------------------------


class Skipped:
    """Stands in for a kernel and leaves its results unwritten."""

    arg_names = ()

    def __getitem__(self, grid):
        return lambda *args, **options: None


def broken(name, *values):
    """The choice of a table of one name, on a tiny case."""
    tiny = case("mmd", 1, 9, 2, mode="forward")
    if name.modules[0].__name__.endswith("rows"):
        tiny = case("sliced_wasserstein", 1, 9, 2, 1, mode="forward")
    smoke = Smoke(tiny, values[0])
    return Choice(
        Table("broken", lambda shape: (name,), lambda shape: values, (tiny,), smoke), tiny
    )


def tuned(name, *values, failures=None):
    return timing.Tuning(broken(name, *values), "cpu", failures, smoke=True).lines()


def kernels(name):
    return importlib.import_module(f"otkernels.kernels.{name}")


def test_good_and_bad_candidates_are_told_apart():
    summed = Name("SUMMED", (kernels("mmd"),))
    lines = tuned(
        summed,
        (64,),
        (3,),
        (32,),
        failures={("broken mmd/B1-N9-D2/forward", "SUMMED = 32"): "late"},
    )
    assert [line["candidate"] for line in lines] == [f"SUMMED = {n}" for n in (256, 64, 3, 32)]
    assert [line["chosen"] for line in lines] == [True, False, False, False]
    for line in lines[:2]:
        assert line["remark"] is None
        assert 0 < line["ms_p20"] <= line["ms"] <= line["ms_p80"]
        assert line["error_value"] < 1e-6
        assert line["clock"] == "wall"
    assert lines[2]["remark"].startswith("does not run: ")
    assert lines[3]["remark"] == "late"
    assert lines[2]["ms"] is None
    assert lines[3]["ms"] is None


def test_a_wrong_candidate_is_not_timed():
    lines = tuned(Name("_totals_kernel", (kernels("mmd"),)), (Skipped(),))
    assert lines[0]["ms"] > 0
    assert lines[1]["ms"] is None
    assert lines[1]["remark"].startswith("WRONG: Errors(value=nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (Name("LONG", (kernels("products"),)), 1),
        # match has imported it by name, so a patch of rows alone is none.
        (Name("sort_config", (kernels("rows"),), (9,)), (5, 16)),
    ],
    ids=["elsewhere", "half"],
)
def test_a_patch_that_does_nothing_is_named(name, value):
    lines = tuned(name, (value,))
    assert lines[0]["ms"] > 0
    assert lines[1]["ms"] is None
    assert lines[1]["remark"] == f"launches the same as {lines[0]['candidate']}"


def test_costs_are_those_of_what_differs():
    def launch(block, spills):
        metadata = type("Metadata", (), {"shared": 10 * spills})
        compiled = type("Compiled", (), {"n_regs": 7, "n_spills": spills, "metadata": metadata})
        return Launch("k", (1,), {"BLOCK": block}, compiled)

    chosen = [launch(1, 5), launch(2, 1)]
    other = [launch(1, 5), launch(4, 2), launch(4, 3)]
    assert costs(other, chosen) == {"registers": 7, "spills": 3, "shared": 30}
    assert costs(chosen, []) == {"registers": 7, "spills": 5, "shared": 50}
    assert set(costs([Launch("k", (1,), {})], []).values()) == {None}


def line(candidate, ms, remark=None, **fields):
    named = {"table": "t", "op": "mmd", "shape": "N9", "candidate": candidate}
    return named | {"ms": ms, "remark": remark} | fields


def test_summary_says_what_to_do():
    lines = [line("a", 1.0), line("b", 0.98), line("c", None, "WRONG")]
    assert timing.summary(lines).endswith("ratio 0.98: keep; 1 of 3 not timed")
    assert timing.summary([line("a", 1.0), line("b", 0.5)]).endswith("ratio 0.50: try b")
    assert "what is chosen (a): WRONG" in timing.summary([line("a", None, "WRONG"), line("b", 1)])


# --- the command line ---------------------------------------------------------------------------

ONE = ["--device", "cpu", "--smoke", "--only", "^moments: (registers|tile)"]


def test_lines_are_written_and_continued(tmp_path, capsys):
    out = tmp_path / "tune.jsonl"
    arguments = [*ONE, "--out", str(out), "--continue"]
    assert tune.main(arguments) == 0
    printed = capsys.readouterr().out
    lines = records.read([out])
    assert [line["table"] for line in lines] == ["moments: tile"] * 2 + ["moments: registers"] * 2
    assert printed.count("ratio") == 2
    for name in ("device_name", "torch", "triton", "source", "commit", "dirty", "run", "time"):
        assert name in lines[0]
    text = out.read_text()
    out.write_text(text[:-9])  # as if it was cut off
    assert tune.main(arguments) == 0
    assert "moments: tile" not in capsys.readouterr().out
    lines = records.read([out])
    assert len(lines) == 5  # the second choice again, as one of its lines was missing
    assert tune.main(arguments) == 0
    assert records.read([out]) == lines
    changed = [line | {"source": "other"} for line in lines]
    out.unlink()
    records.append(out, changed)
    wanted = timing.select(smoke=True, only=ONE[-1])
    assert timing.unfinished(wanted, out, "cpu") == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "--device cpu needs --smoke"),
        ([*ONE, "--continue"], "--continue needs --out"),
        ([*ONE[:-1], "nothing"], "no choice matches 'nothing'"),
        ([*ONE[:-1], "("], "--only must be a regular expression"),
    ],
)
def test_tune_refuses_in_one_line(options, message, capsys):
    assert tune.main(options) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert message in printed


def test_tune_stops_in_time_and_fails_where_the_present_is_wrong(monkeypatch, capsys, tmp_path):
    out = tmp_path / "tune.jsonl"
    assert tune.main([*ONE, "--minutes", "0", "--out", str(out)]) == 0
    assert "stopped before moments: tile" in capsys.readouterr().out
    assert not out.exists()
    monkeypatch.setattr(kernels("moments"), "_products_kernel", Skipped())
    assert tune.main([*ONE, "--out", str(out)]) == 1
    assert "wrong or does not run as chosen: moments: tile" in capsys.readouterr().err
    assert records.read([out])[0]["remark"].startswith("WRONG")
    wanted = timing.select(smoke=True, only=ONE[-1])
    assert timing.unfinished(wanted, out, "cpu") == wanted  # to be tried again


# --- processes that compile ---------------------------------------------------------------------


def test_a_process_compiles_beforehand(tmp_path, capsys):
    out = tmp_path / "tune.jsonl"
    assert tune.main([*ONE[:-1], "moments: registers", "--workers", "1", "--out", str(out)]) == 0
    assert [line["remark"] for line in records.read([out])] == [None, None]


def test_jobs_that_fail_or_hang_harm_no_other():
    jobs = [(0,), ("x",), (60,), (0.01,)]
    with Workers(time.sleep, 2, limit=1) as pool:
        done = {each.job: each.error for each in pool.run(jobs)}
        assert done == {
            (0,): None,
            ("x",): "TypeError: 'str' object cannot be interpreted as an integer",
            (60,): "does not compile within 1 s",
            (0.01,): None,
        }
        assert [each.error for each in pool.run([(0,)])] == [None]
        start = time.monotonic()
        assert list(pool.run([(60,), (60,), (60,)], seconds=0.2)) == []
        assert time.monotonic() - start < 30


def test_a_process_that_dies_is_a_result():
    with Workers(os._exit, 1, limit=60) as pool:
        assert [each.error for each in pool.run([(1,)])] == ["its process died"]


def test_failures_are_of_their_candidate():
    """What a process says of a candidate is its remark, and the others are timed."""
    choice = timing.select(smoke=True, only="^moments: registers")[0]
    label = choice.candidates()[1].label

    class Pool:
        def run(self, jobs, seconds):
            for job in jobs:
                yield Done(job, "late" if job[1] == label else None)

    failures = timing._compile(Pool(), [choice], "cpu", math.inf)
    assert failures == {(choice.name, label): "late"}
    lines = timing.Tuning(choice, "cpu", failures, smoke=True).lines()
    assert [line["remark"] for line in lines] == [None, "late"]
    assert lines[0]["ms"] > 0


def test_a_graph_that_cannot_be_captured_is_timed_by_events(monkeypatch):
    """On a GPU: graphs where the present one can be captured, events of eager calls otherwise."""

    class Cuda:
        def graph(self, call):
            call()
            return {"graph": 1.0}

        def eager(self, call):
            call()
            return {"wall": 3.0, "events": 2.0}

    def refuse(call, pool):
        if call.candidate.chosen:
            raise RuntimeError("waits for the device")
        return call

    choice = timing.select(smoke=True, only="^moments: registers")[0]
    monkeypatch.setattr(clocks, "Cuda", Cuda)
    monkeypatch.setattr(clocks, "graph_pool", lambda: None)
    for capture, clock, ms in ((lambda call, pool: call, "graph", 1.0), (refuse, "events", 2.0)):
        monkeypatch.setattr(clocks, "Captured", capture)
        tuning = timing.Tuning(choice, "cpu", smoke=True)
        tuning.device = "cuda"
        lines = tuning.lines()
        assert [line["clock"] for line in lines] == [clock] * 2
        assert [line["ms"] for line in lines] == [ms] * 2


def test_singular_gradients_are_those_of_the_definition():
    from benchmarks.families import bures
    from benchmarks.tune import singular

    (shape,) = singular.FAMILY.shapes["smoke"]
    inputs = [t.double() for t in singular.inputs(shape)]
    x = inputs[0].requires_grad_()
    found = singular.expect(*inputs)
    value = bures._definition(*inputs)
    (grad,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(value, found.value)
    torch.testing.assert_close(grad, found.grads[0])
