"""The stages of ``python -m benchmarks gpu``, their order, and going on where they were cut off."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import cases, gpu, guard, records, resume
from benchmarks.__main__ import _parser, main
from benchmarks.case import Provider
from benchmarks.families import sliced
from benchmarks.run import run

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    *("facts", "tests", "repeatability", "memcheck", "racecheck", "graphs", "compile"),
    *("records", "tune"),
]
FACTS = {
    "device": "cpu", "device_name": "a CPU", "torch": "1", "triton": "1", "source": "abc",
    "commit": "def", "dirty": False, "smoke": True,
}  # fmt: skip


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("arguments", [["gpu"], ["run", "--device", "cuda"]])
def test_gpu_is_refused_in_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.endswith("needs a GPU, and torch.cuda.is_available() is False here")
    assert not list(tmp_path.iterdir())


def test_stages_are_in_order_and_hand_their_options_on(tmp_path):
    every = gpu.stages(tmp_path, commit="abc")
    assert [stage.name for stage in every] == NAMES
    assert [stage.name for stage in every if stage.last] == ["tune"]
    shares = {stage.name: stage.share for stage in every if not stage.last}
    checks = sum(shares[name] for name in NAMES[2:7])
    assert shares["tests"] <= 0.35 * sum(shares.values())
    assert checks <= 0.3 * sum(shares.values())
    for stage in every:
        assert stage.found.parent == tmp_path
        assert str(stage.found) in stage.command
    (record,) = [stage for stage in every if stage.name == "records"]
    options = _parser().parse_args(record.command[3:])
    assert (options.device, options.commit, options.out) == (
        "cuda",
        "abc",
        stage.found.parent / "records.jsonl",
    )
    assert options.resume
    assert not options.cases
    assert gpu.stages(tmp_path, "cpu")[5].lacks == "needs a GPU"


def test_the_sanitizer_is_found_in_a_toolkit_that_is_not_on_path(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    stage = gpu.stages(tmp_path, "cuda")[3]
    assert (stage.lacks, stage.command[0]) == (None, str(program))
    assert gpu.stages(tmp_path, "cpu")[3].lacks == "needs a GPU"
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "none"))
    assert gpu.stages(tmp_path, "cuda")[3].lacks == "needs compute-sanitizer"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Folder, exit code and output of the whole command, on the CPU with tiny cases."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "-m", "benchmarks", "gpu", "--device", "cpu", "--smoke"]
    command += ["--out", str(out), "--minutes", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return out, done, command


def test_every_stage_runs_end_to_end(smoke):
    out, done, _ = smoke
    logs = "\n".join(path.read_text()[-2000:] for path in out.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    found = lines_of(out / "stages.jsonl")
    assert [line["stage"] for line in found] == NAMES
    missing = {line["stage"]: line["reason"] for line in found if line["status"] == "missing"}
    assert set(missing) == {"memcheck", "racecheck", "graphs"}
    assert missing["graphs"] == "needs a GPU"
    assert missing["memcheck"] in ("needs a GPU", "needs compute-sanitizer")
    for line in found:
        assert line["source"] == records.environment("cpu")["source"]
        if line["status"] == "ok" and line["stage"] != "facts":
            assert line["counts"]["ok"] > 0, line
            assert set(line["counts"]) <= {"ok", "missing", "refused"}
    for path in [*out.glob("*.jsonl"), *out.glob("*.json")]:
        text = path.read_text()
        assert str(ROOT) not in text
        assert os.uname().nodename not in text, path


def test_the_page_shows_the_run(smoke, tmp_path):
    out, *_ = smoke
    doc = tmp_path / "page.md"
    doc.write_text("<!-- records: begin -->\n<!-- records: end -->\n")
    told = ["--doc", str(doc), "--figures", str(tmp_path), "--allow-dirty"]
    assert main(["report", "--gpu", str(out), "--records", str(out / "records.jsonl"), *told]) == 0
    page = doc.read_text()
    assert "Run of the GPU harness on a CPU" in page
    assert "| products in float32 |" in page
    assert all(f"| {name} | " in page for name in NAMES)
    for line in lines_of(out / "records.jsonl"):
        assert page.count(f"| **{line['shape']}** | otkernels |") == 1


def test_nothing_is_done_twice(smoke):
    out, _, command = smoke
    before = {
        path: path.read_bytes() for path in out.glob("*.jsonl") if path.name != "stages.jsonl"
    }
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stdout.count("ok, done before") == 6
    assert {path: path.read_bytes() for path in before} == before


# --- stages of stub commands ----------------------------------------------------------------------


def stub(tmp_path, name, script="pass", **options):
    found = tmp_path / f"{name}.jsonl"
    return gpu.Stage(name, [sys.executable, "-c", script, str(found)], found, **options)


def writes(case, status="ok", then=""):
    """A script that appends a line, as a check does."""
    line = json.dumps({"check": "c", "case": case, "status": status})
    return f"import sys; open(sys.argv[1], 'a').write('''{line}\\n'''); {then}"


def statuses(tmp_path):
    return [(line["stage"], line["status"]) for line in lines_of(tmp_path / "stages.jsonl")]


def test_stages_leave_their_results_one_by_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    seen = "import os; print(os.environ.get('TRITON_INTERPRET'), os.environ.get('EXTRA'))"
    slow = writes("first", then="import time; time.sleep(60)")
    every = [
        stub(tmp_path, "fine", seen, environment={"EXTRA": "yes"}),
        stub(tmp_path, "bad", writes("x", "failed", "sys.exit('no /home/me/secret/file here')")),
        stub(tmp_path, "absent", lacks="needs a thing"),
        stub(tmp_path, "slow", slow, share=0.1),
        stub(tmp_path, "after", writes("y")),
        stub(tmp_path, "tune", last=True),
    ]
    assert gpu.run_stages(every, tmp_path, 0.3, FACTS) == 1
    found = {line["stage"]: line for line in lines_of(tmp_path / "stages.jsonl")}
    assert {name: line["status"] for name, line in found.items()} == {
        "fine": "ok", "bad": "failed", "absent": "missing", "slow": "timeout", "after": "ok",
        "tune": "skipped",
    }  # fmt: skip
    assert (tmp_path / "fine.log").read_text() == "None yes\n"
    assert found["bad"]["exit_code"] == 1
    assert found["bad"]["reason"] == "no .../file here"
    assert found["bad"]["counts"] == {"failed": 1}
    assert found["absent"]["reason"] == "needs a thing"
    assert found["slow"]["exit_code"] is None
    assert found["slow"]["reason"].startswith("cut off after")
    assert found["slow"]["counts"] == {"ok": 1}
    assert found["tune"]["reason"] == "runs when all before it went well"
    fields = ("commit", "dirty", "source", "device", "device_name")
    assert all(line[name] == FACTS[name] for line in found.values() for name in fields)
    assert "not finished: slow, tune; the same command goes on" in capsys.readouterr().out


def test_no_time_left_is_said(tmp_path):
    assert gpu.run_stages([stub(tmp_path, "any")], tmp_path, 0, FACTS) == 1
    (line,) = lines_of(tmp_path / "stages.jsonl")
    assert (line["status"], line["reason"]) == ("skipped", "no time left")


def test_the_last_stage_runs_when_all_is_well_or_by_name(tmp_path):
    bad, tune = stub(tmp_path, "bad", "raise SystemExit(1)"), stub(tmp_path, "tune", last=True)
    absent = stub(tmp_path, "absent", lacks="x")
    assert gpu.run_stages([absent, tune], tmp_path / "well", 1, FACTS) == 0
    assert statuses(tmp_path / "well") == [("absent", "missing"), ("tune", "ok")]
    assert gpu.run_stages([bad, tune], tmp_path / "named", 1, FACTS, ["tune"]) == 0
    assert statuses(tmp_path / "named") == [("tune", "ok")]


def test_a_sanitizer_without_its_verdict_found_nothing(tmp_path):
    def says(name, text):
        return stub(tmp_path, name, f"print({text!r})", verdict=gpu.VERDICT)

    every = [
        says("memcheck", "========= ERROR SUMMARY: 0 errors"),
        says("racecheck", "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)"),
        says("absent", "========= Error: Device not supported"),
        says("races", "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"),
    ]
    assert gpu.run_stages(every, tmp_path, 1, FACTS) == 1
    assert [status for _, status in statuses(tmp_path)] == ["ok", "ok", "failed", "failed"]
    # What an earlier call said is in the same log.
    again = says("absent", "========= ERROR SUMMARY: 0 errors")
    assert gpu.run_stages([again], tmp_path, 1, FACTS) == 0
    (tmp_path / "stages.jsonl").unlink()
    assert gpu.run_stages([every[2]], tmp_path, 1, FACTS) == 1


def test_tuning_is_ended_by_its_stage_alone(tmp_path):
    """When it stopped by itself with choices left, its stage would count as done."""
    from benchmarks.tune.__main__ import _parser as options

    (tune,) = [stage for stage in gpu.stages(tmp_path) if stage.name == "tune"]
    assert options().parse_args(tune.command[3:]).minutes == float("inf")


def test_a_second_call_goes_on(tmp_path, capsys):
    every = [stub(tmp_path, "good"), stub(tmp_path, "bad", "raise SystemExit(1)")]
    assert gpu.run_stages(every, tmp_path, 1, FACTS) == 1
    every[1] = stub(tmp_path, "bad")
    assert gpu.run_stages(every, tmp_path, 1, FACTS) == 0
    assert statuses(tmp_path) == [("good", "ok"), ("bad", "failed"), ("bad", "ok")]
    assert gpu.run_stages(every, tmp_path, 1, FACTS) == 0
    assert len(statuses(tmp_path)) == 3
    assert capsys.readouterr().out.count("done before") == 3


@pytest.mark.parametrize("change", [{"source": "new"}, {"device_name": "b"}, {"smoke": False}])
def test_results_of_another_tree_or_machine_are_moved_aside(change, tmp_path):
    every = [stub(tmp_path, "good", writes("a"))]
    for facts in (FACTS, FACTS | {"commit": "other"}, FACTS | change, FACTS):
        assert gpu.run_stages(every, tmp_path, 1, facts) == 0
        assert len(statuses(tmp_path)) == len(lines_of(tmp_path / "good.jsonl")) == 1
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["before-1", "before-2"]
    assert len(lines_of(tmp_path / "before-1" / "good.jsonl")) == 1
    assert json.loads((tmp_path / "environment.json").read_text()) == FACTS


def test_half_lines_of_a_killed_process_are_dropped(tmp_path):
    every = [stub(tmp_path, "good", writes("a"))]
    assert gpu.run_stages(every, tmp_path, 1, FACTS) == 0
    for name in ("good", "stages"):
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.write('{"half')
    assert gpu.run_stages(every, tmp_path, 1, FACTS) == 0
    assert len(lines_of(tmp_path / "good.jsonl")) == len(statuses(tmp_path)) == 1


HARNESS = """
import json, sys
from pathlib import Path
from benchmarks import gpu
out = Path(sys.argv[1])
found = out / "stuck.jsonl"
stage = gpu.Stage("stuck", [sys.executable, "-c", sys.argv[2], str(found)], found)
gpu.run_stages([stage], out, 5, json.loads(sys.argv[3]))
"""
CHILDREN = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
open(sys.argv[1], "a").write('{"case": "%d %d", "status": "ok"}\\n' % (os.getpid(), child.pid))
time.sleep(300)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_harness_leaves_valid_files_and_no_process(how, tmp_path):
    command = [sys.executable, "-c", HARNESS, str(tmp_path), CHILDREN, json.dumps(FACTS)]
    harness = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        # What a shell starts in the background ignores it, and so would the harness.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    found = tmp_path / "stuck.jsonl"
    wait_for(lambda: found.exists() and found.read_text().endswith("\n"))
    pids = [int(pid) for pid in lines_of(found)[0]["case"].split()]
    assert all(map(alive, pids))
    harness.send_signal(how)
    harness.wait()
    wait_for(lambda: not any(map(alive, pids)))
    assert json.loads((tmp_path / "environment.json").read_text()) == FACTS
    assert not (tmp_path / "stages.jsonl").exists()


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid):
    """True if a process runs; what nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_that_had_to_end_is_started_again(tmp_path):
    script = (
        "import sys; p = sys.argv[1]; open(p, 'a').write('{}\\n'); n = len(open(p).readlines())"
    )
    stage = stub(tmp_path, "thrice", f"{script}; sys.exit({guard.AGAIN} if n < 3 else 5)")
    assert gpu.run_stages([stage], tmp_path, 1, FACTS) == 1
    assert len(lines_of(tmp_path / "thrice.jsonl")) == 3
    assert lines_of(tmp_path / "stages.jsonl")[0]["exit_code"] == 5


# --- a line a test --------------------------------------------------------------------------------

SAMPLE = """
import os, time
import pytest

def test_good(): pass

def test_bad(): raise ValueError("lost in /home/me/secret/file\\nmore")

def test_absent(): pytest.skip("needs a thing")

@pytest.fixture
def broken():
    yield
    raise OSError("late")

def test_teardown(broken): pass

@pytest.mark.gpu
def test_gpu(): pass

def test_warns():
    import warnings
    warnings.warn("a pairing")
"""


def pytest_lines(folder, *options, sample=SAMPLE):
    """Exit code of a run of the plugin on a sample, and its lines by the names of the tests."""
    (folder / "test_sample.py").write_text(sample)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nmarkers = gpu: x\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.pytest_lines"]
    command += ["-p", "xdist.plugin"]  # the only other one: some take seconds to import
    command += ["--rootdir", str(folder), "-c", str(folder / "pytest.ini"), str(folder)]
    command += ["--lines", str(folder / "lines.jsonl"), "-p", "no:cacheprovider"]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, env=alone)
    lines = lines_of(folder / "lines.jsonl")
    return done.returncode, {line["case"].rpartition("::")[2]: line for line in lines}, lines


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["serial", "xdist"])
def test_each_test_leaves_a_line_and_is_left_out_once_ok(options, tmp_path):
    code, found, lines = pytest_lines(tmp_path, "-W", "default", "--lines-continue", *options)
    assert code == 1
    assert {name: (line["status"], line["reason"]) for name, line in found.items()} == {
        "test_good": ("ok", None),
        "test_bad": ("failed", "ValueError: lost in .../file"),
        "test_absent": ("skipped", "Skipped: needs a thing"),
        "test_teardown": ("failed", "OSError: late"),
        "test_gpu": ("ok", None),
        "test_warns": ("ok", None),
    }
    assert len(lines) == 6
    assert all(line["check"] == "tests" and line["seconds"] >= 0 for line in lines)
    if not options:
        assert lines[0]["case"] == "test_sample.py::test_gpu"
    mended = SAMPLE.replace("raise ", "").replace('"late"', "").replace("OSError(", "str(")
    code, found, lines = pytest_lines(
        tmp_path, "-W", "default", "--lines-continue", *options, sample=mended
    )
    assert code == 0
    again = sorted(line["case"].rpartition("_")[2] for line in lines[6:])
    assert again == ["absent", "bad", "teardown"]


def test_warnings_are_errors_without_the_option(tmp_path):
    """So that -W default in the command of the stage is what lets a test warn."""
    assert pytest_lines(tmp_path)[1]["test_warns"]["status"] == "failed"
    stage = gpu.stages(tmp_path)[1]
    assert stage.command[stage.command.index("-W") + 1] == "default"


def test_a_worker_that_crashes_or_hangs_is_a_failure(tmp_path):
    sample = "import os, time\ndef test_dies(): os._exit(3)\ndef test_fine(): pass\n"
    sample += "def test_hangs(): time.sleep(60)\n"
    limit = ["-n", "1", "--lines-limit", "2", "--lines-continue"]
    code, found, lines = pytest_lines(tmp_path, *limit, sample=sample)
    assert code == 1
    assert {name: line["status"] for name, line in found.items()} == {
        "test_dies": "failed", "test_fine": "ok", "test_hangs": "failed",
    }  # fmt: skip
    assert "crashed while running" in found["test_hangs"]["reason"]
    assert len(lines) == 3


def test_tests_on_the_device_are_those_that_take_it_or_need_a_gpu(tmp_path):
    sample = SAMPLE + "@pytest.fixture\ndef device(): pass\ndef test_takes(device): pass\n"
    code, found, lines = pytest_lines(tmp_path, "--lines-device", sample=sample)
    assert (code, list(found)) == (0, ["test_gpu", "test_takes"])


def test_nothing_left_is_no_error_but_nothing_found_is(tmp_path):
    sample = "def test_fine(): pass\n"
    for expected in (0, 0):
        assert pytest_lines(tmp_path, "--lines-continue", sample=sample)[0] == expected
    assert pytest_lines(tmp_path, sample="")[0] == pytest.ExitCode.NO_TESTS_COLLECTED


# --- records: the order, and going on -------------------------------------------------------------


def test_cases_with_goals_come_first_and_large_ones_last():
    chosen = cases.by_weight(cases.select("cuda"), "cuda")
    assert sorted(case.name for case in chosen) == sorted(c.name for c in cases.select("cuda"))
    goals = {
        (family.op, g.shape)
        for family in cases.FAMILIES
        for g in family.goals
        if g.device == "cuda"
    }
    names = [case.name for case in chosen]
    assert names[0] == "sliced_wasserstein/B1-N1024-D64-L128/forward_backward"
    assert {name.split("/")[1] for name in names[-6:]} == {"B1-N1000000-D8", "B1-N1000000-D64"}
    assert all(name.startswith("mmd/") for name in names[-6:])
    kinds = [
        case.mode if (case.family.op, case.shape.name) in goals else "rest" for case in chosen[:-6]
    ]
    firsts = kinds.count("forward_backward")
    assert set(kinds[:firsts]) == {"forward_backward"}
    assert set(kinds[firsts : 2 * firsts]) == {"forward"}
    assert {"rest", "forward_backward_both"} == set(kinds[2 * firsts :])
    shapes = [name.rpartition("/")[0] for name in names[2 * firsts :]]
    groups = [shape for n, shape in enumerate(shapes) if n == 0 or shapes[n - 1] != shape]
    assert len(groups) == len(set(groups)), "modes of a shape share its reference"


@pytest.fixture
def use(monkeypatch):
    """A function that makes some providers, ours first, those of the only family there is."""

    def only(*providers):
        family = dataclasses.replace(sliced.FAMILY, providers=providers)
        monkeypatch.setattr(cases, "FAMILIES", (family,))

    return only


PATTERN = "/B3.*forward_backward$"
OURS, TORCH = (p for p in sliced.PROVIDERS if p.name in ("otkernels", "torch"))


def go_on(path, **options):
    """Names of what is wrong, and the lines that a run that goes on adds to a file."""
    before = len(lines_of(path)) if path.exists() else 0
    options = {"pattern": PATTERN, "smoke": True, "seconds": 0, "resume": True} | options
    return run("cpu", out=path, **options), lines_of(path)[before:]


def test_a_run_goes_on_where_it_was_cut_off(use, tmp_path):
    use(OURS, TORCH)
    path = tmp_path / "cpu.jsonl"
    red, lines = go_on(path)
    assert (red, [line["provider"] for line in lines]) == ([], ["otkernels", "torch"])
    assert go_on(path) == ([], [])
    path.write_text(json.dumps(lines[0]) + '\n{"half')
    assert run("cpu", out=path, pattern=PATTERN, smoke=True, seconds=0, resume=True) == []
    assert [line["provider"] for line in lines_of(path)] == ["otkernels", "otkernels", "torch"]
    for change in ({"source": "other"}, {"device_name": "other"}, {"torch": "1.0"}):
        path.write_text("".join(json.dumps(line | change) + "\n" for line in lines))
        assert len(go_on(path)[1]) == 2
    assert len(go_on(path, resume=False)[1]) == 2


def test_what_is_wrong_is_said_again_and_what_raises_is_recorded(use, tmp_path):
    def raises(*inputs):
        raise RuntimeError("no /home/me/secret/file")

    use(OURS, Provider("wrong", "", lambda: lambda x, y, p: 2 * sliced.careful(x, y, p)))
    for _ in range(2):
        red, lines = go_on(tmp_path / "wrong.jsonl")
        assert red == [f"{case.name}: wrong" for case in cases.select("smoke", PATTERN)]
        assert [line["provider"] for line in lines] == ["otkernels"]
    use(dataclasses.replace(OURS, make=lambda: raises), TORCH)
    for added in (2, 0):
        red, lines = go_on(tmp_path / "raises.jsonl")
        assert red == [f"{case.name}: otkernels" for case in cases.select("smoke", PATTERN)]
        assert len(lines) == added
    missing = {line["provider"]: line["missing"] for line in lines_of(tmp_path / "raises.jsonl")}
    assert missing == {"otkernels": "RuntimeError: no .../file", "torch": None}
    with pytest.raises(RuntimeError, match="secret"):
        go_on(tmp_path / "strict.jsonl", resume=False)


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.mark.parametrize("lost", [False, True])
def test_what_ends_the_process_is_recorded_and_left_out(lost, use, tmp_path, monkeypatch):
    """A provider that hangs, or after which the device is lost."""

    def peer(x, y, projections):
        if lost:
            monkeypatch.setattr("benchmarks.run.lost_device", lambda: "gone")
            raise RuntimeError("illegal address")
        while True:
            time.sleep(0.05)

    def end(code):
        codes.append(code)
        main_thread_interrupted()

    def main_thread_interrupted():
        signal.raise_signal(signal.SIGALRM)

    codes = []
    use(OURS, Provider("peer", "", lambda: peer), TORCH)
    path = tmp_path / "cpu.jsonl"
    monkeypatch.setattr(os, "_exit", end)
    old = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Ended))
    try:
        with pytest.raises(Ended):
            go_on(path, limit=None if lost else 3.0)
    finally:
        signal.signal(signal.SIGALRM, old)
        monkeypatch.undo()
    assert codes[0] == guard.AGAIN
    (line,) = lines_of(path)
    why = "RuntimeError: illegal address" if lost else "no result within 3.0 s"
    assert (line["provider"], line["missing"]) == ("peer", why)
    use(OURS, Provider("peer", "", lambda: peer), TORCH)
    assert [line["provider"] for line in go_on(path)[1]] == ["otkernels", "torch"]
    assert go_on(path) == ([], [])


def test_a_provider_that_twice_ends_the_process_is_left_out(use, tmp_path, monkeypatch):
    """Such as one whose library has a segmentation fault: there are no last words."""

    def dies(*_):
        raise Ended

    monkeypatch.setattr(resume, "_note", without_the_end_of_a_peer(resume._note))
    use(OURS, Provider("peer", "", lambda: dies), TORCH)
    path = tmp_path / "cpu.jsonl"
    for _ in range(resume.TRIES):
        with pytest.raises(Ended):
            go_on(path)
    missing = {line["provider"]: line["missing"] for line in go_on(path)[1]}
    assert missing["otkernels"] is missing["torch"] is None
    assert missing["peer"].endswith("peer: ended its process or was cut off, 2 times")
    assert not path.with_suffix(".begun").exists()


def without_the_end_of_a_peer(note):
    """Notes as of a process that does not live to make that one."""

    def noted(path, line):
        if not line.startswith("ended") or not line.endswith("peer"):
            note(path, line)

    return noted


def test_a_reference_that_was_twice_cut_off_is_every_providers_reason(use, tmp_path):
    use(OURS, TORCH)
    (case,) = cases.select("smoke", PATTERN)
    what = f"float64 reference of {case.family.op}/{case.shape.name}"
    path = tmp_path / "cpu.jsonl"
    path.with_suffix(".begun").write_text(f"begun {what}\n" * resume.TRIES)
    lines = go_on(path)[1]
    assert [line["provider"] for line in lines] == ["otkernels", "torch"]
    assert {line["missing"] for line in lines} == {
        f"Unended: {what}: ended its process or was cut off, 2 times"
    }


def test_a_reference_is_not_held_against_who_is_compared_with_it(use, tmp_path, monkeypatch):
    """At a million points it takes minutes."""
    use(OURS)
    (family,) = cases.FAMILIES
    limited = []

    @contextlib.contextmanager
    def limit(seconds, last_words):
        limited.append(seconds)
        yield
        limited.pop()

    def expect(*inputs):
        assert not limited
        return family.expect(*inputs)

    monkeypatch.setattr("benchmarks.run.limit", limit)
    monkeypatch.setattr(cases, "FAMILIES", (dataclasses.replace(family, expect=expect),))
    red, (line,) = go_on(tmp_path / "cpu.jsonl", limit=9.0)
    assert (red, line["missing"]) == ([], None)
