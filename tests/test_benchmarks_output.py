import dataclasses

import pytest

from benchmarks import cases, memory, records
from benchmarks.__main__ import main
from benchmarks.families import sliced
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


# --- report -------------------------------------------------------------------------------------


def test_report_fills_the_markers_and_only_them(clean, tmp_path, capsys):
    doc, figures = tmp_path / "page.md", tmp_path / "figures"
    doc.write_text("above\n<!-- records: begin -->\nold\n<!-- records: end -->\nbelow\n")
    arguments = ["report", "--records", str(clean), "--doc", str(doc), "--figures", str(figures)]
    assert main(arguments) == 0
    path = figures / "sliced_wasserstein_cpu.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.split() == [str(doc), str(path)]
    page = doc.read_text()
    assert "](figures/sliced_wasserstein_cpu.png)\n" in page
    assert page.startswith("above\n")
    assert page.endswith("below\n")
    assert "old" not in page
    assert "| **B1-N64-D8-L16** | otkernels |" in page
    assert "Not yet measured on a GPU" in page
    assert main(arguments) == 0
    assert doc.read_text() == page
    doc.write_text("no markers")
    assert main(arguments) == 2
    assert "must hold the lines" in capsys.readouterr().err


# --- growth ---------------------------------------------------------------------------------------


def record(provider, ms, **fields):
    facts = {"dirty": False, "device": "cpu", "device_name": "a CPU", "threads": 1, "run": "1"}
    facts |= {"op": "sliced_wasserstein", "mode": "forward_backward", "clock": "wall"}
    facts |= {"time": "2030-01-02T00:00:00", "commit": "abc", "driver": None, "missing": None}
    facts |= dict.fromkeys(("python", "torch", "triton", "numpy", "pot", "simd"), "1")
    facts |= {"shape": "B1-N1024-D64-L128", "error_value": 1e-7, "error_grad": 1e-6}
    return facts | {"provider": provider, "ms_p50": ms, "peak_bytes": None} | fields


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
