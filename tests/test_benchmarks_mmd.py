import dataclasses
import subprocess
import sys

import pytest
import torch

import otkernels
from benchmarks import cases, memory, records
from benchmarks.case import Provider
from benchmarks.families import bandwidths, energy, kernel_reference, mmd
from benchmarks.measure import Call, check
from benchmarks.pages import report
from benchmarks.studies import accuracy, growth, mmd_memory

BOTH = "forward_backward_both"
FACTS = {"dirty": False, "device": "cpu", "device_name": "a CPU", "threads": 1, "run": "1"}
FACTS |= {"time": "2030-01-02T00:00:00", "commit": "abc", "driver": None, "missing": None}
FACTS |= dict.fromkeys(("python", "torch", "triton", "numpy", "pot", "simd"), "1")
FACTS |= {"mode": "forward_backward", "clock": "wall", "geomloss": "0", "pykeops": "0"}
FACTS |= {"error_value": 1e-7, "error_grad": 1e-6, "peak_bytes": None}


# --- the reference ------------------------------------------------------------------------------


def definition(kernel, **options):
    """The library's definition, whose distances are sums of squared differences."""
    return lambda x, y: otkernels.mmd(x, y, kernel=kernel, impl="torch", **options)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("rows", [64, 4])
@pytest.mark.parametrize("shape", mmd.SMOKE, ids=lambda shape: shape.name)
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "imq", "energy"])
def test_reference_in_blocks_is_the_definition(kernel, shape, rows, unbiased, monkeypatch):
    monkeypatch.setattr(kernel_reference, "ROWS", rows)
    monkeypatch.setattr(kernel_reference, "BLOCK", 1)
    given, scales = ({}, (None,)) if kernel == "energy" else ({"bandwidth": (1.0, 3.0)}, (1.0, 3.0))
    inputs = [t.double() for t in mmd.inputs(shape)]
    profile = getattr(kernel_reference, kernel)
    expected = kernel_reference.expect(*inputs, profile, scales, unbiased)
    for option in (False, True):
        call = Call(definition(kernel, unbiased=option, **given), inputs, BOTH)
        errors = check(call, expected)
        assert errors.ok is (option is unbiased)
        assert errors.bound_grad < 1e-12


def test_reference_where_points_coincide():
    x = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    expected = kernel_reference.expect(x, x[:2] + 3, kernel_reference.energy)
    assert expected.value == pytest.approx(2 * 2 - 4 / 3)
    # Each of two points at 0 is 3 away from one of three points x, and from both points y.
    torch.testing.assert_close(expected.grads[0][:2, 0], torch.full((2,), 2 / 9 - 2 / 3).double())
    assert expected.grads[0][2] == pytest.approx(-4 / 9)


# --- families -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [mmd.FAMILY, energy.FAMILY, bandwidths.WAE], ids=lambda f: f.op)
@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_gate_refuses_a_value_that_is_off_by_a_thousandth(family, factor):
    """The conditions, and what peers add, do not hide it."""
    for shape in (*mmd.SMOKE, mmd.WAE_BATCHES[0]):
        inputs = family.inputs(shape)
        expected = family.expect(*inputs)
        for provider in family.providers:
            if provider.name in ("otkernels", "geomloss"):
                function = provider.make()
                wrong = Call(lambda x, y, f=function: factor * f(x, y), inputs, "forward")
                assert not check(wrong, expected, provider.own_error(shape)).ok


def test_providers_are_left_out_where_they_do_not_fit():
    (case,) = cases.select("cpu", "^mmd/B1-N40000.*/forward$")
    assert [p.name for p in case.family.providers] == ["otkernels"]
    (case,) = cases.select("cpu", "^mmd/B1-N4096.*/forward$")
    assert {p.name for p in mmd.PROVIDERS} - {p.name for p in case.family.providers} == {
        "definition"
    }
    for provider in mmd.PROVIDERS:
        assert all(provider.left_out("smoke", shape) is None for shape in mmd.SMOKE)


def test_keops_is_missing_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pykeops", None)
    with pytest.raises(ImportError):
        mmd.geomloss("gaussian", "online")


# --- report -------------------------------------------------------------------------------------


def record(op, shape, provider, ms):
    sizes = {letter: getattr(shape, letter) for letter in "BNMDL"}
    return FACTS | sizes | {"op": op, "shape": shape.name, "provider": provider, "ms_p50": ms}


@pytest.mark.parametrize(("ms", "ratio"), [(2.2, "1.05"), (2.4, "**0.958**")])
def test_report_reads_the_cost_of_more_bandwidths(ms, ratio):
    shape = bandwidths.SHAPES["cpu"][0]
    times = {"otkernels": ms, "one": 1.0, "torch": 1.5}
    lines = [record("mmd-bandwidths", shape, name, time) for name, time in times.items()]
    text = report.text(lines)
    assert f"{shape.name}: time over that of one | wall | ≤ 2.3× | {ms}× | {ratio} |" in text
    assert f"wall time: {shape.name} (torch {1.5 / ms:.3g}×)\n" in text
    assert "#### `mmd-bandwidths`\n" in text
    assert "GeomLoss 0, KeOps 0; commit abc" in text


def test_report_says_what_was_left_out():
    text = report.text([record("mmd", mmd.SHAPES["cpu"][-1], "otkernels", 1.0)])
    assert "- geomloss: left out, would hold several arrays of 6.4 GB (B1-N40000-D64)\n" in text


# --- error against offset -----------------------------------------------------------------------


@pytest.fixture
def page(tmp_path):
    doc = tmp_path / "page.md"
    blocks = ("accuracy-cpu", "mmd-memory")
    doc.write_text("".join(f"<!-- {b}: begin -->\n<!-- {b}: end -->\n" for b in blocks))
    return doc


@pytest.fixture
def places(page, tmp_path):
    figure, found = tmp_path / "figure.png", tmp_path / "found.jsonl"
    return ["--records", str(found), "--figure", str(figure), "--doc", str(page), "--allow-dirty"]


def test_accuracy_measures_draws_and_writes(places, page, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "POINTS", 24)
    monkeypatch.setattr(accuracy, "OFFSETS", (0, 1000))
    threads = torch.get_num_threads()
    try:
        assert accuracy.main([*places, "--draws", "2"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    found = {
        (li["kernel"], li["offset"], li["provider"]): li
        for li in records.read([tmp_path / "found.jsonl"])
    }
    assert len(found) == 3 * 2 * 3
    for kernel in accuracy.KERNELS:
        ours, peer = (found[kernel, 1000, name] for name in ("otkernels", "geomloss"))
        assert ours["grad_largest"] < 1e-3 * peer["grad_median"]
        assert ours["value_median"] <= ours["value_largest"]
    text = page.read_text()
    assert "![error against offset](figures/figure.png)" in text
    assert text.count("| energy |") == 2
    assert accuracy.main([*places, "--plot"]) == 0
    assert page.read_text() == text


def test_accuracy_notices_an_error(monkeypatch):
    monkeypatch.setattr(accuracy, "POINTS", 24)
    exact = accuracy.PROVIDERS["otkernels"]
    wrong = {"wrong": lambda kernel: lambda x, y: 1.01 * exact(kernel)(x, y)}
    monkeypatch.setattr(accuracy, "PROVIDERS", wrong)
    (line,) = accuracy.errors("gaussian", 10, "cpu", 1)
    assert line["value_median"] == pytest.approx(0.01, rel=1e-3)
    assert line["grad_median"] == pytest.approx(0.01, rel=1e-3)


# --- memory against N ---------------------------------------------------------------------------


def test_memory_measures_draws_and_writes(places, page, tmp_path, monkeypatch):
    peak = memory.Peak(imports=10**6, inputs=3 * 10**6, total=8 * 10**6)
    monkeypatch.setattr(memory, "peak_cpu", lambda shapes, case, provider: peak)
    assert mmd_memory.main([*places, "--smoke"]) == 0
    lines = records.read([tmp_path / "found.jsonl"])
    assert {line["provider"] for line in lines} == set(mmd_memory.PROVIDERS)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "| 32 | 5.0 | 5.0 | 5.0 | 5.0 |" in page.read_text()
    assert "N = 40000: not measured" in page.read_text()


@pytest.mark.parametrize(("megabytes", "verdict"), [(199, "met"), (200, "**missed**")])
def test_memory_says_whether_the_goal_is_met(megabytes, verdict):
    line = record("mmd", mmd.SHAPES["memory"][-1], "otkernels", None) | {"N": 40000, "D": 64}
    line |= {"inputs_bytes": 10**8, "total_bytes": 10**8 + megabytes * 10**6}
    assert f"at N = 40000: {verdict}, with {megabytes} MB" in mmd_memory.text([line])


def test_memory_of_a_peer_that_cannot_run_is_left_out_and_ours_is_not(monkeypatch, tmp_path):
    def fails(shapes, case, provider):
        raise subprocess.CalledProcessError(1, "command", stderr="no compiler")

    monkeypatch.setattr(memory, "peak_cpu", fails)
    (case, *_) = mmd_memory.chosen("smoke")
    for ours in (False, True):
        provider = Provider("any", "", lambda: None, ours=ours)
        family = dataclasses.replace(case.family, providers=(provider,))
        wanted = [dataclasses.replace(case, family=family)]
        if ours:
            with pytest.raises(subprocess.CalledProcessError):
                growth.peaks("smoke", tmp_path / "found.jsonl", wanted)
        else:
            growth.peaks("smoke", tmp_path / "found.jsonl", wanted)
    assert not (tmp_path / "found.jsonl").exists()


def test_memory_shapes_reach_the_goal_and_every_peer_has_some():
    largest = mmd_memory.chosen("memory")[-1]
    assert largest.shape.N == mmd_memory.LIMIT_N
    assert [p.name for p in largest.family.providers] == ["otkernels"]
    assert {p.name for p in mmd_memory.chosen("memory")[0].family.providers} == set(
        mmd_memory.PROVIDERS
    )


def test_memory_refuses_in_one_line(places, capsys):
    assert mmd_memory.main(["--smoke"]) == 2
    assert mmd_memory.main([*places, "--plot"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--smoke needs --records" in first
    assert "found.jsonl" in second
