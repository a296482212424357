"""Gate, time and record cases: the work of ``python -m benchmarks run``."""

import contextlib
import functools
import itertools
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import CannotRun, cases, clocks, measure, memory, rates, records, roofline, table
from .case import MODES
from .resume import begun, forget, leave, limit, lost_device, open_cases


def run(device, *, pattern="", smoke=False, out=None, commit=None, with_memory=False, **options):
    """Run all matching cases; print a table and append records as each is done.

    Args:
        device: "cpu" or "cuda".
        pattern: regular expression searched in case names.
        smoke: tiny shapes instead of the device's.
        out: file of JSON lines; None keeps nothing.
        commit: see ``records.environment``.
        with_memory: on the CPU, also measure peak memory, in a fresh process for each provider.
        options: ``seconds``, ``resume`` and ``limit`` of :func:`run_cases`.

    Returns:
        Names of the providers that failed the correctness gate, as "case: provider".

    Raises:
        CannotRun: no case matches.
    """
    shapes = "smoke" if smoke else device
    chosen = cases.by_weight(cases.select(shapes, pattern), device)
    if not chosen:
        names = "\n  ".join(case.name for case in cases.select(shapes))
        raise CannotRun(f"no case of these matches {pattern!r}:\n  {names}")
    peaks = shapes if with_memory and device == "cpu" else None
    return run_cases(chosen, device, out=out, peaks=peaks, commit=commit, **options)


def run_cases(
    chosen, device, *, out=None, seconds=10.0, peaks=None, commit=None, resume=False, limit=None
):
    """Run cases; see :func:`run`.

    Args:
        chosen: the cases.
        device: "cpu" or "cuda".
        out: file of JSON lines; None keeps nothing.
        seconds: time budget of a case, not counting preparation.
        peaks: the set of shapes of the cases, to take peaks of memory; None takes none.
        commit: see ``records.environment``.
        resume: leave out what ``out`` already holds of this source, machine and versions. What
            raises, ours too, is recorded as missing with its reason.
        limit: seconds after which a provider that hangs is recorded as missing. It ends the
            process with ``guard.AGAIN``, for nothing else ends a kernel. With ``resume`` a lost
            device does so too. Float64 references have all the time they take.
    """
    facts = {"run": records.now(), **records.environment(device, commit)}
    print(table.heading(facts))
    red = []
    if resume:
        wanted = len(chosen)
        chosen, red = open_cases(chosen, out, facts)
        print(f"{wanted - len(chosen)} of {wanted} cases are recorded already")
    if chosen:
        print(ceilings := rates.measured(device), flush=True)
        series = _Series(facts, ceilings, out, seconds, peaks, resume, limit)
        for _, group in itertools.groupby(chosen, key=lambda case: (case.family.op, case.shape)):
            red += series.run(list(group))
        forget(series.notes)
    return red


@dataclass(frozen=True)
class _Series:
    """Cases run on the same terms; see :func:`run_cases`."""

    facts: dict
    ceilings: rates.Rates
    out: Path | None
    seconds: float
    peaks: str | None
    resume: bool
    limit: float | None

    @property
    def notes(self):
        """Beside which file ``resume.begun`` leaves its notes."""
        return self.out if self.resume else None

    def run(self, group):
        """Run the cases of one shape and return the names of what is wrong."""
        red, device = [], self.facts["device"]
        family, shape = group[0].family, group[0].shape
        inputs = tuple(t.to(device) for t in family.inputs(shape))

        @functools.cache
        def expected(expect):
            with begun(self.notes, f"float64 reference of {family.op}/{shape.name}"):
                return expect(*inputs)

        for case in group:
            done = _Prepared(case, inputs, expected, self.ceilings, strict=not self.resume)
            lines = self._measure(done)
            self._keep(lines)
            print(table.of_case(case, lines, done.red), flush=True)
            red += [f"{case.name}: {name}" for name in [*done.red, *done.missing_ours]]
        return red

    def _measure(self, done):
        def last_words():
            self._keep(done.given_up(f"no result within {self.limit} s"))

        @contextlib.contextmanager
        def watched(what):
            with begun(self.notes, f"{done.case.name}: {what}"), limit(self.limit, last_words):
                yield

        try:
            done.check(watched)
            with watched("readings"):
                lines = done.measure(self.facts["device"], self.seconds)
        except Exception as error:
            if not self.resume:
                raise
            lines = done.given_up(_reason(error))
            if lost_device():
                self._keep(lines)
                leave()
        if self.peaks is not None:
            _add_memory(lines, self.peaks, done.case)
        return lines

    def _keep(self, lines):
        if self.out is not None:
            records.append(
                self.out, [self.facts | {"time": records.now()} | line for line in lines]
            )


class _Prepared:
    """The providers of a case, sorted into calls that passed the gate, missing and red ones.

    ``expected`` turns an ``expect`` of family or provider into what it gives for the inputs;
    ``ceilings`` are the ``rates.Rates`` of the device.
    """

    def __init__(self, case, inputs, expected, ceilings, strict=True):
        self.case, self.inputs, self.expected, self.strict = case, inputs, expected, strict
        self.calls, self.errors = {}, {}
        self.missing, self.red = {}, {}
        self.running = None
        n_grads = len(MODES[case.mode])
        self.roofline = roofline.bound(case.family, case.shape, n_grads, ceilings)

    def check(self, watched):
        """Sort the providers by the correctness gate, and warm up those that pass.

        ``watched`` gives the context manager, by a provider's name, for what may hang.
        """
        case = self.case
        for provider in case.family.providers:
            with self._trying(provider):
                call = measure.Call(provider.make(), self.inputs, case.mode, case.family.clouds)
                reference = self.expected(provider.expect or case.family.expect)
                with watched(provider.name):
                    errors = measure.check(call, reference, provider.own_error(case.shape))
                    if errors.ok:
                        measure.warm_up(call)
                if errors.ok:
                    self.calls[provider.name], self.errors[provider.name] = call, errors
                else:
                    self.red[provider.name] = errors
            if provider.name in self.missing:
                call = None  # noqa: F841 - holds the leaves and what they led to
                memory.release()

    @contextlib.contextmanager
    def _trying(self, provider):
        """Whatever stops a peer is its reason to be missing; ours must run where ``strict``."""
        self.running = provider.name
        try:
            yield
        except Exception as error:
            if lost_device() or (provider.ours and self.strict):
                raise
            self.missing[provider.name] = _reason(error)
        self.running = None

    @property
    def missing_ours(self):
        """Names of ours that did not run."""
        return [p.name for p in self.case.family.providers if p.ours and p.name in self.missing]

    def given_up(self, why):
        """Records that say why the provider that was running is missing; of all, if it was none."""
        names = [self.running] if self.running else [p.name for p in self.case.family.providers]
        self.missing |= dict.fromkeys(names, why)
        return [self._line(name, None, missing=why) for name in names]

    def measure(self, device, seconds):
        """Records of this case: one for each provider and clock."""
        if device == "cpu":
            readings = measure.interleave(self.calls, clocks.host, seconds)
            lines = self._lines(readings)
        else:
            cuda = clocks.Cuda()
            readings = measure.interleave(self.calls, cuda.eager, seconds / 2)
            peaks = {name: memory.peak_cuda(call) for name, call in self.calls.items()}
            lines = self._lines(readings, peaks)
            captured, failed = self._capture()
            lines += self._lines(measure.interleave(captured, cuda.graph, seconds / 2))
            lines += [self._line(name, "graph", missing=why) for name, why in failed.items()]
        return lines + [self._line(name, None, missing=why) for name, why in self.missing.items()]

    def _capture(self):
        uncapturable = {p.name: p.uncapturable for p in self.case.family.providers}
        failed = {name: why for name in self.calls if (why := uncapturable[name])}
        captured, pool = {}, clocks.graph_pool()
        for name, call in self.calls.items():
            if name in failed:
                continue
            try:
                captured[name] = clocks.Captured(call, pool)
            except Exception as error:  # ours too may be impossible to capture: then say so
                failed[name] = _reason(error)
        return captured, failed

    def _lines(self, readings, peaks=None):
        return [
            self._line(name, clock, ms, (peaks or {}).get(name))
            for name, by_clock in readings.items()
            for clock, ms in by_clock.items()
        ]

    def _line(self, provider, clock, ms=None, peak=None, missing=None):
        """One record without the facts of the run; ``missing`` says why there is no time."""
        family, shape, mode = self.case.family, self.case.shape, self.case.mode
        n_grads = len(MODES[mode])
        p20, p50, p80 = np.quantile(ms, (0.2, 0.5, 0.8)).tolist() if ms else (None,) * 3
        errors = self.errors.get(provider)
        least, by = self.roofline
        return {
            "op": family.op,
            "provider": provider,
            "mode": mode,
            "shape": shape.name,
            "B": shape.B,
            "N": shape.N,
            "M": shape.M or shape.N,
            "D": shape.D,
            "L": shape.L,
            "p": family.p,
            "dtype": "float32",
            "clock": clock,
            "cache": clock and clocks.CACHE[self.inputs[0].device.type],
            "ms_p20": p20,
            "ms_p50": p50,
            "ms_p80": p80,
            "repetitions": len(ms) if ms else 0,
            "gb_per_s": p50 and family.bytes(shape, n_grads, 4) / p50 / 1e6,
            "gflop_per_s": p50 and family.flops(shape, n_grads) / p50 / 1e6,
            "roofline_ms": least,
            "roofline_by": by,
            "fraction": p50 and least / p50,
            "peak_bytes": peak,
            "error_value": errors and errors.value,
            "error_grad": errors and errors.grad,
            "error_grad_excess": errors and errors.grad_excess,
            "bound_value": errors and errors.bound_value,
            "bound_grad": errors and errors.bound_grad,
            "missing": missing,
        }


def _reason(error):
    return f"{type(error).__name__}: {records.without_paths(str(error))}"


def _add_memory(lines, shapes, case):
    for line in lines:
        if line["missing"] is None:
            try:
                line["peak_bytes"] = memory.peak_cpu(shapes, case, line["provider"]).call
            except subprocess.CalledProcessError as error:
                reason = error.stderr.strip().splitlines()[-1:]
                print(f"{case.name}: no peak memory of {line['provider']}: {reason}")
