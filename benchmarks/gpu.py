"""The stages of ``make gpu``: each a command in its own process, its result kept before the next.

A stage that crashes, hangs or poisons the device therefore costs itself only, and the same command
goes on where the last one was cut off.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import CannotRun, records

ROOT = Path(__file__).resolve().parent.parent
SAME = ("device", "device_name", "torch", "triton", "source", "smoke")
GOOD = ("ok", "missing")
# A sanitizer that could not take hold of the process has no summary, whatever its exit code.
VERDICT = r"= (ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: .*\(0 errors)"
CASE_LIMIT, TEST_LIMIT = 180, 120  # seconds after which a record or a test counts as hanging
# Of the tests, those that launch no kernel, train, or are about other machinery.
NOT_HERE = "benchmarks claims compile_gate distributed docs gallery models packag readme types"
SMOKE_CASES = "^(sliced_wasserstein-unequal|mmd-wae|bures_wasserstein)/B1-.*/forward_backward$"
SMOKE_CHOICES = "mean_cov"
SMOKE_TESTS = (
    "tests/test_moments_triton.py::test_true_tiles",
    "tests/test_gpu_sliced.py::test_each_choice_of_gradients",
)


@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        name: its name.
        command: what runs, in the repository root; exit code 0 is success.
        found: the file that it writes.
        share: its part of the time left, in proportion to those of all that are still to run.
        lacks: what it needs and is not there, or None.
        environment: variables to set.
        last: it runs only after all before it went well, or if asked for by name.
        verdict: pattern of what its output must say for it to be "ok".
    """

    name: str
    command: list[str]
    found: Path
    share: float = 1.0
    lacks: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    last: bool = False
    verdict: str = ""


def stages(out, device="cuda", smoke=False, commit=None):
    """All stages, in order."""
    out = out.resolve()
    python = [sys.executable, "-m"]
    on = ["--device", device, *["--smoke"] * smoke]
    told = ["--commit", commit] if commit else []
    gpu = None if device == "cuda" else "needs a GPU"
    sanitizer = _sanitizer()

    def check(name, kind, share, before=(), again=("--continue",), **options):
        found = out / f"{name}.jsonl"
        command = [*before, *python, "benchmarks.checks", kind, *on, "--out", str(found), *again]
        return Stage(name, command, found, share, **options)

    def watched(tool, share, **options):
        # Its verdict is on all of a process, so what was cut off is not gone on with.
        before = [sanitizer, "--tool", tool, "--error-exitcode", "1"]
        # Libraries ask the driver for what it may not have, and go on: no fault of a kernel.
        before += ["--report-api-errors", "no"] if tool == "memcheck" else []
        lacks = gpu if shutil.which(sanitizer) else "needs compute-sanitizer"
        options |= {"lacks": lacks, "verdict": VERDICT}
        return check(tool, "small", share, before, (), **options)

    facts, lines, tuned = out / "facts.json", out / "records.jsonl", out / "tune.jsonl"
    # Without a limit of its own: one that stops by itself would count as done.
    tune = [*python, "benchmarks.tune", *on, "--out", str(tuned), "--continue", *told]
    tune += ["--minutes", "inf"]
    tune += ["--only", SMOKE_CHOICES] if smoke else []
    limit = ["--seconds", "0", "--cases", SMOKE_CASES] if smoke else ["--seconds", "1"]
    limit += ["--continue", "--limit", str(CASE_LIMIT), "--out", str(lines)]
    return [
        Stage(
            "facts", [*python, "benchmarks.facts", *on[:2], "--out", str(facts), *told], facts, 10
        ),
        _tests(out / "tests.jsonl", smoke),
        check("repeatability", "repeat", 5),
        # Without the cache of memory, no overrun is hidden inside one of its blocks.
        watched("memcheck", 8, environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
        watched("racecheck", 6),
        check("graphs", "graph", 5, lacks=gpu),
        check("compile", "compile", 6),
        Stage("records", [*python, "benchmarks", "run", *on, *limit, *told], lines, 35),
        Stage("tune", tune, tuned, last=True),
    ]


def _sanitizer():
    """The program, also where a CUDA toolkit is installed and not on PATH."""
    toolkit = os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")
    folders = os.environ.get("PATH", os.defpath) + os.pathsep + toolkit
    return shutil.which("compute-sanitizer", path=folders) or "compute-sanitizer"


def _tests(found, smoke):
    """The tests that need a GPU and those of the kernels; in several processes if they can be."""
    lines = ["-p", "benchmarks.pytest_lines", "--lines", str(found), "--lines-continue"]
    # Another pairing of torch and Triton may warn, which fails no test here.
    quiet = ["-q", "-W", "default", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    # Tests of a kernel have its implementation in their names and take the device to run on.
    kernels = ["-k", "triton or gpu", "--lines-device"]
    which = SMOKE_TESTS if smoke else ["tests", "-m", "not slow and not training"]
    without = [f"--ignore-glob=tests/test_*{word}*" for word in NOT_HERE.split()]
    command = [sys.executable, "-m", "pytest", *which, *quiet, *kernels, *lines]
    command += [] if smoke else without
    if not smoke and importlib.util.find_spec("xdist"):
        workers = max(1, min(8, (os.cpu_count() or 1) // 2))
        command += ["-n", str(workers), "--dist", "worksteal", "--lines-limit", str(TEST_LIMIT)]
    # Without a GPU its tests run small, in Triton's interpreter.
    small = {"OTKERNELS_GPU_TESTS": "interpreter"} if smoke else {}
    return Stage("tests", command, found, 35, environment={"OMP_NUM_THREADS": "2"} | small)


def environment(device, smoke=False, commit=None):
    """``records.environment`` as another process finds it: this one must not hold the device.

    Raises:
        CannotRun: there is no such device.
    """
    script = (
        "import json, sys, torch; from benchmarks import records; device, commit = sys.argv[1:]\n"
        "if device == 'cuda' and not torch.cuda.is_available(): sys.exit(2)\n"
        "print(json.dumps(records.environment(device, commit or None)))"
    )
    command = [sys.executable, "-c", script, device, commit or ""]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 2:
        raise CannotRun("needs a GPU, and torch.cuda.is_available() is False here")
    if done.returncode:
        raise CannotRun(records.without_paths(done.stderr.strip().rpartition("\n")[2]))
    return json.loads(done.stdout) | {"smoke": smoke}


def run_stages(every, out, minutes, facts, names=None):
    """Run what is not done yet within the time.

    Args:
        every: the stages.
        out: folder of results. For each stage it gets a log and a line in stages.jsonl with its
            status: "ok", "failed", "timeout", "missing" (what it needs is not there) or "skipped".
            What it holds of another source or machine is moved into a folder of its own.
        minutes: time for all.
        facts: see :func:`environment`.
        names: of the only ones to run; None for all.

    Returns:
        0 if every stage is done, else 1.
    """
    end = time.monotonic() + 60 * minutes
    _begin(out, facts)
    known = {line["stage"]: line["status"] for line in _read(out / "stages.jsonl")}
    chosen = [stage for stage in every if names is None or stage.name in names]
    status = {stage.name: known.get(stage.name) for stage in chosen}
    for number, stage in enumerate(chosen):
        if status[stage.name] == "ok":
            print(f"{stage.name:14} ok, done before", flush=True)
            continue
        left = end - time.monotonic()
        to_come = [s for s in chosen[number:] if status[s.name] != "ok" and not s.lacks]
        shares = sum(s.share for s in to_come if s is stage or not s.last)
        ready = names or all(status[s.name] in GOOD for s in chosen[:number])
        line = _line(stage, out / f"{stage.name}.log", left, stage.share / max(shares, 1), ready)
        status[stage.name] = line["status"]
        records.append(out / "stages.jsonl", [_stamped(line, facts)])
        _say(line)
    unfinished = [name for name, found in status.items() if found in ("timeout", "skipped")]
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}; the same command goes on", flush=True)
    return 0 if all(found in GOOD for found in status.values()) else 1


def _begin(out, facts):
    """Make the folder hold results of this tree and machine only, with no half lines."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "environment.json"
    before = json.loads(path.read_text()) if path.exists() else facts
    if any(before[name] != facts[name] for name in SAME):
        number = sum(1 for _ in out.glob("before-*")) + 1
        aside = out / f"before-{number}"
        aside.mkdir()
        for file in [file for file in out.iterdir() if file.is_file()]:
            file.rename(aside / file.name)
        print(f"results of source {before['source']}: moved to {aside.name}", flush=True)
    for file in out.glob("*.jsonl"):
        records.drop_unfinished(file)
    part = path.with_suffix(".new")
    part.write_text(json.dumps(facts, indent=1) + "\n")
    part.replace(path)


def _line(stage, log, left, share, ready):
    """Run a stage if it can; what there is to say of it."""
    start = time.monotonic()
    code = None
    if stage.lacks:
        status, reason = "missing", stage.lacks
    elif stage.last and not ready:
        status, reason = "skipped", "runs when all before it went well"
    elif left <= 0:
        status, reason = "skipped", "no time left"
    else:
        told = log.stat().st_size if log.exists() else 0
        code = _run(stage, log, left * share)
        status, reason = _judged(stage, code, log.read_bytes()[told:].decode(errors="replace"))
        reason = f"cut off after {left * share:.0f} s" if code is None else reason
    return {
        "stage": stage.name,
        "status": status,
        "exit_code": code,
        "seconds": round(time.monotonic() - start, 1),
        "counts": _counts(stage.found),
        "reason": reason,
    }


def _judged(stage, code, output):
    """Status and reason of a stage by its exit code, None if it was cut off, and its output."""
    if code is None:
        return "timeout", None
    if code:
        return "failed", _last_words(output)
    if not re.search(stage.verdict, output):
        return "failed", f"its output does not say {stage.verdict!r}"
    return "ok", None


def _run(stage, log, seconds):
    """Exit code of a stage with its output in ``log``, or None if it was cut off."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # POT asks JAX before torch where that is installed, and JAX then takes most of a GPU's memory.
    variables["POT_BACKEND_DISABLE_JAX"] = "1"
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.guard", *stage.command],
            cwd=ROOT,
            env=variables | stage.environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.stdin.close()  # at which the guard ends whatever runs
            process.wait()


def _stamped(line, facts):
    names = ("commit", "dirty", "source", "device", "device_name")
    return line | {"time": records.now()} | {name: facts[name] for name in names}


def _say(line):
    counts = ", ".join(f"{number} {status}" for status, number in line["counts"].items())
    said = "; ".join(text for text in (counts, line["reason"]) if text)
    print(f"{line['stage']:14} {line['status']:8} {line['seconds']:7.1f} s  {said}", flush=True)


def _last_words(output):
    lines = [line for line in output.splitlines() if line.strip()]
    return records.without_paths(lines[-1]) if lines else None


def _counts(path):
    """How many cases ended how, by their last lines."""
    if path.suffix != ".jsonl":
        return {}
    last = {}
    for line in _read(path):
        names = ("check", "case", "op", "shape", "mode", "provider", "clock", "table", "candidate")
        status = line.get("status") or ("missing" if line.get("missing") else "ok")
        last[tuple(line.get(name) for name in names)] = status
    return dict(Counter(last.values()))


def _read(path):
    records.drop_unfinished(path)
    return records.read([path]) if path.exists() else []
