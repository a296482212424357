import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import cases, clocks, gpu, memory, records
from benchmarks.__main__ import _parser, main
from benchmarks.case import Provider, Shape
from benchmarks.checks import __main__ as checks
from benchmarks.families import sliced
from benchmarks.pages import report
from benchmarks.run import run
from benchmarks.studies import growth


@pytest.fixture
def family():
    """Our family with our implementation and careful torch alone: quick, and no compiler."""
    wanted = [p for p in sliced.PROVIDERS if p.name in ("otkernels", "torch")]
    return dataclasses.replace(sliced.FAMILY, providers=tuple(wanted))


@pytest.fixture
def use(monkeypatch):
    """A function that makes one family the only one."""

    def only(family):
        monkeypatch.setattr(cases, "FAMILIES", (family,))

    return only


@pytest.fixture
def clean(family, use, tmp_path):
    """Records of a smoke run as they would be from a committed tree and one thread."""
    use(family)
    run("cpu", pattern="forward_backward$", smoke=True, out=tmp_path / "any.jsonl", seconds=0)
    lines = [
        line | {"dirty": False, "threads": 1} for line in records.read([tmp_path / "any.jsonl"])
    ]
    records.append(tmp_path / "clean.jsonl", lines)
    return tmp_path / "clean.jsonl"


# --- plot and report ----------------------------------------------------------------------------


def test_plot_draws_a_figure(clean, tmp_path, capsys):
    assert main(["plot", "--records", str(clean), "--out", str(tmp_path / "figures")]) == 0
    (path,) = map(Path, capsys.readouterr().out.split())
    assert path.name == "sliced_wasserstein_cpu_wall_forward_backward.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_report_fills_the_markers_and_only_them(clean, tmp_path, capsys):
    doc = tmp_path / "page.md"
    doc.write_text("above\n<!-- records: begin -->\nold\n<!-- records: end -->\nbelow\n")
    arguments = ["report", "--records", str(clean), "--doc", str(doc)]
    assert main(arguments) == 0
    page = doc.read_text()
    assert "](figures/sliced_wasserstein_cpu_wall_forward_backward.png)\n" in page
    assert page.startswith("above\n")
    assert page.endswith("below\n")
    assert "old" not in page
    assert "| B1-N64-D8-L16 |" in page
    assert "Not yet measured on a GPU" in page
    assert main(arguments) == 0
    assert doc.read_text() == page
    doc.write_text("no markers")
    assert main(arguments) == 2
    assert "must hold the lines" in capsys.readouterr().err


def record(provider, ms, **fields):
    facts = {"dirty": False, "device": "cpu", "device_name": "a CPU", "threads": 1, "run": "1"}
    facts |= {"op": "sliced_wasserstein", "mode": "forward_backward", "clock": "wall"}
    facts |= {"time": "2030-01-02T00:00:00", "commit": "abc", "driver": None, "missing": None}
    facts |= dict.fromkeys(("python", "torch", "triton", "numpy", "pot", "simd"), "1")
    facts |= {"shape": "B1-N1024-D64-L128", "error_value": 1e-7, "error_grad": 1e-6}
    return facts | {"provider": provider, "ms_p50": ms, "peak_bytes": None} | fields


def test_report_reads_goals_and_losses_from_the_newest_clean_run():
    lines = [
        *(record("otkernels", 1.0, run="1"), record("pot", 100.0, run="1")),
        *(record("otkernels", 2.0, run="2"), record("pot", 38.0, run="2")),
        record("torch", 1.5, run="2"),
        *(record("otkernels", 0.1, run="3", dirty=True), record("pot", 90.0, run="3", dirty=True)),
    ]
    text = report.text(lines)
    assert "speed over pot | wall | ≥ 18× | 19× | yes |" in text
    assert "speed over torch | wall | ≥ 6× | 0.75× | **no** |" in text
    assert "B1-N1024-D64-L128 forward_backward (wall, torch)" in text
    assert "B1-N4096-D64-L128: speed over pot | wall | ≥ 38× | not measured | – |" in text


# --- growth ---------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path):
    doc = tmp_path / "page.md"
    doc.write_text("above\n<!-- growth: begin -->\n<!-- growth: end -->\nbelow\n")
    return doc


def test_growth_measures_draws_and_writes(use, family, page, tmp_path, monkeypatch, capsys):
    use(family)
    peak = memory.Peak(imports=10**6, inputs=3 * 10**6, total=8 * 10**6)
    monkeypatch.setattr(memory, "peak_cpu", lambda shapes, case, provider: peak)
    arguments = ["growth", "--smoke", "--seconds", "0", "--allow-dirty", "--doc", str(page)]
    assert main([*arguments, "--records", str(tmp_path), "--out", str(tmp_path)]) == 0
    for kind in ("time", "memory"):
        lines = records.read([tmp_path / f"{kind}_cpu.jsonl"])
        assert {line["provider"] for line in lines} == {"otkernels", "torch"}
        assert (tmp_path / f"growth_{kind}_cpu.png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "| 64 | 7.0 | 7.0 | – | 8 |" in text
    assert "N = 1000000: not measured" in text


@pytest.mark.parametrize(("megabytes", "verdict"), [(299, "met"), (300, "**missed**")])
def test_growth_says_whether_the_goal_is_met(megabytes, verdict):
    sizes = {"imports_bytes": 10**8, "inputs_bytes": 2 * 10**8}
    sizes["total_bytes"] = 10**8 + megabytes * 10**6
    line = record("otkernels", None, N=10**6, **sizes)
    text = growth.text([], [line])
    inputs = f"with 100 MB for the inputs and {megabytes - 100} MB for the call"
    assert f"at N = 1000000: {verdict}, {inputs}" in text


def test_growth_leaves_a_peer_out_where_it_is_too_large():
    largest = growth.chosen("growth")[-1]
    assert largest.shape.N == growth.LIMIT_N
    assert [provider.name for provider in largest.family.providers] == ["otkernels", "torch"]


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "--smoke needs --records"), (["--parts", "draw", "--records", "none"], "no records in")],
)
def test_growth_refuses_in_one_line(options, message, page, capsys):
    assert main(["growth", "--smoke", "--doc", str(page), *options]) == 2
    assert message in capsys.readouterr().err


# --- GPU stages and pytest-benchmark ------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("arguments", [["gpu"], ["run", "--device", "cuda"]])
def test_gpu_is_refused_in_one_line(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.endswith("needs a GPU, and torch.cuda.is_available() is False here")


def test_stages_leave_their_results_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    script = "import os; print(os.environ.get('TRITON_INTERPRET'), os.environ.get('EXTRA'))"
    every = [
        gpu.Stage("fine", [sys.executable, "-c", script], 0.5, environment={"EXTRA": "yes"}),
        gpu.Stage("bad", [sys.executable, "-c", "raise SystemExit(3)"], 0.5),
        gpu.Stage("absent", ["no-such-program"], 0.5, needs="no-such-program"),
        gpu.Stage("slow", [sys.executable, "-c", "import time; time.sleep(60)"], 0.05),
        gpu.Stage("last", [sys.executable, "-c", "pass"], 0.5),
    ]
    assert gpu.run_stages(every, tmp_path, minutes=0.2) == 1
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [(r["stage"], r["status"]) for r in found] == [
        ("fine", "ok"),
        ("bad", "failed"),
        ("absent", "missing"),
        ("slow", "timeout"),
        ("last", "ok"),
    ]
    assert (tmp_path / "01_fine.log").read_text() == "None yes\n"
    assert found[1]["exit_code"] == 3
    assert gpu.run_stages(every[:1], tmp_path, minutes=0) == 1
    assert json.loads((tmp_path / "01_fine.json").read_text())["status"] == "skipped"


def test_stages_are_in_order_and_hand_their_options_on(tmp_path):
    """The records command is one that the command line takes."""
    every = gpu.stages(tmp_path, minutes=8, tune=True, commit="abc")
    names = ["facts", "tests", "repeatability", "sanitizer", "graphs", "records", "large"]
    names.append("tune")
    assert [stage.name for stage in every] == names
    assert [stage.name for stage in gpu.stages(tmp_path, minutes=8)] == names[:-1]
    wanted = []
    for stage in every[5:7]:
        options = _parser().parse_args(stage.command[3:])
        assert (options.device, options.commit, options.out.parent) == ("cuda", "abc", tmp_path)
        wanted.append({case.name for case in cases.select("cuda", options.cases)})
    both = {case.name for case in cases.select("cuda", "/(forward|forward_backward)$")}
    assert wanted[0] | wanted[1] == both
    assert wanted[1]
    assert not wanted[0] & wanted[1]


@pytest.mark.parametrize("check", ["repeat", "small"])
def test_device_checks_pass_on_the_cpu(check, use, family, capsys):
    shapes = dict.fromkeys(("cpu", "smoke"), sliced.SHAPES["smoke"])
    use(dataclasses.replace(family, shapes=shapes))
    assert getattr(checks, check)("cpu")
    assert "B3-N33-D5-L7/forward_backward_both" in capsys.readouterr().out


def test_repeat_notices_other_bits(use, family):
    def noise(x, y, projections):
        return sliced.careful(x, y, projections) * torch.rand(())

    shapes = dict.fromkeys(("cpu", "smoke"), sliced.SHAPES["smoke"])
    noisy = Provider(
        "otkernels", "", lambda: lambda x, y, p: sliced.careful(x, y, p) * torch.rand(())
    )
    use(dataclasses.replace(family, providers=(noisy,), shapes=shapes))
    assert not checks.repeat("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the interpreter")
def test_tune_times_good_candidates_and_names_bad_ones():
    from benchmarks.tune import __main__ as tune

    class Skipped:
        def __getitem__(self, grid):
            return lambda *args, **options: None

    match = tune.match

    def wanted():
        library = [(match, "FUSED", 0), (match, "MERGED", 0)]
        yield "good", library
        yield "wrong", [*library, (match, "_rank_match_kernel", Skipped())]
        yield "impossible", [*library, (match, "RANKS", 3)]

    shape = Shape(1, 5, 2, 2, "tiny")
    found = list(tune.times(shape, "cpu", lambda call: call, clocks.host, wanted))
    assert [label for label, *_ in found] == ["good", "wrong", "impossible"]
    assert found[0][1] > 0
    assert found[1][1] is None
    assert found[1][2].startswith("WRONG: Errors(value=")
    assert found[2][1] is None
    assert found[2][2].startswith("does not run: ")
