import math

import pytest
import torch

from benchmarks import records
from benchmarks.studies import conditioning, ill_conditioned
from otkernels.verify.digits import fidelity_and_map


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(ill_conditioned, "POINTS", 24)
    monkeypatch.setattr(ill_conditioned, "DIMENSION", 6)
    monkeypatch.setattr(conditioning, "CONDITIONS", (1, 10**4))
    page = tmp_path / "page.md"
    page.write_text("<!-- conditioning-cpu: begin -->\n<!-- conditioning-cpu: end -->\n")
    found, figure = tmp_path / "found.jsonl", tmp_path / "figure.png"
    names = {"--records": found, "--figure": figure, "--doc": page}
    return [*(str(part) for pair in names.items() for part in pair), "--allow-dirty"]


def test_measures_draws_and_writes(places, tmp_path):
    threads = torch.get_num_threads()
    try:
        assert conditioning.main([*places, "--draws", "2"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    found = {
        (li["kind"], li["condition"], li["provider"]): li
        for li in records.read([tmp_path / "found.jsonl"])
    }
    assert len(found) == 3 * 2 * 4
    for kind in conditioning.TITLES:
        ours, peer = (found[kind, 10**4, name] for name in ("otkernels", "pot"))
        assert ours["grad_largest"] < 0.1 * peer["grad_median"]
        assert ours["value_median"] <= ours["value_largest"] < 1e-6
    text = (tmp_path / "page.md").read_text()
    assert "![error against condition](figures/figure.png)" in text
    assert text.count("| two covariances |") == 2
    assert conditioning.main([*places, "--plot"]) == 0
    assert (tmp_path / "page.md").read_text() == text


@pytest.mark.parametrize("condition", [10, 10**6])
def test_the_truth_is_that_of_fifty_digits(condition, monkeypatch):
    monkeypatch.setattr(ill_conditioned, "DIMENSION", 6)
    covs = ill_conditioned.problem("covariances", condition, 0)
    value, traces, grads, sizes = ill_conditioned.truth("covariances", *covs)
    fidelity, there, back = fidelity_and_map(*(cov.double().numpy() for cov in covs))
    assert value.item() == pytest.approx(traces.item() - 2 * fidelity, abs=1e-13)
    for grad, size, t in zip(grads, sizes, (there, back), strict=True):
        expected = torch.eye(6, dtype=torch.float64) - torch.from_numpy(t)
        assert torch.linalg.matrix_norm(grad - expected) < 1e-16 * condition * 6 * size


def test_clouds_are_as_ill_conditioned_as_they_say(monkeypatch):
    monkeypatch.setattr(ill_conditioned, "DIMENSION", 6)
    for cloud in ill_conditioned.problem("clouds", 10**8, 0):
        assert 10**7 < torch.linalg.cond(torch.cov(cloud.double().T)) < 10**9


def test_an_error_is_noticed_and_nan_is_the_worst(monkeypatch):
    monkeypatch.setattr(ill_conditioned, "DIMENSION", 6)
    exact = conditioning.PROVIDERS["definition"]
    wrong = {
        "more": lambda *given: 1.01 * exact(*given),
        "nan": lambda *given: exact(*given) * math.nan,
    }
    monkeypatch.setattr(conditioning, "PROVIDERS", wrong)
    more, nan = conditioning.errors("multiples", 10, "cpu", 3)
    # 1 % of a distance that is a fifth of both traces; for y of 1 - 1/2, where the map has 1/2.
    # Exact but for the rounding of float32, which is that of the traces: 6e-8 beside 2e-3.
    assert more["value_median"] == pytest.approx(0.01 / 5, rel=1e-4)
    assert more["grad_largest"] == pytest.approx(0.01, rel=1e-4)
    assert nan["grad_median"] is nan["value_largest"] is None
    assert nan["no_number"] == 3
