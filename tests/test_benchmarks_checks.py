"""The checks of a device: same bits, small calls of every kernel, graphs, torch.compile."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from unittest import mock

import pytest
import torch

from benchmarks import cases, clocks, resume
from benchmarks.case import Provider
from benchmarks.checks import __main__ as checks
from benchmarks.checks import bits, compiled, findings
from benchmarks.families import bures, gaussian, moments, sliced, sqrtm
from benchmarks.guard import AGAIN

GAUSSIAN = (bures.FAMILY, gaussian.FAMILY, sqrtm.FAMILY, moments.FAMILY)


def only(monkeypatch, function, *, family=sliced.FAMILY):
    """Make one family the only one, computed by a function, or by otkernels if None."""
    first = family.providers[0]
    if function is not None:
        first = Provider("otkernels", "", lambda: function)
    monkeypatch.setattr(cases, "FAMILIES", (dataclasses.replace(family, providers=(first,)),))


@pytest.fixture
def check(tmp_path):
    """A function that runs a check on the CPU and returns its exit code and its lines."""
    out = tmp_path / "found.jsonl"

    def run(name, *options):
        code = checks.main([name, "--device", "cpu", "--smoke", "--out", str(out), *options])
        return code, [json.loads(text) for text in out.read_text().splitlines()]

    return run


# --- lines of findings --------------------------------------------------------------------------


def fails():
    raise RuntimeError("no kernel in /home/somebody/kernels/here.py")


def wrong():
    raise findings.Wrong("off")


def refused():
    raise findings.Refused("not here")


def test_every_case_has_a_line_and_one_that_raises_stops_nobody(tmp_path, capsys):
    out = tmp_path / "found.jsonl"
    every = [("fails", fails), ("wrong", wrong), ("refused", refused), ("fine", lambda: None)]
    assert findings.run("repeat", every, out) == 1
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert [list(line) for line in lines] == [["check", "case", "status", "reason", "seconds"]] * 4
    assert {line["check"] for line in lines} == {"repeat"}
    assert [(line["case"], line["status"], line["reason"]) for line in lines] == [
        ("fails", "failed", "RuntimeError: no kernel in .../here.py"),
        ("wrong", "failed", "off"),
        ("refused", "refused", "not here"),
        ("fine", "ok", None),
    ]
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert findings.run("repeat", every[2:], out) == 0
    assert len(out.read_text().splitlines()) == 2


def test_going_on_leaves_out_what_is_known_and_remembers_failures(tmp_path):
    out = tmp_path / "found.jsonl"
    assert findings.run("repeat", [("a", lambda: None), ("b", wrong)], out) == 1
    with out.open("a") as file:
        file.write('{"check": "repeat", "case": "c", "sta')  # cut off
    seen = []
    every = [(name, lambda name=name: seen.append(name)) for name in "abcd"]
    assert findings.run("repeat", every, out, again=True) == 1
    assert seen == ["c", "d"]
    assert [json.loads(text)["case"] for text in out.read_text().splitlines()] == list("abcd")


def test_a_lost_device_ends_the_process_for_the_same_command_to_go_on(tmp_path, monkeypatch):
    lost = []

    def finish_all():
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(resume, "finish_all", finish_all)
    out, every = tmp_path / "found.jsonl", [("a", lambda: lost.append(1)), ("b", lambda: None)]
    assert findings.run("repeat", every, out, again=True) == AGAIN
    (line,) = out.read_text().splitlines()
    assert "illegal memory access" in json.loads(line)["reason"]
    lost.clear()
    assert findings.run("repeat", every, out, again=True) == 1
    assert [json.loads(text)["case"] for text in out.read_text().splitlines()] == ["a", "b"]


def test_a_case_that_hangs_is_a_failure_and_is_not_tried_again(tmp_path):
    out = tmp_path / "found.jsonl"
    script = (
        "import pathlib, sys, time; from benchmarks.checks import findings; findings.LIMIT = 0.2\n"
        "case = 'hangs', lambda: time.sleep(1000)\n"
        "sys.exit(findings.run('repeat', [case], pathlib.Path(sys.argv[1]), again=True))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(out)]).returncode == AGAIN
    assert findings.run("repeat", [("hangs", fails), ("fine", lambda: None)], out, again=True) == 1
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert [(line["case"], line["reason"]) for line in lines] == [
        ("hangs", "did not end in 0.2 s"),
        ("fine", None),
    ]


def test_a_case_that_twice_ends_its_process_is_not_tried_again(tmp_path):
    out = tmp_path / "found.jsonl"
    script = (
        "import os, pathlib, sys; from benchmarks.checks import findings\n"
        "every = [('fine', lambda: None), ('dies', lambda: os._exit(3))]\n"
        "sys.exit(findings.run('repeat', every, pathlib.Path(sys.argv[1]), again=True))"
    )
    codes = [subprocess.run([sys.executable, "-c", script, str(out)]).returncode for _ in "123"]
    assert codes == [3, 3, 1]
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert [(line["case"], line["reason"]) for line in lines] == [
        ("fine", None),
        ("dies", "Unended: dies: ended its process or was cut off, 2 times"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["found.jsonl"]


def test_a_process_that_cannot_go_on_ends_past_destructors(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(findings, "run", lambda *_: AGAIN)
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(KeyboardInterrupt(code)))
    with pytest.raises(KeyboardInterrupt) as end:
        checks.main(["repeat", "--device", "cpu", "--out", str(tmp_path / "found")])
    assert end.value.args == (AGAIN,)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("name", "device", "message"),
    [("repeat", "cuda", "is_available() is False"), ("graph", "cpu", "the CPU has no CUDA graphs")],
)
def test_what_cannot_run_is_said_in_one_line(name, device, message, tmp_path, capsys):
    out = tmp_path / "found.jsonl"
    assert checks.main([name, "--device", device, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


# --- same bits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [sliced.FAMILY, *GAUSSIAN], ids=lambda f: f.op)
def test_repeated_calls_have_the_same_bits(family, check, monkeypatch):
    only(monkeypatch, None, family=family)
    code, lines = check("repeat")
    assert (code, {line["status"] for line in lines}) == (0, {"ok"})
    assert [line["case"] for line in lines] == [case.name for case in cases.select("smoke")]


CALLS = itertools.count()


def off_by(condition):
    """Sliced losses that are twice as large where a condition of the moment holds."""
    return lambda x, y, p: sliced.careful(x, y, p) * (1 + condition())


@pytest.mark.parametrize(
    ("condition", "where"),
    [
        (
            lambda _: next(CALLS),
            "value of a second call has other bits in 1 of 1 numbers",
        ),
        (lambda at_rest: threading.active_count() - at_rest, "value beside other work"),
        (lambda _: torch.empty(1).isnan(), "value on memory full of NaN"),
        (lambda _: float("nan"), "value of a second call"),
    ],
    ids=["noise", "other work", "memory", "NaN"],
)
def test_other_bits_are_noticed(condition, where, check, monkeypatch):
    torch.use_deterministic_algorithms(False)
    at_rest = threading.active_count()
    only(monkeypatch, off_by(lambda: condition(at_rest)))
    code, lines = check("repeat")
    assert (code, {line["status"] for line in lines}) == (1, {"failed"})
    assert lines[0]["reason"].startswith(where)
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_gradients_are_noticed(check, monkeypatch):
    count = iter(range(100))

    def function(x, y, projections):
        value = sliced.careful(x, y, projections)
        return value + (value - value.detach()) * next(count)

    only(monkeypatch, function)
    _, lines = check("repeat")
    found = {line["case"].rpartition("/")[2]: line["reason"] for line in lines}
    assert found["forward"] is None
    assert found["forward_backward"].startswith("first gradient of a second call")


# --- graphs -------------------------------------------------------------------------------------


class Replayed:
    """In place of a CUDA graph: an eager call, or one that is stuck at its first inputs."""

    stuck = False

    def __init__(self, call):
        self.call = call
        call.reset()
        self.value = call()

    def __call__(self):
        if not self.stuck:
            self.call.reset()
            self.value = self.call()
        return self.value


def replays(family, monkeypatch):
    """The findings of the check of graphs, with what stands for graphs."""
    only(monkeypatch, None, family=family)
    return [findings._outcome(case) for _, case in bits.graph("cpu", smoke=True)]


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize("family", GAUSSIAN, ids=lambda f: f.op)
def test_graph_check_replays_on_other_inputs_of_the_same_kind(family, stuck, monkeypatch):
    monkeypatch.setattr(clocks, "Captured", Replayed)
    monkeypatch.setattr(Replayed, "stuck", stuck)
    expected = ("failed", "value of a replay is stuck at the inputs of the capture")
    assert set(replays(family, monkeypatch)) == {expected if stuck else ("ok", None)}


def test_a_call_that_cannot_be_captured_is_refused_with_its_reason(monkeypatch):
    class Waits:
        def __init__(self, call):
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(clocks, "Captured", Waits)
    reason = "no capture: RuntimeError: called a synchronizing CUDA operation"
    assert set(replays(sliced.FAMILY, monkeypatch)) == {("refused", reason)}


def test_a_call_is_warm_before_its_capture(monkeypatch):
    """Its first call compiles kernels and copies tables, which no capture can hold."""
    called = []

    def function(x, y, projections):
        called.append(1)
        return sliced.careful(x, y, projections)

    class Counts(Replayed):
        def __init__(self, call):
            assert called
            super().__init__(call)
            called.clear()

    monkeypatch.setattr(clocks, "Captured", Counts)
    only(monkeypatch, function)
    for _, case in bits.graph("cpu", smoke=True):
        called.clear()
        case()


# --- torch.compile ------------------------------------------------------------------------------


def with_backend(monkeypatch, backend="eager"):
    monkeypatch.setattr(
        compiled.torch, "compile", lambda f, **options: real(f, backend=backend, **options)
    )


real = torch.compile


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_the_first_family_compiles_by_inductor(check):
    code, (line,) = check("compile")
    assert (code, line["case"], line["status"]) == (0, "sliced_wasserstein", "ok"), line


def test_all_families_are_compiled():
    every = compiled.compile("cpu", smoke=False)
    assert [name for name, _ in every] == [family.op for family in cases.FAMILIES]
    assert set(compiled.OPAQUE) < {name for name, _ in every}


@pytest.mark.slow
def test_every_family_compiles_at_two_sizes(monkeypatch):
    with_backend(monkeypatch)
    every = compiled.compile("cpu", smoke=False)
    assert {name: findings._outcome(case) for name, case in every} == {
        name: ("ok", None) for name, _ in every
    }


def graph_break(x, y, projections):
    torch._dynamo.graph_break()
    return sliced.careful(x, y, projections)


def off_if_compiled(x, y, projections):
    """Off by two roundings, which the bound against float64 permits."""
    return sliced.careful(x, y, projections) * (1 + 2**-22 * torch.compiler.is_compiling())


def wrong_if_compiled(x, y, projections):
    return sliced.careful(x, y, projections) * (1 + 0.01 * torch.compiler.is_compiling())


def wrong_at_another_size(x, y, projections):
    return sliced.careful(x, y, projections) * (1 + 0.01 * (x.shape[0] == 67))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (graph_break, "Unsupported: "),
        (wrong_if_compiled, "compiled, B1-N64-D8-L16 is off float64: value by 0.01, bound "),
        (wrong_at_another_size, "compiled, B1-N67-D8-L16 is off float64: value by 0.01, bound "),
        (off_if_compiled, "value compiled, B1-N64-D8-L16 has other bits in 1 of 1 numbers"),
    ],
)
def test_what_compiles_badly_is_noticed(function, reason, check, monkeypatch):
    with_backend(monkeypatch)
    only(monkeypatch, function)
    code, (line,) = check("compile")
    assert (code, line["status"]) == (1, "failed")
    assert line["reason"].startswith(reason)


def test_without_a_compiler_it_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert checks.main(["compile", "--device", "cpu", "--out", str(tmp_path / "found")]) == 2
    assert "needs a C++ compiler, and there is no no-such-compiler" in capsys.readouterr().err


# --- small calls --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_calls():
    pytest.importorskip("triton")
    from benchmarks.checks import small

    return small


def kernels_of(small_calls, calls):
    """Kernels that calls of real sizes launch; they do not run, as the host looks at no result."""
    found = {}
    for call in calls:
        with small_calls.launched(execute=False) as names:
            small_calls.results(call, call.inputs(), "triton")
        found[call.name] = names
    return found


@pytest.mark.skipif(torch.cuda.is_available(), reason="launches nothing, on CPU tensors")
def test_every_kernel_has_a_small_call(small_calls):
    found = kernels_of(small_calls, small_calls.CALLS)
    assert len(found) == len(small_calls.CALLS), "two calls have one name"
    for call in small_calls.CALLS:
        assert set(call.kernels) <= found[call.name], call.name
    named = {kernel for call in small_calls.CALLS for kernel in call.kernels}
    assert named == set(small_calls.every_kernel().values())


def test_kernels_are_found_where_they_are_defined(small_calls):
    """Two modules may call one kernel, and two kernels of two modules may have one name."""
    names = small_calls.every_kernel().values()
    assert {"walks._products_kernel", "moments._products_kernel"} <= set(names)
    assert "mmd._products_kernel" not in names
    assert len(set(names)) == len(names)


def tiny(small_calls, **changes):
    call = next(c for c in small_calls.CALLS if c.name == "mean_cov: one share")
    return dataclasses.replace(call, inputs=lambda: (torch.randn(2, 5, 3).mT,), **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"kernels": ("match._match_kernel",)}, "launches no match._match_kernel"),
        ({"terms": 0, "condition": 1e-9}, "value is off float64 by "),
    ],
    ids=["fine", "another kernel", "bound"],
)
def test_a_small_call_is_checked(changes, reason, small_calls, device):
    call = tiny(small_calls, **changes)
    status, found = findings._outcome(lambda: small_calls.check(call, device.type))
    assert status == ("failed" if reason else "ok")
    assert (found or "").startswith(reason or "")


@pytest.mark.parametrize(("wrong", "what"), [(0, "value"), (1, "gradient 1")])
def test_a_small_call_with_wrong_numbers_fails(wrong, what, small_calls, device, monkeypatch):
    true = small_calls.results

    def results(call, inputs, impl):
        found = list(true(call, inputs, impl))
        if impl == "triton":
            found[wrong] = found[wrong].clone()
            found[wrong].view(-1)[-1] += float("nan") if wrong else 0.01
        return found

    monkeypatch.setattr(small_calls, "results", results)
    with pytest.raises(findings.Wrong, match=f"^{what} is off float64 by"):
        small_calls.check(tiny(small_calls), device.type)


def test_the_check_of_small_calls_writes_a_line_for_each(small_calls, check, monkeypatch):
    monkeypatch.setattr(small_calls, "CALLS", (tiny(small_calls, quick=True),))
    with mock.patch.dict("os.environ"):
        code, (line,) = check("small")
    assert (code, line["check"], line["case"]) == (0, "small", "mean_cov: one share")


@pytest.mark.slow
def test_every_small_call_is_right(small_calls, device):
    for name, call in small_calls.small(device.type, smoke=False):
        assert findings._outcome(call) == ("ok", None), name
