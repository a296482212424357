import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import otkernels
from benchmarks import cases, clocks, measure, memory, records
from benchmarks.__main__ import main
from benchmarks.case import Provider
from benchmarks.families import sliced, sliced_reference
from benchmarks.run import run

ROOT = Path(__file__).resolve().parent.parent
PEERS = {"torch", "torch.compile", "pot"}
ONE = "^sliced_wasserstein/B1-.*forward_backward$"


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """One run through the command line: its result and its file of records."""
    out = tmp_path_factory.mktemp("smoke") / "cpu.jsonl"
    options = ["--smoke", "--cases", ONE, "--seconds", "0.1", "--out", str(out)]
    return command("run", *options), out


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """The command line sets the number of threads of its process, which here is pytest's."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


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


# --- run ----------------------------------------------------------------------------------------


def test_smoke_run_records_every_provider(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    lines = records.read([out])
    assert {line["provider"] for line in lines} == PEERS | {"otkernels", "definition"}
    for line in lines:
        assert line["op"] == "sliced_wasserstein"
        assert (line["device"], line["threads"], line["clock"] or "wall") == ("cpu", 1, "wall")
        assert line["torch"] == torch.__version__
        if line["provider"] not in PEERS:
            assert line["missing"] is None


def test_smoke_records_are_sane(smoke):
    timed = [line for line in records.read([smoke[1]]) if line["missing"] is None]
    assert timed
    for line in timed:
        assert 0 < line["ms_p20"] <= line["ms_p50"] <= line["ms_p80"]
        assert line["repetitions"] >= measure.MIN_ROUNDS
        assert 0 <= line["error_value"] <= line["bound_value"] < 1e-5
        assert 0 <= line["error_grad_excess"] <= line["bound_grad"] < 1e-5
        assert line["gb_per_s"] * line["ms_p50"] == pytest.approx(
            sliced.moved_bytes(cases.select("smoke")[0].shape, 1, 4) / 1e6
        )


def test_records_hold_no_host_and_no_path(smoke):
    text = smoke[1].read_text()
    assert os.uname().nodename not in text
    assert str(ROOT) not in text
    assert records.without_paths("no file /a/b/c.py: x\nmore") == "no file .../c.py: x"


def test_records_are_appended(family, use, tmp_path):
    use(family)
    out = tmp_path / "results" / "cpu.jsonl"
    run("cpu", pattern="B3.*forward$", smoke=True, out=out, seconds=0)
    first = out.read_text()
    run("cpu", pattern="B3.*forward$", smoke=True, out=out, seconds=0)
    assert out.read_text().startswith(first)
    assert len(records.read([out])) == 4


def wrong_value(x, y, projections):
    return 1.0001 * otkernels.sliced_wasserstein(x, y, projections=projections)


def wrong_gradient(x, y, projections):
    return (
        otkernels.sliced_wasserstein(x, y, projections=projections) + 1e-4 * (x - x.detach()).sum()
    )


def not_a_number(x, y, projections):
    return torch.nan * sliced.careful(x, y, projections)


@pytest.mark.parametrize("wrong", [wrong_value, wrong_gradient, not_a_number])
def test_gate_refuses_a_wrong_provider(wrong, family, use, tmp_path, capsys):
    bad = Provider("wrong", "", lambda: wrong)
    use(dataclasses.replace(family, providers=(*family.providers, bad)))
    out = tmp_path / "cpu.jsonl"
    arguments = ["run", "--smoke", "--cases", ONE, "--seconds", "0", "--out", str(out)]
    assert main(arguments) == 1
    assert {line["provider"] for line in records.read([out])} == {"otkernels", "torch"}
    captured = capsys.readouterr()
    assert "WRONG, not timed" in captured.out
    assert "wrong result, not recorded: sliced_wasserstein/B1" in captured.err


def test_a_known_error_of_a_peer_loosens_its_own_gate_only(family, use, tmp_path):
    def provider(name, own_error):
        return Provider(name, "", lambda: wrong_gradient, own_error=own_error)

    known = provider("known", lambda shape: (0.0, 1.0))
    unknown = provider("unknown", lambda shape: (1.0, 0.0))
    use(dataclasses.replace(family, providers=(*family.providers, known, unknown)))
    out = tmp_path / "cpu.jsonl"
    (red,) = run("cpu", pattern=ONE, smoke=True, out=out, seconds=0)
    assert red.endswith(": unknown")
    (line,) = [line for line in records.read([out]) if line["provider"] == "known"]
    assert 1 < line["bound_grad"] < 1 + 1e-5
    assert line["error_grad"] > 1e-5


def test_a_peer_that_cannot_run_is_recorded_with_its_reason(family, use, tmp_path):
    def absent():
        raise ImportError("No module named 'absent'")

    use(dataclasses.replace(family, providers=(*family.providers, Provider("absent", "", absent))))
    out = tmp_path / "cpu.jsonl"
    assert run("cpu", pattern=ONE, smoke=True, out=out, seconds=0) == []
    (line,) = [line for line in records.read([out]) if line["provider"] == "absent"]
    assert line["missing"] == "ImportError: No module named 'absent'"
    assert line["ms_p50"] is line["error_value"] is line["gb_per_s"] is None


def test_our_own_failure_is_not_a_missing_record(family, use):
    def broken(x, y, projections):
        raise RuntimeError("broken")

    use(dataclasses.replace(family, providers=(Provider("otkernels", "", lambda: broken, True),)))
    with pytest.raises(RuntimeError, match="broken"):
        run("cpu", pattern=ONE, smoke=True, seconds=0)


def test_memory_is_measured_in_a_fresh_process():
    (case,) = cases.select("cpu", "^sliced_wasserstein/B1-N4096-D64-L128/forward_backward$")
    peak = memory.peak_cpu("cpu", case, "torch")
    projections = 4 * 4096 * 128  # bytes; at least both clouds, sorted, and indices of one
    assert 4 * projections < peak.call < 40 * projections
    clouds = 2 * 4 * 4096 * 64
    assert clouds < peak.inputs - peak.imports < 3 * clouds
    assert peak.data == peak.call + peak.inputs - peak.imports


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--cases", "nothing"], "no case of these matches 'nothing'"),
        (["run", "--cases", "("], "--cases must be a regular expression"),
        (["report", "--records", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_errors_are_exit_code_2_and_say_why(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


# --- the reference and its slack ----------------------------------------------------------------


def test_expected_in_chunks_is_the_definition(monkeypatch):
    shape = cases.select("smoke", "B3")[0].shape
    monkeypatch.setattr(sliced_reference, "CHUNK", 3 * shape.B * shape.N)
    x, y, projections = (t.double() for t in sliced.inputs(shape))
    x.requires_grad_()
    y.requires_grad_()
    value = otkernels.sliced_wasserstein(x, y, projections=projections, impl="torch")
    grads = torch.autograd.grad(value.sum(), (x, y))
    expected = sliced.expect(*sliced.inputs(shape))
    torch.testing.assert_close(expected.value, value.detach())
    torch.testing.assert_close(expected.grads, grads)


def test_slack_is_zero_unless_an_order_is_open():
    shape = cases.select("smoke", "B1")[0].shape
    x, y, projections = sliced.inputs(shape)
    assert not sliced.expect(x, y, projections).slack[0].any()
    x[1] = x[0]
    slack = sliced.expect(x, y, projections).slack[0]
    assert (slack[:2] > 0).any(1).all()
    assert not slack[2:].any()


def test_interleave_gives_every_provider_the_same_number_of_readings():
    class Fake:
        calls = 0

        def reset(self):
            pass

        def __call__(self):
            self.calls += 1

    fakes = {"a": Fake(), "b": Fake()}
    readings = measure.interleave(fakes, clocks.host, seconds=0.01)
    assert len(readings["a"]["wall"]) == len(readings["b"]["wall"]) == fakes["a"].calls
    assert fakes["a"].calls >= measure.MIN_ROUNDS


# --- the same cases through pytest-benchmark ------------------------------------------------------


def test_pytest_benchmark_suite_checks_and_times():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/test_cases.py", "-q", "--benchmark-enable",
         "-p", "no:cacheprovider", "-k",
         "sliced_wasserstein/B1-N64-D8-L16/forward_backward/ and (otkernels or pot)"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        # It times nothing in a worker of several.
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "Median" in done.stdout
