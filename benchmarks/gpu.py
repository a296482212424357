"""The stages of ``make gpu``: each a command in its own process, its result kept before the next.

A stage that crashes, hangs or poisons the device therefore costs itself only.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        name: name of its files.
        command: what runs, in the repository root; exit code 0 is success.
        share: the part of the time then left that it may take.
        needs: a program that must be on PATH, or the stage is listed as missing.
        environment: variables to set.
    """

    name: str
    command: list[str]
    share: float
    needs: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def stages(out, minutes, tests=("tests",), tune=False, commit=None):
    """The stages in order; the records get the time that is left, spread over their cases."""
    from . import cases

    python = [sys.executable, "-m"]
    checks = [*python, "benchmarks.checks"]
    sanitizer = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "1"]
    # A quarter of the time is for readings; tests, compiling and checking take the rest.
    # The float64 reference of 10^12 pairs alone takes minutes, so such shapes come last.
    large, modes = "mmd/B1-N1000000-", "(forward|forward_backward)$"
    wanted = f"^(?!{large}).*/{modes}"
    seconds = max(0.5, 0.25 * 60 * minutes / len(cases.select("cuda", wanted)))
    record = [*python, "benchmarks", "run", "--device", "cuda", "--seconds", f"{seconds:.1f}"]
    record += ["--out", str((out / "cuda.jsonl").resolve())]
    record += ["--commit", commit] if commit else []
    every = [
        Stage("facts", [*checks, "facts"], 0.2),
        Stage("tests", [*python, "pytest", *tests, "-q", "-m", "not slow and not training"], 0.4),
        Stage("repeatability", [*checks, "repeat"], 0.2),
        Stage("sanitizer", [*sanitizer, *checks, "small"], 0.2, needs="compute-sanitizer",
              # so that an overrun is not hidden inside a cached block
              environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
        Stage("graphs", [*checks, "graph"], 0.2),
        Stage("records", [*record, "--cases", wanted], 0.7),
        Stage("large", [*record, "--cases", f"^{large}.*/{modes}"], 0.7 if tune else 1.0),
    ]  # fmt: skip
    return [*every, Stage("tune", [*python, "benchmarks.tune"], 1.0)] if tune else every


def run_stages(every, out, minutes):
    """Run stages within the time; returns 0 if all that could run succeeded, else 1.

    Each leaves NN_name.log, its output, and NN_name.json, its status: "ok", "failed", "timeout",
    "missing" (its program is not installed) or "skipped" (no time left).
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    results = []
    for number, stage in enumerate(every, 1):
        start = time.monotonic()
        stem = out / f"{number:02}_{stage.name}"
        status, code = _run(stage, stem.with_suffix(".log"), end - start)
        seconds = round(time.monotonic() - start, 1)
        result = {"stage": stage.name, "status": status, "exit_code": code, "seconds": seconds}
        stem.with_suffix(".json").write_text(json.dumps(result) + "\n")
        print(f"{stage.name:14} {status:8} {seconds:7.1f} s  {stem}.log", flush=True)
        results.append(result)
    return 0 if all(result["status"] in ("ok", "missing") for result in results) else 1


def _run(stage, log, left):
    """Status and exit code of one stage with its output in ``log``."""
    if stage.needs and shutil.which(stage.needs) is None:
        log.write_text(f"{stage.needs} is not on PATH\n")
        return "missing", None
    if left <= 0:
        log.write_text("no time left\n")
        return "skipped", None
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    with log.open("w") as file:
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=environment | stage.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=stage.share * left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # a compiler or a worker may be running below it
            process.wait()
            return "timeout", None
    return ("ok" if code == 0 else "failed"), code
