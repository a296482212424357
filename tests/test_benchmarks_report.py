"""The page of measurements: what it says of records, whole and broken, and of a GPU run.

All records and files here are made up; the committed page is held against the committed records.
"""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import cases, records
from benchmarks.__main__ import main
from benchmarks.case import Goal
from benchmarks.families import bandwidths, bures, sliced
from benchmarks.pages import goals, plot, report
from benchmarks.rates import Rates

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
SMALL, LARGE = sliced.SHAPES["cuda"][:2]
VERSIONS = ("python", "torch", "triton", "numpy", "pot", "simd")


def facts(device):
    names = {"cpu": "a CPU", "cuda": "NVIDIA H100"}
    found = {"device": device, "device_name": names[device], "threads": 1, "dirty": False}
    found |= {"driver": None if device == "cpu" else "570.1", "commit": "abcdef1234567890"}
    return found | {"time": "2030-01-02T00:00:00"} | dict.fromkeys(VERSIONS, "1")


def record(provider, ms, *, device="cuda", clock="wall", shape=SMALL, op="sliced_wasserstein", **f):
    line = facts(device) | {"run": "1", "op": op, "provider": provider, "clock": clock}
    line |= {"mode": "forward_backward", "shape": shape.name, "missing": None, "peak_bytes": None}
    line |= {letter: getattr(shape, letter) for letter in "BNDL"} | {"M": shape.M or shape.N}
    line |= {"ms_p20": ms, "ms_p50": ms, "ms_p80": ms, "error_value": 1e-7, "error_grad": 1e-6}
    return line | f


def on_a_gpu():
    """Two shapes, each provider by all clocks but POT, which a graph cannot hold."""
    bound = {"roofline_ms": 0.02, "roofline_by": "comparisons"}
    for scale, shape in ((1, SMALL), (8, LARGE)):
        at = {"shape": shape}
        for provider, graph, wall in (("otkernels", 0.04, 0.1), ("torch", 0.03, 0.3)):
            graph, wall = scale * graph, scale * wall
            fractions = [bound | {"fraction": 0.02 / ms} for ms in (graph, wall)]
            yield record(provider, graph, clock="graph", **at, **fractions[0])
            yield record(provider, wall, clock="wall", peak_bytes=2e6, **at, **fractions[1])
            yield record(provider, wall - 0.01, clock="events", **at, **fractions[1])
            yield record(provider, wall / 4, clock="events", mode="forward", **at)
        yield record("pot", 1.7 * scale, **at)
        yield record("pot", None, clock="graph", missing="RuntimeError: waits", **at)


def block(text, op):
    """What the page says of a family."""
    return re.split(r"^###+ ", text.split(f"#### `{op}`")[1], flags=re.M)[0]


def rows_of(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


# --- one table a family -------------------------------------------------------------------------


def test_a_family_has_one_table_with_a_row_for_each_shape_and_provider():
    head, _, *rows = rows_of(block(report.text([*on_a_gpu()]), "sliced_wasserstein"))
    assert head[2:5] == ["GPU time, ms", "wall time, ms", "graph time, ms"]
    assert head[5:] == [
        "forward only, GPU time, ms",
        "peak MB",
        "of roofline",
        "error of value / gradient",
    ]
    assert [row[:2] for row in rows] == [
        [f"**{SMALL.name}**", "otkernels"],
        ["", "**torch**"],
        ["", "pot"],
        [f"**{LARGE.name}**", "otkernels"],
        ["", "**torch**"],
        ["", "pot"],
    ]
    ours, torch_, pot = (row[2:] for row in rows[:3])
    assert ours == ["0.09", "0.1", "0.04", "0.025", "2.0", "50 % (comparisons)", "1e-07 / 1e-06"]
    assert torch_[:4] == ["0.29 (3.22×)", "0.3 (3×)", "0.03 (**0.75×**)", "0.075 (3×)"]
    assert torch_[5] == "66.7 % (comparisons)"
    assert pot == ["–", "1.7 (17×)", "–", "–", "–", "–", "1e-07 / 1e-06"]


def test_columns_that_no_record_fills_are_left_out():
    lines = [record(name, 1.0, device="cpu") for name in ("otkernels", "torch")]
    head, *_ = rows_of(block(report.text(lines), "sliced_wasserstein"))
    assert head == ["shape", "provider", "wall time, ms", "error of value / gradient"]


@pytest.mark.parametrize(("ms", "lost"), [(0.999, True), (1.0, False)])
def test_a_peer_that_is_faster_is_marked_and_named_in_a_sentence(ms, lost):
    lines = [record(name, time, device="cpu") for name, time in (("otkernels", 1.0), ("torch", ms))]
    text = block(report.text(lines), "sliced_wasserstein")
    assert (f"|  | **torch** | {ms:g} (**{ms:g}×**) |" in text) is lost
    sentence = f"in 1 of 1 comparisons:**\n\n- wall time: {SMALL.name} (torch {ms:g}×)\n"
    assert (sentence in text) is lost
    assert ("nowhere**, in 1 comparisons." in text) is not lost


def test_a_yardstick_is_no_peer():
    shape = bandwidths.SHAPES["cpu"][0]
    lines = [
        record(name, ms, device="cpu", op="mmd-bandwidths", shape=shape)
        for name, ms in (("otkernels", 1.0), ("one", 0.5), ("torch", 2.0))
    ]
    text = block(report.text(lines), "mmd-bandwidths")
    assert "nowhere**, in 1 comparisons." in text
    assert "| one | 0.5 (0.5×) |" in text


def test_what_did_not_run_is_listed_with_its_reason():
    text = block(report.text([*on_a_gpu()]), "sliced_wasserstein")
    assert f"- pot, graph time: `RuntimeError: waits` ({SMALL.name}, {LARGE.name})\n" in text
    assert f"- definition: no record ({SMALL.name}, {LARGE.name})\n" in text
    others = ", ".join(shape.name for shape in sliced.SHAPES["cuda"][2:])
    assert f"- every provider: no record ({others})\n" in text
    cpu = record("otkernels", 1.0, device="cpu", op="bures_wasserstein", shape=bures.CPU[0])
    assert f"- cupy: left out, runs on a GPU only ({bures.CPU[0].name})\n" in report.text([cpu])


def test_a_provider_that_ended_its_process_stays_missing_after_the_run_went_on():
    hung = record("torch", None, clock=None, missing="no result within 30 s", run="1")
    lines = [hung, record("otkernels", 1.0, run="2")]
    assert f"- torch: `no result within 30 s` ({SMALL.name})\n" in report.text(lines)
    for tried in ([record("torch", 2.0, run="2")], [record("pot", 3.0, run="3", commit="b")]):
        assert "no result within" not in report.text([*lines, *tried])


# --- goals --------------------------------------------------------------------------------------


def goal(quantity, target, against="torch"):
    return Goal("cuda", SMALL.name, "wall", quantity, target, against, "a reason")


@pytest.mark.parametrize(
    ("wanted", "cells"),
    [
        (goal("speedup", 2), ["≥ 2×", "3×", "1.5", ""]),
        (goal("speedup", 6), ["≥ 6×", "3×", "**0.5**", "a reason"]),
        (goal("ms", 0.1, None), ["≤ 0.1 ms", "0.1 ms", "1", ""]),
        (goal("ms", 0.05, None), ["≤ 0.05 ms", "0.1 ms", "**0.5**", "a reason"]),
        (goal("cost", 0.5), ["≤ 0.5×", "0.333×", "1.5", ""]),
        (goal("memory", 0.25), ["≤ 0.25", "1", "**0.25**", "a reason"]),
        (goal("speedup", 2, "pot"), ["≥ 2×", "17×", "8.5", ""]),
        (goal("speedup", 2, "cupy"), ["≥ 2×", "not measured", "–", "cupy: `ImportError: none`"]),
    ],
)
def test_a_goal_has_its_ratio_and_where_it_is_missed_the_reason(wanted, cells, monkeypatch):
    family = dataclasses.replace(sliced.FAMILY, goals=(wanted,))
    monkeypatch.setattr(cases, "FAMILIES", (family,))
    absent = record("cupy", None, clock=None, missing="ImportError: none")
    (row,) = rows_of(goals.section("cuda", [*on_a_gpu(), absent]))[2:]
    assert row[2:] == cells


def test_goals_are_counted(monkeypatch):
    wanted = (goal("speedup", 2), goal("speedup", 6), goal("ms", 1), goal("speedup", 1, "cupy"))
    monkeypatch.setattr(cases, "FAMILIES", (dataclasses.replace(sliced.FAMILY, goals=wanted),))
    text = goals.section("cuda", [*on_a_gpu()])
    assert text.startswith("**Goals: 2 reached, 1 missed, 1 not measured.**\n")


def test_without_a_gpu_the_page_says_so_and_lists_the_goals():
    gpu = report.text([]).split("### GPU")[1]
    assert gpu.lstrip().startswith("**Not yet measured on a GPU.**")
    rows = rows_of(gpu)[2:]
    assert len(rows) == sum(goal.device == "cuda" for f in cases.FAMILIES for goal in f.goals)
    assert {(row[3], row[4], row[5]) for row in rows} == {("not yet measured on a GPU", "–", "")}
    assert "Not yet measured on a GPU" not in report.text([*on_a_gpu()])


# --- which records ------------------------------------------------------------------------------


def test_ratios_are_of_the_newest_run_of_a_committed_tree():
    lines = [
        *(record("otkernels", 1.0, run="1"), record("torch", 100.0, run="1")),
        *(record("otkernels", 2.0, run="2"), record("torch", 38.0, run="2")),
        *(record(name, 0.1, run="3", dirty=True) for name in ("otkernels", "torch")),
    ]
    rows = rows_of(block(report.text(lines), "sliced_wasserstein"))[2:]
    assert [row[1:3] for row in rows] == [["otkernels", "2"], ["torch", "38 (19×)"]]


def test_records_of_edited_trees_are_left_out_and_counted():
    lines = [*on_a_gpu()]
    edited = [line | {"dirty": True} for line in lines]
    text = report.text(edited)
    assert f"Not shown: {len(lines)} records of trees with uncommitted changes." in text
    assert "Not yet measured on a GPU" in text
    assert "| torch" not in text
    shown = report.text(edited, allow_dirty=True)
    assert "commit abcdef1234 **with uncommitted changes**; 2030-01-02." in shown


def test_every_table_has_its_line_of_device_versions_commit_and_date():
    line = "NVIDIA H100, driver 570.1, CPU threads: 1, Python 1, torch 1, Triton 1, NumPy 1, POT 1"
    text = report.text([*on_a_gpu()])
    assert text.count(f"{line}; commit abcdef1234; 2030-01-02.\n") == 2  # goals, and one family
    assert line in block(text, "sliced_wasserstein")


def test_two_devices_of_one_kind_do_not_share_a_figure():
    lines = [*on_a_gpu()]
    both = [*lines, *(line | {"device_name": "NVIDIA H200"} for line in lines)]
    text = report.text(both)
    for name in ("h100", "h200"):
        assert f"(figures/sliced_wasserstein_cuda-nvidia-{name}-1threads.png)" in text
    assert "(figures/sliced_wasserstein_cuda.png)" in report.text(lines)


# --- figures ------------------------------------------------------------------------------------


@pytest.fixture
def kept(monkeypatch):
    """The figures that are drawn, for a look at them."""
    figures = []
    close = plot.plt.close
    monkeypatch.setattr(plot.plt, "close", lambda figure: figures.append(figure) or close(figure))
    return figures


def description(path):
    """What a figure's file says of its records."""
    with Image.open(path) as image:
        return image.info["Description"]


def test_the_figure_shows_both_clocks_the_roofline_and_the_losses(kept, tmp_path):
    (path,) = plot.draw([*on_a_gpu()], tmp_path)
    (figure,) = kept
    left, right = figure.axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["otkernels", "torch", "pot", "roofline", "faster than otkernels"]
    (rings,) = left.collections[-1:]
    assert rings.get_offsets()[:, 1].tolist() == pytest.approx([0.03, 0.24])
    drawn = sorted({y for line in left.lines for y in line.get_ydata()})
    assert drawn == pytest.approx([0.02, 0.03, 0.04, 0.1, 0.24, 0.3, 0.32, 0.8, 1.7, 2.4, 13.6])
    assert (left.get_xscale(), left.get_yscale(), right.get_yscale()) == ("log",) * 3
    for said in (figure.texts[1].get_text(), description(path)):
        assert said.startswith("NVIDIA H100, driver 570.1")
        assert "commit abcdef1234; 2030-01-02." in said.replace("\n", " ")


# --- the files of a GPU run -----------------------------------------------------------------------


def stage(name, status="ok", **fields):
    line = {"stage": name, "status": status, "exit_code": 0, "seconds": 12.34, "dirty": False}
    line |= {"time": "2030", "commit": "abcdef1234567890", "source": "s", "device": "NVIDIA H100"}
    return line | {"counts": {"ok": 3}, "reason": None} | fields


def found(case, status="ok", reason=None):
    return {"check": "c", "case": case, "status": status, "reason": reason, "seconds": 0.5}


def tried(candidate, ms, remark="", chosen=False, shape="B1"):
    line = {"table": "match.RANKS", "op": "mmd", "shape": shape, "mode": "forward"}
    line |= {"candidate": candidate, "ms": ms}
    return line | {"remark": remark, "chosen": chosen}


@pytest.fixture
def run(tmp_path):
    """The folder of a made-up run."""
    folder = tmp_path / "gpu"
    folder.mkdir()
    rates = Rates(4.2e12, {"float64": 6e13}, exponentials=4e12, comparisons=1.6e13)
    own = facts("cuda") | {"l2_bytes": 50 * 2**20, "multiprocessors": 132}
    own |= {"memory_bytes": 80 * 2**30, "rates": dataclasses.asdict(rates)}
    own["peers"] = {
        "pot": {"version": "0.9", "missing": None},
        "cupy": {"version": None, "missing": "ImportError: no cupy"},
    }
    (folder / "facts.json").write_text(json.dumps(own))
    stages = [
        stage("facts", counts=None),
        stage("tests", "timeout", reason="cut after 60 s"),
        stage("tests", "failed", counts={"ok": 3, "failed": 1}, dirty=True),
        stage("memcheck", "missing", reason="no compute-sanitizer"),
    ]
    checks = [found("test_a", "failed", "first"), found("test_b"), found("test_c", "skipped")]
    again = [found("test_a"), found("test_b", "failed", "AssertionError: 1 != 2 | 3")]
    tunes = [tried("1 warp", 2.0, chosen=True), tried("2 warps", 1.0), tried("4", None, "spills")]
    tunes += [tried("1 warp", 1.0, chosen=True, shape="B2"), tried("2 warps", 3.0, shape="B2")]
    for name, lines in {
        "stages": stages,
        "tests": checks + again,
        "racecheck": [found("kernel", "refused", "too large")],
        "tune": tunes,
        "records": [*on_a_gpu()],
    }.items():
        records.append(folder / f"{name}.jsonl", lines)
    return folder


@pytest.fixture
def doc(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- records: begin -->\nold\n<!-- records: end -->\nbelow\n")
    return page


def test_a_gpu_run_is_on_the_page(run, doc, tmp_path, capsys):
    empty = tmp_path / "none.jsonl"
    empty.write_text("")
    arguments = ["--records", str(empty), "--gpu", str(run), "--doc", str(doc)]
    assert main(["report", *arguments, "--figures", str(tmp_path / "figures")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert paths == [doc, tmp_path / "figures" / "sliced_wasserstein_cuda.png"]
    assert all(path.exists() for path in paths)
    text = doc.read_text()
    for expected in (
        "### Run on a GPU\n\nNVIDIA H100, driver 570.1",
        "132 multiprocessors, 50 MiB of second-level cache, 80 GiB of memory.",
        "| products in float64 | 60 TFLOP/s |",
        "| copied | 4200 GB/s |",
        "- cupy: `ImportError: no cupy`\n",
        "| facts | ok | – | 12.3 | 1 | abcdef1234 |  |",
        "| tests | **failed** | 3 ok, 1 failed | 24.7 | 2 | abcdef1234 **edited** |  |",
        "| memcheck | **missing** | 3 ok | 12.3 | 1 | abcdef1234 | `no compute-sanitizer` |",
        "`tests`, not ok: 1 of 3.\n\n- `test_b`: **failed**, `AssertionError: 1 != 2 \\| 3`\n",
        "`racecheck`, not ok: 1 of 1.\n\n- `kernel`: **refused**, `too large`\n",
        "Tuning of `match.RANKS`:",
        "| mmd/B1/forward | `1 warp` | 2 | `2 warps` | 1 | **2×** | 2 of 3 |",
        "| mmd/B2/forward | `1 warp` | 1 | `1 warp` | 1 | 1× | 2 of 2 |",
        "| | **torch** |".replace("| |", "|  |"),
    ):
        assert expected in text, expected
    assert "test_a" not in text


@pytest.mark.parametrize("lost", ["stages", "tests", "racecheck", "tune", "records"])
def test_a_run_that_was_cut_off_is_shown_as_far_as_it_came(run, lost):
    (run / f"{lost}.jsonl").unlink()
    assert "### Run on a GPU" in report.text([], run)


@pytest.mark.parametrize("cut", ["stages", "tests", "tune", "records"])
def test_half_a_line_of_a_run_that_was_cut_off_is_not_read(run, cut):
    whole = report.text(report.gpu_page.records_of(run), run)
    with (run / f"{cut}.jsonl").open("a") as file:
        file.write('{"check": "c", "ca')
    assert report.text(report.gpu_page.records_of(run), run) == whole


def test_the_choice_may_not_run(run):
    (run / "tune.jsonl").unlink()
    records.append(run / "tune.jsonl", [tried("a", None, "spills", chosen=True), tried("b", 1.0)])
    assert "| mmd/B1/forward | `a` | `spills` | `b` | 1 | – | 1 of 2 |" in report.text([], run)


def test_a_folder_that_is_none_is_refused_in_one_line(doc, tmp_path, capsys):
    assert main(["report", "--gpu", str(tmp_path / "none"), "--doc", str(doc)]) == 2
    assert "--gpu must be a folder" in capsys.readouterr().err
    assert "old" in doc.read_text()


# --- the committed page -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed():
    gpu = report.published_gpu()
    lines = records.read(report.published())
    return lines + (report.gpu_page.records_of(gpu) if gpu else []), gpu


def test_the_page_explains_every_family_and_provider():
    text = PAGE.read_text().split("<!-- records: begin -->")[0]
    names = {family.op for family in cases.FAMILIES}
    names |= {provider.name for family in cases.FAMILIES for provider in family.providers}
    cells = re.findall(r"^\| (`.+?`) \| ", text, re.M)
    explained = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert names - explained == set()


def test_the_page_is_what_the_committed_records_give(committed):
    text = PAGE.read_text().split("<!-- records: begin -->\n\n")[1]
    assert text.split("\n<!-- records: end -->")[0] == report.text(*committed), (
        "run: python -m benchmarks report"
    )


def test_the_figures_are_of_the_committed_records(committed):
    kept = records.newest(committed[0])
    said = {}
    for machine, lines in records.by_machine(kept).items():
        for family in cases.FAMILIES:
            own = [line for line in lines if line["op"] == family.op]
            if plot.drawn(own):
                said[plot.name(family, machine)] = report.page.facts(own)
    figures = PAGE.parent / "figures"
    assert said == {name: description(figures / name) for name in said}


def test_every_missed_goal_says_why(committed):
    kept = records.newest(committed[0])
    for machine in records.by_machine(kept).values():
        rows = rows_of(goals.section(machine[0]["device"], machine))[2:]
        assert [row[0] for row in rows if "**" in row[4] and not row[5]] == []
