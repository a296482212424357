"""The families of Gaussian distances in what runs, checks and reports all families."""

import dataclasses

import pytest
import torch

from benchmarks import cases, memory, records
from benchmarks.case import Shape
from benchmarks.families import bures, gaussian, moments, sqrtm
from benchmarks.pages import plot, report
from benchmarks.run import run

FAMILIES = (bures.FAMILY, gaussian.FAMILY, sqrtm.FAMILY, moments.FAMILY)


def provider(family, name):
    return next(p for p in family.providers if p.name == name)


@pytest.fixture
def use(monkeypatch):
    """A function that makes a family the only one, with some of its providers."""

    def only(family, *names):
        kept = tuple(provider(family, name) for name in names)
        family = dataclasses.replace(family, providers=kept or family.providers)
        monkeypatch.setattr(cases, "FAMILIES", (family,))
        return family

    return only


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.op)
def test_run_and_report(family, use, tmp_path):
    family, out = use(family, "otkernels", "torch"), tmp_path / "cpu.jsonl"
    pattern = f"^{family.op}/.*/forward_backward$"
    assert run("cpu", pattern=pattern, smoke=True, out=out, seconds=0) == []
    lines = [line | {"dirty": False} for line in records.read([out])]
    ours = {li["shape"]: li for li in lines if li["provider"] == "otkernels"}
    assert len(lines) == 2 * len(ours)
    text = report.text(lines)
    for shape in family.shapes["smoke"]:
        assert f"| **{shape.name}** |" in text
        line = ours[shape.name]
        moved = family.bytes(shape, 1, 4)
        assert line["gb_per_s"] * line["ms_p50"] == pytest.approx(moved / 1e6)


def test_plot_of_shapes_that_have_no_n(use, tmp_path):
    use(bures.FAMILY, "torch")
    out = tmp_path / "cpu.jsonl"
    run("cpu", pattern="/forward_backward$", smoke=True, out=out, seconds=0)
    (path,) = plot.draw(records.read([out]), tmp_path, allow_dirty=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_costs_of_one_small_problem():
    """By hand: D = 2, B = 3; N = 4, M = 5."""
    covs = bures.batch(3, 2, "")
    assert bures.moved_bytes(covs, 1, 4) == 4 * 3 * (2 + 1) * 4
    assert bures.flops(covs, 2) == 3 * (1 + 4) * 2 * 8
    assert sqrtm.FAMILY.bytes(covs, 1, 4) == 4 * 3 * 4 * 4  # root, and a gradient in and out
    points = Shape(3, 4, 2, None, "", 5)
    assert gaussian.flops(points, 1) == 3 * (4 * (4 + 5) + 2 * 4 * 4) + 3 * 3 * 16
    assert gaussian.flops(dataclasses.replace(points, D=8), 1) == 2 * (3 * 4 * 5 * 8 * 2)
    assert moments.FAMILY.bytes(points, 1, 4) == 4 * 3 * (4 * 2 + 4 + 4 * 2)
    assert moments.FAMILY.flops(points, 1) == 3 * 4 * 4 * 3


@pytest.mark.parametrize("family", [bures.FAMILY, sqrtm.FAMILY], ids=lambda f: f.op)
def test_noise_of_covariances_is_a_covariance(family):
    noise = family.noise(torch.empty(64, 5, 5))
    assert torch.linalg.eigvalsh(noise).min() > 0
    # Each of 64 x 5 entries is the mean of 10 squares of normal numbers; four standard errors.
    error = (2 / 10 / (64 * 5)) ** 0.5
    assert noise.diagonal(dim1=-2, dim2=-1).mean().item() == pytest.approx(1, abs=4 * error)
    assert not torch.equal(noise[0], noise[1])


def test_memory_of_shapes_that_have_no_n():
    (case,) = cases.select("cpu", "^bures_wasserstein/B64-D64/forward_backward$")
    peak = memory.peak_cpu("cpu", case, "torch")
    assert peak.call > 4 * 64 * 64 * 64 * 3  # three matrices a problem, at least


def record(family, shape, name, ms):
    facts = {"dirty": False, "device": "cpu", "device_name": "a CPU", "threads": 1, "run": "1"}
    facts |= {"time": "2030-01-02T00:00:00", "commit": "abc", "driver": None, "missing": None}
    facts |= dict.fromkeys(("python", "torch", "triton", "numpy", "pot", "simd"), "1")
    facts |= {"mode": "forward_backward", "clock": "wall", "peak_bytes": None}
    facts |= {"error_value": 1e-7, "error_grad": 1e-6}
    facts |= {letter: getattr(shape, letter) for letter in "BNMDL"}
    return facts | {"op": family.op, "shape": shape.name, "provider": name, "ms_p50": ms}


def test_report_reads_the_goals():
    times = {"otkernels": 1.0, "torch": 3.0, "torch.eigh": 3.9, "pot": 10.1}
    lines = [record(bures.FAMILY, bures.CPU[0], name, ms) for name, ms in times.items()]
    lines += [
        record(moments.FAMILY, moments.SHAPES["cpu"][0], name, ms)
        for name, ms in (("otkernels", 1.0), ("torch.cov", 1.5))
    ]
    text = report.text(lines)
    assert (
        f"B1024-D16: speed over torch.eigh | wall | ≥ 4× | 3.9× | **0.975** | {bures.FLOAT64} |"
        in text
    )
    assert "B1024-D16: speed over pot | wall | ≥ 10× | 10.1× | 1.01 |  |" in text
    assert "B1-N1000-D16: speed over torch.cov | wall | ≥ 1× | 1.5× | 1.5 |  |" in text
    assert "- cupy: left out, runs on a GPU only (B1024-D16)" in text
