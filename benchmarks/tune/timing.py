"""Compile, check and time candidates, choice after choice: the work of ``benchmarks.tune``."""

import functools
import re
import time

import numpy as np
import torch

from .. import CannotRun, clocks, measure, records
from .choices import Call, choices
from .launched import costs, recorded
from .problems import CALLS, FAMILIES
from .tables import TABLES
from .workers import Workers

SECONDS = 0.25  # of readings for each candidate
COMPILE_LIMIT = 90  # seconds for a candidate
JOBS = 3  # for each worker, compiled before their choices are timed
KEEP = 0.97  # of the time that the launchers' own choice takes; less is worth an edit


def select(smoke=False, only=""):
    """The choices in whose name ``only`` is found.

    Raises:
        CannotRun: none, or it is not a regular expression.
    """
    try:
        found = [choice for choice in choices(TABLES, smoke) if re.search(only, choice.name)]
    except re.error as error:
        raise CannotRun(f"--only must be a regular expression; got {only!r}: {error}") from None
    if not found:
        raise CannotRun(f"no choice matches {only!r}")
    return found


def run(wanted, device, *, out=None, minutes=6.0, workers=0, smoke=False, commit=None):
    """Tune choices in their order, append their lines, print a summary as each is done.

    Args:
        wanted: the choices.
        device: "cpu" (interpreted) or "cuda".
        out: file of JSON lines; None keeps nothing.
        minutes: when to stop; a choice that is not done by then leaves no line.
        workers: processes that compile beforehand; 0 compiles here.
        smoke: one reading of each candidate.
        commit: see ``records.environment``.

    Returns:
        Names of choices whose present values are wrong or do not run.
    """
    end = time.monotonic() + 60 * minutes
    facts = {"run": records.now(), **records.environment(device, commit)}
    bad = []
    with Workers(compile_one, workers, COMPILE_LIMIT) as pool:
        for part in _parts(wanted, JOBS * workers or 1):
            failures = _compile(pool, part, device, end) if workers else {}
            for choice in part:
                if failures is None or time.monotonic() > end:
                    print(f"stopped before {choice.name}: no time left")
                    return bad
                lines = Tuning(choice, device, failures, smoke).lines()
                lines = [facts | {"time": records.now()} | line for line in lines]
                if out is not None:
                    records.append(out, lines)
                print(summary(lines), flush=True)
                if lines[0]["ms"] is None:
                    bad.append(choice.name)
    return bad


def _parts(wanted, size):
    """Runs of choices with at least ``size`` candidates together."""
    part, count = [], 0
    for choice in wanted:
        part.append(choice)
        count += len(choice.candidates())
        if count >= size:
            yield part
            part, count = [], 0
    if part:
        yield part


# --- compiling ----------------------------------------------------------------------------------


def _compile(pool, part, device, end):
    """Compile all candidates of some choices: {(choice, label): why it failed}.

    None if the time did not suffice. The present values come first, whose kernels others share.
    """
    jobs = [
        (choice.name, candidate.label, choice.smoke, device)
        for chosen in (True, False)
        for choice in part
        for candidate in choice.candidates()
        if candidate.chosen is chosen
    ]
    done = list(pool.run(jobs, end - time.monotonic()))
    if len(done) < len(jobs):
        return None
    return {each.job[:2]: each.error for each in done if each.error is not None}


def compile_one(name, label, smoke, device):
    """Call one candidate once, by its names; Triton keeps on disk what it compiles."""
    (choice,) = (choice for choice in choices(TABLES, smoke) if choice.name == name)
    (candidate,) = (each for each in choice.candidates() if each.label == label)
    _call(choice, candidate, device)()
    if device == "cuda":
        torch.cuda.synchronize()  # so that an error of the device is this candidate's


def _call(choice, candidate, device):
    op = choice.case.family.op
    return Call(choice, candidate, CALLS[op], _inputs(op, choice.case.shape, device))


@functools.lru_cache(maxsize=2)
def _inputs(op, shape, device):
    return tuple(t.to(device) for t in FAMILIES[op].inputs(shape))


@functools.lru_cache(maxsize=8)
def _expected(op, shape, device):
    return FAMILIES[op].expect(*_inputs(op, shape, device))


# --- checking and timing ------------------------------------------------------------------------


class Tuning:
    """One choice: each candidate checked, then all that are right timed in turn."""

    def __init__(self, choice, device, failures=None, smoke=False):
        self.choice, self.device, self.smoke = choice, device, smoke
        self.calls, self.found = {}, {}
        self.launched = {}  # what those before have launched, the present values first
        for candidate in choice.candidates():
            remark = (failures or {}).get((choice.name, candidate.label))
            found = {"remark": remark and records.without_paths(remark)}
            if remark is None:
                found = self._try(candidate)
            self.found[candidate] = found

    def _try(self, candidate):
        """Check a candidate against float64, and note what it launches and what that needs."""
        case = self.choice.case
        try:
            call = _call(self.choice, candidate, self.device)
            with recorded() as launches:
                errors = measure.check(call, _expected(case.family.op, case.shape, self.device))
        except Exception as error:  # a candidate that does not compile or fit is a result
            return {"remark": f"does not run: {type(error).__name__}: {_line(error)}"}
        found = costs(launches, next(iter(self.launched.values()), []))
        found |= {"error_value": errors.value, "error_grad": errors.grad}
        same = [label for label, others in self.launched.items() if _same(launches, others)]
        self.launched[candidate.label] = launches
        if not errors.ok:
            return found | {"remark": f"WRONG: {errors}"}
        if same:
            return found | {"remark": f"launches the same as {same[0]}"}
        self.calls[candidate] = call
        return found | {"remark": f"{found['spills']} spills" if found["spills"] else None}

    def lines(self):
        """A record of each candidate, the present values first."""
        clock, readings = self._readings()
        return [self._line(candidate, clock, readings) for candidate in self.found]

    def _readings(self):
        """The clock, and candidate -> ms."""
        if not self.calls:
            return None, {}
        if self.device == "cpu":
            return "wall", self._interleave(self.calls, clocks.host, "wall")
        cuda, pool = clocks.Cuda(), clocks.graph_pool()
        captured = {}
        for candidate, call in self.calls.items():
            try:
                captured[candidate] = clocks.Captured(call, pool)
            except Exception as error:  # what a graph cannot hold
                self.found[candidate]["remark"] = f"not captured: {_line(error)}"
        if captured and next(iter(self.found)) in captured:
            return "graph", self._interleave(captured, cuda.graph, "graph")
        # The library waits for the device here, whatever is chosen: times of eager calls.
        return "events", self._interleave(self.calls, cuda.eager, "events")

    def _interleave(self, calls, read, clock):
        seconds = 0 if self.smoke else SECONDS * len(calls)
        rounds = 1 if self.smoke else measure.MIN_ROUNDS
        readings = measure.interleave(calls, read, seconds, rounds)
        return {candidate: by_clock[clock] for candidate, by_clock in readings.items()}

    def _line(self, candidate, clock, readings):
        case, ms = self.choice.case, readings.get(candidate)
        p20, p50, p80 = np.quantile(ms, (0.2, 0.5, 0.8)).tolist() if ms else (None,) * 3
        return {
            "table": self.choice.table.name,
            "op": case.family.op,
            "shape": case.shape.name,
            "mode": case.mode,
            "candidate": candidate.label,
            "chosen": candidate.chosen,
            "clock": clock,
            "cache": clock and clocks.CACHE[self.device],
            "ms": p50,
            "ms_p20": p20,
            "ms_p80": p80,
            "repetitions": len(ms) if ms else 0,
            "error_value": None,
            "error_grad": None,
            "registers": None,
            "spills": None,
            "shared": None,
        } | self.found[candidate]


def _line(error):
    return records.without_paths(str(error))


def _same(launches, others):
    return [each.what for each in launches] == [each.what for each in others]


# --- results ------------------------------------------------------------------------------------


def summary(lines):
    """One line on a choice: what is chosen, what is best, and whether to keep the former."""
    first = lines[0]
    name = f"{first['table']}  {first['op']}/{first['shape']}"
    timed = [line for line in lines if line["ms"] is not None]
    others = len(lines) - len(timed)
    left_out = f"; {others} of {len(lines)} not timed" if others else ""
    if first["ms"] is None:
        return f"{name}: what is chosen ({first['candidate']}): {first['remark']}{left_out}"
    best = min(timed, key=lambda line: line["ms"])
    ratio = best["ms"] / first["ms"]
    verdict = "keep" if ratio >= KEEP else f"try {best['candidate']}"
    return (
        f"{name}: chosen {first['candidate']} {first['ms']:.4f} ms, best {best['candidate']} "
        f"{best['ms']:.4f} ms, ratio {ratio:.2f}: {verdict}{left_out}"
    )


def unfinished(wanted, path, device, commit=None):
    """Choices without a line of each candidate from this device and this source.

    A line that was cut off is removed from the file.
    """
    records.drop_unfinished(path)
    lines = records.read([path]) if path.exists() else []
    facts = records.environment(device, commit)
    done = {
        (line["table"], line["op"], line["shape"], line["mode"], line["candidate"])
        for line in lines
        if all(line[name] == facts[name] for name in ("device_name", "source", "triton"))
        and (line["ms"] is not None or not line["chosen"])  # what did not run is tried again
    }
    return [choice for choice in wanted if not _keys(choice) <= done]


def _keys(choice):
    case = choice.case
    names = choice.table.name, case.family.op, case.shape.name, case.mode
    return {(*names, candidate.label) for candidate in choice.candidates()}
