"""Gate, time and record cases: the work of ``python -m benchmarks run``."""

import functools
import itertools
import subprocess

import numpy as np

from . import CannotRun, cases, clocks, measure, memory, records, table
from .case import MODES


def run(device, *, pattern="", smoke=False, out=None, seconds=10.0, with_memory=False, commit=None):
    """Run all matching cases; print a table and append records as each is done.

    Args:
        device: "cpu" or "cuda".
        pattern: regular expression searched in case names.
        smoke: tiny shapes instead of the device's.
        out: file of JSON lines; None keeps nothing.
        seconds: time budget of a case, not counting preparation.
        with_memory: on the CPU, also measure peak memory, in a fresh process for each provider.
        commit: see ``records.environment``.

    Returns:
        Names of the providers that failed the correctness gate, as "case: provider".

    Raises:
        CannotRun: no case matches.
    """
    shapes = "smoke" if smoke else device
    chosen = cases.select(shapes, pattern)
    if not chosen:
        names = "\n  ".join(case.name for case in cases.select(shapes))
        raise CannotRun(f"no case of these matches {pattern!r}:\n  {names}")
    peaks = shapes if with_memory and device == "cpu" else None
    return run_cases(chosen, device, out=out, seconds=seconds, peaks=peaks, commit=commit)


def run_cases(chosen, device, *, out=None, seconds=10.0, peaks=None, commit=None):
    """Run cases; see :func:`run`. ``peaks`` names the set of shapes of cases to take peaks of."""
    facts = {"run": records.now(), **records.environment(device, commit)}
    print(table.heading(facts))
    red = []
    for _, group in itertools.groupby(chosen, key=lambda case: (case.family.op, case.shape)):
        group = list(group)
        inputs = tuple(t.to(device) for t in group[0].family.inputs(group[0].shape))
        expected = functools.cache(lambda expect, inputs=inputs: expect(*inputs))
        for case in group:
            done = _Prepared(case, inputs, expected)
            lines = done.measure(device, seconds)
            if peaks is not None:
                _add_memory(lines, peaks, case)
            lines = [facts | {"time": records.now()} | line for line in lines]
            if out is not None:
                records.append(out, lines)
            print(table.of_case(case, lines, done.red), flush=True)
            red += [f"{case.name}: {name}" for name in done.red]
    return red


class _Prepared:
    """The providers of a case, sorted into calls that passed the gate, missing and red ones.

    ``expected`` turns an ``expect`` of family or provider into what it gives for the inputs.
    """

    def __init__(self, case, inputs, expected):
        self.case, self.calls, self.errors = case, {}, {}
        self.missing, self.red = {}, {}
        for provider in case.family.providers:
            try:
                call = measure.Call(provider.make(), inputs, case.mode, case.family.clouds)
                reference = expected(provider.expect or case.family.expect)
                errors = measure.check(call, reference, provider.own_error(case.shape))
            except Exception as error:  # whatever stops a peer is its reason to be missing
                if provider.ours:
                    raise
                self.missing[provider.name] = _reason(error)
                continue
            if errors.ok:
                self.calls[provider.name], self.errors[provider.name] = call, errors
            else:
                self.red[provider.name] = errors

    def measure(self, device, seconds):
        """Records of this case: one for each provider and clock."""
        for call in self.calls.values():
            measure.warm_up(call)
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
        captured, failed = {}, {}
        for name, call in self.calls.items():
            try:
                captured[name] = clocks.Captured(call)
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
            "cache": clocks.CACHE.get(clock),
            "ms_p20": p20,
            "ms_p50": p50,
            "ms_p80": p80,
            "repetitions": len(ms) if ms else 0,
            "gb_per_s": p50 and family.bytes(shape, n_grads, 4) / p50 / 1e6,
            "gflop_per_s": p50 and family.flops(shape, n_grads) / p50 / 1e6,
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
